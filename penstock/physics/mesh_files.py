"""Tetrahedral meshes from and to files (Gmsh ``.msh``, VTK ``.vtk``, ...) through the optional package meshio."""

from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import ConfigurationError, require
from penstock.physics.mesh import TetMesh, merged, without_repetitions
from penstock.physics.quality import MIN_QUALITY, check_mesh

VOLUME_CELLS = ("tetra", "hexahedron", "wedge", "pyramid", "polyhedron", "VTK_LAGRANGE")
"""How meshio's names of cells that fill a volume begin."""


def read_mesh(
    path: str | Path, *, scale: float = 1.0, min_quality: float = MIN_QUALITY, merge_tolerance: float | None = None
) -> TetMesh:
    """Reads the tetrahedra of a mesh file. Needs ``pip install 'penstock[meshes]'``.

    Surface triangles and lines are ignored, vertices without tetrahedron dropped, and an element that is listed again
    (in a second group of Gmsh) counts once. A file in which every element is left-handed is turned; a mixture is
    refused.

    Args:
        path: any format that meshio reads, for example ``.msh`` or ``.vtk``.
        scale: multiplies the coordinates (0.001 for a file in millimetres).
        min_quality: see `penstock.physics.quality.check_mesh`.
        merge_tolerance: vertices that are not further apart, relative to the body's size, become one; None merges none.

    Raises:
        ConfigurationError: meshio missing, no such file, unreadable, without tetrahedra, with volume cells of another
            kind, or unfit for simulation.
    """
    path = Path(path)
    require(path.is_file(), "mesh", str(path), "no such file")
    require(scale > 0, "scale", scale, "must be positive")
    meshio = _meshio()
    try:
        found = meshio.read(path)
    # meshio reports bad files by many exceptions, and by SystemExit in some versions.
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"mesh = '{path}': meshio cannot read this file ({error}).") from error
    blocks = [np.asarray(block.data) for block in found.cells if block.type == "tetra"]
    kinds = sorted({block.type for block in found.cells})
    if not blocks:
        raise ConfigurationError(
            f"mesh = '{path}': holds no four-node tetrahedra, only {kinds}. Export a first-order volume mesh."
        )
    tets = np.concatenate(blocks).astype(np.int64)
    _refuse_other_volumes(path, found.cells, len(tets))
    points = np.asarray(found.points, np.float64)
    require(points.ndim == 2 and points.shape[1] == 3, "mesh.points shape", points.shape, "must be (V, 3)")
    used, inverse = np.unique(tets, return_inverse=True)
    require(int(used[-1]) < len(points), "mesh", int(used[-1]), f"vertex index beyond the file's {len(points)} points")
    mesh = without_repetitions(TetMesh(points[used] * scale, inverse.reshape(tets.shape).astype(np.int32)))
    if merge_tolerance is not None:
        mesh = merged(mesh, merge_tolerance)
    if (mesh.volumes < 0).all():
        mesh = TetMesh(mesh.vertices, np.ascontiguousarray(mesh.tets[:, [0, 1, 3, 2]]))
    check_mesh(mesh, min_quality)
    return mesh


def _refuse_other_volumes(path: Path, cells: Any, tets: int) -> None:
    others: dict[str, int] = {}
    for block in cells:
        if block.type.startswith(VOLUME_CELLS) and block.type != "tetra":
            others[block.type] = others.get(block.type, 0) + len(block.data)
    if others:
        told = " and ".join(f"{count} cells of the kind {kind}" for kind, count in sorted(others.items()))
        raise ConfigurationError(
            f"mesh = '{path}': holds {told} beside {tets} four-node tetrahedra. Only the latter are simulated, so that "
            "part of the body would be missing. Export tetrahedra of first order alone (Gmsh: Mesh.ElementOrder = 1, "
            "no recombination)."
        )


def write_mesh(mesh: TetMesh, path: str | Path) -> None:
    """Writes a mesh; the ending decides the format. Needs ``pip install 'penstock[meshes]'``."""
    meshio = _meshio()
    meshio.Mesh(mesh.vertices, [("tetra", mesh.tets)]).write(Path(path))


def _meshio() -> Any:
    try:
        import meshio
    except ImportError as error:
        raise ConfigurationError(
            "Mesh files need the package meshio, which is not installed. Run: pip install 'penstock[meshes]'"
        ) from error
    return meshio
