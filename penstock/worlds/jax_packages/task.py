"""An environment that somebody else wrote in JAX, as a task: inside `jax.jit`, with our episodes, resets and guards."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from penstock._errors import ConfigurationError, require
from penstock._types import Key
from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Scene
from penstock.worlds.hosted.environments import NoTimeLimitError
from penstock.worlds.hosted.infos import PREFIX, SUCCESS
from penstock.worlds.jax_packages.environment import JaxEnvironment, as_observation, observed_names
from penstock.worlds.task import Outcome, SingleTask


class JaxTask(SingleTask):
    """The rules of a `JaxEnvironment`.

    Its gradients are not to be trusted (contacts, solvers that iterate until they have converged, cut on purpose), so
    none are declared.

    Args:
        environment: one of it.
        max_episode_steps: control steps until the time limit, in place of the environment's own.
        action_repeat: the environment's own steps per control step; rewards add up, until the task ends.

    Raises:
        ConfigurationError: a number out of range, no time limit, or an observation of a kind that is not supported.
    """

    environment: JaxEnvironment = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    observation_spec: ObservationSpec = eqx.field(static=True)
    episode_length: int = eqx.field(static=True)
    control_timestep: float = eqx.field(static=True)
    action_repeat: int = eqx.field(static=True)
    _types: tuple[Any, ...] = eqx.field(static=True)

    def __init__(
        self, environment: JaxEnvironment, max_episode_steps: int | None = None, action_repeat: int | None = None
    ):
        repeat = environment.action_repeat if action_repeat is None else action_repeat
        require(repeat >= 1, "action_repeat", repeat, "must be at least 1")
        if max_episode_steps is None:
            if environment.max_steps is None:
                raise NoTimeLimitError(
                    f"'{environment.name}' states no time limit, so an episode that never ends could not be evaluated. "
                    "Pass --world-option max_episode_steps=1000, or another number of control steps."
                )
            max_episode_steps = -(-environment.max_steps // repeat)
        require(max_episode_steps >= 1, "max_episode_steps", max_episode_steps, "must be at least 1")
        self.environment = environment
        self.action_size = len(environment.action_low)
        self.episode_length = max_episode_steps
        self.action_repeat = repeat
        self.control_timestep = environment.timestep * repeat
        self._types = self._lasting_types()
        seen = jax.eval_shape(lambda key: self.observe(self.initial(key)), jax.random.key(0))
        privileged = 0 if seen.privileged is None else seen.privileged.shape[-1]
        self.observation_spec = ObservationSpec(seen.vector.shape[-1], privileged=privileged)

    @property
    def differentiable(self) -> bool:
        """False: see the class."""
        return False

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Declarations.action_range`; the environment's own."""
        return np.asarray(self.environment.action_low, float), np.asarray(self.environment.action_high, float)

    @property
    def mujoco_model(self) -> Any:
        """See `Declarations.mujoco_model`."""
        return self.environment.mujoco_model

    @property
    def observed_names(self) -> list[str]:
        """A name for each number of the policy's vector, see `penstock.worlds.jax_packages.environment`."""
        shown = jax.eval_shape(lambda key: self.environment.observed(self.initial(key)), jax.random.key(0))
        return observed_names(shown)

    def describe(self) -> dict[str, Any]:
        """Package, engine and versions; see `JaxEnvironment.constants`."""
        return {**self.environment.constants, "action_repeat": self.action_repeat}

    def initial(self, key: Key) -> PyTree:
        """The environment's own state, in the types that it keeps."""
        leaves, structure = jax.tree.flatten(_fixed(self.environment.reset(key)))
        return jax.tree.unflatten(structure, map(_in_type, leaves, self._types))

    def advance(self, state: PyTree, action: Float[Array, "d"]) -> tuple[PyTree, Outcome]:
        """See `SingleTask.advance`. Noise of the environment comes from the key in its state."""
        environment = self.environment
        low, high = (jnp.asarray(bound, action.dtype) for bound in (environment.action_low, environment.action_high))
        scaled = action
        if (environment.action_low != -1.0).any() or (environment.action_high != 1.0).any():
            scaled = jnp.clip(low + 0.5 * (action + 1.0) * (high - low), low, high)

        def once(carry, _):
            before, total, over = carry
            after = self._stepped(before, scaled)
            told = environment.told(after)
            total = total + jnp.where(over, 0.0, told.reward)
            after = jax.tree.map(lambda old, new: jnp.where(over, old, _in_type(new, old.dtype)), before, after)
            return (after, total, over | told.terminated), None

        start = (state, jnp.zeros(()), jnp.zeros((), bool))
        if self.action_repeat == 1:
            (state, reward, terminated), _ = once(start, None)
        else:
            (state, reward, terminated), _ = jax.lax.scan(once, start, length=self.action_repeat)
        told = environment.told(state)
        diagnostics = {f"{PREFIX}{name}": number for name, number in told.numbers.items()}
        if told.success is not None:
            diagnostics[SUCCESS] = (told.success != 0).astype(float)
        return state, Outcome(reward, terminated, diagnostics)

    def observe(self, state: PyTree) -> Observation:
        """See `penstock.worlds.jax_packages.environment.as_observation`."""
        return as_observation(self.environment.observed(state), self.environment.name)

    def scene(self, state: PyTree) -> Scene | None:
        """A picture of its MuJoCo model, where it has one."""
        return self.environment.scene(state)

    def _lasting_types(self) -> tuple[Any, ...]:
        """The type of each leaf of a state: some begin with whole numbers, or flags, and go on with others."""

        def begin(key):
            before = _fixed(self.environment.reset(key))
            return before, self._stepped(before, jnp.asarray(self.environment.action_low, float))

        before, after = map(jax.tree.leaves, jax.eval_shape(begin, jax.random.key(0)))
        return tuple(
            new.dtype if old.dtype == new.dtype else jnp.promote_types(old.dtype, new.dtype)
            for old, new in zip(before, after, strict=True)
        )

    def _stepped(self, before: PyTree, action: Float[Array, "d"]) -> PyTree:
        """One of the environment's own steps."""
        after = _fixed(self.environment.step(before, action))
        if jax.tree.structure(before) != jax.tree.structure(after):
            raise ConfigurationError(
                f"'{self.environment.name}': step() returns a state of another structure than reset():"
                f"{_difference(before, after)} Let both hold the same entries."
            )
        return after


def _fixed(state: PyTree) -> PyTree:
    """A state whose numbers of Python are arrays."""
    return jax.tree.map(jnp.asarray, state)


def _in_type(leaf: Array, dtype: Any) -> Array:
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)


def _difference(before: PyTree, after: PyTree) -> str:
    paths = [
        {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(s)} for s in (before, after)
    ]
    parts = [
        f" {' and '.join(sorted(names)[:3])} is in the state of {where} alone."
        for where, names in (("reset()", paths[0] - paths[1]), ("step()", paths[1] - paths[0]))
        if names
    ]
    return "".join(parts) or " the kinds of their parts differ."
