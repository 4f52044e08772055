"""Histories: the observation vectors of the last K control steps as one vector, the oldest first.

An episode begins with K copies of its first observation. Both conventions are those of Isaac Lab's ``CircularBuffer``.
The final observation of an episode closes the history of that episode; what comes after it begins a new one.

Histories belong to worlds: normalisers, critics, replay memories, mirrors and exported files then meet an ordinary
observation. Clouds of points, pixels and what critics alone see are never stacked.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from penstock._errors import ConfigurationError, require
from penstock._types import Actions, AnyArray, Key
from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Scene
from penstock.worlds.randomization.terms import Evaluated
from penstock.worlds.task import Around, Outcome, Task


def begun(vector: Float[AnyArray, "*batch n"], length: int) -> Float[AnyArray, "*batch stacked"]:
    """The history at the start of an episode: copies of its first observation.

    Args:
        vector: the first observation, of NumPy or JAX.
        length: K.
    """
    return _arrays_of(vector).concatenate([vector] * length, axis=-1)


def shifted(
    history: Float[AnyArray, "*batch stacked"], vector: Float[AnyArray, "*batch n"]
) -> Float[AnyArray, "*batch stacked"]:
    """The history one control step later: without its oldest observation, and with a new one at the end."""
    return _arrays_of(vector).concatenate([history[..., vector.shape[-1] :], vector], axis=-1)


def first_history(observation: Observation, length: int) -> Observation:
    """N first observations of episodes, with histories."""
    return dataclasses.replace(observation, vector=begun(observation.vector, length))


def next_histories(
    before: Observation, final: Observation, observation: Observation, anew: np.ndarray
) -> tuple[Observation, Observation]:
    """What N environments of the host observed in a step, with histories: finally, and to act on.

    Args:
        before: what was acted on, with its histories.
        final: before any reset: closes the history of its episode.
        observation: to act on.
        anew: ``(N,)`` where that is the first one of an episode, and begins a history.
    """
    length = before.vector.shape[-1] // observation.vector.shape[-1]
    on = np.where(anew[:, None], begun(observation.vector, length), shifted(before.vector, observation.vector))
    last = shifted(before.vector, final.vector)
    return dataclasses.replace(final, vector=last), dataclasses.replace(observation, vector=on)


def _arrays_of(value: Any) -> Any:
    return jnp if isinstance(value, jax.Array) else np


def with_history(spec: ObservationSpec, length: int, name: str) -> ObservationSpec:
    """Sizes of observations whose vector is a history.

    Args:
        spec: sizes of one observation.
        length: K.
        name: of the world, for messages.

    Raises:
        ConfigurationError: there is nothing to stack, or it is stacked already.
    """
    require(length >= 1, "history", length, "must be at least 1: the present observation")
    if spec.vector == 0:
        raise ConfigurationError(
            f"history = {length}: '{name}' observes pixels alone, and vectors are what is stacked. Leave it out."
        )
    if spec.history != 1:
        raise ConfigurationError(f"history = {length}: '{name}' has a history of {spec.history} already. Leave it out.")
    return dataclasses.replace(spec, vector=length * spec.vector, history=length)


class HistoryState(eqx.Module):
    """State of N environments with what was observed in them.

    Attributes:
        inner: the task's own.
        vectors: ``(N, K * n)``, the axis of environments where the task has it.
    """

    inner: PyTree
    vectors: Array


class HistoryTask(Around, Task):
    """A task that shows the observation vectors of the last K control steps. Gradients flow through them.

    Attributes:
        inner: the task.
    """

    inner: Task
    action_size: int
    observation_spec: ObservationSpec
    episode_length: int
    control_timestep: float

    def __init__(self, inner: Task, length: int, name: str):
        self.inner = inner
        self.action_size = inner.action_size
        self.observation_spec = with_history(inner.observation_spec, length, name)
        self.episode_length = inner.episode_length
        self.control_timestep = inner.control_timestep

    @property
    def env_axis(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the task."""
        return self.inner.env_axis

    @property
    def differentiable(self) -> bool:
        """See `Declarations.differentiable`."""
        return self.inner.differentiable

    @property
    def nominal(self) -> "HistoryTask | None":
        """See `Declarations.nominal`."""
        nominal = self.inner.nominal
        return HistoryTask(nominal, self.observation_spec.history, "") if isinstance(nominal, Task) else None

    @property
    def evaluated(self) -> Evaluated:
        """See `Declarations.evaluated`."""
        return self.inner.evaluated

    def initial(self, key: Key, num_envs: int) -> HistoryState:
        """See `Task.initial`."""
        inner = self.inner.initial(key, num_envs)
        vectors = begun(jnp.asarray(self.inner.observe(inner).vector), self.observation_spec.history)
        return HistoryState(inner, self._kept(vectors))

    def advance(self, state: HistoryState, action: Actions) -> tuple[HistoryState, Outcome]:
        """See `Task.advance`."""
        return self._moved(state, *self.inner.advance(state.inner, action))

    def advance_noisily(self, state: HistoryState, action: Actions, key: Key) -> tuple[HistoryState, Outcome]:
        """See `Task.advance_noisily`."""
        return self._moved(state, *self.inner.advance_noisily(state.inner, action, key))

    @property
    def draws_noise(self) -> bool:
        """See `Task.draws_noise`."""
        return self.inner.draws_noise

    def observe(self, state: HistoryState) -> Observation:
        """What the task shows, with the history in the place of its vector."""
        return dataclasses.replace(self.inner.observe(state.inner), vector=self._kept(state.vectors))

    def scene(self, state: HistoryState, env: int) -> Scene | None:
        """See `Task.scene`."""
        return self.inner.scene(state.inner, env)

    def _moved(self, state: HistoryState, inner: PyTree, outcome: Outcome) -> tuple[HistoryState, Outcome]:
        vectors = shifted(self._kept(state.vectors), jnp.asarray(self.inner.observe(inner).vector))
        return HistoryState(inner, self._kept(vectors)), outcome

    def _kept(self, vectors: Array) -> Array:
        """From ``(N, K * n)`` to how the state has it, and back."""
        return vectors if self.env_axis == 0 else vectors.T
