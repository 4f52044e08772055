"""Environments as Brax and MuJoCo Playground write them.

``reset(key) -> state`` and ``step(state, action) -> state``, whose state has ``obs``, ``reward``, ``done``, ``metrics``
and ``info``; ``action_size`` is d, and actions lie in [-1, 1]. ``done`` is the end inside the task. Time limits and
automatic resets are wrappers of theirs, which are taken off: worlds do both themselves.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from penstock._errors import ConfigurationError, require
from penstock._types import Key
from penstock.scene.items import Scene
from penstock.worlds.hosted.infos import SUCCESS_NAMES
from penstock.worlds.jax_packages.environment import (
    DEFAULT_TIMESTEP,
    JaxEnvironment,
    ReplaceableModel,
    Told,
    legacy,
    numbers_of,
    one_number,
)
from penstock.worlds.jax_packages.pictures import MujocoPictures, model_of

EPISODE_WRAPPER = "EpisodeWrapper"
"""The wrapper that holds a time limit, as ``episode_length``, in steps of what it wraps, and an ``action_repeat``."""

TAKEN_OFF = frozenset({EPISODE_WRAPPER, "VmapWrapper", "AutoResetWrapper", "BraxAutoResetWrapper", "EvalWrapper"})
"""Wrappers that add what a world does itself."""

REFUSED = frozenset({"DomainRandomizationVmapWrapper", "BraxDomainRandomizationVmapWrapper"})
"""Wrappers whose environments differ from one another by their place in the batch."""

TRUNCATION = "truncation"
"""The entry of ``info`` that says, where ``done`` holds, that it was the time limit."""


def follows_brax(made: Any) -> bool:
    """Whether something is an environment of this convention, or a class of such."""
    return all(hasattr(made, name) for name in ("reset", "step", "action_size"))


class BraxEnvironment(JaxEnvironment):
    """An environment of this convention.

    Args:
        name: of the world.
        env: the environment; wrappers for time limits, batches and resets are taken off.
        max_steps: its time limit where it states none.
        constants: what to record.
        caption: of its pictures.

    Raises:
        ConfigurationError: it is wrapped in something that cannot be taken off, or its sizes are none.
    """

    def __init__(
        self,
        name: str,
        env: Any,
        max_steps: int | None = None,
        constants: Mapping[str, Any] | None = None,
        caption: str = "",
    ):
        self.name = name
        self.env, stated, repeat = _unwrapped(env, name)
        size = self.env.action_size
        fits = isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 1
        require(bool(fits), f"'{name}': action_size", size, "must be a whole number of at least 1")
        self.action_low, self.action_high = np.full((int(size),), -1.0), np.full((int(size),), 1.0)
        config = _config(self.env)
        self.max_steps = next(
            (
                int(limit)
                for limit in (
                    stated,
                    getattr(self.env, "episode_length", None),
                    config.get("episode_length"),
                    max_steps,
                )
                if limit is not None
            ),
            None,
        )
        self.action_repeat = int(repeat or config.get("action_repeat") or 1)
        self.timestep = _timestep(self.env)
        self.constants = dict(constants or {})
        self._caption = caption
        self._pictures: MujocoPictures | None = None

    def reset(self, key: Key) -> PyTree:
        """See `JaxEnvironment.reset`."""
        return self.env.reset(legacy(key))

    def step(self, state: PyTree, action: Float[Array, "d"]) -> PyTree:
        """See `JaxEnvironment.step`."""
        # Steps write into the dictionaries of the state that they are given.
        return self.env.step(jax.tree.map(lambda leaf: leaf, state), action)

    def observed(self, state: Any) -> Any:
        """The state's ``obs``."""
        return state.obs

    def told(self, state: Any) -> Told:
        """Reward, ``done`` where it is no time limit, and every number of ``metrics``."""
        info = getattr(state, "info", None)
        heard = numbers_of(info)
        metrics = numbers_of(getattr(state, "metrics", None))
        success = next((all_[n] for n in SUCCESS_NAMES for all_ in (metrics, heard) if n in all_), None)
        terminated = one_number(state.done, "done", self.name) != 0
        if TRUNCATION in heard:
            terminated &= heard[TRUNCATION] == 0
        return Told(one_number(state.reward, "reward", self.name), terminated, metrics, success)

    @property
    def replaceable(self) -> "PlaygroundModel | None":
        """That of an environment of Playground."""
        base = getattr(self.env, "unwrapped", self.env)
        model = getattr(base, "mj_model", None)
        found = type(model).__name__ == "MjModel" and hasattr(base, "_mjx_model")
        return PlaygroundModel(base, model) if found else None

    @property
    def mujoco_model(self) -> Any:
        """See `JaxEnvironment.mujoco_model`."""
        return model_of(self.env)

    def scene(self, state: Any) -> Scene | None:
        """A picture of its MuJoCo model, where it has one."""
        if self._pictures is None:
            self._pictures = MujocoPictures(self.env, self._caption)
        return self._pictures.scene(state)


