"""Robot models of MuJoCo Menagerie for Playground: found in a folder of the user's, never downloaded.

Playground has locomotion models of its own, and takes nothing but visual meshes from Menagerie. For those, stand-ins
will do: a tetrahedron in the place of every mesh. Masses, inertias and contacts are explicit in the models, so that
physics is the same; pictures are not.
"""

import os
import pathlib
import re
import struct
from collections.abc import Callable
from typing import Any

from penstock._errors import ConfigurationError
from penstock._files import replacing

VARIABLE = "MENAGERIE_ROOT"
"""Environment variable that names the folder, as for the package ``mujoco-menagerie``."""

ROBOTS = {
    "apollo": "apptronik_apollo",
    "berkeley_humanoid": "berkeley_humanoid",
    "g1": "unitree_g1",
    "go1": "unitree_go1",
    "h1": "unitree_h1",
    "spot": "boston_dynamics_spot",
    "t1": "booster_t1",
}
"""Folders of Playground whose models stand-ins complete, and the names of their robots in Menagerie."""

NEEDS_REAL = ("BarkourJoystick", "Op3Joystick")
"""Locomotion environments whose models are in Menagerie, or whose masses may come from its meshes."""

STAND_IN_ADVICE = (
    " For training alone, --world-option meshes=stand-in puts a tetrahedron in the place of every visual mesh: physics "
    "is the same, pictures are not."
)
"""How to do without."""

CORNERS = ((0.0, 0.0, 0.0), (0.01, 0.0, 0.0), (0.0, 0.01, 0.0), (0.0, 0.0, 0.01))
"""Of a stand-in, in m."""

FACES = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))


def menagerie_folder(name: str, given: str | None, own: pathlib.Path, advice: str) -> pathlib.Path:
    """Where Menagerie is: as an option says, or ``MENAGERIE_ROOT``, or where Playground itself keeps a copy.

    Args:
        name: of the world.
        given: the option.
        own: Playground's copy, which need not be there.
        advice: what else can be done.

    Raises:
        ConfigurationError: nowhere. Says what to do.
    """
    named = given or os.environ.get(VARIABLE)
    if named is None and own.is_dir():
        return own
    if named is None:
        raise ConfigurationError(
            f"'{name}' needs robot models of MuJoCo Menagerie, and nothing is downloaded here. Clone "
            "https://github.com/google-deepmind/mujoco_menagerie and name its folder: --world-option "
            f"menagerie=path/to/mujoco_menagerie, or the environment variable {VARIABLE}.{advice}"
        )
    folder = pathlib.Path(named).expanduser().resolve()
    if not folder.is_dir():
        source = "menagerie" if given else VARIABLE
        raise ConfigurationError(f"{source} = {named!r}: there is no such folder (looked in {pathlib.Path.cwd()}).")
    return folder


def stand_ins(playground: Any, cache: pathlib.Path) -> pathlib.Path:
    """Writes a stand-in for every mesh that Playground's locomotion models take from Menagerie.

    Args:
        playground: the package.
        cache: where they are kept.

    Returns:
        A folder that can take Menagerie's place.

    Raises:
        PenstockError: the folder cannot be written.
    """
    models = pathlib.Path(playground.__file__).parent / "_src" / "locomotion"
    for folder, robot in ROBOTS.items():
        for mesh in _meshes(models / folder / "xmls"):
            path = cache / robot / "assets" / mesh
            if not path.exists():
                with replacing(path) as temporary:
                    temporary.write_bytes(WRITERS[path.suffix.lower()]())
    return cache


def _meshes(folder: pathlib.Path) -> set[str]:
    """Names of mesh files that models name and do not have beside them."""
    found: set[str] = set()
    for model in sorted(folder.glob("*.xml")):
        named = re.findall(r'file\s*=\s*"([^"]+)"', model.read_text(encoding="utf-8"))
        found |= {pathlib.PurePosixPath(file).name for file in named if pathlib.Path(file).suffix.lower() in WRITERS}
    return {mesh for mesh in found if not (folder / "assets" / mesh).exists()}


def _stl() -> bytes:
    facets = b"".join(
        struct.pack("<12fH", 0.0, 0.0, 0.0, *(number for corner in face for number in CORNERS[corner]), 0)
        for face in FACES
    )
    return b"stand-in".ljust(80) + struct.pack("<I", len(FACES)) + facets


def _obj() -> bytes:
    lines = [f"v {x} {y} {z}" for x, y, z in CORNERS] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in FACES]
    return "\n".join([*lines, ""]).encode()


WRITERS: dict[str, Callable[[], bytes]] = {".stl": _stl, ".obj": _obj}
"""Makes a stand-in, by the ending of the file."""
