"""Gradient steps that refuse to be poisoned."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from penstock._types import Scalar

Parameters = TypeVar("Parameters", bound=PyTree)


class GradientHealth(eqx.Module):
    """What happened to one gradient.

    Attributes:
        norm: global norm before clipping (infinite or NaN if the gradient was).
        skipped: the gradient was not finite, so parameters and optimiser state stayed as they were.
    """

    norm: Scalar
    skipped: Bool[Array, ""]


def make_optimizer(
    learning_rate: float,
    final_learning_rate: float,
    steps: int,
    *,
    clip: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> optax.GradientTransformation:
    """Adam or AdamW with global-norm clipping and a linear decay of the learning rate.

    Args:
        learning_rate: initial value.
        final_learning_rate: value reached after ``steps`` optimiser steps.
        steps: planned number of optimiser steps.
        clip: largest global gradient norm that passes unscaled.
        betas: decay rates of the two moments.
        weight_decay: decoupled weight decay; 0 gives Adam.
    """
    schedule = optax.linear_schedule(learning_rate, min(learning_rate, final_learning_rate), max(steps, 1))
    adam = (
        optax.adamw(schedule, *betas, weight_decay=weight_decay) if weight_decay > 0 else optax.adam(schedule, *betas)
    )
    return optax.chain(optax.clip_by_global_norm(clip), adam)


def make_constant_optimizer(learning_rate: float, betas: tuple[float, float]) -> optax.GradientTransformation:
    """Adam with a constant learning rate and no clipping."""
    return optax.adam(learning_rate, *betas)


def guarded_step(
    optimizer: optax.GradientTransformation, gradient: Parameters, optimizer_state: PyTree, parameters: Parameters
) -> tuple[Parameters, PyTree, GradientHealth]:
    """One optimiser step, or none if the gradient is not finite."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm)
    updates, new_state = optimizer.update(gradient, optimizer_state, parameters)
    new_parameters = optax.apply_updates(parameters, updates)

    def keep(new, old):
        return jnp.where(finite, new, old)

    return (
        jax.tree.map(keep, new_parameters, parameters),
        jax.tree.map(keep, new_state, optimizer_state),
        GradientHealth(norm, ~finite),
    )
