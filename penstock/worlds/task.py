"""What an author writes to add a world: the rules of one task, without episodes, resets or guards.

`Task` is batched: its state holds N environments along one axis of every leaf. Authors who think in a single
environment write a `SingleTask` and wrap it: ``Vmapped(MyTask())``. `penstock.worlds.world.FunctionalWorld` adds
episodes, automatic reset and the guards, in one place for all tasks.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from penstock._types import Actions, Key, PerEnv, PerEnvFlag
from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Scene
from penstock.worlds.randomization.terms import Evaluated


class Outcome(NamedTuple):
    """What one control step brought, for N environments (or for one, without the axis, in a `SingleTask`).

    Attributes:
        reward: reward of the step, differentiable with respect to state and action.
        terminated: whether the episode ended for a reason inside the task (not the time limit).
        diagnostics: named numbers for people, one per environment (for example ``forward_velocity`` in m/s).
    """

    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    diagnostics: dict[str, Float[Array, "..."]]


class Declarations(eqx.Module):
    """What a task says of itself, whether it is written for one environment or for many.

    Attributes:
        action_size: d. Actions arrive inside [-1, 1]^d.
        observation_spec: sizes of the observation.
        episode_length: control steps until the time limit.
        control_timestep: seconds of simulated time per control step.
        recorded: names of the fields that `describe` tells.
    """

    action_size: eqx.AbstractVar[int]
    observation_spec: eqx.AbstractVar[ObservationSpec]
    episode_length: eqx.AbstractVar[int]
    control_timestep: eqx.AbstractVar[float]
    recorded: ClassVar[tuple[str, ...]] = ()

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through ``advance``. A task with jumps or host code overrides this with False."""
        return True

    @property
    def nominal(self) -> "Declarations | None":
        """The same rules without what a configuration randomises; None where none does."""
        return None

    @property
    def evaluated(self) -> Evaluated:
        """Where policies are evaluated if nobody says otherwise."""
        return "randomized"

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends ``(d,)`` of actions in the units of what they move; a task that scales them overrides this."""
        return -np.ones(self.action_size), np.ones(self.action_size)

    @property
    def mujoco_model(self) -> Any:
        """The model of MuJoCo's that the task moves; None for others."""
        return None

    def describe(self) -> dict[str, Any]:
        """Constants worth recording in a run's ``config.json`` (sizes, materials, time step)."""
        return {name: getattr(self, name) for name in self.recorded}


class Task(Declarations):
    """Rules of a batched, differentiable task.

    Attributes:
        env_axis: the axis of every state leaf that counts environments: 0, or -1 for coordinate-major physics.
    """

    env_axis: ClassVar[int] = 0

    @abc.abstractmethod
    def initial(self, key: Key, num_envs: int) -> PyTree:
        """Draws the state of ``num_envs`` environments at the start of an episode."""

    @abc.abstractmethod
    def advance(self, state: PyTree, action: Actions) -> tuple[PyTree, Outcome]:
        """Moves every environment one control step on, without noise.

        What differs from episode to episode (masses, friction: domain randomisation) belongs to the state, where
        `initial` draws it.
        """

    def advance_noisily(self, state: PyTree, action: Actions, key: Key) -> tuple[PyTree, Outcome]:
        """`advance` with the noise of one step (pushes, noisy sensors, late actions); where a task has any.

        Args:
            state: of N environments.
            action: inside [-1, 1].
            key: fresh at every step.
        """
        del key
        return self.advance(state, action)

    @property
    def draws_noise(self) -> bool:
        """Whether steps draw noise: whether `advance_noisily` is the task's own."""
        return type(self).advance_noisily is not Task.advance_noisily

    @abc.abstractmethod
    def observe(self, state: PyTree) -> Observation:
        """Returns what the policy sees, with a leading environment axis."""

    def scene(self, state: PyTree, env: int) -> Scene | None:
        """Describes environment ``env`` for a picture (host side, NumPy), or returns None if it cannot be drawn."""
        del state, env
        return None


