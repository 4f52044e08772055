"""Learning rates and the plan's length are inputs of a program: other values need no other program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.algorithms import apg
from penstock.algorithms.registry import ALGORITHMS
from penstock.training.drivers.functional import FunctionalDriver, seed_keys
from penstock.training.drivers.rates import rates_of
from penstock.worlds import make_world

SMALL = {
    "apg": {"window": 2, "actor_hidden": (4,)},
    "sapo": {"window": 2, "actor_hidden": (4,), "critic_hidden": (4,), "critic_passes": 1, "critic_minibatches": 1},
    "sac": {"batch_size": 4, "warmup_steps": 4, "actor_hidden": (4,), "critic_hidden": (4,)},
    "flowrl": {"batch_size": 4, "warmup_steps": 4, "actor_hidden": (4,), "critic_hidden": (4, 4, 4)},
}
RATES = {
    "apg": {"actor_learning_rate": 3e-3, "final_learning_rate": 3e-4},
    "sapo": {"actor_learning_rate": 3e-3, "critic_learning_rate": 5e-3, "temperature_learning_rate": 1e-2},
    "sac": {"actor_learning_rate": 3e-3, "critic_learning_rate": 5e-3, "temperature_learning_rate": 1e-2},
    "flowrl": {"actor_learning_rate": 3e-3, "critic_learning_rate": 5e-3},
}


def driver(algorithm, updates=8, rates=None, **settings):
    entry = ALGORITHMS[algorithm]
    world = make_world("classic/double-integrator", 2, episode_length=10)
    learner = entry.learner(entry.config.of(**(SMALL[algorithm] | settings)), world, updates)
    return FunctionalDriver(learner, world, rates=rates)


def program_text(driver, rows=1):
    """What is compiled for a block of iterations; it holds every constant."""
    state = driver.template(seed_keys(0, rows))
    return driver._train.lower(state, rates_of(driver.learner, driver.rates, rows), jnp.asarray(1, jnp.int32)).as_text()


@pytest.mark.parametrize(
    "algorithm", ["apg", "sac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sapo", "flowrl"))]
)
def test_other_rates_and_other_lengths_have_the_same_program(algorithm):
    text = program_text(driver(algorithm))
    assert program_text(driver(algorithm, updates=9, **RATES[algorithm])) == text
    assert program_text(driver(algorithm, discount=0.5)) != text, "a constant would be seen"


def trained(driver, seeds, iterations=6):
    return driver.train(driver.init(seed_keys(3, seeds)), jnp.asarray(iterations, jnp.int32))


def leaves(state, row):
    return jax.tree.leaves(state.seed(row).learned)


def test_rates_decay_over_the_plan():
    rates = driver("sapo", updates=9, critic_passes=2).learner.rates
    steps = {name: float(rate.steps) for name, rate in rates.items()}
    assert steps == {"actor_optimizer": 9, "critic_optimizer": 18, "temperature_optimizer": 1}


def test_rows_of_rates_are_runs_with_those_rates():
    """Two rates, trained side by side as rows of one program, give what each gives alone."""
    values = (1e-3, 3e-2)
    alone = [driver("apg", actor_learning_rate=value) for value in values]
    rates = jax.tree.map(lambda *numbers: np.stack(numbers), *(one.learner.rates for one in alone))
    together = driver("apg", rates=rates)
    begun = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), together.init(seed_keys(3, 1)).parts)
    both, metrics = together.train(together.init(seed_keys(3, 2)).with_parts(begun), jnp.asarray(6, jnp.int32))
    assert metrics["train/reward"].shape == (2,)
    for row, one in enumerate(alone):
        state, _ = trained(one, 1)
        for a, b in zip(leaves(both, row), leaves(state, 0), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert not np.allclose(leaves(both, 0)[0], leaves(both, 1)[0])


def test_a_learner_with_other_rates_leaves_the_first_alone():
    world = make_world("classic/double-integrator", 2, episode_length=10)
    learner = apg.Learner(apg.Config(**SMALL["apg"]), world, 8)
    rate = dataclasses.replace(learner.rates["actor_optimizer"], initial=np.float32(0.5))
    other = learner.with_rates({"actor_optimizer": rate})
    assert other.rates["actor_optimizer"].initial == 0.5 != learner.rates["actor_optimizer"].initial
