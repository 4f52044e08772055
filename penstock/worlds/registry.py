"""Worlds by name: ``soft/jumper-mini``, ``classic/pendulum``, ... One line registers a new one."""

import dataclasses
from collections.abc import Callable
from typing import Any

from penstock._errors import ConfigurationError, require, suggest
from penstock._field_types import convert, parameter_types
from penstock.worlds.task import Task
from penstock.worlds.world import FunctionalWorld


@dataclasses.dataclass(frozen=True)
class WorldEntry:
    """One registered world.

    Attributes:
        name: the name after ``--world``.
        summary: one line for ``penstock worlds``.
        make_task: builds the task; its keyword arguments are the world's options.
    """

    name: str
    summary: str
    make_task: Callable[..., Task]


_entries: dict[str, WorldEntry] = {}


def register_world(name: str, summary: str, make_task: Callable[..., Task]) -> None:
    """Makes a world known under ``name``. A name can be taken once."""
    require(name not in _entries, "world name", name, "is taken; choose another name")
    _entries[name] = WorldEntry(name, summary, make_task)


def world_entries() -> list[WorldEntry]:
    """All registered worlds, by name."""
    return [_entries[name] for name in sorted(_entries)]


def world_entry(name: str) -> WorldEntry:
    """Finds a registered world.

    Raises:
        ConfigurationError: unknown name.
    """
    if name not in _entries:
        raise ConfigurationError(f"Unknown world '{name}'.{suggest(name, _entries)} See `penstock worlds`.")
    return _entries[name]


def make_world(name: str, num_envs: int, **options: Any) -> FunctionalWorld:
    """Builds a world.

    Args:
        name: a registered name.
        num_envs: N, at least 1.
        **options: passed to the task's constructor.

    Raises:
        ConfigurationError: unknown name, unknown option, or a value out of range.
    """
    entry = world_entry(name)
    require(num_envs >= 1, "num_envs", num_envs, "must be at least 1")
    try:
        task = entry.make_task(**options)
    except ConfigurationError:
        raise
    except (TypeError, ValueError) as error:
        _refuse_wrong_types(entry.make_task(), options)
        raise ConfigurationError(f"world '{name}' does not take the options {sorted(options)}: {error}") from error
    _refuse_wrong_types(task, options)
    return FunctionalWorld(name, task, num_envs)


def _refuse_wrong_types(task: Task, options: dict[str, Any]) -> None:
    types = option_types(task)
    for option, value in options.items():
        convert(value, types.get(option, Any), option)


def option_types(task: Task) -> dict[str, Any]:
    """Annotations of the options of a task: the parameters of its class, or of the class it wraps."""
    return {
        name: hint for name, hint in parameter_types(type(getattr(task, "single", task))).items() if name != "return"
    }
