"""What becomes of an action on its way to the actuators: asked of the environment, since none says it.

Locomotion tasks often take an action as a change of a standing pose: the control of a position servo is ``offset +
scale * action``. A robot's program must do the same, so the file tells both.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from penstock.worlds.hosted.pictures import model_and_data
from penstock.worlds.jax_packages.task import JaxTask

TOLERANCE = 1e-4
"""Of the range of a control: float32 positions, added to float32 actions."""


@dataclasses.dataclass(frozen=True)
class Controls:
    """``control = offset + scale * action``, entry by entry, in the order of the model's controls.

    Attributes:
        offset: ``(d,)``: of the action 0.
        scale: ``(d,)``.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]


Ask = Callable[[int, Float[np.ndarray, "d"]], "Float[np.ndarray, 'nu'] | None"]
"""The controls after a step with an action, in one of several different states."""


def controls_of_task(task: JaxTask) -> Controls | None:
    """Of an environment in JAX with a model of MuJoCo's. None where controls do not follow from the action alone."""
    environment = task.environment
    if environment.mujoco_model is None:
        return None
    reset, step = jax.jit(environment.reset), jax.jit(environment.step)

    def ask(which: int, action: Float[np.ndarray, "d"]) -> Float[np.ndarray, "nu"] | None:
        state: Any = step(reset(jax.random.key(which)), jax.numpy.asarray(action, jax.numpy.float32))
        held = getattr(state, "data", getattr(state, "pipeline_state", None))
        control = getattr(held, "ctrl", None)
        return None if control is None else np.asarray(control, float)

    return found_by_asking(ask, environment.action_low, environment.action_high)


def controls_of_simulation(env: Any, low: Float[np.ndarray, "d"], high: Float[np.ndarray, "d"]) -> Controls | None:
    """Of an environment of Gymnasium's MuJoCo classes or DMControl. Others are never moved: it might be a robot.

    Args:
        env: one environment.
        low: ``(d,)`` bounds of its actions.
        high: ``(d,)``.
    """
    found, base = model_and_data(env), getattr(env, "unwrapped", env)
    names = {kind.__name__ for kind in type(base).__mro__}
    if found is None or not (names & {"MujocoEnv"} or hasattr(base, "physics")):
        return None

    def ask(which: int, action: Float[np.ndarray, "d"]) -> Float[np.ndarray, "nu"] | None:
        env.reset(seed=which)
        env.step(np.asarray(action, env.action_space.dtype).reshape(env.action_space.shape))
        control = getattr((model_and_data(env) or (None, None))[1], "ctrl", None)
        return None if control is None else np.array(control, float)

    return found_by_asking(ask, low, high)


def found_by_asking(ask: Ask, low: Float[np.ndarray, "d"], high: Float[np.ndarray, "d"]) -> Controls | None:
    """The rule behind some controls, where it is one, holds over the whole range, and has no memory.

    Args:
        ask: the controls after a step.
        low: ``(d,)`` bounds of actions.
        high: ``(d,)``.
    """
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all()):
        return None
    draws = np.random.default_rng(0).uniform(low, high, (3, len(low)))
    heard = []
    with contextlib.suppress(Exception):  # a rule is worth no failure
        for which, action in enumerate((low, high, *draws)):
            control = ask(which, action)
            if control is None or control.shape != low.shape or not np.isfinite(control).all():
                return None
            heard.append(control)
    if len(heard) < 5:
        return None
    scale = (heard[1] - heard[0]) / (high - low)
    offset = heard[0] - scale * low
    near = TOLERANCE * np.maximum(np.abs(heard[1] - heard[0]), 1e-3)
    if any(
        (np.abs(offset + scale * action - control) > near).any()
        for action, control in zip(draws, heard[2:], strict=True)
    ):
        return None
    return Controls(tuple(map(_short, offset)), tuple(map(_short, scale)))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
