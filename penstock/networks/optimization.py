"""Gradient steps that refuse to be poisoned, with learning rates that are numbers of a program's input."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

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


class LearningRate(eqx.Module):
    """A learning rate that decays linearly.

    Its numbers are leaves of a pytree. Where a program takes it as an argument, another rate or a longer plan needs no
    other program, and rows of rates can be trained side by side.

    Attributes:
        initial: value at the first step.
        final: value from step ``steps`` on.
        steps: over how many optimiser steps it decays.
    """

    initial: Float[Any, "*rows"]
    final: Float[Any, "*rows"]
    steps: Float[Any, "*rows"]

    @classmethod
    def of(cls, initial: float, final: float, steps: int) -> "LearningRate":
        """From numbers. A ``final`` above ``initial`` does not raise the rate."""
        return cls(*(np.asarray(number, np.float32) for number in (initial, min(initial, final), max(steps, 1))))

    def __call__(self, count: Int[Array, ""]) -> Scalar:
        """The rate of the step that ``count`` others were before."""
        left = 1.0 - jnp.minimum(count / self.steps, 1.0)
        return self.final + (self.initial - self.final) * left


class Optimizer(eqx.Module):
    """An Optax transformation whose learning rate can be replaced: `dataclasses.replace`.

    Attributes:
        rate: of which it is made.
        rule: makes it.
    """

    rate: LearningRate
    rule: Callable[[LearningRate], optax.GradientTransformation] = eqx.field(static=True)

    def init(self, parameters: PyTree) -> PyTree:
        """Its state before the first step."""
        return self.rule(self.rate).init(parameters)


def make_optimizer(
    learning_rate: float,
    final_learning_rate: float,
    steps: int,
    *,
    clip: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> Optimizer:
    """Adam or AdamW with global-norm clipping and a linear decay of the learning rate.

    Args:
        learning_rate: initial value.
        final_learning_rate: value reached after ``steps`` optimiser steps.
        steps: planned number of optimiser steps.
        clip: largest global gradient norm that passes unscaled.
        betas: decay rates of the two moments.
        weight_decay: decoupled weight decay; 0 gives Adam.
    """

    def rule(rate):
        adam = optax.adamw(rate, *betas, weight_decay=weight_decay) if weight_decay > 0 else optax.adam(rate, *betas)
        return optax.chain(optax.clip_by_global_norm(clip), adam)

    return Optimizer(LearningRate.of(learning_rate, final_learning_rate, steps), rule)


class SelfGuarded(optax.GradientTransformationExtraArgs):
    """A transformation whose ``update`` takes ``finite``, and where that is False leaves its state as it was."""


def make_constant_optimizer(learning_rate: float, betas: tuple[float, float]) -> Optimizer:
    """Adam with a constant learning rate and no clipping: `optax.adam`, and its state, in a form that CPUs run faster.

    XLA would compute the moments once more for the step, from their old values, which must then be copied. The barrier
    makes it finish them first, in place.
    """
    b1, b2 = betas

    def rule(learning_rate):
        def update(updates, state, params=None, *, finite=True):
            del params
            old, rest = state
            count = old.count + jnp.asarray(finite, old.count.dtype)
            mu = jax.tree.map(lambda g, m: jnp.where(finite, b1 * m + (1.0 - b1) * g, m), updates, old.mu)
            nu = jax.tree.map(lambda g, v: jnp.where(finite, b2 * v + (1.0 - b2) * jnp.square(g), v), updates, old.nu)
            mu, nu = jax.lax.optimization_barrier((mu, nu))
            power = jnp.maximum(count, 1)  # 0 where the very first gradient is refused
            rate = learning_rate.initial / (1.0 - b1**power)
            scale = jax.lax.rsqrt(1.0 - b2**power)
            change = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) * scale + 1e-8), mu, nu)
            return change, (old._replace(count=count, mu=mu, nu=nu), rest)

        return SelfGuarded(optax.adam(0.0, *betas).init, update)

    return Optimizer(LearningRate.of(learning_rate, learning_rate, 1), rule)


def guarded_step(
    optimizer: Optimizer | optax.GradientTransformation,
    gradient: Parameters,
    optimizer_state: PyTree,
    parameters: Parameters,
) -> tuple[Parameters, PyTree, GradientHealth]:
    """One optimiser step, or none if the gradient is not finite."""
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm)

    def keep(new, old):
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

    transformation = optimizer.rule(optimizer.rate) if isinstance(optimizer, Optimizer) else optimizer
    if isinstance(transformation, SelfGuarded):
        updates, new_state = transformation.update(gradient, optimizer_state, parameters, finite=finite)
    else:
        updates, new_state = transformation.update(gradient, optimizer_state, parameters)
        new_state = keep(new_state, optimizer_state)
    return (
        keep(optax.apply_updates(parameters, updates), parameters),
        new_state,
        GradientHealth(norm, ~finite),
    )
