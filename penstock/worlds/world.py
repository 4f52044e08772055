"""The world contract: N environments that step together, reset themselves, and never lose the final observation.

`World` is what algorithms see. `FunctionalWorld` is the one implementation for pure tasks: it adds episodes,
automatic reset (the only place where it happens) and the guards against divergence to any `Task`.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from penstock._errors import require
from penstock._records import pytree_record
from penstock._seeds import anywhere
from penstock._types import (
    Actions,
    AnyArray,
    AxisNames,
    GradientProbe,
    Key,
    PerEnv,
    PerEnvCount,
    PerEnvFlag,
    environment_axis,
)
from penstock.observation import Observation, ObservationSpec
from penstock.worlds.firewall import gradient_firewall
from penstock.worlds.history import HistoryTask
from penstock.worlds.randomization.terms import Evaluated
from penstock.worlds.task import Outcome, Task, flag_shape

MAGNITUDE_LIMIT = 1e6
"""An observation or reward that is not finite or beyond this magnitude counts as divergence of its environment."""

NOISE = 1
"""Folded into a world's key for the noise of a step, so that resets draw what they draw without it."""


@pytree_record
class Transition:
    """What one step of a world brought, for N environments.

    Attributes:
        observation: what the policy acts on next (after a reset where an episode ended).
        reward: reward of the step; 0 where the environment diverged.
        terminated: the episode ended inside the task, or diverged: the future is worth nothing.
        truncated: the episode met its time limit: bootstrap from ``final_observation``. May hold together with
            ``terminated``, which then wins.
        final_observation: the observation before any reset; equals ``observation`` where no episode ended; zeros
            where the environment diverged.
        diverged: the environment produced a non-finite or absurdly large number and was reset.
        diagnostics: named numbers for people, one per environment.
        valid: False where no step happened, because the environment only reset itself (hosted worlds with next-step
            automatic reset): not to be remembered. None where every step happened.
    """

    observation: Observation
    reward: PerEnv
    terminated: PerEnvFlag
    truncated: PerEnvFlag
    final_observation: Observation
    diverged: PerEnvFlag
    diagnostics: dict[str, PerEnv]
    valid: PerEnvFlag | None = None

    @property
    def done(self) -> Bool[AnyArray, "*window N"]:
        """Whether the episode ended, for whichever reason. Also for a stacked window of transitions."""
        return self.terminated | self.truncated


class WorldState(eqx.Module):
    """State of N environments.

    Attributes:
        body: the task's own state.
        age: control steps since the episode began.
        observation: what the policy acts on next.
        key: random key for coming resets.
    """

    body: PyTree
    age: PerEnvCount
    observation: Observation
    key: Key


class World(abc.ABC):
    """N environments that step together.

    Attributes:
        name: the name.
        num_envs: N.
        action_size: d. Actions are in [-1, 1]^d.
        observation_spec: sizes of the observation.
        episode_length: control steps until the time limit.
        control_timestep: seconds of simulated time per control step.
    """

    name: str
    num_envs: int
    action_size: int
    observation_spec: ObservationSpec
    episode_length: int
    control_timestep: float

    @property
    def functional(self) -> bool:
        """Whether the world is pure and lives inside `jax.jit`."""
        return False

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through a step."""
        return False

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends ``(d,)`` of actions in the environment's own units, to which -1 and 1 are brought."""
        return -np.ones(self.action_size), np.ones(self.action_size)

    @abc.abstractmethod
    def with_num_envs(self, num_envs: int) -> "World":
        """The same world with another number of environments (for evaluation)."""

    def for_evaluation(self, where: Evaluated | None = None) -> "World":
        """The world in which policies are evaluated and filmed: this one, or the same without what it randomises.

        Args:
            where: which of the two; None as the configuration of what is randomised says.

        Raises:
            ConfigurationError: there is but one.
        """
        refuse_choice_of_worlds(self.name, where)
        return self

    def with_history(self, length: int) -> "World":
        """The same world, whose observation vectors are those of the last K control steps (`penstock.worlds.history`).

        Args:
            length: K; 1 is the world as it is.

        Raises:
            ConfigurationError: there is nothing to stack.
        """
        rule = f"'{self.name}' is a {type(self).__name__}, which has none; leave it out"
        require(length == 1, "history", length, rule)
        return self

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Constants worth recording in a run's ``config.json``."""

    @abc.abstractmethod
    def axes(self, state: Any) -> Any:
        """In the place of every array of a state the names of its axes (`AxisNames`): nobody needs to guess."""

    @abc.abstractmethod
    def reset(self, key: Key) -> Any:
        """Starts all environments.

        Args:
            key: random key for the first and all later resets.
        """

    @abc.abstractmethod
    def step(self, state: Any, action: Actions) -> tuple[Any, Transition]:
        """Moves every environment one control step on and resets those whose episode ended.

        Args:
            state: as returned by `reset` or `step`.
            action: ``(N, d)``; clipped to [-1, 1].
        """


