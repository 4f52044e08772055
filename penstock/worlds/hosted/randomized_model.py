"""The MuJoCo model and state of one environment, as an episode with drawn numbers begins and is pushed about."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from penstock._errors import ConfigurationError
from penstock.worlds.hosted.pictures import model_and_data
from penstock.worlds.randomization.distributions import Source
from penstock.worlds.randomization.model_changes import BALL, FREE, INERTIAL, SHIFT, ModelChanges
from penstock.worlds.randomization.perturbations import BoundPush
from penstock.worlds.randomization.terms import ModelTerm

SourceOf = Callable[[str], Source]
"""Random numbers of a term, by its stream."""

TRANSPARENT = (
    gymnasium.wrappers.TimeLimit,
    gymnasium.wrappers.OrderEnforcing,
    gymnasium.wrappers.PassiveEnvChecker,
)
"""Wrappers that pass observations on as they are."""

OF_CAMERAS = ("extent", "center", "meansize")
"""What ``model.stat`` says for cameras alone."""


def _mujoco() -> Any:
    import mujoco  # an environment with a model of its has imported it

    return mujoco


class ModelOfEpisode:
    """Writes the numbers of an episode into a model.

    Args:
        terms: what changes.
        model: a ``mujoco.MjModel``, as it is nominally.

    Attributes:
        model: the model.
        changes: the terms, bound to it.
    """

    def __init__(self, terms: Sequence[ModelTerm], model: Any):
        self.model = model
        self.changes = ModelChanges(terms, model)
        self._scratch = _mujoco().MjData(model) if self.changes.fields & INERTIAL else None
        self._of_cameras = {name: np.array(getattr(model.stat, name)) for name in OF_CAMERAS}

    def apply(self, source_of: SourceOf) -> None:
        """Draws and writes the numbers of an episode, and the constants that MuJoCo computes from them."""
        for field, values in self.changes.draw(source_of).items():
            getattr(self.model, field)[...] = values
        if self._scratch is not None:
            _mujoco().mj_setConst(self.model, self._scratch)
            for name, value in self._of_cameras.items():
                setattr(self.model.stat, name, value if value.shape else float(value))


class StartOfEpisode:
    """Moves joints at the start of an episode, and observes again.

    Args:
        terms: what is moved.
        env: the environment.
        model: its model.

    Raises:
        ConfigurationError: what is observed cannot be read again.
    """

    def __init__(self, terms: Sequence[ModelTerm], env: Any, model: Any):
        self.changes = ModelChanges(terms, model)
        self.env = env
        self._seen_through: list[Callable[[Any], Any]] = []
        layer = env
        while isinstance(layer, gymnasium.Wrapper):
            if isinstance(layer, gymnasium.ObservationWrapper):
                self._seen_through.insert(0, layer.observation)
            elif not isinstance(layer, TRANSPARENT):
                raise ConfigurationError(
                    "initial_joint_position: what is observed must be read again after joints were moved, which cannot "
                    f"be done through the wrapper {type(layer).__name__}. Leave the term out, or take the wrapper off."
                )
            layer = layer.env
        observe = getattr(layer, "_get_obs", None)
        if not callable(observe) or _needs_arguments(observe):
            raise ConfigurationError(
                "initial_joint_position: what is observed must be read again after joints were moved. Give the "
                f"environment ({type(layer).__name__}) a method _get_obs() without arguments, or leave the term out."
            )
        self._observe: Callable[[], Any] = observe
        limited = np.asarray(model.jnt_limited, bool) & ~np.isin(model.jnt_type, (FREE, BALL))
        self._low, self._high = np.full((model.nq,), -np.inf), np.full((model.nq,), np.inf)
        self._low[model.jnt_qposadr[limited]], self._high[model.jnt_qposadr[limited]] = model.jnt_range[limited].T

    def moved(self, source_of: SourceOf) -> Any:
        """Moves joints, not beyond their limits, and returns what is observed then."""
        found = model_and_data(self.env)
        assert found is not None
        model, data = found
        shift = self.changes.draw(source_of)[SHIFT]
        data.qpos[:] = np.where(shift != 0, np.clip(data.qpos + shift, self._low, self._high), data.qpos)
        _mujoco().mj_forward(model, data)
        observation = self._observe()
        for see in self._seen_through:
            observation = see(observation)
        return observation


class PushesOfEpisode:
    """When an environment is pushed next, and the forces that act now.

    Args:
        pushes: bound to its model.
        source_of: of the episode.
    """

    def __init__(self, pushes: Sequence[BoundPush], source_of: SourceOf):
        self._pushes = [(bound, source_of(bound.push.stream)) for bound in pushes]
        self._waits = [int(bound.wait(source)) for bound, source in self._pushes]
        self._lasts = [0] * len(pushes)
        self._forces = np.zeros((len(pushes), 3))

    def stepped(self, env: Any, step: Callable[[], Any]) -> Any:
        """Makes a control step under what pushes now: velocities change before it, forces act during it."""
        found = model_and_data(env)
        assert found is not None
        model, data = found
        before = data.xfrc_applied.copy()
        for index, (bound, source) in enumerate(self._pushes):
            if self._waits[index] == 0:
                drawn, self._waits[index] = bound.draw(source), int(bound.wait(source))
                if bound.push.kind == "velocity":
                    data.qvel[bound.dof : bound.dof + 3] += drawn
                    _mujoco().mj_forward(model, data)
                else:
                    self._lasts[index], self._forces[index] = bound.lasting, drawn
            if self._lasts[index] > 0:
                data.xfrc_applied[bound.body, :3] += self._forces[index]
                self._lasts[index] -= 1
            self._waits[index] -= 1
        returned = step()
        data.xfrc_applied[:] = before
        return returned


def _needs_arguments(call: Callable[..., Any]) -> bool:
    parameters = inspect.signature(call).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
