"""Each command once, as a user runs it, in a process of its own; what else it is asked, in this process."""

import json
import re
import signal
import struct
import time

import imageio.v3
import jax
import jax.numpy as jnp
import pytest
from tiny_runs import OPTIONS, UPDATES, listing, rows

from penstock.algorithms.learner import Clock
from penstock.cli._arguments import gathered
from penstock.cli._run import closing_lines
from penstock.storage.run_folder import RunFolder
from penstock.training.drivers.functional import FunctionalDriver
from penstock.training.drivers.state import RunState
from penstock.training.loop import Result
from penstock.training.plan import make_plan

LOCKED = """
import sys
from pathlib import Path
from penstock.storage.lock import RunLock
with RunLock(Path(sys.argv[1]) / "run.lock"):
    print("held", flush=True)
    sys.stdin.read()
"""


def quiet(finished):
    """Nothing that frightens a newcomer."""
    said = finished.stdout + finished.stderr
    for word in ("Traceback", "Warning", "warning", "fork", "deadlock", "GPU"):
        assert word not in said, said
    return finished


def test_train_tells_progress_on_one_stream_and_results_on_the_other(trained):
    run_dir, finished = trained
    quiet(finished)
    progress, results = finished.stderr.splitlines(), finished.stdout.splitlines()
    assert progress[0] == "APG · classic/double-integrator · seeds 0 to 1: 192 environment steps"
    assert progress[1] == "compiling the training program ..." and progress[2].startswith("compiled")
    assert "100%" in progress[-3] and "done" in progress[-3] and "\x1b" not in finished.stderr
    assert progress[-2] == "filming one episode ..." and progress[-1].startswith("next        penstock evaluate ")
    assert results[:3] == [
        f"run folder  {run_dir}",
        f"curve       {run_dir / 'figures' / 'return.png'}",
        f"video       {run_dir / 'videos' / 'final.mp4'}",
    ]
    last = [json.loads(row) for row in rows(run_dir)][-2:]
    returns = [row["eval/return_deterministic"] for row in last]
    assert results[3:] == [
        f"seed 0: deterministic return {returns[0]:.1f}",
        f"seed 1: deterministic return {returns[1]:.1f}",
        f"first: deterministic return {sum(returns) / 2:.1f}",
    ]


def test_train_leaves_a_whole_run_folder(trained):
    run_dir, _ = trained
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "checkpoints", "config.json", "crash", "figures", "metrics.jsonl", "videos"
    ]  # fmt: skip
    assert {"return.png", "return.svg"} <= {path.name for path in (run_dir / "figures").iterdir()}
    assert (run_dir / "videos" / "final.mp4").stat().st_size > 1000
    assert len(rows(run_dir)) == 2 * (UPDATES + 1)
    assert json.loads((run_dir / "config.json").read_text())["world_options"] == {"episode_length": 10}


def test_the_same_command_again_repeats_the_results_and_does_nothing(penstock, trained):
    run_dir, first = trained
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    texts = {before.pop(path) and path: path.read_bytes() for path in run_dir.glob("*.json*")}
    options = [option for option in OPTIONS if option != "--no-video"]
    code, out, err = penstock("train", "apg", *options, "--seeds", "2", "--run-dir", run_dir)
    assert code == 0 and out == first.stdout
    assert "compiling" not in err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert texts == {path: path.read_bytes() for path in texts}


def test_resume_of_a_finished_run_tells_its_results(penstock, trained, tmp_path):
    import shutil

    shutil.copytree(trained[0], tmp_path / "copy")
    code, out, err = penstock("resume", tmp_path / "copy", "--no-video")
    assert code == 0 and out.splitlines()[-1].startswith("copy: deterministic return ")
    assert "continues at step 192" in err and "compiling" not in err
    assert listing(tmp_path / "copy") == listing(trained[0])


def test_evaluate(commands, trained, penstock):
    command = ("evaluate", trained[0], "--episodes", "2", "--checkpoint", "best")
    finished = quiet(commands(*command))
    assert finished.returncode == 0
    head, *table = finished.stdout.splitlines()
    assert re.fullmatch(
        r"apg on classic/double-integrator, best checkpoint at \d+ environment steps, 2 episodes each", head
    )
    assert table[0].split() == ["metric", "seed", "0", "seed", "1"]
    shown = {line.split()[0] for line in table[2:]}
    assert {"return_mean", "return_deterministic", "episode_length", "distance"} <= shown
    found = json.loads(penstock(*command, "--json")[1])
    assert found["seeds"] == [0, 1] and found["metrics"][0]["eval/episode_length"] == 10
    assert set(found) == {"env_steps", "seeds", "metrics"}
    other = json.loads(penstock(*command, "--json", "--deterministic-action", "typical")[1])["metrics"]
    for mine, theirs in zip(found["metrics"], other, strict=True):
        assert mine["eval/return_mean"] == theirs["eval/return_mean"]
        assert mine["eval/return_deterministic"] != theirs["eval/return_deterministic"]
    code, _, err = penstock("evaluate", trained[0], "--replan-every-step")
    assert code == 2 and "acts at every step already" in err


