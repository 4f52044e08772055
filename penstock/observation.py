"""What a policy sees: a vector and, where the world offers them, a point cloud or pictures."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, UInt8

from penstock._types import AnyArray


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """Sizes of an observation.

    Attributes:
        vector: length of the vector part: at least 1, or 0 where there is nothing but pixels.
        points: number of points in the cloud; 0 where the world has none.
        pixels: height, width and channels of the picture, or None. Stacked frames are channels.
    """

    vector: int
    points: int = 0
    pixels: tuple[int, int, int] | None = None


class Observation(eqx.Module):
    """One observation, or a batch of them (leading axes ``...``).

    Attributes:
        vector: ``(..., n)``. The only part that is running-normalised. ``(..., 0)`` where there is nothing but pixels,
            so that every observation states its leading axes.
        points: ``(..., P, 3)`` positions, or None. Never normalised.
        pixels: ``(..., H, W, C)`` bytes, or None. Never normalised, and kept as bytes until an encoder reads them; no
            gradient passes through them.
    """

    vector: Float[AnyArray, "*batch n"]
    points: Float[AnyArray, "*batch P 3"] | None = None
    pixels: UInt8[AnyArray, "*batch H W C"] | None = None


def blank(spec: ObservationSpec, num_envs: int) -> Observation:
    """Observations of N environments, all zeros, for their shapes and dtypes."""
    return Observation(
        vector=jnp.zeros((num_envs, spec.vector)),
        points=jnp.zeros((num_envs, spec.points, 3)) if spec.points else None,
        pixels=None if spec.pixels is None else jnp.zeros((num_envs, *spec.pixels), jnp.uint8),
    )
