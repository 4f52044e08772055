"""Numbers that are not finite: the update is skipped and counted, and one bad environment stays alone."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from driven import Driven
from tiny_worlds import TINY, Pendulum, begin, differ, learner, same, vector, world

from penstock.algorithms.learner import DifferentiableWindow
from penstock.algorithms.registry import ALGORITHMS
from penstock.worlds import Observation, Outcome


def floats_of(tree):
    """The leaves that hold floating point numbers."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def test_a_gradient_that_is_not_finite_skips_the_update(monkeypatch):
    """NaN in the second, infinity in the third of four iterations."""
    algorithm = learner("apg")
    honest = algorithm.learner.return_gradient

    def poisoned(learned, world, key, clock):
        gradient, *rest = honest(learned, world, key, clock)
        factor = jnp.array([1.0, jnp.nan, jnp.inf, 1.0])[clock.update]
        layer = gradient.policy.network.output.weight
        return eqx.tree_at(lambda g: g.policy.network.output.weight, gradient, layer * factor), *rest

    monkeypatch.setattr(algorithm.learner, "return_gradient", poisoned)
    step = jax.jit(algorithm.step)
    states, rows = [begin(algorithm)], []
    for _ in range(4):
        state, metrics = step(states[-1])
        states.append(state)
        rows.append({name: float(value) for name, value in metrics.items()})
    assert [row["actor/skipped"] for row in rows] == [0.0, 1.0, 1.0, 0.0]
    for i, (before, after) in enumerate(itertools.pairwise(states)):
        assert differ(after.world.body, before.world.body) and int(after.clock.update) == i + 1  # the world goes on
        if i in (1, 2):
            same(after.learned.actor, before.learned.actor)
            same(after.learned.actor_optimizer, before.learned.actor_optimizer)
            assert not np.isfinite(rows[i]["actor/gradient_norm"])
        else:
            assert differ(after.learned.actor, before.learned.actor)
            # With nothing beside the return, its norm is that of the whole.
            assert rows[i]["actor/return_gradient_norm"] > 0.01
            np.testing.assert_allclose(rows[i]["actor/gradient_norm"], rows[i]["actor/return_gradient_norm"], rtol=1e-4)


def in_step(name, on):
    """A learner whose environments begin all at age 0, so that no episode ends in the first window."""
    entry = ALGORITHMS[name]

    class InStep(entry.learner):
        @property
        def data(self):
            return DifferentiableWindow(self.config.window)

    return Driven(InStep(entry.config.preset(TINY), on, 10))


@jax.custom_vjp
def spoil(x, factor):
    """Returns x; multiplies the gradient that comes back by ``factor``."""
    del factor
    return x


spoil.defvjp(lambda x, factor: (x, factor), lambda factor, cotangent: (cotangent * factor, None))


FAULTS = np.array([1.0, np.nan, np.inf, 1e20], np.float32)


class Faulty(Pendulum):
    """The pendulum; the gradient with respect to actions is multiplied by a fault, rewards by ``weight``."""

    def initial(self, key):
        return {"pendulum": super().initial(key), "fault": jnp.zeros((), jnp.int32), "weight": jnp.ones(())}

    def advance(self, state, action):
        pendulum, outcome = super().advance(state["pendulum"], spoil(action, jnp.asarray(FAULTS)[state["fault"]]))
        reward = state["weight"] * outcome.reward
        return {**state, "pendulum": pendulum}, Outcome(reward, outcome.terminated, outcome.diagnostics)

    def observe(self, state):
        return super().observe(state["pendulum"])


def test_one_bad_environment_does_not_poison_the_batch():
    """Without a critic: the gradient is exactly what the other environments give, and the event is counted."""
    algorithm = in_step("apg", world(Faulty()))
    state = begin(algorithm)
    program = jax.jit(algorithm.return_gradient)

    def with_first(**changes):
        body = {name: state.world.body[name].at[0].set(value) for name, value in changes.items()}
        return dataclasses.replace(state, world=dataclasses.replace(state.world, body={**state.world.body, **body}))

    healthy, _, _, metrics = program(state)
    others, _, _, _ = program(with_first(weight=0.0))
    assert float(metrics["world/gradients_cut"]) == 0.0
    assert np.abs(vector(healthy) - vector(others)).max() > 1e-3
    for fault in (1, 2):  # NaN and infinity
        gradient, _, _, metrics = program(with_first(fault=fault))
        np.testing.assert_allclose(vector(gradient), vector(others), atol=1e-6)
        assert float(metrics["world/gradients_cut"]) == 4.0  # at each of the four steps
        assert float(metrics["world/diverged"]) == 0.0

    # A huge but finite gradient is scaled down to the limit: the first environment's part stays bounded.
    gradient, _, _, metrics = program(with_first(fault=3))
    assert float(metrics["world/gradients_cut"]) == 4.0
    part = np.linalg.norm(vector(gradient) - vector(others))
    assert np.isfinite(part) and 0 < part < 4 * algorithm.config.gradient_limit


class Odd(Pendulum):
    """The pendulum with the same observation for ever, scaled rewards, and a positive first action that explodes."""

    def initial(self, key):
        return {"pendulum": super().initial(key), "scale": jnp.zeros(()), "explodes": jnp.zeros((), bool)}

    def advance(self, state, action):
        after, outcome = super().advance(state["pendulum"], action)
        after = jnp.where(state["explodes"] & (action[0] > 0), jnp.nan, after)
        return {**state, "pendulum": after}, Outcome(
            state["scale"] * outcome.reward, outcome.terminated, outcome.diagnostics
        )

    def observe(self, state):
        return Observation(jnp.ones(3) + 0.0 * state["pendulum"][0])


def test_diverging_environments_extreme_rewards_and_constant_observations_leave_everything_finite():
    algorithm = in_step("shac2", world(Odd()))
    step, start = jax.jit(algorithm.step), begin(algorithm)

    def run(scale, explodes):
        body = {**start.world.body, "scale": jnp.full(4, scale), "explodes": jnp.full(4, explodes)}
        state = dataclasses.replace(start, world=dataclasses.replace(start.world, body=body))
        state, metrics = step(state)
        assert all(np.isfinite(value) for value in metrics.values())
        assert all(np.isfinite(leaf).all() for leaf in floats_of(state))
        assert float(metrics["actor/skipped"]) == 0.0 == float(metrics["critic/skipped"])
        np.testing.assert_allclose(state.learned.normalizer.variance, 0.0, atol=1e-4)
        return float(metrics["world/diverged"]), state

    healthy, state = run(1.0, False)
    assert healthy == 0.0
    nothing, without_reward = run(0.0, False)
    assert nothing == 0.0 and differ(state.learned.actor, without_reward.learned.actor)
    exploded, _ = run(1.0, True)
    assert 0 < exploded < 16
    huge, _ = run(1e30, False)  # beyond what a world accepts: counts as divergence, and the reset restores the scale
    assert huge == 4.0
