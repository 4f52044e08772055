"""Is this mesh fit for simulation, and is this deformed body still the right way out?"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from penstock._errors import ConfigurationError, require, warn
from penstock.physics.elastic import Matrix, PerElement
from penstock.physics.layout import Coordinates, gather
from penstock.physics.mesh import TetMesh, coinciding_vertices, pieces, size_of, without_repetitions
from penstock.physics.soft_body import SoftBody, stage_for

COINCIDING = 1e-6
"""Vertices are taken for one point that was written twice where they are not further apart, relative to the body."""

MIN_QUALITY = 0.05
"""Mean-ratio quality below which an element is refused: it would force a tiny time step on the whole body."""


def mean_ratio(mesh: TetMesh) -> np.ndarray:
    """Mean-ratio quality ``q = 12 (3 Vol)^(2/3) / sum of squared edge lengths`` of each element, ``(T,)``.

    1 for a regular tetrahedron, 0 for a flat one, negative for an inverted one. Source: Liu and Joe (1994),
    "Relationship between tetrahedron shape measures".
    """
    corners = mesh.vertices[mesh.tets]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    squared = sum(np.square(corners[:, a] - corners[:, b]).sum(axis=1) for a, b in pairs)
    volume = mesh.volumes
    return 12 * np.sign(volume) * np.cbrt(3 * np.abs(volume)) ** 2 / np.maximum(squared, np.finfo(float).tiny)


def check_mesh(mesh: TetMesh, min_quality: float = MIN_QUALITY) -> None:
    """Refuses meshes that cannot be simulated.

    Raises:
        ConfigurationError: wrong shapes, non-finite vertices, an index out of range, a vertex without element, an
            element that is listed twice, vertices at one place, several pieces, an inverted or flat element, or one
            below ``min_quality``. Names the (worst) element or vertex.
    """
    vertices, tets = mesh.vertices, mesh.tets
    require(vertices.ndim == 2 and vertices.shape[1] == 3, "mesh.vertices shape", vertices.shape, "must be (V, 3)")
    require(
        tets.ndim == 2 and tets.shape[1] == 4 and len(tets) > 0, "mesh.tets shape", tets.shape, "must be (T, 4), T > 0"
    )
    require(
        bool(np.isfinite(vertices).all()), "mesh.vertices", "not finite", "every coordinate must be a finite number"
    )
    low, high = int(tets.min()), int(tets.max())
    require(low >= 0 and high < len(vertices), "mesh.tets", (low, high), f"indices must lie in 0..{len(vertices) - 1}")
    unused = np.setdiff1d(np.arange(len(vertices)), tets)
    require(
        len(unused) == 0,
        "mesh.vertices",
        unused[:8].tolist(),
        "these vertices belong to no element and would have no mass; remove them",
    )
    _require_one_body(mesh)
    quality, volumes = mean_ratio(mesh), mesh.volumes
    worst = int(np.argmin(quality))
    numbers = f"Element {worst} (vertices {tets[worst].tolist()})"
    if quality[worst] <= 0:
        count = int((quality <= 0).sum())
        raise ConfigurationError(
            f"{numbers} has volume {volumes[worst]:.3g} m^3: inverted or flat, and so are {count} of {len(tets)} "
            "elements. Swap two of its vertices, or mesh again."
        )
    if quality[worst] < min_quality:
        raise ConfigurationError(
            f"{numbers} has mean-ratio quality {quality[worst]:.3g}, below {min_quality:g} (volume "
            f"{volumes[worst]:.3g} m^3): nearly flat, it would force a tiny time step. Improve or coarsen the mesh "
            "there (or lower min_quality)."
        )


def _require_one_body(mesh: TetMesh) -> None:
    """Refuses elements and vertices that are there twice, and bodies in several pieces; warns of hinges."""
    vertices, tets = mesh.vertices, mesh.tets
    repeated = len(tets) - len(without_repetitions(mesh).tets)
    if repeated:
        raise ConfigurationError(
            f"mesh.tets: {repeated} of {len(tets)} elements are listed twice and would weigh twice. Remove the "
            "repetitions (penstock.physics.mesh.without_repetitions)."
        )
    first = coinciding_vertices(vertices, COINCIDING * size_of(vertices))
    twins = np.flatnonzero(first != np.arange(len(vertices)))
    parts = len(np.unique(pieces(tets, 1)))
    if len(twins):
        raise ConfigurationError(
            f"mesh.vertices: {len(twins)} of {len(vertices)} vertices coincide with another one (vertex {twins[0]} "
            f"with {first[twins[0]]}), so that parts which seem to touch are not joined: the body has {parts} pieces "
            "that share no vertex. Let the mesher join them, or pass merge_tolerance=1e-6 (of a world: "
            "mesh_merge_tolerance)."
        )
    if parts > 1:
        sizes = sorted(np.unique(pieces(tets, 1), return_counts=True)[1].tolist(), reverse=True)
        raise ConfigurationError(
            f"mesh.tets: the body has {parts} pieces that share no vertex, of {', '.join(map(str, sizes[:5]))}"
            f"{' ...' if parts > 5 else ''} elements; it would fall apart. Export one body."
        )
    hinged = len(np.unique(pieces(tets, 3)))
    if hinged > 1:
        warn(
            f"The mesh has {hinged} parts that hang together by single vertices or edges only, as by hinges. If they "
            "should share faces, mesh again."
        )


def volume_ratios(body: SoftBody, position: Coordinates) -> Float[Array, "T N"]:
    """Volume of each element relative to its rest volume: J. Usable inside `jax.jit`."""
    corners = gather(position, jnp.asarray(body.tets))
    return stage_for(position)(_ratios)(corners, jnp.asarray(body.volumes, corners[0][0].dtype)[:, None])


def _ratios(corners: Matrix, volume: PerElement) -> PerElement:
    # A stage of its own: XLA's CPU compiler would merge it into a sum or minimum that follows, at 20 times the cost.
    e = [[corners[a][i] - corners[0][i] for i in range(3)] for a in (1, 2, 3)]
    six_volumes = (
        e[0][0] * (e[1][1] * e[2][2] - e[1][2] * e[2][1])
        + e[0][1] * (e[1][2] * e[2][0] - e[1][0] * e[2][2])
        + e[0][2] * (e[1][0] * e[2][1] - e[1][1] * e[2][0])
    )
    return six_volumes / (6 * volume)


def inverted_elements(body: SoftBody, position: Coordinates) -> Bool[Array, "T N"]:
    """Which elements are turned inside out (J <= 0, or not a number). Usable inside `jax.jit`."""
    return ~(volume_ratios(body, position) > 0)


def require_not_inverted(body: SoftBody, position: Coordinates) -> None:
    """Host-side check of a state.

    Raises:
        ConfigurationError: names the worst element, its environment and its volume.
    """
    ratios = np.asarray(volume_ratios(body, position), np.float64)
    bad = ~(ratios > 0)
    if bad.any():
        element, env = np.unravel_index(int(np.argmin(np.where(np.isnan(ratios), -np.inf, ratios))), ratios.shape)
        raise ConfigurationError(
            f"Element {int(element)} of environment {int(env)} is inverted: its volume is "
            f"{ratios[element, env] * body.volumes[element]:.3g} m^3 (rest {body.volumes[element]:.3g} m^3), and "
            f"{int(bad.sum())} elements in all are. Take more substeps, less activation, or more damping."
        )
