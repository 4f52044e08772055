"""What a task needs of one environment that somebody else wrote in JAX, whatever its package calls things.

The conventions of two families of packages fulfil it: `penstock.worlds.jax_packages.brax_convention` (Brax, MuJoCo
Playground) and `penstock.worlds.jax_packages.gymnax_convention`.
"""

import abc
import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from penstock._errors import ConfigurationError
from penstock._types import Key
from penstock.observation import Observation
from penstock.scene.items import Scene

PRIVILEGED = "privileged_state"
"""The entry of a dictionary of observations that critics alone see, as Brax and Playground name it."""

DEFAULT_TIMESTEP = 0.05
"""Seconds per control step of an environment that states none, as for hosted worlds."""


class Told(NamedTuple):
    """What an environment says of its last step.

    Attributes:
        reward: of the step.
        terminated: whether the episode ended inside the task. A time limit is no termination.
        numbers: one number per name, for people.
        success: whether the task is fulfilled; None where the environment does not say.
    """

    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    numbers: dict[str, Float[Array, ""]]
    success: Float[Array, ""] | None


class JaxEnvironment(abc.ABC):
    """One environment as pure functions. States are pytrees of arrays, which hold random keys where steps need any.

    Attributes:
        name: of the world, for messages.
        action_low: ``(d,)`` lower bounds of its actions.
        action_high: ``(d,)`` upper bounds.
        max_steps: its own steps until its time limit; None where it states none.
        action_repeat: how many of its own steps it wants per control step.
        timestep: seconds of simulated time of one of its own steps.
        constants: what is worth recording in a run's ``config.json``.
    """

    name: str
    action_low: Float[np.ndarray, "d"]
    action_high: Float[np.ndarray, "d"]
    max_steps: int | None
    action_repeat: int
    timestep: float
    constants: Mapping[str, Any]

    @abc.abstractmethod
    def reset(self, key: Key) -> PyTree:
        """Draws a state at the start of an episode."""

    @abc.abstractmethod
    def step(self, state: PyTree, action: Float[Array, "d"]) -> PyTree:
        """Moves one of its own steps on, without reset and time limit; ``action`` lies between the bounds."""

    @abc.abstractmethod
    def observed(self, state: PyTree) -> Any:
        """What it shows: an array, or a dictionary of arrays."""

    @abc.abstractmethod
    def told(self, state: PyTree) -> Told:
        """What it says of the last step."""

    @property
    def replaceable(self) -> "ReplaceableModel | None":
        """Its MJX model, where that can be another one in every episode; None where there is none."""
        return None

    @property
    def mujoco_model(self) -> Any:
        """Its model of MuJoCo's; None where it has none."""
        return None

    def scene(self, state: PyTree) -> Scene | None:
        """A picture of a state (on the host, NumPy), or None."""
        del state
        return None


class ReplaceableModel(abc.ABC):
    """The MJX model of an environment, whose numbers may differ from episode to episode.

    Attributes:
        nominal: the ``mujoco.MjModel``.
    """

    nominal: Any

    @abc.abstractmethod
    def replaced(self, fields: Mapping[str, Array]) -> contextlib.AbstractContextManager[None]:
        """While this is open, the environment's functions compute with these numbers."""

    @abc.abstractmethod
    def with_velocity(self, state: PyTree, change: Float[Array, "nv"]) -> PyTree:
        """The environment's state with something added to ``qvel``."""

    @abc.abstractmethod
    def with_force(self, state: PyTree, change: Float[Array, "bodies 6"]) -> PyTree:
        """The environment's state with something added to ``xfrc_applied``."""


def legacy(key: Key) -> Array:
    """A random key in the form that these packages are written for: two numbers.

    A key of the new style is an array of a type of its own, which not all that they do with arrays can take.
    """
    return jax.random.key_data(key)


def as_observation(observed: Any, name: str) -> Observation:
    """What an environment shows, as the vector of the policy and what critics see beside.

    Entries of dictionaries, nested as they like, are joined in the order of their names. The entry `PRIVILEGED` is for
    critics.

    Raises:
        ConfigurationError: there are pictures, or nothing for the policy.
    """
    parts = dict(observed) if isinstance(observed, Mapping) else {"": observed}
    pictures = [part for part in parts if str(part).startswith("pixels/")]
    if pictures:
        raise ConfigurationError(
            f"'{name}': {pictures[0]} is a picture. Pictures of JAX packages are not supported; choose the observation "
            "of its state."
        )
    privileged = parts.pop(PRIVILEGED, None)
    if not jax.tree.leaves(parts):
        raise ConfigurationError(
            f"'{name}' shows nothing to the policy: its observation has no entry but {PRIVILEGED}."
        )
    return Observation(_joined(parts), privileged=None if privileged is None else _joined(privileged))


def observed_names(observed: Any) -> list[str]:
    """A name for each number of the policy's vector (`as_observation`): the entry of a dictionary, and the place."""
    parts = dict(observed) if isinstance(observed, Mapping) else {"observation": observed}
    parts.pop(PRIVILEGED, None)
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        name = ".".join(str(getattr(step, "key", getattr(step, "idx", step))) for step in path)
        names += [f"{name}[{index}]" for index in range(math.prod(np.shape(leaf)))]
    return names


def _joined(parts: PyTree) -> Float[Array, "n"]:
    # The leaves of a dictionary come in the order of their names.
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf)).astype(float) for leaf in jax.tree.leaves(parts)])


def numbers_of(entries: Any) -> dict[str, Float[Array, ""]]:
    """The entries of a dictionary that are one number each, by name; entries of dictionaries inside with a dot."""
    found: dict[str, Any] = {}
    if isinstance(entries, Mapping):
        for name, entry in entries.items():
            if isinstance(entry, Mapping):
                found |= {f"{name}.{inner}": number for inner, number in numbers_of(entry).items()}
            elif _is_number(entry):
                found[str(name)] = jnp.reshape(jnp.asarray(entry), ()).astype(float)
    return found


def _is_number(entry: Any) -> bool:
    if isinstance(entry, bool | int | float):
        return True
    dtype = getattr(entry, "dtype", None)
    plain = dtype is not None and (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_)
    return bool(plain) and math.prod(np.shape(entry)) == 1


def one_number(value: Any, what: str, name: str) -> Float[Array, ""]:
    """A reward or a flag.

    Raises:
        ConfigurationError: it is not one number.
    """
    if not _is_number(value):
        told = f"of shape {np.shape(value)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise ConfigurationError(
            f"'{name}': its {what} is {told}, not one number. It must be a single environment, not a batch of them."
        )
    return jnp.reshape(jnp.asarray(value), ()).astype(float)