class FunctionalWorld(eqx.Module, World):
    """A pure `Task` as a world. Lives inside `jax.jit`.

    Gradients flow through a step from outcome and next state to state and action. They are cut at resets. Each
    environment's backward pass goes through a firewall: one environment whose gradient is not finite, or larger than
    ``gradient_limit``, cannot spoil the others.
    """

    name: str
    task: Task
    num_envs: int
    action_size: int
    observation_spec: ObservationSpec
    episode_length: int
    control_timestep: float
    gradient_limit: float

    def __init__(self, name: str, task: Task, num_envs: int, gradient_limit: float = float("inf")):
        self.name = name
        self.task = task
        self.num_envs = num_envs
        self.action_size = task.action_size
        self.observation_spec = task.observation_spec
        self.episode_length = task.episode_length
        self.control_timestep = task.control_timestep
        self.gradient_limit = gradient_limit

    @property
    def functional(self) -> bool:
        """True."""
        return True

    @property
    def differentiable(self) -> bool:
        """See `Declarations.differentiable`."""
        return self.task.differentiable

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Declarations.action_range`."""
        return self.task.action_range

    def with_num_envs(self, num_envs: int) -> "FunctionalWorld":
        """The same world with another number of environments (for evaluation)."""
        return FunctionalWorld(self.name, self.task, num_envs, self.gradient_limit)

    def for_evaluation(self, where: Evaluated | None = None) -> "FunctionalWorld":
        """See `World.for_evaluation`."""
        nominal = self.task.nominal
        if not isinstance(nominal, Task):
            refuse_choice_of_worlds(self.name, where)
        elif (where or self.task.evaluated) == "nominal":
            return FunctionalWorld(self.name, nominal, self.num_envs, self.gradient_limit)
        return self

    def with_history(self, length: int) -> "FunctionalWorld":
        """See `World.with_history`."""
        if length == 1:
            return self
        return FunctionalWorld(self.name, HistoryTask(self.task, length, self.name), self.num_envs, self.gradient_limit)

    def describe(self) -> dict[str, Any]:
        """See `World.describe`."""
        return self.task.describe()

    def axes(self, state: WorldState) -> WorldState:
        """See `World.axes`."""
        body = jax.tree.map(lambda leaf: environment_axis(leaf.shape, self.task.env_axis), state.body)
        age, observation = jax.tree.map(lambda leaf: environment_axis(leaf.shape, 0), (state.age, state.observation))
        leaves = jax.tree.leaves((body, age, observation, AxisNames((None,) * state.key.ndim)))
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def with_gradient_limit(self, gradient_limit: float) -> "FunctionalWorld":
        """The same world with another limit for the gradient of one environment."""
        return FunctionalWorld(self.name, self.task, self.num_envs, gradient_limit)

    def reset(self, key: Key, *, stagger: bool = False) -> WorldState:
        """See `World.reset`.

        Args:
            key: random key for the first and all later resets.
            stagger: start each environment at a random age in its episode, so that time limits do not coincide.
        """
        key_body, key_age, key_next = jax.random.split(key, 3)
        body = strong(self.task.initial(key_body, self.num_envs))
        if stagger:
            age = jax.random.randint(key_age, (self.num_envs,), 0, self.episode_length)
        else:
            age = jnp.zeros((self.num_envs,), jnp.int32)
        return WorldState(body, age, self.task.observe(body), key_next)

    def step(
        self, state: WorldState, action: Actions, probe: GradientProbe | None = None
    ) -> tuple[WorldState, Transition]:
        """See `World.step`.

        Args:
            state: as returned by `reset` or `step`.
            action: ``(N, d)``; clipped to [-1, 1].
            probe: ``(2, N)`` zeros whose gradient, after differentiating through this step, counts the backward
                passes that had to be cut and those that were lost (see `gradient_firewall`). None where nobody counts.
        """
        axis = self.task.env_axis
        if probe is None:
            probe = jnp.zeros((2, self.num_envs), action.dtype)
        before, action = gradient_firewall(state.body, action, probe, axis, self.gradient_limit)
        body, outcome = self.advance(before, action, state.key)
        seen = self.task.observe(body)

        sane = _sane(outcome.reward) & _all_sane(seen) & _finite_environments(body, axis, self.num_envs)
        diverged = ~sane
        terminated = outcome.terminated | diverged
        age = state.age + 1
        truncated = age >= self.episode_length
        done = terminated | truncated

        key_reset, key_next = jax.random.split(state.key)
        body, observation = self._reset_where(done, key_reset, body, seen)
        final_observation = _select(diverged, jax.tree.map(jnp.zeros_like, seen), seen, 0)
        transition = Transition(
            observation=observation,
            reward=jnp.where(diverged, 0.0, outcome.reward),
            terminated=terminated,
            truncated=truncated,
            final_observation=final_observation,
            diverged=diverged,
            diagnostics={name: jnp.where(diverged, 0.0, value) for name, value in outcome.diagnostics.items()},
        )
        return WorldState(body, jnp.where(done, 0, age), observation, key_next), transition

    def advance(self, body: PyTree, action: Actions, key: Key) -> tuple[PyTree, Outcome]:
        """The task's own step, with its noise where it has any: without episodes, resets and guards.

        Args:
            body: the task's state.
            action: ``(N, d)``; clipped to [-1, 1].
            key: the world's, `WorldState.key`.
        """
        action = jnp.clip(action, -1.0, 1.0)
        if not self.task.draws_noise:
            return self.task.advance(body, action)
        return self.task.advance_noisily(body, action, jax.random.fold_in(key, NOISE))

    def _reset_where(self, done, key, body, seen):
        """Bodies and observations, those of environments that are done replaced by fresh ones.

        Where nobody is done, nothing is drawn and nothing observed.
        """

        def anew(body, seen):
            fresh = self.task.initial(key, self.num_envs)
            chosen = _select(done, fresh, body, self.task.env_axis), _select(done, self.task.observe(fresh), seen, 0)
            return strong(chosen)

        def kept(body, seen):
            # A task may begin with numbers of another type than it goes on with.
            return jax.tree.map(
                lambda leaf, like: _as(like.dtype, leaf), (body, seen), jax.eval_shape(anew, body, seen)
            )

        return jax.lax.cond(anywhere(done), anew, kept, body, seen)


def refuse_choice_of_worlds(name: str, where: Evaluated | None) -> None:
    """Refuses a choice between the randomised and the nominal world where nothing is randomised."""
    require(
        where is None, "evaluation", where, f"nothing in '{name}' is randomised (world option randomize); leave it out"
    )


def _sane(value: PerEnv) -> PerEnvFlag:
    return jnp.abs(value) <= MAGNITUDE_LIMIT  # False for NaN


def _all_sane(observation: Observation) -> PerEnvFlag:
    flags = [
        jnp.all(jnp.abs(leaf) <= MAGNITUDE_LIMIT, axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(observation)
        if leaf.dtype != jnp.uint8  # every byte of a picture is sane
    ]
    return jnp.stack(flags).all(0)


def _finite_environments(body: PyTree, env_axis: int, num_envs: int) -> PerEnvFlag:
    flags = [jnp.ones((num_envs,), bool)]  # a state without floating point numbers cannot diverge
    for leaf in jax.tree.leaves(body):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            axes = tuple(a for a in range(leaf.ndim) if a != env_axis % leaf.ndim)
            flags.append(jnp.all(jnp.isfinite(leaf), axis=axes))
    return jnp.stack(flags).all(0)


def _select(flag: PerEnvFlag, chosen: PyTree, otherwise: PyTree, env_axis: int) -> PyTree:
    def pick(a, b):
        return jnp.where(flag_shape(flag, a, env_axis), a, b)

    return jax.tree.map(pick, chosen, otherwise)


def strong(tree: PyTree) -> PyTree:
    """Fixes weak types (of Python numbers): a jitted function would be traced once more for them."""
    return jax.tree.map(lambda leaf: _as(leaf.dtype, leaf), tree)


def _as(dtype: Any, leaf: Array) -> Array:
    """The array in this type, which is no longer weak; random keys stay as they are."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(leaf, dtype)
