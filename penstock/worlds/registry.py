"""Worlds by name: ``soft/jumper-mini``, ``classic/pendulum``, ... One line registers a new one.

Worlds of others come in families whose members nobody lists here: ``gym/<id>``, ``dmc/<domain>-<task>``,
``jax/<package>:<id>``.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from penstock._errors import ConfigurationError, require, suggest
from penstock._field_types import convert, parameter_types
from penstock.worlds.task import SingleTask, Task, Vmapped
from penstock.worlds.world import FunctionalWorld, World


@dataclasses.dataclass(frozen=True)
class WorldEntry:
    """One registered world.

    Attributes:
        name: the name after ``--world``.
        summary: one line for ``penstock worlds``.
        make_task: builds the task, of one environment or batched; its keyword arguments are the world's options.
    """

    name: str
    summary: str
    make_task: Callable[..., Task | SingleTask]


@dataclasses.dataclass(frozen=True)
class WorldFamily:
    """Worlds that somebody else names.

    Attributes:
        prefix: what stands before the slash.
        pattern: how the names look, for messages.
        summary: one line for ``penstock worlds``.
        make: builds a world from what stands behind the slash, the number of environments, and options.
        also: what others call it in place of the prefix.
        functional: whether its worlds live inside `jax.jit`, or are hosted.
        packages: what may stand before a colon; a module of a user's is meant by anything else. None where every
            colon is a matter of the family's own names.
    """

    prefix: str
    pattern: str
    summary: str
    make: Callable[..., World]
    also: tuple[str, ...] = ()
    functional: bool = False
    packages: tuple[str, ...] | None = None


_entries: dict[str, WorldEntry] = {}
_families: dict[str, WorldFamily] = {}


def register_world(name: str, summary: str, make_task: Callable[..., Task | SingleTask]) -> None:
    """Makes a world known under ``name``. A name can be taken once."""
    require(name not in _entries, "world name", name, "is taken; choose another name")
    _entries[name] = WorldEntry(name, summary, make_task)


def register_family(
    prefix: str,
    pattern: str,
    summary: str,
    make: Callable[..., World],
    also: tuple[str, ...] = (),
    functional: bool = False,
    packages: tuple[str, ...] | None = None,
) -> None:
    """Makes a family of worlds known under ``prefix/``. A prefix can be taken once. See `WorldFamily`."""
    require(prefix not in _families, "world family", prefix, "is taken; choose another prefix")
    _families[prefix] = WorldFamily(prefix, pattern, summary, make, also, functional, packages)


def is_own(name: str) -> bool:
    """Whether a name means somebody's module or file (``place:attribute``), not a world of ours or of a family.

    An id of a family may hold a colon itself: ``gym/package:Id-v0``, ``jax/brax:ant``; but ``jax/my_module:make`` is
    somebody's own.
    """
    return own_place(name) is not None


def own_place(name: str) -> str | None:
    """Somebody's ``place:attribute`` that a name means, without the prefix of a family; None where it means none."""
    prefix, _, member = name.partition("/")
    if prefix not in _families:
        return name if ":" in name else None
    packages = _families[prefix].packages
    if packages is None or ":" not in member or member.partition(":")[0] in packages:
        return None
    return member


def of_family(name: str) -> bool:
    """Whether a name is one of a family."""
    return name.partition("/")[0] in _families


def world_families() -> list[WorldFamily]:
    """All families, by prefix."""
    return [_families[prefix] for prefix in sorted(_families)]


def refuse_unknown(name: str) -> None:
    """Raises `ConfigurationError` unless the name is registered, or belongs to a family."""
    if not of_family(name):
        world_entry(name)


def world_entries() -> list[WorldEntry]:
    """All registered worlds, by name."""
    return [_entries[name] for name in sorted(_entries)]


def world_entry(name: str) -> WorldEntry:
    """Finds a registered world.

    Raises:
        ConfigurationError: unknown name.
    """
    if name not in _entries:
        others = ", ".join(family.pattern for family in world_families())
        meant = _meant(name) or suggest(name, _entries)
        raise ConfigurationError(
            f"Unknown world '{name}'.{meant} Worlds of others are named {others}; your own "
            "path/to/file.py:name. See `penstock worlds`."
        )
    return _entries[name]


def _meant(name: str) -> str:
    """What somebody means who names the world of a family as others do; empty where that is not clear."""
    prefix, slash, member = name.partition("/")
    also = {other: family.prefix for family in world_families() for other in family.also}
    if slash and prefix.lower() in also:
        return f" Did you mean '{also[prefix.lower()]}/{member}'?"
    return f" An id of Gymnasium is written 'gym/{name}'." if re.search(r"-v\d+$", name) else ""


def make_world(name: str, num_envs: int, **options: Any) -> World:
    """Builds a world.

    Args:
        name: a registered name, or that of a family's member.
        num_envs: N, at least 1.
        **options: passed to the task's constructor.

    Raises:
        ConfigurationError: unknown name, unknown option, or a value out of range.
    """
    prefix, slash, member = name.partition("/")
    if prefix in _families:
        require(num_envs >= 1, "num_envs", num_envs, "must be at least 1")
        require(bool(slash and member), "world", name, f"write {_families[prefix].pattern}")
        return _families[prefix].make(member, num_envs, **options)
    return make_functional_world(name, num_envs, **options)


def make_functional_world(name: str, num_envs: int, **options: Any) -> FunctionalWorld:
    """Builds a world that lives inside `jax.jit`. See `make_world`."""
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
    return FunctionalWorld(name, Vmapped(task) if isinstance(task, SingleTask) else task, num_envs)


def _refuse_wrong_types(task: Task | SingleTask, options: dict[str, Any]) -> None:
    types = option_types(task)
    for option, value in options.items():
        convert(value, types.get(option, Any), option)


def option_types(task: Task | SingleTask) -> dict[str, Any]:
    """Annotations of the options of a task: the parameters of its class, or of the class it wraps."""
    return {
        name: hint for name, hint in parameter_types(type(getattr(task, "single", task))).items() if name != "return"
    }
