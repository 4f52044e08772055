"""What a randomised number is drawn from, with NumPy or with JAX."""

import dataclasses
import math
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from penstock._types import Key

Array = Any
"""An array of NumPy or of JAX."""

CUT = 4.0
"""Normal distributions end at so many standard deviations, so that all that may be drawn can be checked at once."""


@runtime_checkable
class Source(Protocol):
    """Where unit numbers come from: a `numpy.random.Generator`, or a `KeySource`."""

    def random(self, size: Any, /) -> Array:
        """Uniform in [0, 1)."""
        ...

    def standard_normal(self, size: Any, /) -> Array:
        """Normal with mean 0 and standard deviation 1."""
        ...


class KeySource:
    """Unit numbers from a key of JAX, inside `jax.jit`; each call draws others.

    Args:
        key: used up by this.
    """

    def __init__(self, key: Key):
        self._key = key

    def _next(self) -> Key:
        self._key, key = jax.random.split(self._key)
        return key

    def random(self, size: Any, /) -> Array:
        """See `Source.random`."""
        return jax.random.uniform(self._next(), _shape(size))

    def standard_normal(self, size: Any, /) -> Array:
        """See `Source.standard_normal`."""
        return jax.random.normal(self._next(), _shape(size))


def _shape(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def namespace(array: Array) -> Any:
    """``jax.numpy`` for arrays of JAX, else ``numpy``."""
    return jnp if isinstance(array, jax.Array) else np


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Uniform between two numbers, uniform in the logarithm, or normal (cut at `CUT` standard deviations).

    Attributes:
        kind: which.
        first: the lowest value; of a normal distribution the mean.
        second: the highest value; of a normal distribution the standard deviation.
    """

    kind: Literal["uniform", "log_uniform", "normal"]
    first: float
    second: float

    @property
    def low(self) -> float:
        """No smaller value is drawn."""
        return self.first - CUT * self.second if self.kind == "normal" else self.first

    @property
    def high(self) -> float:
        """No greater value is drawn."""
        return self.first + CUT * self.second if self.kind == "normal" else self.second

    def draw(self, source: Source, size: Any) -> Array:
        """An array of independent values."""
        if self.kind == "normal":
            unit = source.standard_normal(size)
            return self.first + self.second * namespace(unit).clip(unit, -CUT, CUT)
        unit = source.random(size)
        if self.kind == "uniform":
            return self.first + (self.second - self.first) * unit
        return self.first * namespace(unit).exp(math.log(self.second / self.first) * unit)
