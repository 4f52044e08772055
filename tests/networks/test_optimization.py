"""Optimiser steps: clipping, schedule, weight decay, and the refusal of gradients that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks.optimization import guarded_step, make_constant_optimizer, make_optimizer


def optimizer(rate=0.1, final=0.1, steps=1, clip=1e9, betas=(0.7, 0.95), weight_decay=0.0):
    return make_optimizer(rate, final, steps, clip=clip, betas=betas, weight_decay=weight_decay)


def adamw_by_hand(gradients, rates, parameter, betas, weight_decay, clip):
    """Kingma and Ba 2015 with decoupled decay (Loshchilov and Hutter 2019), in float64."""
    m = v = np.zeros_like(parameter)
    for i, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        update = m / (1 - betas[0] ** i) / (np.sqrt(v / (1 - betas[1] ** i)) + 1e-8)
        parameter = parameter - rate * (update + weight_decay * parameter)
    return parameter


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_steps_are_adamw_with_linear_decay_and_clipping(weight_decay, clip):
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    start = np.array([1.0, -2.0, 0.5])
    chosen = optimizer(0.1, 0.02, 4, clip, (0.7, 0.95), weight_decay)
    parameter, state = jnp.asarray(start, jnp.float32), chosen.init(jnp.asarray(start, jnp.float32))
    for gradient in gradients:
        parameter, state, health = guarded_step(chosen, jnp.asarray(gradient, jnp.float32), state, parameter)
        np.testing.assert_allclose(health.norm, np.linalg.norm(gradient), rtol=1e-5)  # before clipping
        assert not health.skipped
    rates = [0.1, 0.08, 0.06, 0.04, 0.02]
    expected = adamw_by_hand(gradients, rates, start, (0.7, 0.95), weight_decay, clip)
    np.testing.assert_allclose(parameter, expected, rtol=1e-4)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(poison):
    chosen = optimizer()
    parameters = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    state = chosen.init(parameters)
    good = jax.tree.map(jnp.ones_like, parameters)
    parameters, state, _ = guarded_step(chosen, good, state, parameters)
    bad = {"a": jnp.array([1.0, poison]), "b": jnp.array(1.0)}
    after, state_after, health = guarded_step(chosen, bad, state, parameters)
    assert health.skipped and not np.isfinite(health.norm)
    jax.tree.map(np.testing.assert_array_equal, after, parameters)
    jax.tree.map(np.testing.assert_array_equal, state_after, state)
    # And the next good gradient works as if nothing had happened.
    recovered, _, health = guarded_step(chosen, good, state_after, after)
    expected, _, _ = guarded_step(chosen, good, state, parameters)
    assert not health.skipped
    jax.tree.map(np.testing.assert_array_equal, recovered, expected)


def test_a_final_rate_above_the_initial_one_does_not_raise_it():
    chosen = optimizer(rate=1e-3, final=1.0, steps=1)
    parameter, state = jnp.zeros(1), chosen.init(jnp.zeros(1))
    for _ in range(3):
        parameter, state, _ = guarded_step(chosen, jnp.ones(1), state, parameter)
    np.testing.assert_allclose(parameter, -3e-3, rtol=1e-3)


def test_constant_optimizer_is_adam_and_a_refused_gradient_changes_nothing():
    betas, rate = (0.5, 0.999), 0.03
    chosen = make_constant_optimizer(rate, betas)
    gradients = np.random.default_rng(1).normal(size=(4, 3))
    start = np.array([1.0, -2.0, 0.5])
    parameter = jnp.asarray(start, jnp.float32)
    state = chosen.init(parameter)
    bad = jnp.array([1.0, jnp.nan, jnp.inf])
    for gradient in gradients:
        refused, state_after, health = guarded_step(chosen, bad, state, parameter)
        assert health.skipped
        for a, b in zip(jax.tree.leaves((refused, state_after)), jax.tree.leaves((parameter, state)), strict=True):
            np.testing.assert_array_equal(a, b)
        parameter, state, health = guarded_step(chosen, jnp.asarray(gradient, jnp.float32), state_after, refused)
        assert not health.skipped
    expected = adamw_by_hand(gradients, [rate] * 4, start, betas, 0.0, np.inf)
    np.testing.assert_allclose(parameter, expected, rtol=1e-4)