def test_plot(commands, trained, tmp_path, penstock):
    finished = quiet(commands("plot", trained[0], "--output", tmp_path / "curves.png"))
    assert finished.returncode == 0
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    lines = finished.stdout.splitlines()
    assert lines[0] == "classic/double-integrator"
    assert [line.split()[:2] for line in lines if line.startswith(("arm", "apg"))] == [["arm", "seeds"], ["apg", "2"]]
    assert str(tmp_path / "curves.png") in lines
    code, _, err = penstock("plot", trained[0], "--output", tmp_path / "no" / "x.png", "--metric", "eval/retrun_mean")
    assert code == 2 and "Did you mean 'eval/return_mean'" in err
    code, _, err = penstock("plot", trained[0], "--output", tmp_path / "curves.jpg")
    assert code == 2 and "curves.jpg': must end in .png, .svg or .pdf" in err


def test_video(commands, trained, tmp_path):
    path = tmp_path / "film.gif"
    size = ("--width", "64", "--height", "64", "--film-seconds", "0.3")
    finished = quiet(commands("video", trained[0], "--output", path, *size))
    assert finished.returncode == 0 and finished.stdout == f"{path}\n"
    content = path.read_bytes()
    assert content[:6] == b"GIF89a" and struct.unpack("<HH", content[6:10]) == (64, 64)
    assert 1 < len(imageio.v3.imread(path)) <= 0.3 / 0.05, "of steps of 50 ms; pictures that are alike are one"


def test_check_world(commands, penstock):
    finished = quiet(commands("check-world", "classic/double-integrator"))
    assert finished.returncode == 0
    assert re.fullmatch(r"classic/double-integrator: 0 errors in \d+ checks", finished.stdout.splitlines()[-1])
    broken = commands.cwd / "broken_world.py"
    broken.write_text(BROKEN)
    code, out, _ = penstock("check-world", f"{broken}:Broken")
    assert code == 1 and "ERROR" in out and re.search(r"[1-9]\d* errors? in \d+ checks", out)

    endless = commands.cwd / "endless.py"
    endless.write_text(ENDLESS)
    code, out, _ = penstock("check-world", f"{endless}:Endless")
    assert code == 1 and out.startswith("ERROR    Time limit: ")
    assert "--world-option max_episode_steps=1000" in out and "ok       Episodes end" in out

    large = commands.cwd / "large.py"
    picture = ENDLESS.replace("Box(-1, 1, (2,), np.float32)", "Box(0, 255, (160, 160, 3), np.uint8)")
    picture = picture.replace("uniform(-1, 1, 2).astype(np.float32)", "integers(0, 255, (160, 160, 3), np.uint8)")
    large.write_text(picture.replace("np.zeros(2, np.float32)", "np.zeros((160, 160, 3), np.uint8)"))
    code, out, _ = penstock("check-world", f"{large}:Endless", "--world-option", "max_episode_steps=20")
    assert code == 1 and "ERROR    Encoder: pixels = (160, 160, 3): height and" in out
    assert f"{large}:Endless: 1 error in" in out


ENDLESS = """
import gymnasium
import numpy as np

class Endless(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action[0]), False, False, {}
"""

BROKEN = """
import jax.numpy as jnp
from penstock.worlds import Observation, ObservationSpec, Outcome, SingleTask

class Broken(SingleTask):
    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(2)
    episode_length: int = 5
    control_timestep: float = 0.1

    def initial(self, key):
        return jnp.zeros(3)

    def advance(self, state, action):
        return state, Outcome(jnp.sum(state), jnp.zeros((), bool), {})

    def observe(self, state):
        return Observation(state)
"""


