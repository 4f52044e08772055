"""Pictures of hosted environments.

MuJoCo's models are drawn by our own renderer, which needs no OpenGL; any other environment by itself, where its
``metadata["render_modes"]`` has ``rgb_array``.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from penstock._errors import PenstockError, raised
from penstock.scene.items import Scene
from penstock.worlds.hosted.headless import opengl_hint

Pictures = Literal["scene", "rgb_array", "none"]
"""Who draws an environment: our renderer, the environment itself, or nobody."""


def pictures_of(env: Any) -> Pictures:
    """Who draws an environment.

    Args:
        env: a `gymnasium.Env`, or a vector of them.
    """
    if model_and_data(_first(env)) is not None:
        return "scene"
    modes = (getattr(env, "metadata", None) or {}).get("render_modes") or ()
    return "rgb_array" if "rgb_array" in modes or getattr(env, "render_mode", None) == "rgb_array" else "none"


def scene_of(env: Any, caption: str = "") -> Scene | None:
    """One frame of an environment of MuJoCo's; None for others."""
    found = model_and_data(env)
    if found is None:
        return None
    from penstock.scene.mujoco import MujocoScenes

    base, (model, data) = env.unwrapped, found
    try:
        if getattr(base, "_penstock_scenes", (None,))[0] is not model:
            base._penstock_scenes = (model, MujocoScenes(model))
        return base._penstock_scenes[1].scene(data, caption)
    except Exception as error:  # a picture is worth no run
        raise PenstockError(f"This model cannot be drawn: {type(error).__name__}: {error}") from error


def takes_render_mode(factory: Any) -> bool:
    """Whether a class or function takes ``render_mode``, by name or among others that it hands on."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "render_mode" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def rendering(make: Callable[..., Any], by_name: bool) -> Any:
    """Makes an environment that renders arrays.

    Args:
        make: makes one, or a vector of one.
        by_name: whether it takes ``render_mode``. An environment that is made without is asked afterwards.
    """
    env = make(render_mode="rgb_array") if by_name else make()
    first = _first(env)
    base = getattr(first, "unwrapped", first)
    if getattr(base, "render_mode", None) is None:
        with contextlib.suppress(AttributeError):  # whoever allows no change may render anyway
            base.render_mode = "rgb_array"
    return env


def frame_of(env: Any, name: str) -> UInt8[np.ndarray, "rows columns 3"]:
    """What an environment renders now.

    Args:
        env: a `gymnasium.Env`, or a vector of them, of which the first is taken.
        name: of the world, for messages.

    Raises:
        PenstockError: it fails, or renders something else.
    """
    try:
        rendered: Any = env.render()
    except (Exception, SystemExit) as error:
        raise PenstockError(
            f"'{name}' could not be rendered.{opengl_hint(error)} render() raised {raised(error)}"
        ) from error
    if isinstance(rendered, list | tuple) and rendered:  # one for each environment, or since the last call
        rendered = list(rendered)[0 if hasattr(env, "num_envs") else -1]
    frame: np.ndarray = np.zeros(()) if rendered is None else np.asarray(rendered)
    if frame.ndim == 2:
        frame = np.repeat(frame[..., None], 3, axis=-1)
    elif frame.ndim == 3 and frame.shape[0] in (3, 4) and frame.shape[-1] not in (3, 4):
        frame = np.moveaxis(frame, 0, -1)
    if frame.ndim != 3 or frame.shape[-1] not in (3, 4) or frame.dtype.kind not in "uif":
        told = f"an array of shape {frame.shape}" if frame.ndim else f"{rendered!r:.100}"
        raise PenstockError(
            f"'{name}' cannot be filmed: with render_mode='rgb_array' its render() returned {told}; pictures are "
            "arrays of (height, width, 3) bytes. Correct it, or let whatever makes the environment take render_mode."
        )
    if frame.dtype.kind == "f":
        frame = 255.0 * frame
    return np.clip(frame[..., :3], 0, 255).astype(np.uint8)


def _first(env: Any) -> Any:
    members = getattr(env, "envs", None)
    return members[0] if isinstance(members, list | tuple) and members else env


def model_and_data(env: Any) -> tuple[Any, Any] | None:
    """Model and data of an environment of MuJoCo's."""
    base = getattr(env, "unwrapped", env)
    physics = getattr(base, "physics", None)
    if physics is not None and hasattr(physics, "model"):
        model, data = getattr(physics.model, "ptr", None), getattr(getattr(physics, "data", None), "ptr", None)
    else:
        model, data = getattr(base, "model", None), getattr(base, "data", None)
    return (model, data) if type(model).__name__ == "MjModel" else None
