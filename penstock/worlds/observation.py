"""What a policy sees: a vector and, where the world offers one, a point cloud."""

import dataclasses

import equinox as eqx
from jaxtyping import Float

from penstock._types import AnyArray


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """Sizes of an observation.

    Attributes:
        vector: length of the vector part (at least 1).
        points: number of points in the cloud; 0 where the world has none.
    """

    vector: int
    points: int = 0


class Observation(eqx.Module):
    """One observation, or a batch of them (leading axes ``...``).

    Attributes:
        vector: ``(..., n)``. The only part that is running-normalised.
        points: ``(..., P, 3)`` positions, or None. Never normalised.
    """

    vector: Float[AnyArray, "*batch n"]
    points: Float[AnyArray, "*batch P 3"] | None = None
