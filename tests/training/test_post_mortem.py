"""The post-mortem's sentences, with a learner made of two lines; whole runs are in tests/faults/test_numbers.py."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._settings import Settings
from penstock.algorithms.learner import DifferentiableWindow, Evidence, Learner, Updated, counts
from penstock.storage.store import CheckpointNotWrittenError, list_checkpoints
from penstock.training.drivers.functional import FunctionalDriver, begin, iterate
from penstock.training.post_mortem import Fault, Witness, find_cause
from penstock.training.record import Record
from penstock.worlds import make_world


class Toy(Learner):
    """Acts with its weight, which is NaN in the third iteration; the gradient is what a test wants it to be."""

    name = "toy"
    data = DifferentiableWindow(4)

    def __init__(self, gradient=0.0):
        self.config = Settings()
        self.world = make_world("classic/double-integrator", 3)
        self.planned_updates = 10
        self.gradient = gradient

    def init(self, key):
        return jnp.zeros(())

    def agent(self, learned):
        raise NotImplementedError

    def update(self, learned, data, key, clock):
        def body(world, _):
            return self.world.step(world, jnp.full((3, 1), learned))

        world, steps = jax.lax.scan(body, data, None, length=4)
        weight = jnp.where(clock.update == 1, jnp.nan, 0.0)
        evidence = Evidence(steps.diagnostics, {"weight": jnp.asarray(self.gradient)}, jnp.zeros((4, 2, 3)))
        return Updated(weight, counts({"world/diverged": steps.diverged.sum()}), world, evidence)


@pytest.fixture(scope="module")
def program():
    learner = Toy()
    return FunctionalDriver(learner, learner.world)


def fault(program, tmp_path, begin, iterations, index, count, seed, seeds):
    start = lambda: program.init(jax.vmap(jax.random.key)(jnp.arange(seeds)))  # noqa: E731
    return Fault(start, begin, iterations, index, {"world/diverged": count}, seed, 12, tmp_path, "")


@pytest.mark.parametrize(("begin", "iterations"), [(0, 5), (2, 1)])
def test_a_fault_is_found_dumped_and_told(program, tmp_path, begin, iterations):
    """However far the checkpoint lies behind the block."""
    sentence = program.explain(fault(program, tmp_path, begin, iterations, 1, 12, 8, seeds=2))
    (step, dump), *rest = list_checkpoints(tmp_path)
    assert step == 24 and not rest, "named by environment steps, as checkpoints are"
    assert sentence == (
        "world/diverged 12 (handled; training goes on). Seed 8, iteration 2: action is nan at step 0 of the window in "
        f"environments 0, 1, 2. The state before it is kept in {dump}; one iteration from there shows the fault again."
    )


def test_a_fault_that_does_not_come_back_is_told_too(program, tmp_path):
    sentence = program.explain(fault(program, tmp_path, 0, 2, 0, 1, 0, seeds=1))
    assert "did not show it again" in sentence and list_checkpoints(tmp_path) == []
    gone = dataclasses.replace(fault(program, tmp_path, 0, 2, 0, 1, 0, seeds=1), restore=lambda: None)
    assert "no checkpoint is left" in program.explain(gone)


def test_gradients_and_losses_are_named():
    state = begin(Toy(), jax.random.key(0))
    told = find_cause(Toy(math.nan), iterate, state, {"critic/loss": math.inf, "train/reward": 1.0})
    assert told.startswith("gradient['weight'] (): 1 NaN") and told.endswith("; critic/loss is inf")
    assert find_cause(Toy(), iterate, state, {}).startswith("every number")


def test_the_witness_changes_nothing_but_the_diagnostics():
    world = make_world("classic/pendulum", 3)
    state = world.reset(jax.random.key(0))
    action = jnp.array([[0.5], [math.nan], [2.0]])
    seen, transition = world.step(state, action)
    watched, witnessed = Witness(world).step(state, action)
    for ours, theirs in zip(
        jax.tree.leaves((seen, transition.observation)), jax.tree.leaves((watched, witnessed.observation)), strict=True
    ):
        if not jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            assert np.array_equal(ours, theirs)
    evidence = {name: np.asarray(values) for name, values in witnessed.diagnostics.items()}
    names = [name.split(" ", 2)[2] for name in sorted(evidence)]
    assert names[0] == "action" and names[-1] == "reward" and "state.angle" in names
    for values in evidence.values():
        assert values[0] == values[2] == 0, "the sound environments are not accused"
    assert all(np.isnan(values[1]) for values in evidence.values()), "everything follows from the action"


class Folder(Record):
    """What faults need of a run's folder, for the second of two runs of two seeds that are trained together."""

    def __init__(self, report, explain):
        self.seeds, self.faults_explained, self.steps_per_update = [4, 5], 0, 12
        self.folder, self.hash, self.report = SimpleNamespace(crash=Path("crash")), "", report
        self.explain = explain

    def look(self, metrics):
        metrics = {name: np.concatenate([np.zeros(2), values]) for name, values in metrics.items()}
        self.look_for_faults(self.explain, lambda: None, 1, 0, metrics, 10)


def faults(*counts):
    return {"world/diverged": np.array(counts, np.float32), "train/reward": np.array([0.0, 0.0])}


def test_the_first_faults_are_explained_and_the_others_counted():
    asked, told = [], []
    this = Folder(told.append, lambda fault: asked.append((fault.index, fault.counts, fault.seed)) or "explained.")
    for metrics in (faults(0, 0), faults(0, 2), faults(1, 3), faults(1, 1)):
        this.look(metrics)
    assert asked == [(3, {"world/diverged": 2}, 5), (2, {"world/diverged": 1}, 4), (3, {"world/diverged": 3}, 5)]
    assert told[:2] == ["explained.", "explained."]
    assert told[2] == "explained. Further faults are only counted, in metrics.jsonl." and len(told) == 3


def test_a_full_disk_does_not_turn_a_handled_fault_into_a_crash():
    def full(fault):
        raise CheckpointNotWrittenError("No space left on device. It needs 100 bytes.", 100)

    told = []
    Folder(told.append, full).look(faults(0, 2))
    assert "seed 5 (handled; training goes on)" in told[0] and "needs 100 bytes" in told[0]
