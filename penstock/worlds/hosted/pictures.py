"""Pictures of hosted environments: MuJoCo models are drawn by our own renderer, which needs no OpenGL."""

from typing import Any

from penstock._errors import PenstockError
from penstock.scene.items import Scene


def scene_of(env: Any, caption: str = "") -> Scene | None:
    """One frame of an environment of MuJoCo's; None for others."""
    base = env.unwrapped
    physics = getattr(base, "physics", None)
    if physics is not None:
        model, data = physics.model.ptr, physics.data.ptr
    else:
        model, data = getattr(base, "model", None), getattr(base, "data", None)
    if type(model).__name__ != "MjModel":
        return None
    from penstock.scene.mujoco import MujocoScenes

    try:
        if getattr(base, "_penstock_scenes", (None,))[0] is not model:
            base._penstock_scenes = (model, MujocoScenes(model))
        return base._penstock_scenes[1].scene(data, caption)
    except Exception as error:  # a picture is worth no run
        raise PenstockError(f"This model cannot be drawn: {type(error).__name__}: {error}") from error
