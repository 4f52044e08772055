"""What environments tell in Gymnasium's ``info``: success, and numbers that a user names.

Of a single environment an info is a dictionary; of N that step together a dictionary of arrays, in which an entry
``_name`` says who told ``name``, and ``final_info`` is what was told at the end of an episode, where the environments
have begun the next one already. Entries inside of dictionaries are named with dots: ``reward.forward``.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from penstock._errors import suggest

SUCCESS_NAMES = ("is_success", "success")
"""Entries that say whether the task is fulfilled: a flag, or a number that is not 0. The first that is there counts."""

SUCCESS = "success"
"""What a transition's diagnostics call it."""

PREFIX = "info/"
"""What stands there before the numbers that a user names, so that none is mistaken for a number of ours."""

NAMES = "penstock.names"
"""An entry of ours: the names of all numbers that an environment has told, one per line."""

FINAL = "final_info"


class Listener:
    """Picks from the infos of one environment what is wanted.

    Args:
        names: of the entries that are wanted.
    """

    def __init__(self, names: tuple[str, ...]):
        self._names = names
        self._keys: set[Any] = set()

    def heard(self, info: Any) -> dict[str, Any]:
        """The wanted entries that are numbers, and the names of all where there is a new one."""
        if type(info) is not dict and not isinstance(info, Mapping):  # the first is quick to tell
            return {}
        told: dict[str, Any] = {}
        for name in self._names:
            if name not in info and "." not in name:
                continue
            number = _number(_entry(info, name)[0])
            if number is not None:
                told[name] = number
        if not info.keys() <= self._keys:
            self._keys |= info.keys()
            told[NAMES] = "\n".join(name for name, value in _entries(info) if _number(value) is not None)
        return told


class InfoReader:
    """Reads the infos of N environments, as diagnostics, and remembers what there is.

    Attributes:
        log_info: the entries that a user names.
        wanted: all that are looked at.
        known: names of all numbers that were told so far.
        told: those of the wanted ones that were told.
        episodes: how many episodes have ended; whoever steps the environments counts them.
    """

    def __init__(self, log_info: tuple[str, ...], num_envs: int):
        self.log_info = log_info
        self.wanted = tuple(dict.fromkeys((*SUCCESS_NAMES, *log_info)))
        self.known: set[str] = set()
        self.told: set[str] = set()
        self.episodes = 0
        self._num_envs = num_envs
        self._keys: set[Any] = set()

    def read(
        self, info: Any, ended: Bool[np.ndarray, "N"], counted: Bool[np.ndarray, "N"]
    ) -> dict[str, Float[np.ndarray, "N"]]:
        """What was told of a step: success (0 or 1), and what a user names; NaN where an environment told nothing.

        Args:
            info: as a vector of environments returns it.
            ended: where the environments themselves ended their episodes: what they told of it may be in
                ``final_info``.
            counted: False where the step is none, or what it brought cannot be used.

        Returns:
            By name; what no environment told is not there.
        """
        if not isinstance(info, Mapping) or not info:
            return {}
        if NAMES in info or not info.keys() <= self._keys:
            self._keys |= info.keys()
            self.known |= set(_names(info, self._num_envs))
        batches = [(info, counted)]
        if FINAL in info and ended.any():
            batches = [(info, counted & ~ended), (_as_batch(info[FINAL], self._num_envs), counted & ended)]
        found = {}
        for name in self.wanted:
            numbers = np.full((self._num_envs,), np.nan)
            for batch, where in batches:
                numbers = np.where(where, _numbers(batch, name, self._num_envs), numbers)
            if not np.isnan(numbers).all():
                found[name] = numbers
        self.told |= found.keys()
        success = next((found[name] for name in SUCCESS_NAMES if name in found), None)
        named = {f"{PREFIX}{name}": found[name].astype(np.float32) for name in self.log_info if name in found}
        if success is None:
            return named
        return {SUCCESS: np.where(np.isnan(success), np.nan, success != 0).astype(np.float32), **named}

    @property
    def success_name(self) -> str:
        """The entry that has told success so far; empty where none has."""
        return next((name for name in SUCCESS_NAMES if name in self.told), "")

    def missing(self) -> str:
        """A sentence on what a user named and no environment has told in an episode; empty where there is none."""
        missing = [name for name in self.log_info if name not in self.told] if self.episodes else []
        if not missing:
            return ""
        told = " ".join(
            f"'{name}' is no number in the info of any step so far.{suggest(name, self.known) if self.known else ''}"
            for name in missing
        )
        return f"log_info: {told}{'' if self.known else ' The environment tells no number there.'}"


# ---------------------------------------------------------------------- entries


def _entry(info: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """An entry and, in a vector's info, who told it; None where there is none."""
    if name in info:
        return info[name], info.get(f"_{name}")
    first, dot, rest = name.partition(".")
    inner = info.get(first)
    return _entry(inner, rest) if dot and isinstance(inner, Mapping) else (None, None)


def _entries(info: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """All entries with their dotted names."""
    for key, value in info.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _entries(value, f"{name}.") if key != FINAL else ()
        elif not (str(key).startswith("_") and str(key)[1:] in info) and name != NAMES:
            yield name, value


def _names(info: Mapping[str, Any], num_envs: int) -> list[str]:
    """Names of the numbers in an info of N environments, or of all that they have told where they say so."""
    if NAMES in info:
        return [name for text in np.asarray(info[NAMES], object).ravel() if text for name in str(text).split("\n")]
    return [name for name, _ in _entries(info) if not np.isnan(_numbers(info, name, num_envs)).all()]


def _number(value: Any) -> float | None:
    """A flag or a number, also in an array of one entry; None for anything else, and for what is not finite."""
    if isinstance(value, bool | int | float):
        number = float(value)
    elif isinstance(value, np.ndarray | np.generic) and value.size == 1 and value.dtype.kind in "biuf":
        number = float(value.reshape(-1)[0])
    else:
        return None
    return number if np.isfinite(number) else None


def _numbers(info: Mapping[str, Any], name: str, num_envs: int) -> Float[np.ndarray, "N"]:
    """One entry of N environments; NaN where it was not told, or is no number."""
    values, who = _entry(info, name)
    numbers = np.full((num_envs,), np.nan)
    if values is None or np.shape(values)[:1] != (num_envs,):
        return numbers
    array = np.asarray(values)
    if array.dtype.kind in "biuf" and array.size == num_envs:
        numbers[:] = array.reshape(-1)
        numbers[~np.isfinite(numbers)] = np.nan
    elif array.dtype == object and array.ndim == 1:
        numbers[:] = [np.nan if (number := _number(value)) is None else number for value in array]
    if who is not None:
        numbers[~np.asarray(who, bool)] = np.nan
    return numbers


def _as_batch(final: Any, num_envs: int) -> Mapping[str, Any]:
    """What was told at the ends of episodes, as a dictionary of arrays; some vectors list a dictionary for each."""
    if isinstance(final, Mapping):
        return final
    members = [member if isinstance(member, Mapping) else {} for member in final][:num_envs]
    names = {name for member in members for name, _ in _entries(member)}
    return {name: np.array([_entry(member, name)[0] for member in members], object) for name in names}
