"""A replay memory lies on the disk once: damage costs what it cost before, and what stays is small (F1, F3, F11)."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import SharedProgram, assert_same_run, final_arrays, listing, rows

from penstock.storage.store import CheckpointMismatchError, list_checkpoints, read_manifest
from penstock.training.drivers.functional import seed_keys
from penstock.training.loop import Silent, train
from penstock.training.plan import make_plan
from penstock.training.restore import load_agents, load_state, restore_run

pytestmark = pytest.mark.usefixtures("in_process")

STEPS_PER_UPDATE, UPDATES = 16, 12
PLAN = make_plan(
    "sac",
    "classic/double-integrator",
    settings={"collect_steps": 4, "batch_size": 8, "warmup_steps": 20, "actor_hidden": (8,), "critic_hidden": (8,)},
    world_options={"episode_length": 10},
    num_envs=4,
    steps=UPDATES * STEPS_PER_UPDATE,
    seeds=2,
    log_every=1,
    evaluate_every=STEPS_PER_UPDATE,
    evaluation_episodes=2,
)


class PowerCutError(Exception):
    """Ends a run at once, wherever it is."""


class CutAt(Silent):
    """Ends the run when the display hears of an update: its rows are written, its checkpoint is not."""

    def __init__(self, update):
        super().__init__()
        self.at = update * STEPS_PER_UPDATE

    def update(self, env_steps, *arguments, **details):
        if env_steps == self.at:
            raise PowerCutError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to, and one that was cut at its eighth update."""
    folder = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
        result = train(PLAN, folder / "whole")
        with pytest.raises(PowerCutError):
            train(PLAN, folder / "cut", observer=CutAt(8))
    return folder, result


def checkpoints(run_dir: Path) -> list[Path]:
    return [path for _, path in list_checkpoints(run_dir / "checkpoints")]


def continued(folder: Path, tmp_path: Path, damage) -> tuple[Path, str]:
    """The cut run, damaged and continued to its end; and what it said."""
    run_dir, said = tmp_path / "run", []
    shutil.copytree(folder / "cut", run_dir)  # no file has two names any more
    damage(run_dir)
    assert train(PLAN, run_dir, observer=Silent(said.append)).finished
    return run_dir, "\n".join(said)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(bytes(content))


def test_only_two_checkpoints_keep_the_memory_and_the_agent_has_a_file_of_its_own(whole):
    run_dir = whole[0] / "whole"
    *older, spare, newest = checkpoints(run_dir)
    (best,) = (run_dir / "checkpoints" / "best").iterdir()
    for path in (*older, best):
        assert sorted(file.name for file in path.iterdir()) == ["agent.safetensors", "manifest.json"]
    names = ["agent", "learner", "memory-000000000000", "state"]
    for path, steps in ((spare, 11 * STEPS_PER_UPDATE), (newest, 12 * STEPS_PER_UPDATE)):
        assert sorted(file.stem for file in path.glob("*.safetensors")) == names
        assert read_manifest(path).files["memory-000000000000.safetensors"].rows == (0, steps // PLAN.num_envs)
    assert len(older) >= 5 and all(not read_manifest(path).whole for path in older)


def test_an_untouched_run_goes_on_to_the_same_end(whole, tmp_path):
    run_dir, _ = continued(whole[0], tmp_path, lambda run_dir: None)
    assert_same_run(run_dir, whole[0] / "whole")


@pytest.mark.parametrize(
    ("name", "damage"),
    [("memory-000000000000", spoil), ("memory-000000000000", Path.unlink), ("learner", spoil)],
    ids=["memory spoilt", "memory gone", "learner spoilt"],
)
def test_a_damaged_newest_checkpoint_costs_only_itself(whole, tmp_path, name, damage):
    run_dir, said = continued(
        whole[0], tmp_path, lambda run_dir: damage(checkpoints(run_dir)[-1] / f"{name}.safetensors")
    )
    assert "is damaged" in said and f"{name}.safetensors" in said and ".bad-" in said and "anew" not in said
    assert rows(run_dir) == rows(whole[0] / "whole") and final_arrays(run_dir) == final_arrays(whole[0] / "whole")
    assert [entry for entry in listing(run_dir) if not entry.startswith(".bad-")] == listing(whole[0] / "whole")


def test_without_a_memory_anywhere_the_run_starts_anew_and_says_so(whole, tmp_path):
    kept = {}

    def damage(run_dir):
        for path in checkpoints(run_dir)[-2:]:
            spoil(path / "memory-000000000000.safetensors")
        kept["agents"] = len(checkpoints(run_dir)) - 2

    run_dir, said = continued(whole[0], tmp_path, damage)
    assert said.count("is damaged") == 2 and "it starts anew from step 0" in said
    assert (run_dir / "metrics.bad.jsonl").is_file()
    assert len(list((run_dir / "checkpoints").glob(".bad-*"))) == 2 + kept["agents"]
    assert rows(run_dir) == rows(whole[0] / "whole") and final_arrays(run_dir) == final_arrays(whole[0] / "whole")


def test_agents_are_read_without_the_memory(whole, tmp_path):
    """Of the newest checkpoint, of the best, and of one that keeps nothing else."""
    folder, result = whole
    shutil.copytree(folder / "whole", tmp_path / "run")
    for path in checkpoints(tmp_path / "run")[-2:]:
        for name in ("memory-000000000000", "learner", "state"):
            (path / f"{name}.safetensors").unlink()
    last, best = (restore_run(tmp_path / "run", which) for which in ("last", "best"))
    assert last.manifest.step == UPDATES * STEPS_PER_UPDATE and best.manifest.score is not None
    for index, agent in enumerate(last.agents):
        trained = result.driver.learner.evaluated(result.state.seed(index).learned)
        for ours, theirs in zip(*map(jax.tree.leaves, (agent, trained)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    driver, first = result.driver, checkpoints(tmp_path / "run")[1]
    agents, manifest = load_agents(first, driver, seed_keys(0, 2))
    assert len(agents) == 2 and manifest.step == STEPS_PER_UPDATE
    with pytest.raises(CheckpointMismatchError, match="keep a part of the state"):
        load_state(first, driver, seed_keys(0, 2))
