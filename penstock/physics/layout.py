"""How the coordinates of a batch of bodies lie in memory.

* ``"soa"``: a tuple of three arrays ``(V, N)``, one per coordinate. About ten times cheaper on a CPU than a batch of
  ``(V, 3)`` arrays, because every operation is one flat loop.
* ``"rows"``: one array ``(V, 3, N)``. A third of the gathers and scatters, hence of the kernel launches: for GPUs.

The environment axis is the last one in both. The layout is visible from the type, so functions that take coordinates
need no flag.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from penstock._errors import require

Layout = Literal["soa", "rows"]

Component = Float[Array, "V N"]
"""One coordinate of all vertices of all environments."""

Coordinates = tuple[Component, Component, Component] | Float[Array, "V 3 N"]
"""Positions or velocities of N bodies, in one of the two layouts."""


def default_layout() -> Layout:
    """``"soa"`` where JAX computes on a CPU, ``"rows"`` elsewhere."""
    return "soa" if jax.default_backend() == "cpu" else "rows"


def checked_layout(layout: str | None) -> Layout:
    """Returns ``layout``, or the backend's default for None.

    Raises:
        ConfigurationError: for any other word.
    """
    if layout is None:
        return default_layout()
    require(layout in ("soa", "rows"), "layout", layout, "must be 'soa' (best on a CPU) or 'rows' (best on a GPU)")
    return "soa" if layout == "soa" else "rows"


def pack(parts: Sequence[Component], layout: Layout) -> Coordinates:
    """Stores three components in the given layout."""
    x, y, z = parts
    return (x, y, z) if layout == "soa" else jnp.stack([x, y, z], axis=1)


def unpack(coordinates: Coordinates) -> tuple[Component, Component, Component]:
    """The three components ``(V, N)``, whichever the layout."""
    if isinstance(coordinates, tuple):
        return coordinates
    return coordinates[:, 0], coordinates[:, 1], coordinates[:, 2]


def layout_of(coordinates: Coordinates) -> Layout:
    """The layout in which ``coordinates`` are stored."""
    return "soa" if isinstance(coordinates, tuple) else "rows"


def gather(coordinates: Coordinates, tets: Int[Array, "T 4"]) -> list[list[Float[Array, "T N"]]]:
    """``result[a][i]``: coordinate i of corner a of every element."""
    if isinstance(coordinates, tuple):
        return [[c.at[tets[:, a]].get(mode="promise_in_bounds") for c in coordinates] for a in range(4)]
    corners = [coordinates.at[tets[:, a]].get(mode="promise_in_bounds") for a in range(4)]
    return [[corner[:, i] for i in range(3)] for corner in corners]


def assemble(
    forces: Sequence[Sequence[Float[Array, "T N"]]], tets: Int[Array, "T 4"], like: Coordinates
) -> Coordinates:
    """Adds corner values ``forces[a][i]`` up at the vertices: the transpose of `gather`."""
    if isinstance(like, tuple):
        sums = []
        for i in range(3):
            total = jnp.zeros_like(like[i])
            for a in range(4):
                total = total.at[tets[:, a]].add(forces[a][i], mode="promise_in_bounds")
            sums.append(total)
        return sums[0], sums[1], sums[2]
    total = jnp.zeros_like(like)
    for a in range(4):
        total = total.at[tets[:, a]].add(jnp.stack(forces[a], axis=1), mode="promise_in_bounds")
    return total
