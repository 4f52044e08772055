"""`penstock sweep`, as a user runs it: stopped, gone on with, one run broken; and the mistakes that it answers."""

import json
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import OPTIONS, rows

from penstock.cli.sweep import report
from penstock.sweeps.conduct import Status, Tracked

sys.path.insert(0, str(Path(__file__).parents[1] / "sweeps"))
from pretended import sweep_run, written

WORLD = ("--world", "classic/double-integrator")


@pytest.fixture(autouse=True)
def same_platform(monkeypatch):
    """The command chooses one for itself."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail("it takes too long")


@pytest.mark.slow  # what it does is in tests/training/test_rows.py; here the signal is real
def test_a_sweep_is_stopped_and_goes_on_as_a_whole(commands, tmp_path):
    folder = tmp_path / "my sweep"
    # Both runs have one program, which is compiled once.
    options = ["sweep", "apg", *OPTIONS, "--grid", "label=one,two", "--processes", "1", "--run-dir", folder]
    process = commands.start(*options)
    output = folder / "label=one" / "output.txt"
    until(lambda: output.exists() and "compiling" in output.read_text())
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=120) == 75, said
    assert "SIGINT: finishing this step, saving" in said and "the same command continues the sweep" in said
    assert "SIGTERM: finishing this step" in output.read_text()
    assert not (folder / "label=two").exists(), "nothing is started any more"

    (folder / "label=two").mkdir()
    (folder / "label=two" / "figures").write_text("")  # in the way of a folder
    again = commands(*options)
    assert again.returncode == 1, again.stderr
    assert len(rows(folder / "label=one")) == 13, "the run is whole, whatever happened meanwhile"
    assert re.search(r"failed +label=two: penstock train: run folder = .*is a file", again.stdout)
    assert "my sweep: 2 runs: 1 ended, 1 failed" in again.stdout
    assert "the same command tries again what failed" in again.stderr
    assert not any("Traceback" in text for text in (said, again.stdout, again.stderr))


def test_the_last_line_is_a_command_that_draws_an_arm_for_each_run(penstock, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "my sweep"
    folder.mkdir()
    tracked = []
    for rate in (1e-3, 2e-3, 3e-3):
        run = sweep_run(folder, f"actor_learning_rate={rate}", actor_learning_rate=rate)
        tracked.append(Tracked(run, Status.ENDED))
        if rate < 3e-3:
            written(run, 64, [rate])
            (run.folder / "config.json").write_text(json.dumps(run.plan.to_config()))
    report(tracked[:2])
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"{folder}: 2 runs: 2 ended"
    assert f"penstock plot '{folder}'/*/ --output '{folder}'" in err
    (folder / "another").mkdir()
    tracked[2].status = Status.FAILED
    report(tracked)
    command = capsys.readouterr().err.splitlines()[-1].partition("penstock plot ")[2]
    assert "another" not in command and command.count("actor_learning_rate") == 2
    code, out, err = penstock("plot", *shlex.split(command))
    assert code == 0, err
    text = " ".join(out.split())
    assert "apg, actor_learning_rate = 0.001" in text and "apg, actor_learning_rate = 0.002" in text


def test_a_dry_run_lists_the_runs_and_writes_nothing(penstock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("sweep", "apg", *WORLD, "--grid", "window=4,8", "--num-envs", "4", "--grid", "seed=0,1", "--dry-run")
    code, out, _ = penstock(*command)
    names = [f"window={window},seed={seed}" for window in (4, 8) for seed in (0, 1)]
    assert code == 0 and list(tmp_path.iterdir()) == []
    assert out.splitlines() == [f"waiting   runs/sweep-apg-classic-double-integrator/{name}" for name in names]
    _, out, _ = penstock("sweep", *WORLD, "--grid", "algorithm=sac,td3", "--dry-run")
    assert out.splitlines()[0] == "waiting   runs/sweep-classic-double-integrator/algorithm=sac"
    (tmp_path / "mine.yaml").write_text(
        "base: {algorithm: apg, world: classic/double-integrator, window: 16}\nruns: [{window: 4}, {num-envs: 2}]"
    )
    code, out, _ = penstock("sweep", "--config", "mine.yaml", "--dry-run")
    assert code == 0 and out.splitlines() == [f"waiting   runs/mine/{name}" for name in ("window=4", "num_envs=2")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["apg", *WORLD], ["nothing is varied", "--grid actor_learning_rate=1e-4,3e-4"]),
        ([*WORLD, "--grid", "window=4,8"], ["no algorithm is named", "penstock sweep sac"]),
        (["apg", "--grid", "window=4,8"], ["window=4: --world is missing"]),
        (["apg", *WORLD, "--grid", "windw=4,8"], ["windw=4: unknown field 'windw'", "Did you mean 'window'"]),
        (["apg", *WORLD, "--grid", "window=4,1e1"], ["window=10: window = 10.0: must be a whole number"]),
        (["apg", *WORLD, "--grid", "window=4,500"], ["window=500: window = 500: must not exceed"]),
        (["apg", *WORLD, "--grid", "window=4,8", "--window", "3"], ["window is varied, and given as an option"]),
        (["sac", *WORLD, "--grid", "steps=64,128"], ["differ in steps alone", "`label`"]),
        (["sac", *WORLD, "--grid", "policy=gaussian,noisy-flow", "--flow-steps", "3"],
         ["policy=gaussian: flow_steps: does nothing with policy = 'gaussian'"]),
        (["sac", *WORLD, "--grid", "policy=gaussian,flow"], ["policy=flow: sac needs a log-density"]),
        (["sac", *WORLD, "--grid", "algorithm=sac,td3"], ["algorithm is varied: name none"]),
        (["apg", *WORLD, "--grid", "window=4,8", "--proceses", "2"], ["Did you mean '--processes'"]),
        (["apg", *WORLD, "--grid", "window=4,8", "--processes", "0"], ["processes = 0: must be at least 1"]),
        (["--config", "nowhere.yaml"], ["There is no file nowhere.yaml"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_mistakes_end_in_a_sentence_before_anything_runs(penstock, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = penstock("sweep", *arguments, "--dry-run")
    said = " ".join((out + err).split())
    assert code == 2 and all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == [], "a command that is refused writes nothing"