class SingleTask(Declarations):
    """The same rules for one environment: states, actions ``(d,)`` and outcomes carry no environment axis."""

    @abc.abstractmethod
    def initial(self, key: Key) -> PyTree:
        """Draws the state at the start of an episode."""

    @abc.abstractmethod
    def advance(self, state: PyTree, action: Float[Array, "d"]) -> tuple[PyTree, Outcome]:
        """Moves one control step on, without noise."""

    def advance_noisily(self, state: PyTree, action: Float[Array, "d"], key: Key) -> tuple[PyTree, Outcome]:
        """See `Task.advance_noisily`."""
        del key
        return self.advance(state, action)

    @abc.abstractmethod
    def observe(self, state: PyTree) -> Observation:
        """Returns what the policy sees."""

    def scene(self, state: PyTree) -> Scene | None:
        """Describes the state for a picture, or returns None."""
        del state
        return None


class Around(Declarations):
    """A task around another one: it declares what that declares, unless it says otherwise.

    Attributes:
        inner: the other task.
    """

    inner: eqx.AbstractVar[Any]

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Declarations.action_range`."""
        return self.inner.action_range

    @property
    def mujoco_model(self) -> Any:
        """See `Declarations.mujoco_model`."""
        return self.inner.mujoco_model

    def describe(self) -> dict[str, Any]:
        """See `Declarations.describe`."""
        return self.inner.describe()


class Vmapped(Task):
    """A `SingleTask`, batched by `jax.vmap`."""

    single: SingleTask
    action_size: int
    observation_spec: ObservationSpec
    episode_length: int
    control_timestep: float

    def __init__(self, single: SingleTask):
        self.single = single
        self.action_size = single.action_size
        self.observation_spec = single.observation_spec
        self.episode_length = single.episode_length
        self.control_timestep = single.control_timestep

    @property
    def differentiable(self) -> bool:
        """See `Declarations.differentiable`."""
        return self.single.differentiable

    @property
    def nominal(self) -> "Vmapped | None":
        """See `Declarations.nominal`."""
        single = self.single.nominal
        return Vmapped(single) if isinstance(single, SingleTask) else None

    @property
    def evaluated(self) -> Evaluated:
        """See `Declarations.evaluated`."""
        return self.single.evaluated

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Declarations.action_range`."""
        return self.single.action_range

    @property
    def mujoco_model(self) -> Any:
        """See `Declarations.mujoco_model`."""
        return self.single.mujoco_model

    def initial(self, key: Key, num_envs: int) -> PyTree:
        """See `Task.initial`."""
        return jax.vmap(self.single.initial)(jax.random.split(key, num_envs))

    def advance(self, state: PyTree, action: Actions) -> tuple[PyTree, Outcome]:
        """See `Task.advance`."""
        return jax.vmap(self.single.advance)(state, action)

    def advance_noisily(self, state: PyTree, action: Actions, key: Key) -> tuple[PyTree, Outcome]:
        """See `Task.advance_noisily`; every environment has noise of its own."""
        return jax.vmap(self.single.advance_noisily)(state, action, jax.random.split(key, action.shape[0]))

    @property
    def draws_noise(self) -> bool:
        """See `Task.draws_noise`."""
        return type(self.single).advance_noisily is not SingleTask.advance_noisily

    def observe(self, state: PyTree) -> Observation:
        """See `Task.observe`."""
        return jax.vmap(self.single.observe)(state)

    def scene(self, state: PyTree, env: int) -> Scene | None:
        """See `Task.scene`."""
        return self.single.scene(jax.tree.map(lambda leaf: leaf[env], state))

    def describe(self) -> dict[str, Any]:
        """See `Declarations.describe`."""
        return self.single.describe()


def flag_shape(flag: PerEnvFlag | PerEnv, leaf: Array, env_axis: int) -> Array:
    """Reshapes a per-environment vector so that it broadcasts against ``leaf`` along its environment axis."""
    if env_axis == 0:
        return flag.reshape(flag.shape + (1,) * (leaf.ndim - 1))
    return flag.reshape((1,) * (leaf.ndim - 1) + flag.shape)
