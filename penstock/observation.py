"""What a policy sees: a vector and, where there are any, a point cloud or pictures; and what critics see beside."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float, UInt8

from penstock._records import pytree_record
from penstock._types import AnyArray


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """Sizes of an observation.

    Attributes:
        vector: length of the vector part: at least 1, or 0 where there is nothing but pixels. With a history, of all
            K together.
        points: number of points in the cloud; 0 where the world has none.
        pixels: height, width and channels of the picture, or None. Stacked frames are channels.
        privileged: length of the part that critics alone see; 0 for none.
        history: K, of how many control steps the vector holds observations, the oldest first.
    """

    vector: int
    points: int = 0
    pixels: tuple[int, int, int] | None = None
    privileged: int = 0
    history: int = 1

    @property
    def present(self) -> int:
        """n, numbers of the vector that are of the present control step: the last ones."""
        return self.vector // self.history

    def for_critics(self) -> "ObservationSpec":
        """Sizes of `Observation.for_critics`."""
        return dataclasses.replace(self, vector=self.vector + self.privileged, privileged=0)


@pytree_record
class Observation:
    """One observation, or a batch of them (leading axes ``...``).

    Attributes:
        vector: ``(..., n)``. The only part that is running-normalised. ``(..., 0)`` where there is nothing but pixels,
            so that every observation states its leading axes.
        points: ``(..., P, 3)`` positions, or None. Never normalised.
        pixels: ``(..., H, W, C)`` bytes, or None. Never normalised, and kept as bytes until an encoder reads them; no
            gradient passes through them.
        privileged: ``(..., m)`` what a simulator knows and a robot does not, or None. Policies never see it; it is
            never normalised.
    """

    vector: Float[AnyArray, "*batch n"]
    points: Float[AnyArray, "*batch P 3"] | None = None
    pixels: UInt8[AnyArray, "*batch H W C"] | None = None
    privileged: Float[AnyArray, "*batch m"] | None = None

    def for_critics(self) -> "Observation":
        """The observation with its privileged part as the end of the vector."""
        if self.privileged is None:
            return self
        return Observation(jnp.concatenate([self.vector, self.privileged], axis=-1), self.points, self.pixels)


def blank(spec: ObservationSpec, num_envs: int) -> Observation:
    """Observations of N environments, all zeros, for their shapes and dtypes."""
    return Observation(
        vector=jnp.zeros((num_envs, spec.vector)),
        points=jnp.zeros((num_envs, spec.points, 3)) if spec.points else None,
        pixels=None if spec.pixels is None else jnp.zeros((num_envs, *spec.pixels), jnp.uint8),
        privileged=jnp.zeros((num_envs, spec.privileged)) if spec.privileged else None,
    )
