"""Names of what a hosted environment observes, in the order of the vector that policies see."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.worlds.hosted.pictures import model_and_data
from penstock.worlds.hosted.spaces import Part


def names_of_parts(parts: Sequence[Part], env: Any = None) -> list[str]:
    """A name for each number of the observed vector, in order.

    Args:
        parts: of the observation that form the vector.
        env: an environment, asked for the names that it has: Gymnasium's MuJoCo environments and DMControl's tasks say
            of what their observation is made.
    """
    if len(parts) == 1 and not parts[0].path:
        names = _stated(env, len(parts[0].low)) if env is not None else None
        if names is not None:
            return names
    return list(itertools.chain.from_iterable(map(_numbered, parts)))


def _numbered(part: Part) -> list[str]:
    name = part.name or "observation"
    if part.choices is not None:
        counts, firsts = part.choices
        which = [f"[{entry}]" if len(counts) > 1 else "" for entry in range(len(counts))]
        pairs = zip(which, counts, firsts, strict=True)
        return [f"{name}{entry}=={first + value}" for entry, count, first in pairs for value in range(count)]
    size = len(part.low)
    return [name] if size == 1 and part.shape in ((), (1,)) and part.path else [f"{name}[{i}]" for i in range(size)]


def _stated(env: Any, size: int) -> list[str] | None:
    """The names that an environment's own description gives, where they are as many as there are numbers."""
    base = getattr(env, "unwrapped", env)
    names: list[str] = []
    specification = getattr(getattr(base, "env", None), "observation_spec", None)
    if callable(specification):  # DMControl
        described: Any = specification()
        for name, spec in described.items():
            count = int(np.prod(spec.shape))
            names += [name] if not spec.shape else [f"{name}[{i}]" for i in range(count)]
    structure, found = getattr(base, "observation_structure", None), model_and_data(env)
    if isinstance(structure, dict) and found is not None:  # Gymnasium's of MuJoCo
        model = found[0]
        positions, velocities = joint_coordinates(model)
        for name, count in structure.items():
            if name == "skipped_qpos":
                continue
            whole = {"qpos": positions[int(structure.get("skipped_qpos") or 0) :], "qvel": velocities}.get(name)
            fits = whole is not None and len(whole) == count
            names += (
                [f"{name}.{one}" for one in whole] if fits and whole else [f"{name}[{i}]" for i in range(int(count))]
            )
    return names if len(names) == size else None


def joint_coordinates(model: Any) -> tuple[list[str], list[str]]:
    """Names of all entries of a MuJoCo model's positions and velocities: those of their joints, numbered if several."""
    widths = {0: (7, 6), 1: (4, 3), 2: (1, 1), 3: (1, 1)}  # free, ball, slide, hinge
    found: tuple[list[str], list[str]] = ([], [])
    for joint in range(model.njnt):
        name = model.joint(joint).name or f"joint{joint}"
        for names, width in zip(found, widths[int(model.jnt_type[joint])], strict=True):
            names += [name] if width == 1 else [f"{name}[{i}]" for i in range(width)]
    return found
