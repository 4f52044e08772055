"""Opening a run for reading: sentences where there is none, and nothing changed where there is one."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from penstock._errors import PenstockError
from penstock.storage.store import list_checkpoints, read_manifest, save_checkpoint
from penstock.training.drivers.functional import FunctionalDriver, seed_keys
from penstock.training.loop import train
from penstock.training.plan import make_plan
from penstock.training.restore import load_state, read_plan, restore_run

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from tiny_runs import STEPS_PER_UPDATE, TINY, SharedProgram, tiny_plan


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("restore") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
        result = train(tiny_plan(), run_dir)
    return run_dir, result


def test_last_and_best(run_dir):
    path, result = run_dir
    before = sorted((entry, entry.stat().st_mtime_ns) for entry in path.rglob("*"))
    last = restore_run(path, "last")
    assert last.plan == tiny_plan() and last.manifest.step == tiny_plan().updates * STEPS_PER_UPDATE
    trained = result.driver.learner.evaluated(result.state.seed(0).learned)
    for ours, theirs in zip(*map(jax.tree.leaves, (last.agents[0], trained)), strict=True):
        assert np.array_equal(ours, theirs)
    best = restore_run(path, "best")
    scores = [manifest_score(checkpoint) for _, checkpoint in list_checkpoints(path / "checkpoints")]
    assert best.manifest.score is not None and best.manifest.score >= max(scores)
    assert sorted((entry, entry.stat().st_mtime_ns) for entry in path.rglob("*")) == before, "reading changes nothing"


def manifest_score(checkpoint):
    return read_manifest(checkpoint).score


def test_a_damaged_newest_checkpoint_is_left_where_it_is(run_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir[0], copy)
    newest = list_checkpoints(copy / "checkpoints")[-1][1]
    (newest / "manifest.json").write_text("{}")
    assert restore_run(copy).manifest.step < tiny_plan().updates * STEPS_PER_UPDATE
    assert newest.is_dir()


def test_folders_without_a_run_are_named(tmp_path, run_dir):
    with pytest.raises(PenstockError, match=r"nope holds no run: it has no config\.json"):
        read_plan(tmp_path / "nope")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((run_dir[0] / "config.json").read_bytes())
    for which in ("last", "best"):
        with pytest.raises(PenstockError, match=f"no {which} checkpoint"):
            restore_run(tmp_path / "empty", which)
    (tmp_path / "empty" / "config.json").write_text('{"algorithm": "rfo", "world": 3}')
    with pytest.raises(PenstockError, match="world = 3"):
        read_plan(tmp_path / "empty")


FORMAT_1 = Path(__file__).parent / "fixtures" / "run_v1"
"""A run of SAC that was stopped, with one checkpoint of format 1: all of its state in one file, with 24 slots."""


def test_a_run_of_the_first_format_is_evaluated_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
    run_dir = tmp_path / "run"
    shutil.copytree(FORMAT_1, run_dir)
    (old,) = (run_dir / "checkpoints").iterdir()
    shutil.copytree(old, run_dir / "checkpoints" / "best" / old.name)
    saved = safetensors.numpy.load_file(old / "state.safetensors")
    for which in ("last", "best"):
        (agent,) = restore_run(run_dir, which).agents
        for path, leaf in jax.tree_util.tree_flatten_with_path(agent.actor)[0]:
            np.testing.assert_array_equal(leaf, saved[f".learned.actor{jax.tree_util.keystr(path)}"][0])
    result = train(read_plan(run_dir), run_dir)
    memory = result.state.memory
    assert result.finished and int(memory.filled[0]) == 24 == 96 // 4
    filled = int(saved[".memory.filled"][0])
    assert filled == 16
    np.testing.assert_array_equal(memory.ring.reward[0, :filled], saved[".memory.ring.reward"][0, :filled])
    newest = list_checkpoints(run_dir / "checkpoints")[-1][1]
    assert read_manifest(newest).files["memory-000000000000.safetensors"].rows == (0, 24)


class FormerPathwise(eqx.Module):
    """A pathwise run's state as it was named when each seed had counters of its own."""

    actor: Any
    actor_optimizer: Any
    critic: Any
    target_critic: Any
    critic_optimizer: Any
    normalizer: Any
    world: Any
    memory: Any
    key: Any
    update: Any
    env_steps: Any


class FormerOffPolicy(eqx.Module):
    """An off-policy run's."""

    learned: Any
    replay: Any
    world: Any
    key: Any
    update: Any
    env_steps: Any
    gradient_steps: Any


@pytest.mark.parametrize("algorithm", ["sapo", "sac"])
def test_a_state_of_the_former_form_is_continued(algorithm, tmp_path):
    """Its parts had other names, and each seed had counters of its own."""
    off_policy = {"batch_size": 4, "warmup_steps": 4, "collect_steps": 2, "critic_hidden": (4,), "actor_hidden": (4,)}
    small = {"sac": off_policy, "sapo": TINY}[algorithm]
    plan = make_plan(algorithm, "classic/double-integrator", settings=small, num_envs=4, steps=192, seeds=2)
    world = plan.make_world()
    driver = FunctionalDriver(plan.make_learner(world), world)
    keys = seed_keys(0, 2)
    state = driver.init(keys)
    update, env_steps, gradient_steps = (jnp.full((2,), count, jnp.int32) for count in (3, 48, 5))
    if algorithm == "sapo":
        parts = {field.name: getattr(state.learned, field.name) for field in dataclasses.fields(state.learned)}
        former = FormerPathwise(**parts, world=state.world, key=state.key, update=update, env_steps=env_steps)
    else:
        former = FormerOffPolicy(state.learned, state.memory, state.world, state.key, update, env_steps, gradient_steps)
    path = save_checkpoint(tmp_path, 48, former, config_hash="")
    found, _ = load_state(path, driver, keys)
    assert (int(found.clock.update), int(found.clock.env_steps)) == (3, 48)
    assert int(found.clock.gradient_steps) == (5 if algorithm == "sac" else 0)
    for one, other in zip(*(jax.tree.leaves(s.parts) for s in (found, state)), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)
