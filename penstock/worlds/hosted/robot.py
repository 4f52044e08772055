"""What a robot's side needs to know of a hosted environment: names and order of what is observed, joints, actuators."""

import contextlib
from collections.abc import Iterator
from typing import Any

from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.observation_names import names_of_parts
from penstock.worlds.hosted.packages import quiet_mujoco


@contextlib.contextmanager
def one_environment(world: HostedWorld) -> Iterator[Any]:
    """One environment of a world's source, for a look at it; None where environments come as vectors."""
    source = world.source
    if source.make_vector is not None:
        yield None
        return
    with quiet_mujoco():
        env = source.make()
    try:
        yield env
    finally:
        with contextlib.suppress(Exception):
            env.close()


def observation_names(world: HostedWorld, env: Any = None) -> list[str]:
    """A name for each number of the observed vector, in order. See `names_of_parts`.

    Args:
        world: the world.
        env: an environment of it.
    """
    return names_of_parts(world.declared.reader.vectors, env)


def actuators(model: Any) -> list[dict[str, Any]]:
    """The actuators of a model of MuJoCo's, in the order of its controls.

    Each with its name; the joint that it moves, where that stands in the model's first keyframe, else in its reference
    (``default_position``, and by ``default_from`` in which), and the joint's own damping, armature and friction, None
    where it moves something else; the gear; its control range (None where there is none); the gain of the control
    (``gain``) and the terms of the force that follow from position and velocity (``bias``), in MuJoCo's meaning: a
    position servo of stiffness k has the gain k and the bias [0, -k, -b]. Its damping may be b, the joint's, or both.

    Args:
        model: of MuJoCo's.
    """
    standing = model.key_qpos[0] if model.nkey else model.qpos0
    keyframe = f"keyframe '{model.key(0).name}'" if model.nkey else "reference"
    rows = []
    for index in range(model.nu):
        actuator = model.actuator(index)
        on_joint, moved = int(model.actuator_trntype[index]) in (0, 1), int(model.actuator_trnid[index, 0])
        joint = (model.joint(moved).name or f"joint{moved}") if on_joint else ""
        dof = int(model.jnt_dofadr[moved]) if on_joint else 0
        of_joint = {"damping": model.dof_damping, "armature": model.dof_armature, "friction": model.dof_frictionloss}
        limited = bool(model.actuator_ctrllimited[index])
        rows.append(
            {
                "name": actuator.name or joint or f"actuator{index}",
                "joint": joint or None,
                "default_position": float(standing[model.jnt_qposadr[moved]]) if on_joint else None,
                "default_from": keyframe if on_joint else None,
                **{f"joint_{name}": float(values[dof]) if on_joint else None for name, values in of_joint.items()},
                "gear": float(model.actuator_gear[index, 0]),
                "control_range": model.actuator_ctrlrange[index].tolist() if limited else None,
                "gain": float(model.actuator_gainprm[index, 0]),
                "bias": model.actuator_biasprm[index, :3].tolist(),
            }
        )
    return rows
