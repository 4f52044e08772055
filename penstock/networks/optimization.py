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


class SelfGuarded(optax.GradientTransformationExtraArgs):
    """A transformation whose ``update`` takes ``finite``, and where that is False leaves its state as it was."""


def make_constant_optimizer(learning_rate: float, betas: tuple[float, float]) -> SelfGuarded:
    """Adam with a constant learning rate and no clipping: `optax.adam`, and its state, in a form that CPUs run faster.

    XLA would compute the moments once more for the step, from their old values, which must then be copied. The barrier
    makes it finish them first, in place.
    """
    adam = optax.adam(learning_rate, *betas)
    b1, b2 = betas

    def update(updates, state, params=None, *, finite=True):
        del params
        old, rest = state
        count = old.count + jnp.asarray(finite, old.count.dtype)
        mu = jax.tree.map(lambda g, m: jnp.where(finite, b1 * m + (1.0 - b1) * g, m), updates, old.mu)
        nu = jax.tree.map(lambda g, v: jnp.where(finite, b2 * v + (1.0 - b2) * jnp.square(g), v), updates, old.nu)
        mu, nu = jax.lax.optimization_barrier((mu, nu))
        power = jnp.maximum(count, 1)  # 0 where the very first gradient is refused
        rate = learning_rate / (1.0 - b1**power)
        scale = jax.lax.rsqrt(1.0 - b2**power)
        change = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) * scale + 1e-8), mu, nu)
        return change, (old._replace(count=count, mu=mu, nu=nu), rest)

    return SelfGuarded(adam.init, update)


def guarded_step(
    optimizer: optax.GradientTransformation, gradient: Parameters, optimizer_state: PyTree, parameters: Parameters
) -> tuple[Parameters, PyTree, GradientHealth]:
    """One optimiser step, or none if the gradient is not finite."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm)

    def keep(new, old):
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

    if isinstance(optimizer, SelfGuarded):
        updates, new_state = optimizer.update(gradient, optimizer_state, parameters, finite=finite)
    else:
        updates, new_state = optimizer.update(gradient, optimizer_state, parameters)
        new_state = keep(new_state, optimizer_state)
    return (
        keep(optax.apply_updates(parameters, updates), parameters),
        new_state,
        GradientHealth(norm, ~finite),
    )
