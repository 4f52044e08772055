"""Gradient steps with bfloat16 products, of every off-policy algorithm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven
from tiny_worlds import world

from penstock.algorithms.registry import ALGORITHMS, family
from penstock.data import Batch
from penstock.networks.precision import SHORTEST_SIDE
from penstock.observation import Observation
from tests.products import products

ALL = [pytest.param(name, marks=[] if name == "sac" else pytest.mark.slow) for name in family("off-policy")]
ARMS = [*ALL, *(pytest.param(f"sac-flow {kind}", marks=pytest.mark.slow) for kind in ("gated", "decoded"))]


@functools.cache
def learner(arm, precision, **fields):
    name, _, velocity = arm.partition(" ")
    sizes = {"batch_size": 64, "actor_hidden": (32, 32), "critic_hidden": (32, 32, 32), "replay_capacity": 256}
    settings = {**sizes, "warmup_steps": 64, "collect_steps": 8, **fields}
    if velocity:
        settings["velocity"] = velocity
    algorithm = ALGORITHMS[name].learner(ALGORITHMS[name].config.of(**settings), world(), 100)
    algorithm.precision = precision
    return Driven(algorithm)


def batch(size=64):
    keys = jax.random.split(jax.random.key(0), 4)
    spec, d = world().observation_spec.vector, world().action_size
    action = jnp.tanh(jax.random.normal(keys[1], (size, d)))
    observations = [Observation(jax.random.normal(key, (size, spec))) for key in keys[2:]]
    return Batch(observations[0], action, jax.random.normal(keys[0], (size,)), jnp.full((size,), 0.9), observations[1])


def large_products(program):
    return [set(kinds) for kinds, side in products(program.jaxpr) if side >= SHORTEST_SIDE]


@pytest.mark.parametrize("arm", ARMS)
def test_all_large_products_are_rounded_and_little_changes(arm):
    key, count = jax.random.key(2), jnp.asarray(0)
    before, results = None, {}
    for precision in ("float32", "bfloat16"):
        algorithm = learner(arm, precision)
        before = before or jax.jit(algorithm.init_learned)(jax.random.key(1))
        learn = jax.jit(algorithm.learn).trace(before, batch(), key, count)
        found = large_products(learn.jaxpr)
        assert len(found) > 10
        assert all(kinds == {precision} for kinds in found)
        results[precision] = learn.lower().compile()(before, batch(), key, count)
    (exact, exact_metrics), (ours, metrics) = results["float32"], results["bfloat16"]
    assert jax.tree.map(lambda leaf: leaf.dtype, ours) == jax.tree.map(lambda leaf: leaf.dtype, exact)
    assert metrics.keys() == exact_metrics.keys()
    assert float(metrics["critic/loss"]) == pytest.approx(float(exact_metrics["critic/loss"]), rel=0.03)
    assert float(metrics["critic/loss"]) != float(exact_metrics["critic/loss"])
    norms = [float(found["critic/gradient_norm"]) for found in (metrics, exact_metrics)]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)
    assert float(metrics["critic/skipped"]) == float(metrics["actor/skipped"]) == 0.0

    def moved(learned):
        pairs = zip(jax.tree.leaves(learned.critic), jax.tree.leaves(before.critic), strict=True)
        return np.concatenate([np.ravel(after - start) for after, start in pairs])

    a, b = moved(exact), moved(ours)
    # Adam's first step is the sign of the gradient, and small entries may change it.
    assert a @ b > 0.9 * np.linalg.norm(a) * np.linalg.norm(b)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_two_seeds_train_in_one_program(arm):
    algorithm = learner(arm, "bfloat16")
    program = jax.make_jaxpr(algorithm.step)(jax.eval_shape(algorithm.init, jax.random.key(0)))
    found = large_products(program)
    assert found.count({"bfloat16"}) > len(found) / 2  # those of acting and of weights at the start are float32
    states = jax.vmap(algorithm.init)(jax.random.split(jax.random.key(0), 2))
    step = jax.jit(jax.vmap(algorithm.step))
    for _ in range(5):
        states, metrics = step(states)
    assert (metrics["train/gradient_steps"] == 8).all()
    assert all(np.isfinite(values).all() for values in metrics.values())
