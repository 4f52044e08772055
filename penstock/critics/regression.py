"""Regression of value networks to fixed targets."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from penstock._types import Scalar
from penstock.critics.value import Critic
from penstock.networks import Normalizer
from penstock.networks.optimization import Optimizer, guarded_step
from penstock.observation import Observation


def value_loss(
    critic: Critic,
    normalizer: Normalizer,
    observation: Observation,
    phase: Int[Array, "B"],
    target: Float[Array, "B"],
) -> Scalar:
    """Mean squared error ``mean_i (V_e(s_i, phase_i) - G_i)^2``, summed over the ensemble e.

    Gradient reaches the critic alone: targets and observations are data.
    """
    error = critic.values(jax.lax.stop_gradient(observation), normalizer, phase) - jax.lax.stop_gradient(target)
    return jnp.square(error).mean(axis=1).sum()


def fit_values(
    critic: Critic,
    optimizer: Optimizer | optax.GradientTransformation,
    optimizer_state: PyTree,
    normalizer: Normalizer,
    observation: Observation,
    phase: Int[Array, "M"],
    target: Float[Array, "M"],
    *,
    passes: int,
    minibatches: int,
) -> tuple[Critic, PyTree, dict[str, Scalar]]:
    """Takes ``passes * minibatches`` guarded optimiser steps on contiguous, unshuffled minibatches (SHAC).

    Args:
        critic: the ensemble to train.
        optimizer: its optimiser.
        optimizer_state: state of the optimiser.
        normalizer: frozen observation statistics.
        observation: M raw observations; M must be divisible by ``minibatches``.
        phase: ``(M,)``, see `Critic.values`.
        target: ``(M,)``, not differentiated.
        passes: how often each sample is used.
        minibatches: number of parts.

    Returns:
        Critic, optimiser state, and the metrics ``critic/loss`` (last pass), ``critic/gradient_norm`` (largest) and
        ``critic/skipped`` (number of skipped steps).
    """
    size = target.shape[0] // minibatches
    batches = jax.tree.map(lambda leaf: leaf.reshape(minibatches, size, *leaf.shape[1:]), (observation, phase, target))

    def minibatch(carry, batch):
        critic, optimizer_state = carry
        loss, gradient = jax.value_and_grad(value_loss)(critic, normalizer, *batch)
        critic, optimizer_state, health = guarded_step(optimizer, gradient, optimizer_state, critic)
        return (critic, optimizer_state), (loss, health)

    def one_pass(carry, _):
        return jax.lax.scan(minibatch, carry, batches)

    (critic, optimizer_state), (loss, health) = jax.lax.scan(one_pass, (critic, optimizer_state), None, length=passes)
    metrics = {
        "critic/loss": loss[-1].mean(),
        "critic/gradient_norm": health.norm.max(),
        "critic/skipped": health.skipped.sum().astype(jnp.float32),
    }
    return critic, optimizer_state, metrics
