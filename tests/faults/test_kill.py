"""F1: SIGKILL anywhere, the same command again, and the run is bit for bit the one that was never killed."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
from tiny_runs import assert_same_run, final_arrays, rows

SEEDS = {1: (), 2: ("--seeds", "2")}


@pytest.fixture(scope="module")
def whole(commands, tmp_path_factory):
    """Uninterrupted runs, made once per (algorithm, number of seeds)."""
    made = {}

    def get(algorithm, seeds):
        if (algorithm, seeds) not in made:
            run_dir = tmp_path_factory.mktemp("whole") / "run"
            finished = commands.train(algorithm, run_dir, *SEEDS[seeds])
            assert finished.returncode == 0, finished.stderr
            made[algorithm, seeds] = run_dir
        return made[algorithm, seeds]

    return get


def kill_and_finish(commands, algorithm, run_dir, seeds, chain):
    """Runs the command once per kill, each continuing what the one before left, and then to the end."""
    for phase, nth in chain:
        killed = commands.train(algorithm, run_dir, *SEEDS[seeds], killed_at=(phase, nth))
        assert killed.returncode == -signal.SIGKILL, f"{phase} was not reached: {killed.stderr}"
    finished = commands.train(algorithm, run_dir, *SEEDS[seeds])
    assert finished.returncode == 0, finished.stderr
    assert "continuing" in finished.stderr or "continues at step" in finished.stderr
    return finished


def whole_and_killed(commands, algorithm, options, folder, kills):
    """The same run twice, once never killed and once killed at each of these: they end alike."""
    for name, chain in (("whole", []), ("killed", kills)):
        for kill in chain:
            script = (__file__.replace("test_kill.py", "killed_run.py"), *kill)
            killed = commands("train", algorithm, *options, "--run-dir", folder / name, script=script)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
        finished = commands("train", algorithm, *options, "--run-dir", folder / name)
        assert finished.returncode == 0, finished.stderr
    assert_same_run(folder / "whole", folder / "killed")


CHAIN = [
    ("train", 2),
    ("evaluate", 2),
    ("arrays-half-written", 2),
    ("manifest-written", 1),  # between writing and renaming
    ("trash-half-deleted", 1),
]
MORE = [("row", 2), ("committed", 1), ("best-copied", 1), ("best-verified", 1)]


# Once: with a checkpoint half made, and others whole before it. At the second manifest nothing is whole yet.
@pytest.mark.parametrize(
    "chain", [[("manifest-written", 4)], pytest.param(CHAIN, marks=pytest.mark.slow)], ids=["once", "again and again"]
)
def test_two_seeds_killed(commands, whole, tmp_path, chain):
    kill_and_finish(commands, "apg", tmp_path / "run", 2, chain)
    assert_same_run(tmp_path / "run", whole("apg", 2))
    first, second = (
        [row for row in rows(tmp_path / "run") if f'"seed": {seed},' in row and '"update": 0,' not in row]
        for seed in (0, 1)
    )
    assert len(first) == len(second) and first != second


@pytest.mark.slow
def test_killed_at_a_random_moment_rfo(commands, whole, tmp_path):
    reference = whole("rfo", 1)
    delay = random.SystemRandom().randrange(1, 600)
    killed = commands.train("rfo", tmp_path / "run", killed_at=("random", delay))
    print(f"killed after {delay} ms")
    assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
    assert commands.train("rfo", tmp_path / "run").returncode == 0
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "seeds"), [("apg", 1), ("rfo", 1), ("rfo", 2), ("sapo", 1)])
def test_killed_in_every_phase(commands, whole, tmp_path, algorithm, seeds):
    kill_and_finish(commands, algorithm, tmp_path / "run", seeds, MORE + CHAIN)
    assert_same_run(tmp_path / "run", whole(algorithm, seeds))


@pytest.mark.slow
def test_killed_soft_body(commands, tmp_path):
    options = ("--world", "soft/jumper-mini", "--num-envs", "2", "--window", "4", "--steps", "64", "--no-video")
    options += ("--evaluate-every", "16", "--evaluation-episodes", "1", "--log-every", "1", "--critic-minibatches", "1")
    options += ("--world-option", "episode_length=8")
    whole_and_killed(commands, "rfo", options, tmp_path, [("train", 3), ("manifest-written", 1)])
    assert len(final_arrays(tmp_path / "whole")) > 20


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sac", "td3", "crossq", "flowrl", "sac-flow"])
def test_killed_off_policy(commands, tmp_path, algorithm):
    """Replay memory, optimisers, targets, temperature, world and random keys all come back."""
    options = ("--world", "classic/double-integrator", "--world-option", "episode_length=10", "--num-envs", "4")
    options += ("--collect-steps", "4", "--batch-size", "8", "--warmup-steps", "20", "--replay-capacity", "64")
    options += ("--actor-hidden", "8", "--critic-hidden", "8", "8", "8", "--steps", "192", "--no-video")
    options += ("--log-every", "1", "--evaluate-every", "16", "--evaluation-episodes", "1")
    kills = [("train", 3), ("manifest-written", 2), ("evaluate", 2)]
    whole_and_killed(commands, algorithm, options, tmp_path, kills)
    assert any(".memory.ring" in name for name in final_arrays(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "more"),
    [("ppo", ("--kl-target", "0.01")), ("nfpo", ("--recurrent", "gru", "--recurrent-size", "4", "--history", "2"))],
)
def test_killed_on_policy(commands, tmp_path, algorithm, more):
    """The window, the adapted rate, observation statistics, memories and histories all come back."""
    options = ("--world", "classic/double-integrator", "--world-option", "episode_length=10", "--num-envs", "4")
    options += ("--window", "4", "--minibatches", "2", "--epochs", "2", "--actor-hidden", "8", "--critic-hidden", "8")
    options += ("--steps", "192", "--no-video", "--log-every", "1", "--evaluate-every", "16")
    options += ("--evaluation-episodes", "1", *more)
    kills = [("train", 3), ("manifest-written", 2), ("evaluate", 2)]
    whole_and_killed(commands, algorithm, options, tmp_path, kills)
    assert len(final_arrays(tmp_path / "whole")) > 20


@pytest.mark.slow
def test_killed_on_a_hosted_world(commands, tmp_path):
    """What docs/hosted_worlds.md promises: everything but the episodes under way goes on, and repeatably so.

    Up to the checkpoint that it continues from, the killed run wrote the rows of the run that was never killed. What
    two resumes of one checkpoint do then is the same, bit for bit, and no row is lost, doubled or out of order.
    """
    environments = Path(__file__).parent.parent / "worlds" / "hosted_environments.py"
    options = ("--world", f"{environments}:Counting", "--num-envs", "2", "--collect-steps", "4", "--batch-size", "8")
    options += ("--warmup-steps", "16", "--actor-hidden", "8", "--critic-hidden", "8", "--steps", "96", "--no-video")
    options += ("--evaluate-every", "16", "--evaluation-episodes", "1", "--log-every", "1")
    whole = commands("train", "sac", *options, "--run-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    script = (__file__.replace("test_kill.py", "killed_run.py"), "manifest-written", "4")
    killed = commands("train", "sac", *options, "--run-dir", tmp_path / "killed", script=script)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.copytree(tmp_path / "killed", tmp_path / "again")
    for name in ("killed", "again"):
        finished = commands("train", "sac", *options, "--run-dir", tmp_path / name)
        assert finished.returncode == 0, finished.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "again")
    ours, reference = rows(tmp_path / "killed"), rows(tmp_path / "whole")
    steps = [json.loads(row)["env_steps"] for row in ours]
    assert steps == [json.loads(row)["env_steps"] for row in reference] == sorted(set(steps))
    same = [one == other for one, other in zip(ours, reference, strict=True)]
    continued_from = steps[same.index(False) - 1]
    assert all(same[: same.index(False)]) and 16 <= continued_from < 96
    assert any(".memory.ring" in name for name in final_arrays(tmp_path / "killed"))
