"""Environments as gymnax writes them.

``reset_env(key, params) -> observation, state`` and ``step_env(key, state, action, params) -> observation, state,
reward, done, info``, with ``default_params`` and ``action_space(params)``. (``reset`` and ``step``, which reset by
themselves, are not used.)

From gymnax 1.0 on ``done`` is the end inside the task, and ``is_truncated`` tells the time limit apart. Before,
``done`` held at ``params.max_steps_in_episode`` too. There a second step, with a limit that is never met, says whether
the task has ended; what is the same in both the compiler does once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from penstock._errors import ConfigurationError
from penstock._types import Key
from penstock.worlds.hosted.infos import SUCCESS_NAMES
from penstock.worlds.jax_packages.environment import (
    DEFAULT_TIMESTEP,
    JaxEnvironment,
    Told,
    legacy,
    numbers_of,
    one_number,
)

LIMIT = "max_steps_in_episode"
"""The parameter that holds the time limit."""

NEVER = 2**30
"""A time limit that no episode meets."""

UNTOLD = "discount"
"""An entry of ``info`` that says nothing new: 0 where the task has ended, else 1."""


def follows_gymnax(made: Any) -> bool:
    """Whether something is an environment of this convention (or a wrapper of one), or a class of such."""
    return all(hasattr(made, name) for name in ("reset_env", "step_env", "action_space"))


class GymnaxState(eqx.Module):
    """State of one environment.

    Attributes:
        inner: the environment's own.
        key: for coming steps.
        observation: what it showed last.
        reward: of the last step.
        done: whether the task has ended.
        info: what it told of the last step.
    """

    inner: PyTree
    key: Array
    observation: PyTree
    reward: Array
    done: Array
    info: PyTree


class GymnaxEnvironment(JaxEnvironment):
    """An environment of this convention.

    Args:
        name: of the world.
        env: the environment.
        params: its parameters; by default its own.
        constants: what to record.

    Raises:
        ConfigurationError: its actions are discrete or unbounded, or it is a wrapper whose steps would be passed by.
    """

    def __init__(self, name: str, env: Any, params: Any = None, constants: Mapping[str, Any] | None = None):
        if not hasattr(type(env), "step_env"):
            raise ConfigurationError(
                f"'{name}': {type(env).__name__} changes reset() and step(), which reset by themselves and are not "
                "used. Leave it out, and let reset_env() and step_env() do what it does."
            )
        self.name, self.env = name, env
        self.params = env.default_params if params is None else params
        self.action_low, self.action_high, self._shape = _box(env.action_space(self.params), name)
        limit = getattr(self.params, LIMIT, None)
        self.max_steps = None if limit is None else int(limit)
        self._endless = (
            None
            if limit is None or hasattr(env, "is_truncated")
            else dataclasses.replace(self.params, **{LIMIT: type(limit)(NEVER)})
        )
        self.action_repeat = 1
        step = getattr(self.params, "dt", None)
        self.timestep = float(step) if isinstance(step, int | float) and step > 0 else DEFAULT_TIMESTEP
        self.constants = {**(constants or {}), "parameters": _recorded(self.params)}

    def reset(self, key: Key) -> GymnaxState:
        """See `JaxEnvironment.reset`."""
        first, later = jax.random.split(legacy(key))
        observation, inner = self.env.reset_env(first, self.params)
        action = jnp.zeros(self._shape)
        told = jax.eval_shape(lambda state: self.env.step_env(later, state, action, self.params), inner)
        info = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), told[4])
        return GymnaxState(inner, later, observation, jnp.zeros(()), jnp.zeros((), bool), info)

    def step(self, state: GymnaxState, action: Float[Array, "d"]) -> GymnaxState:
        """See `JaxEnvironment.step`."""
        key, later = jax.random.split(state.key)
        action = jnp.reshape(action, self._shape)
        observation, inner, reward, done, info = self.env.step_env(key, state.inner, action, self.params)
        if self._endless is not None:
            done = self.env.step_env(key, state.inner, action, self._endless)[3]
        ended = one_number(done, "done", self.name) != 0
        return GymnaxState(inner, later, observation, one_number(reward, "reward", self.name), ended, info)

    def observed(self, state: GymnaxState) -> Any:
        """What the last step showed."""
        return state.observation

    def told(self, state: GymnaxState) -> Told:
        """Reward, end inside the task, and the numbers of ``info``."""
        numbers = numbers_of(state.info)
        success = next((numbers.pop(name) for name in SUCCESS_NAMES if name in numbers), None)
        numbers.pop(UNTOLD, None)
        return Told(state.reward, state.done, numbers, success)


def _box(space: Any, name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Bounds ``(d,)`` and shape of a box of actions."""
    if not (hasattr(space, "low") and hasattr(space, "high")):
        raise ConfigurationError(
            f"'{name}' has actions of the kind {type(space).__name__}. Penstock is for continuous control: actions "
            "must be a Box."
        )
    shape = tuple(int(n) for n in space.shape)
    low, high = (np.broadcast_to(np.asarray(bound, float), shape).reshape(-1) for bound in (space.low, space.high))
    if not (low.size and np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ConfigurationError(
            f"'{name}': the bounds of its actions, {low.tolist()} and {high.tolist()}, must be finite, and the lower "
            "ones below the upper ones."
        )
    return low, high, shape


def _recorded(params: Any) -> dict[str, Any]:
    """Parameters that are numbers or lists of them."""
    fields = vars(params) if hasattr(params, "__dict__") else {}
    return {
        name: np.asarray(value).tolist()
        for name, value in fields.items()
        if isinstance(value, bool | int | float | np.ndarray | jax.Array)
    }
