"""Named shapes, used everywhere.

``N`` environments, ``H`` window length, ``d`` action dimension. Environment time is ``t``, flow time ``tau``.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

if TYPE_CHECKING:
    AnyArray = Any  # to a static checker, the two have little in common
else:
    AnyArray = Array | np.ndarray
"""An array of JAX (functional worlds) or of NumPy (hosted worlds, which live outside `jax.jit`)."""

Key = PRNGKeyArray
"""One random key. One key serves one purpose and is never used twice."""

Actions = Float[AnyArray, "N d"]
"""One action per environment, inside the box [-1, 1]^d."""

PerEnv = Float[AnyArray, "N"]
"""One number per environment."""

GradientProbe = Float[Array, "2 N"]
"""Zeros whose gradient tells, per environment, what a gradient firewall did: cut at all, and lost (not finite)."""

PerEnvFlag = Bool[AnyArray, "N"]
"""One flag per environment."""

PerEnvCount = Int[AnyArray, "N"]
"""One counter per environment."""

Scalar = Float[Array, ""]
"""One number."""


@dataclasses.dataclass(frozen=True)
class AxisNames:
    """What the axes of one array count, in order: ``seed``, ``environment``, ``slot``; None for anything else."""

    names: tuple[str | None, ...]


def environment_axis(shape: tuple[int, ...], axis: int) -> AxisNames:
    """Names of the axes of an array of this shape, of which this one counts environments."""
    names: list[str | None] = [None] * len(shape)
    names[axis] = "environment"
    return AxisNames(tuple(names))
