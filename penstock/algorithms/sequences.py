"""Windows of whole environments, as learners with a memory learn from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from penstock.data import Records


class Remembered(NamedTuple):
    """What actor and critic remember of N environments, ``(N, M)`` each."""

    actor: Float[Array, "N M"]
    critic: Float[Array, "N M"]


class Sequence(eqx.Module):
    """What is needed to remember once more what was remembered in a window.

    Attributes:
        start: before its first step.
        begins: whether an episode begins at a step behind the first.
    """

    start: Remembered
    begins: Bool[Array, "N H"]


def sequence_of(data: Records) -> Sequence | None:
    """The window as sequences; None where nothing is remembered."""
    if data.memory is None:
        return None
    # An environment that only reset itself was asked too, with the last observation of the episode before.
    ended = exchanged(jnp.asarray(data.terminated | data.truncated | ~data.valid))
    return Sequence(data.memory, jnp.concatenate([jnp.zeros_like(ended[:, :1]), ended[:, :-1]], axis=1))


def by_step(leaf: Array) -> Array:
    """``(H, N, ...)`` as ``(H * N, ...)``: steps one by one."""
    return jax.lax.collapse(leaf, 0, 2)


def exchanged(leaf: Array) -> Array:
    """``(H, N, ...)`` as ``(N, H, ...)``, and back: sequences one by one."""
    return jnp.swapaxes(leaf, 0, 1)


def over(function: Callable[..., Any], sequence: Sequence | None) -> Callable[..., Any]:
    """The function for every sample, or for every step of every sequence."""
    return jax.vmap(function) if sequence is None else jax.vmap(jax.vmap(function))
