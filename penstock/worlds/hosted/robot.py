"""What a robot's side needs to know of a hosted environment: names and order of what is observed, joints, actuators."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.packages import quiet_construction
from penstock.worlds.hosted.pictures import model_and_data
from penstock.worlds.hosted.spaces import Part


@contextlib.contextmanager
def one_environment(world: HostedWorld) -> Iterator[Any]:
    """One environment of a world's source, for a look at it; None where environments come as vectors."""
    source = world.source
    if source.make_vector is not None:
        yield None
        return
    with quiet_construction():
        env = source.make()
    try:
        yield env
    finally:
        with contextlib.suppress(Exception):
            env.close()


def observation_names(world: HostedWorld, env: Any = None) -> list[str]:
    """A name for each number of the observed vector, in order.

    Args:
        world: the world.
        env: an environment of it, asked for the names that it has: Gymnasium's MuJoCo environments and DMControl's
            tasks say of what their observation is made.
    """
    parts = world.declared.reader.vectors
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


def actuators(model: Any) -> list[dict[str, Any]]:
    """The actuators of a model of MuJoCo's, in the order of its controls.

    Each with its name; the joint that it moves, and where that stands by default (in the model's first keyframe, else
    in its reference), None where it moves something else; the gear; its control range (None where there is none); the
    gain of the control (``gain``) and the terms of the force that follow from position and velocity (``bias``), in
    MuJoCo's meaning: a position servo of stiffness k and damping b has the gain k and the bias [0, -k, -b].

    Args:
        model: of MuJoCo's.
    """
    standing = model.key_qpos[0] if model.nkey else model.qpos0
    rows = []
    for index in range(model.nu):
        actuator = model.actuator(index)
        on_joint, moved = int(model.actuator_trntype[index]) in (0, 1), int(model.actuator_trnid[index, 0])
        joint = (model.joint(moved).name or f"joint{moved}") if on_joint else ""
        limited = bool(model.actuator_ctrllimited[index])
        rows.append(
            {
                "name": actuator.name or joint or f"actuator{index}",
                "joint": joint or None,
                "default_position": float(standing[model.jnt_qposadr[moved]]) if on_joint else None,
                "gear": float(model.actuator_gear[index, 0]),
                "control_range": model.actuator_ctrlrange[index].tolist() if limited else None,
                "gain": float(model.actuator_gainprm[index, 0]),
                "bias": model.actuator_biasprm[index, :3].tolist(),
            }
        )
    return rows
