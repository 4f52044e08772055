"""Algorithms that must coincide where one contains the other, and what each part of an iteration does."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import compiled, differ, same, vector

from penstock.algorithms.keys import purpose_key
from penstock.critics import td_lambda_targets

SHARED = ("actor", "actor_optimizer", "critic", "critic_optimizer", "normalizer")


def same_run(one, other):
    """Everything is equal but what an algorithm remembers for itself."""
    for field in SHARED:
        same(getattr(one.learned, field), getattr(other.learned, field))
    same((one.world, one.memory, one.key, one.clock), (other.world, other.memory, other.key, other.clock))


def run(program, state, updates):
    for _ in range(updates):
        state, metrics = program.step(state)
    return state, metrics


@pytest.mark.slow
def test_sapo_at_temperature_zero_is_shac2(compiled_as_for_users):
    compiled_as_for_users(sapo_at_temperature_zero_is_shac2)


def sapo_at_temperature_zero_is_shac2():
    sapo = compiled("sapo", initial_temperature=0.0, learn_temperature=False)
    shac2 = compiled("shac2")
    soft, soft_metrics = run(sapo, sapo.start, 2)
    hard, hard_metrics = run(shac2, shac2.start, 2)
    same_run(soft, hard)
    for name, value in hard_metrics.items():
        np.testing.assert_array_equal(soft_metrics[name], value, err_msg=name)
    assert set(soft_metrics) - set(hard_metrics) == {"policy/entropy", "policy/temperature"}
    assert float(soft_metrics["policy/temperature"]) == 0.0
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(soft.learned.memory)
    )  # checkpoints refuse infinities


@pytest.mark.slow
def test_sapo_at_another_temperature_is_not_shac2():
    sapo = compiled("sapo")
    shac2 = compiled("shac2")
    soft, _ = run(sapo, sapo.start, 1)
    hard, _ = run(shac2, shac2.start, 1)
    same(soft.world, hard.world)  # the bonus has a key of its own: the rollouts are the same
    assert differ(soft.learned.actor, hard.learned.actor) and differ(soft.learned.critic, hard.learned.critic)


@pytest.mark.slow
def test_rfo_without_regularizers_is_shac2_with_a_flow(compiled_as_for_users):
    compiled_as_for_users(rfo_without_regularizers_is_shac2_with_a_flow)


def rfo_without_regularizers_is_shac2_with_a_flow():
    rfo = compiled("rfo", past_coefficient=0.0, uniform_coefficient=0.0)
    naive = compiled("shac2", policy="flow")
    flow, flow_metrics = run(rfo, rfo.start, 2)
    control, control_metrics = run(naive, naive.start, 2)
    same_run(flow, control)
    same(flow_metrics, control_metrics)


@pytest.mark.slow
def test_regularizers_change_the_actor_but_not_the_rollout(compiled_as_for_users):
    compiled_as_for_users(regularizers_change_the_actor_but_not_the_rollout)


def regularizers_change_the_actor_but_not_the_rollout():
    full = compiled("rfo")
    naive = compiled("rfo", past_coefficient=0.0, uniform_coefficient=0.0)
    begin = full.start
    one, metrics = run(full, begin, 1)
    other, _ = run(naive, begin, 1)
    same(one.world, other.world)
    same(one.learned.memory, other.learned.memory)
    same(one.learned.critic, other.learned.critic)
    assert differ(one.learned.actor, other.learned.actor)
    for name in ("past", "uniform"):
        assert float(metrics[f"actor/{name}_loss"]) > 0 and float(metrics[f"actor/{name}_gradient_norm"]) > 0


@pytest.mark.slow
def test_apg_is_shac_with_values_of_zero():
    apg, shac = compiled("apg"), compiled("shac", target_mixing=1.0)
    plain, judged = apg.start, shac.start
    worthless = jax.tree.map(jnp.zeros_like, judged.learned.target_critic)
    judged = eqx.tree_at(lambda state: state.learned.target_critic, judged, worthless)
    same(plain.learned.actor, judged.learned.actor)
    plain, plain_metrics = apg.step(plain)
    judged, judged_metrics = shac.step(judged)
    # Equal mathematics, different programs: equal to rounding.
    np.testing.assert_allclose(vector(plain.learned.actor), vector(judged.learned.actor), atol=1e-5)
    for name in ("train/window_return", "actor/gradient_norm"):
        np.testing.assert_allclose(plain_metrics[name], judged_metrics[name], rtol=1e-4)
    assert plain.learned.critic is None and plain.learned.critic_optimizer is None
    assert not any(name.startswith("critic/") for name in plain_metrics)


@pytest.mark.slow
def test_target_critic_keeps_the_old_one_by_the_mixing():
    frozen = compiled("shac", target_mixing=1.0)
    before = frozen.start
    after, _ = frozen.step(before)
    same(after.learned.target_critic, before.learned.target_critic)
    assert differ(after.learned.critic, before.learned.critic)

    mixed = compiled("shac", target_mixing=0.3)
    after, _ = mixed.step(before)
    expected = 0.3 * vector(before.learned.target_critic) + 0.7 * vector(after.learned.critic)
    np.testing.assert_allclose(vector(after.learned.target_critic), expected, atol=1e-6)


def test_without_a_target_network_there_is_none():
    for name in ("shac2", "sapo", "rfo", "apg"):
        program = compiled(name)
        assert program.learner.target_mixing is None
        assert program.learner.shapes().target_critic is None


def test_targets_use_the_least_critic_and_the_actor_their_mean():
    program = compiled("shac2")
    algorithm, state = program.learner, program.start
    _, metrics = program.step(state)
    _, window, _, _ = program.return_gradient(state)
    judge = jax.jit(jax.vmap(lambda observation: state.learned.critic.values(observation, state.learned.normalizer)))
    values = np.asarray(judge(window.final_observation))
    assert values.shape == (4, 2, 4) and np.abs(values[:, 0] - values[:, 1]).min() > 1e-3
    np.testing.assert_allclose(window.next_value[-1], values[-1].mean(0), rtol=1e-5)

    config = algorithm.config

    @jax.jit
    def mean_target(next_value):
        ends = window.terminated.T, window.truncated.T
        targets = jax.vmap(lambda *row: td_lambda_targets(*row, config.discount, config.critic.td_lambda))
        return targets(window.reward.T, *ends, next_value.T).mean()

    np.testing.assert_allclose(metrics["critic/target_mean"], mean_target(values.min(1)), rtol=1e-4)
    assert abs(mean_target(values.mean(1)) - mean_target(values.min(1))) > 1e-2


def test_an_iteration_counts_and_merges_what_it_saw():
    program = compiled("shac2")
    algorithm, before = program.learner, program.start
    _, window, world_state, _ = program.return_gradient(before)
    after, _ = program.step(before)
    assert int(after.clock.update) == 1 and int(after.clock.env_steps) == 16 == algorithm.steps_per_update
    np.testing.assert_allclose(after.world.body, world_state.body, atol=1e-6)
    seen = np.asarray(window.observation.vector, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(after.learned.normalizer.mean, seen.mean(0), atol=1e-4)
    np.testing.assert_allclose(after.learned.normalizer.variance, seen.var(0), atol=1e-3)
    same(after.key, before.key)  # folded, never consumed


def test_key_of_each_purpose_and_update_is_its_own():
    base = jax.random.key(0)
    purposes = ("policy noise", "bonus", "uniform targets", "past noise", "past time", "uniform noise", "uniform time")
    keys = [
        tuple(jax.random.key_data(purpose_key(base, jnp.asarray(update), purpose)).tolist())
        for purpose in purposes
        for update in range(3)
    ]
    assert len(set(keys)) == len(keys)


def test_a_saturated_policy_is_flagged_and_stays_finite():
    program = compiled("shac2")
    state = program.start
    bias = state.learned.actor.policy.network.output.bias.at[:2].set(60.0)
    state = eqx.tree_at(lambda s: s.learned.actor.policy.network.output.bias, state, bias)
    state, metrics = program.step(state)
    assert float(metrics["policy/saturation"]) > 0.95
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.learned.actor, state.learned.critic)))
