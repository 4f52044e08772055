"""A firewall for gradients: what one environment does to its own backward pass stays in that environment."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from penstock._types import Actions, GradientProbe
from penstock.worlds.task import flag_shape


def gradient_firewall(
    body: PyTree, action: Actions, probe: GradientProbe, env_axis: int, limit: float
) -> tuple[PyTree, Actions]:
    """Passes ``body`` and ``action`` through unchanged; guards the gradient that comes back.

    Per environment: a gradient with a non-finite entry becomes zero, and one whose Euclidean norm (over the whole
    state and action) exceeds ``limit`` is scaled down to it. The gradient with respect to ``probe`` is 1 for each
    environment that had to be cut (first row) and for each whose gradient was not finite (second row), 0 elsewhere,
    so that summing it over a rollout counts the events.

    Args:
        body: state of N environments.
        action: ``(N, d)``.
        probe: ``(2, N)``, any values; not read.
        env_axis: the axis of ``body``'s leaves that counts environments.
        limit: largest norm that passes untouched; infinity turns the scaling off, not the finiteness check.
    """
    flat, unflatten = jax.tree.flatten(body)
    differentiable = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in flat]
    guarded = tuple(leaf for leaf, keep in zip(flat, differentiable, strict=True) if keep)
    passed_on: Any = _firewall(guarded, action, probe, env_axis, limit)
    guarded, action = passed_on
    passed = iter(guarded)
    merged = [next(passed) if keep else leaf for leaf, keep in zip(flat, differentiable, strict=True)]
    return jax.tree.unflatten(unflatten, merged), action


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _firewall(leaves, action, probe, env_axis, limit):
    del probe, env_axis, limit
    return leaves, action


def _forward(leaves, action, probe, env_axis, limit):
    del probe, env_axis, limit
    return (leaves, action), None


def _backward(env_axis, limit, _, cotangents):
    leaves, action = cotangents
    parts = [(leaf, env_axis) for leaf in leaves] + [(action, 0)]

    def over_others(reduce, leaf, axis):
        return reduce(leaf, axis=tuple(a for a in range(leaf.ndim) if a != axis % leaf.ndim))

    # Squares of large entries overflow, and those of small ones vanish: norms are taken in a unit of each environment.
    # A quotient by its largest entry will not do: processors flush the reciprocals of numbers beyond 1e38 to zero.
    largest = jnp.stack([over_others(jnp.max, jnp.abs(leaf), axis) for leaf, axis in parts]).max(0)
    unit = jnp.where(largest > 2.0**30, 2.0**-80, jnp.where(largest < 2.0**-30, 2.0**80, 1.0)).astype(largest.dtype)

    def square(leaf, axis):
        # The bound changes nothing; it keeps compilers from squaring first.
        return jnp.square(jnp.clip(leaf * flag_shape(unit, leaf, axis), -(2.0**60), 2.0**60))

    norm = jnp.sqrt(jnp.stack([over_others(jnp.sum, square(leaf, axis), axis) for leaf, axis in parts]).sum(0))
    finite = jnp.isfinite(largest) & jnp.isfinite(norm)
    cut = norm > limit * unit
    scale = jnp.where(cut, limit / jnp.maximum(norm, 1e-30), 1.0)
    unit = jnp.where(cut, unit, 1.0)
    events = jnp.stack([cut | ~finite, ~finite]).astype(action.dtype)

    def guard(leaf, axis):
        flag = functools.partial(flag_shape, leaf=leaf, env_axis=axis)
        return jnp.where(flag(finite), leaf * flag(unit) * flag(scale), 0.0).astype(leaf.dtype)

    return tuple(guard(leaf, env_axis) for leaf in leaves), guard(action, 0), events


_firewall.defvjp(_forward, _backward)
