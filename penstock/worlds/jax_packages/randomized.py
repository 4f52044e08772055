"""Domain randomisation of environments in JAX: everything is drawn inside `jax.jit`, from the world's keys.

What belongs to an episode is drawn with its start and lies in the task's state: a batch of environments is a batch of
models. Constants that MuJoCo computes from masses are kept as they are, but for the masses of subtrees.
"""

import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from penstock._errors import ConfigurationError
from penstock._types import Key
from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Scene
from penstock.worlds.jax_packages.environment import observed_names
from penstock.worlds.jax_packages.task import JaxTask
from penstock.worlds.randomization.distributions import KeySource
from penstock.worlds.randomization.model_changes import ModelChanges
from penstock.worlds.randomization.perturbations import (
    LATENCY,
    BoundNoise,
    BoundPush,
    actions_kept,
    bound_noise,
    bound_pushes,
    drawn_latency,
    late_action,
)
from penstock.worlds.randomization.terms import Evaluated, Per, Randomization
from penstock.worlds.task import Around, Outcome, SingleTask

SourceOf = Callable[[str], KeySource]
"""Random numbers of a term, by its stream."""


class RandomizedState(eqx.Module):
    """State of one environment whose numbers were drawn.

    Attributes:
        inner: the task's own.
        model: fields of the model that differ from the nominal ones.
        actions: ``(k, d)`` what was sent, the newest first; empty without latency.
        late: control steps of latency.
        waits: ``(pushes,)`` control steps until each push.
        lasts: ``(pushes,)`` control steps that each force still acts.
        forces: ``(pushes, 3)`` in N.
        bias: ``(n,)`` what is added to the observed vector in this episode.
        noise: ``(n,)`` what is added to it now.
    """

    inner: PyTree
    model: dict[str, Array]
    actions: Float[Array, "k d"]
    late: Float[Array, ""]
    waits: Int[Array, "pushes"]
    lasts: Int[Array, "pushes"]
    forces: Float[Array, "pushes 3"]
    bias: Float[Array, "n"]
    noise: Float[Array, "n"]


def randomized_task(task: JaxTask, configuration: Randomization) -> "RandomizedTask":
    """The task with what a configuration randomises.

    Raises:
        ConfigurationError: the environment or its model lacks what a term needs.
    """
    name, model, needing = task.environment.name, task.environment.replaceable, configuration.needing_model
    if needing and model is None:
        raise ConfigurationError(
            f"'{name}': randomize: {needing[0]} needs an MJX model as MuJoCo Playground's environments have one. "
            "action_latency and observation_noise work everywhere."
        )
    if configuration.initial:
        raise ConfigurationError(
            f"'{name}': randomize: initial_joint_position: environments in JAX draw their starts themselves, and what "
            "they observe could not be read again. Leave it out."
        )
    try:
        changes = (
            ModelChanges(configuration.model, model.nominal) if model is not None and configuration.model else None
        )
        if changes is not None:
            _refuse_new_friction(changes)
        pushes = bound_pushes(configuration.pushes, model.nominal, task.control_timestep) if model is not None else []
        observed = jax.eval_shape(lambda key: task.environment.observed(task.initial(key)), jax.random.key(0))
        noise = bound_noise(configuration.noise, observed_names(observed))
    except ConfigurationError as error:
        raise ConfigurationError(f"'{name}': randomize: {error}") from error
    return RandomizedTask(task, configuration, changes, tuple(pushes), tuple(noise))


def _refuse_new_friction(changes: ModelChanges) -> None:
    for change in changes.changes:
        places = change.places.get("dof_frictionloss")
        if places is not None and (changes.nominal["dof_frictionloss"][places > 0] == 0).any():
            raise ConfigurationError(
                f"{change.term.stream}.{change.term.operation}: MJX computes friction for joints that have some in the "
                "model alone, and some of these have 0. Name others, or leave it out."
            )


