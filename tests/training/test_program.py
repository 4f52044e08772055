"""The compiled programs: several seeds in one program, counters, traces (F30, F31)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.algorithms import apg
from penstock.algorithms.metric_rules import is_counter
from penstock.training.program import Program, _train_one, seed_keys
from penstock.worlds import make_world

SETTINGS = apg.Config(window=4, actor_hidden=(8,))


@functools.cache
def program():
    world = make_world("classic/double-integrator", 4, episode_length=10)
    return Program(apg.Learner(SETTINGS, world, 8), world.with_num_envs(2))


def trained(first_seed, seeds, blocks=(3, 1)):
    state = program().init(seed_keys(first_seed, seeds))
    rows = []
    for iterations in blocks:
        state, metrics = program().train(state, jnp.asarray(iterations, jnp.int32))
        rows.append(metrics)
    return state, rows


def words(tree, index=None):
    """Every array of a tree as bytes, of one seed."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [
        (
            jax.tree_util.keystr(path),
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf,
        )
        for path, leaf in leaves
    ]
    return {name: np.asarray(leaf[index]).tobytes() for name, leaf in leaves}


def test_three_seeds_in_one_program_are_three_runs_bit_for_bit(compiled_as_for_users):
    compiled_as_for_users(three_seeds_are_three_runs)


def three_seeds_are_three_runs():
    together, rows = trained(5, 3)
    for index in range(3):
        alone, rows_alone = trained(5 + index, 1)
        assert words(together, index) == words(alone, 0)
        for row, row_alone in zip(rows, rows_alone, strict=True):
            assert words(row, index) == words(row_alone, 0)
    assert words(together, 0) != words(together, 1)
    # One trace per number of seeds, whatever the length of a block.
    assert program().traces["train"] == 2


def test_blocks_of_any_length_compute_the_same():
    one, _ = trained(0, 1, (4,))
    other, _ = trained(0, 1, (1, 2, 1))
    assert words(one, 0) == words(other, 0)
    assert int(one.update[0]) == 4 and int(one.env_steps[0]) == 4 * 16


def test_metrics_are_means_and_counters_are_sums():
    _, single = trained(0, 1, (1, 1, 1))
    state, (block,) = trained(0, 1, (3,))
    measured = jax.jit(program().learner.measure)(jax.tree.map(lambda leaf: leaf[0], state))
    assert "policy/latent_std" in measured
    for name, value in block.items():
        values = [float(row[name][0]) for row in single]
        expected = sum(values) if is_counter(name) else sum(values) / 3
        if name in measured:  # of the state at the end of the block
            expected = float(measured[name])
            assert values[-1] == pytest.approx(expected, rel=1e-5)
        assert float(value[0]) == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_learning_metrics_are_means_over_gradient_steps_only():
    """Four iterations, of which the first two are warm-up and learn nothing."""

    class Warming:
        def step(self, count):
            learned = count >= 2
            steps = jnp.where(learned, 2.0, 0.0)
            metrics = {
                "critic/loss": jnp.where(learned, 10.0 * count, 0.0),
                "actor/loss": jnp.where(learned, 3.0 * count, 0.0),
                "actor/steps": jnp.where(learned, count - 1.0, 0.0),  # 1, then 2
                "critic/skipped": steps,
                "train/gradient_steps": steps,
                "train/reward": 1.0 * count,
            }
            return count + 1, metrics

        def measure(self, count):
            return {"policy/latent_std": 0.1 * count}

    _, metrics = _train_one(Warming(), jnp.asarray(4), jnp.asarray(0))
    expected = {
        "critic/loss": 25.0,
        "actor/loss": (6.0 + 2 * 9.0) / 3,
        "actor/steps": 3.0,
        "critic/skipped": 4.0,
        "train/gradient_steps": 4.0,
        "train/reward": 1.5,
        "policy/latent_std": pytest.approx(0.4),
    }
    assert {name: float(value) for name, value in metrics.items()} == expected
    assert float(_train_one(Warming(), jnp.asarray(1), jnp.asarray(0))[1]["critic/loss"]) == 0.0


def test_counters_by_name():
    assert is_counter("world/diverged") and is_counter("actor/skipped") and is_counter("critic/skipped")
    assert not is_counter("train/reward") and not is_counter("actor/gradient_norm")


def test_seed_keys_are_those_of_single_seeds():
    keys = seed_keys(3, 4)
    for index in range(4):
        assert jnp.array_equal(jax.random.key_data(keys[index]), jax.random.key_data(jax.random.key(3 + index)))
