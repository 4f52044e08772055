"""Mirrors: what a body that is alike on its left and its right sees and does, seen in a mirror.

A mirror is a signed permutation of the observation and one of the action, each its own inverse. Learning from mirrored
copies of all that was done makes both sides alike: augmentation, as in rsl_rl 5 and Mittal et al. 2024 (arXiv
2403.04359).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from penstock._errors import ConfigurationError, require
from penstock._settings import Part
from penstock.observation import Observation, ObservationSpec


@dataclasses.dataclass(frozen=True)
class SymmetrySettings(Part):
    """How a mirror changes observations and actions. Nothing is mirrored where nothing is given.

    Each entry tells where the entry in its place comes from: its number, from 1, negative where the sign turns.
    ``(1, -2, 4, 3)`` keeps the first, turns the sign of the second, and swaps the third and the fourth.
    """

    mirrored_observation: tuple[int, ...] = ()
    """Symmetry: which entry of the observed vector each one becomes in a mirror, from 1, negative where the sign turns.
    PPO then also learns from mirrored copies of what was done. With a history, of one observation. Empty for none."""
    mirrored_action: tuple[int, ...] = ()
    """Symmetry: the same for actions."""
    mirrored_privileged: tuple[int, ...] = ()
    """Symmetry: the same for what critics alone see, where the world has it."""

    def __post_init__(self):
        for field in dataclasses.fields(SymmetrySettings):
            _require_mirror(field.name, getattr(self, field.name))
        if bool(self.mirrored_observation) != bool(self.mirrored_action):
            given, missing = "mirrored_observation", "mirrored_action"
            if self.mirrored_action:
                given, missing = missing, given
            raise ConfigurationError(f"{given}: a mirror changes observations and actions; give {missing} too.")
        if self.mirrored_privileged and not self.mirrored_observation:
            raise ConfigurationError("mirrored_privileged: does nothing without mirrored_observation.")

    def mirror(self, spec: ObservationSpec, action_size: int) -> "Mirror | None":
        """The mirror of a world; None where nothing is mirrored.

        Raises:
            ConfigurationError: it does not fit the world.
        """
        if not self.mirrored_observation:
            return None
        if spec.points or spec.pixels is not None:
            raise ConfigurationError(
                "mirrored_observation: this world observes point clouds or pixels, which are not mirrored. Leave it "
                "out."
            )
        sizes = {
            "mirrored_observation": spec.present,
            "mirrored_action": action_size,
            "mirrored_privileged": spec.privileged,
        }
        for field, size in sizes.items():
            found = len(getattr(self, field))
            if found != size:
                raise ConfigurationError(f"{field}: has {found} entries, and this world has {size}. Give one for each.")
        vector, action, privileged = (_table(getattr(self, field)) for field in sizes)
        return Mirror(_repeated(vector, spec.history), action, privileged)


def _require_mirror(field: str, entries: tuple[int, ...]) -> None:
    sources = sorted(abs(entry) for entry in entries)
    every = sources == list(range(1, len(entries) + 1))
    require(every, field, entries, f"must name every number from 1 to {len(entries)} once, negative or not")
    for place, entry in enumerate(entries, start=1):
        back = entries[abs(entry) - 1]
        returns = abs(back) == place and (back > 0) == (entry > 0)
        require(
            returns,
            field,
            entries,
            f"twice in the mirror is the thing itself: entry {place} is {entry}, so entry {abs(entry)} must be "
            f"{place if entry > 0 else -place}",
        )


Table = tuple[np.ndarray, np.ndarray]
"""Where each entry comes from, and its sign."""


def _table(entries: tuple[int, ...]) -> Table:
    signed = np.asarray(entries, np.int64)
    return np.abs(signed) - 1, np.sign(signed).astype(np.float32)


def _repeated(table: Table, times: int) -> Table:
    """The table of a history, each observation of which is mirrored alike."""
    places, signs = table
    shifts = len(places) * np.repeat(np.arange(times), len(places))
    return np.tile(places, times) + shifts, np.tile(signs, times)


@dataclasses.dataclass(frozen=True)
class Mirror:
    """A mirror that fits a world: tables of the vector, the action and the privileged part."""

    vector: Table
    action: Table
    privileged: Table

    def observation(self, observation: Observation) -> Observation:
        """Raw observations in the mirror, for any leading axes."""
        seen = dataclasses.replace(observation, vector=_mirrored(observation.vector, self.vector))
        if observation.privileged is None:
            return seen
        return dataclasses.replace(seen, privileged=_mirrored(observation.privileged, self.privileged))

    def record(self, record: Any) -> Any:
        """What was drawn, in the mirror: latents and paths alike, whose last axis is that of the action."""
        return jax.tree.map(lambda leaf: _mirrored(leaf, self.action), record)


def _mirrored(values: Any, table: Table) -> Any:
    places, signs = table
    return jnp.take(values, places, axis=-1) * signs