class RandomizedTask(Around, SingleTask):
    """A task, randomised. Made by `randomized_task`.

    Args:
        inner: the task.
        configuration: what is randomised.
        changes: terms of the model, bound.
        pushes: bound.
        observation_noise: bound.
    """

    inner: JaxTask
    configuration: Randomization = eqx.field(static=True)
    changes: ModelChanges | None = eqx.field(static=True)
    pushes: tuple[BoundPush, ...] = eqx.field(static=True)
    observation_noise: tuple[BoundNoise, ...] = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    observation_spec: ObservationSpec = eqx.field(static=True)
    episode_length: int = eqx.field(static=True)
    control_timestep: float = eqx.field(static=True)

    def __init__(
        self,
        inner: JaxTask,
        configuration: Randomization,
        changes: ModelChanges | None,
        pushes: tuple[BoundPush, ...],
        observation_noise: tuple[BoundNoise, ...],
    ):
        self.inner, self.configuration, self.changes = inner, configuration, changes
        self.pushes, self.observation_noise = pushes, observation_noise
        self.action_size, self.observation_spec = inner.action_size, inner.observation_spec
        self.episode_length, self.control_timestep = inner.episode_length, inner.control_timestep

    @property
    def differentiable(self) -> bool:
        """False: see `JaxTask`."""
        return False

    @property
    def nominal(self) -> JaxTask:
        """The task itself."""
        return self.inner

    @property
    def evaluated(self) -> Evaluated:
        """As the configuration says."""
        return self.configuration.evaluation

    def initial(self, key: Key) -> RandomizedState:
        """Draws what belongs to an episode, and its start in a world with those numbers."""
        key, key_inner = jax.random.split(key)
        source_of = _sources(key)
        model = {} if self.changes is None else self.changes.draw(source_of)
        with self._replaced(model):
            inner = self.inner.initial(key_inner)
        latency = self.configuration.latency
        return RandomizedState(
            inner=inner,
            model=model,
            actions=jnp.zeros((0 if latency is None else actions_kept(latency), self.action_size)),
            late=jnp.zeros(()) if latency is None else jnp.asarray(drawn_latency(latency, source_of(LATENCY)), float),
            waits=self._waits([source_of(bound.push.stream) for bound in self.pushes]),
            lasts=jnp.zeros((len(self.pushes),), int),
            forces=jnp.zeros((len(self.pushes), 3)),
            bias=self._drawn_noise("episode", source_of),
            noise=self._drawn_noise("step", _sources(jax.random.fold_in(key, 1))),
        )

    def advance(self, state: RandomizedState, action: Float[Array, "d"]) -> tuple[RandomizedState, Outcome]:
        """A control step with the numbers of the episode, without pushes and noise."""
        return self._moved(state, action, None)

    def advance_noisily(
        self, state: RandomizedState, action: Float[Array, "d"], key: Key
    ) -> tuple[RandomizedState, Outcome]:
        """`advance` with pushes and noise."""
        return self._moved(state, action, _sources(key))

    def observe(self, state: RandomizedState) -> Observation:
        """What the task shows; what only critics see has no noise."""
        seen = self.inner.observe(state.inner)
        if not self.observation_noise:
            return seen
        return eqx.tree_at(lambda seen: seen.vector, seen, seen.vector + state.bias + state.noise)

    def scene(self, state: RandomizedState) -> Scene | None:
        """See `JaxTask.scene`."""
        return self.inner.scene(state.inner)

    def _moved(
        self, state: RandomizedState, action: Float[Array, "d"], source_of: SourceOf | None
    ) -> tuple[RandomizedState, Outcome]:
        latency, late, actions = self.configuration.latency, state.late, state.actions
        if latency is not None:
            actions = jnp.concatenate([action[None], actions[:-1]])
            if latency.per == "step" and source_of is not None:
                late = jnp.asarray(drawn_latency(latency, source_of(LATENCY)), float)
            action = late_action(actions, late).astype(action.dtype)
        start, pushing = state.inner, (state.waits, state.lasts, state.forces)
        velocity = force = None
        if self.pushes and source_of is not None:
            velocity, force, pushing = self._pushed(state, source_of)
            start = self._model.with_force(self._model.with_velocity(start, velocity), force)
        with self._replaced(state.model):
            inner, outcome = self.inner.advance(start, action)
        if force is not None:
            inner = self._model.with_force(inner, -force)
        noise = jnp.zeros_like(state.noise) if source_of is None else self._drawn_noise("step", source_of)
        return RandomizedState(inner, state.model, actions, late, *pushing, state.bias, noise), outcome

    def _pushed(self, state: RandomizedState, source_of: SourceOf) -> tuple[Array, Array, tuple[Array, Array, Array]]:
        """Changes of velocity ``(nv,)`` now, forces ``(bodies, 6)`` during the step, and what is due later."""
        sources = [source_of(bound.push.stream) for bound in self.pushes]
        due = state.waits == 0
        drawn = jnp.stack([bound.draw(source) for bound, source in zip(self.pushes, sources, strict=True)])
        waits = jnp.where(due, self._waits(sources), state.waits) - 1
        by_force = np.array([bound.push.kind == "force" for bound in self.pushes])
        lasting = np.array([bound.lasting for bound in self.pushes])
        lasts = jnp.where(due & by_force, lasting, state.lasts)
        forces = jnp.where((due & by_force)[:, None], drawn, state.forces)
        model = self._model.nominal
        velocity, force = jnp.zeros((model.nv,)), jnp.zeros((model.nbody, 6))
        for index, bound in enumerate(self.pushes):
            if bound.push.kind == "velocity":
                change = jnp.where(due[index], drawn[index], 0.0)
                velocity = velocity.at[bound.dof : bound.dof + 3].add(change)
            else:
                force = force.at[bound.body, :3].add(jnp.where(lasts[index] > 0, forces[index], 0.0))
        return velocity, force, (waits, jnp.maximum(lasts - 1, 0), forces)

    def _waits(self, sources: list[KeySource]) -> Int[Array, "pushes"]:
        waits = [bound.wait(source) for bound, source in zip(self.pushes, sources, strict=True)]
        return jnp.stack(waits) if waits else jnp.zeros((0,), int)

    def _drawn_noise(self, per: Per, source_of: SourceOf) -> Float[Array, "n"]:
        total = jnp.zeros((self.observation_spec.vector if self.observation_noise else 0,))
        for bound in self.observation_noise:
            if bound.noise.per == per:
                total = total + bound.draw(source_of(bound.noise.stream))
        return total

    @property
    def _model(self) -> Any:
        return self.inner.environment.replaceable

    def _replaced(self, fields: dict[str, Array]) -> Any:
        return self._model.replaced(fields) if fields else contextlib.nullcontext()


def _sources(key: Key) -> SourceOf:
    """Random numbers of each term, by its stream."""
    return lambda stream: KeySource(jax.random.fold_in(key, zlib.crc32(stream.encode()) & 0x7FFFFFFF))