class PlaygroundModel(ReplaceableModel):
    """The model of an environment of Playground, which reads it from one attribute whenever it is traced.

    Args:
        env: without wrappers.
        nominal: its ``mujoco.MjModel``.
    """

    def __init__(self, env: Any, nominal: Any):
        self.env, self.nominal = env, nominal

    @contextlib.contextmanager
    def replaced(self, fields: Mapping[str, Array]) -> Iterator[None]:
        """See `ReplaceableModel.replaced`."""
        before = self.env._mjx_model
        self.env._mjx_model = before.tree_replace(dict(fields))
        try:
            yield
        finally:
            self.env._mjx_model = before

    def with_velocity(self, state: Any, change: Float[Array, "nv"]) -> Any:
        """See `ReplaceableModel.with_velocity`."""
        return state.replace(data=state.data.replace(qvel=state.data.qvel + change))

    def with_force(self, state: Any, change: Float[Array, "bodies 6"]) -> Any:
        """See `ReplaceableModel.with_force`."""
        return state.replace(data=state.data.replace(xfrc_applied=state.data.xfrc_applied + change))


def _unwrapped(env: Any, name: str) -> tuple[Any, int | None, int | None]:
    """What lies under the wrappers that are taken off; their time limit, and their action repeat."""
    limit, repeat = None, None
    while _names(env) & TAKEN_OFF and not _names(env) & REFUSED:
        if EPISODE_WRAPPER in _names(env):
            limit, repeat = env.episode_length, env.action_repeat
        env = env.env
    layer, inside = env, set()
    while layer is not None:
        inside |= _names(layer) & (TAKEN_OFF | REFUSED)
        if hasattr(type(layer), "step_env"):
            raise ConfigurationError(
                f"'{name}' wraps an environment of gymnax, which would reset itself inside of it. Let your function "
                "return the environment of gymnax itself."
            )
        layer = vars(layer).get("env", vars(layer).get("_env")) if hasattr(layer, "__dict__") else None
    if inside & REFUSED:
        raise ConfigurationError(
            f"'{name}' is wrapped in {min(inside & REFUSED)}, whose environments differ by their place in a batch. "
            "Take it off and name what shall differ by randomize (docs/domain_randomization.md), or let reset() draw "
            "it and keep it in the state."
        )
    if inside:
        raise ConfigurationError(
            f"'{name}': a wrapper of yours lies around {min(inside)}. Put yours inside: worlds have time limits, "
            "batches and automatic resets themselves."
        )
    return env, limit, repeat


def _names(env: Any) -> set[str]:
    return {kind.__name__ for kind in type(env).__mro__}


def _config(env: Any) -> Any:
    """The configuration of an environment of Playground; empty for others."""
    config: Any = getattr(env, "_config", None)
    return config if hasattr(config, "get") and hasattr(config, "keys") else {}


def _timestep(env: Any) -> float:
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        step = float(env.dt)
        if step > 0:
            return round(step, 9)  # 0.05, not 0.04999999701976776: it was kept as a float32
    return DEFAULT_TIMESTEP