def test_signals_end_a_command_with_the_documented_codes(commands, tmp_path):
    """The first saves (75) and the second quits at once (130), also during compilation (F2)."""
    process = commands.start("train", "apg", *OPTIONS, "--run-dir", tmp_path / "run", env={"PENSTOCK_CACHE": ""})
    for line in process.stderr:
        if line.startswith("compiling"):
            break
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if line.startswith("SIGINT"):
            break
    time.sleep(0.5)  # within 0.25 s it would count as an echo
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - begin < 5, "the second signal must not wait for the compiler"
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("then_completes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_terminated_run_exits_with_75_and_resume_completes(commands, tmp_path, then_completes):
    options = [*OPTIONS, "--seeds", "2", "--run-dir", tmp_path / "run"]  # compiled for `trained` already
    process = commands.start("train", "apg", *options)
    for line in process.stderr:
        if line.startswith("compiling"):
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    said = process.stderr.read()
    assert "SIGTERM: finishing this step, saving; again to quit at once." in said
    assert "saved; the same command continues the run" in said
    if not then_completes:
        return
    finished = commands("resume", tmp_path / "run", "--no-video")
    assert finished.returncode == 0 and finished.stdout.splitlines()[-1].startswith("run: deterministic return ")


def test_a_second_command_on_one_folder_names_the_first(commands, tmp_path):
    import subprocess
    import sys

    (tmp_path / "run").mkdir()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOCKED, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        refused = commands.train("apg", tmp_path / "run")
        holder.stdin.close()
        holder.wait()
    assert refused.returncode == 2 and f"Process {holder.pid}" in refused.stderr and "Traceback" not in refused.stderr


def test_an_accelerator_that_is_not_there(commands, tmp_path):
    finished = commands.train("apg", tmp_path / "run", env={"JAX_PLATFORMS": "cuda"})
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "JAX_PLATFORMS" in finished.stderr and "cpu" in finished.stderr


def test_a_cache_that_cannot_be_written_is_said_and_survived(commands, tmp_path):
    (tmp_path / "file").write_text("")
    finished = commands("worlds", env={"PENSTOCK_CACHE": str(tmp_path / "file" / "cache")})
    assert finished.returncode == 0 and "classic/pendulum" in finished.stdout
    assert "Compiled programs are not kept" in finished.stderr and "PENSTOCK_CACHE" in finished.stderr


def test_missing_extras_and_faults_of_who_draws_cost_only_the_pictures(trained, monkeypatch, capsys):
    from penstock._extras import MissingExtraError
    from penstock.cli import _run

    def missing(*arguments, **keywords):
        raise MissingExtraError("matplotlib is not installed. pip install 'penstock[plots]'")

    def faulty(*arguments, **keywords):
        raise ZeroDivisionError("of somebody's scene()")

    monkeypatch.setattr(_run, "plot_single", missing)
    monkeypatch.setattr(_run, "film", faulty)

    plan = make_plan("apg", "classic/double-integrator")
    driver = FunctionalDriver(plan.make_learner(plan.make_world()), plan.make_world())
    rows = [{"seed": 0, "eval/return_deterministic": 1.0}]
    learned = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), driver.learner.shapes())
    state = RunState(learned, None, None, jax.vmap(jax.random.key)(jnp.arange(1)), Clock.start())
    result = Result(RunFolder(trained[0]), state, driver, True, True, 0, rows)
    _run.report(result, video=True)
    lines = capsys.readouterr().out.splitlines()
    assert "no curve: matplotlib is not installed" in lines[1]
    assert lines[2].startswith("no video: ZeroDivisionError: of somebody's scene()")
    assert lines[-1] == "first: deterministic return 1.0"


def test_closing_lines():
    def row(seed, speed=None, value=12.34):
        return {"seed": seed, "eval/return_deterministic": value} | (
            {} if speed is None else {"eval/forward_velocity": speed}
        )

    assert closing_lines("quickstart", [row(1, 0.5678)]) == ["quickstart: deterministic forward speed 0.57 m/s"]
    assert closing_lines("quickstart", [row(1)]) == ["quickstart: deterministic return 12.3"]
    assert closing_lines("x", [row(3, 0.5), row(4, 0.6)]) == [
        "seed 3: deterministic forward speed 0.50 m/s",
        "seed 4: deterministic forward speed 0.60 m/s",
        "x: deterministic forward speed 0.55 m/s",
    ]
    succeeds = [{**row(seed), "eval/success_rate": 0.25 * seed} for seed in (1, 2)]
    assert closing_lines("x", succeeds[:1]) == ["x: deterministic return 12.3, success rate 0.25"]
    assert closing_lines("x", succeeds)[1:] == [
        "seed 2: deterministic return 12.3, success rate 0.50",
        "x: deterministic return 12.3, success rate 0.38",
    ]
    # What was NaN comes back from a checkpoint as None.
    assert closing_lines("x", [row(0, value=None)]) == ["x: deterministic return nan"]


def test_terminal_output_is_drawn_in_place(commands, trained):
    """In a terminal the display is redrawn; what stays is readable."""
    import shutil
    import subprocess
    import sys

    if shutil.which("script") is None:
        pytest.skip("the program `script` is not there")
    command = f"'{sys.executable}' -m penstock resume '{trained[0]}' --no-video"
    env = {**commands.env, "TERM": "xterm", "COLUMNS": "80"}
    finished = subprocess.run(
        ["script", "-qec", command, "/dev/null"], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert finished.returncode == 0, finished.stdout
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", finished.stdout).replace("\r", "").splitlines()
    assert lines[-2].startswith("first: deterministic return ") and lines[-1].startswith("next ")
    assert any("100%" in line and "done" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--world-option", "a=1", "--world-option", "b=2"], ["--world-option", "a=1", "b=2"]),
        (["--world-option", "a=1", "b=2", "--seed", "3"], ["--world-option", "a=1", "b=2", "--seed", "3"]),
        (["W", "--world_option=a=1", "--seed", "3", "--world-option", "b=2"],
         ["W", "--world-option", "a=1", "b=2", "--seed", "3"]),
        (["--world-option", "wrong", "W"], ["--world-option", "wrong", "W"]),
    ],
)  # fmt: skip
def test_a_repeated_world_option_keeps_all_its_values(given, read):
    assert gathered(given, "world-option") == read
