"""Gymnasium's ids: what to say where one is not registered, or out of date."""

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from penstock.worlds.hosted.packages import suggest_few

MOST_LISTED = 8
"""Ids of a package that are listed in a sentence, at most."""


def unknown_id(name: str, package: str, registry: Mapping[str, Any]) -> str:
    """Says that an id is not registered, and what is near.

    Args:
        name: the id, without its package.
        package: the module that was imported for it; empty where none was named.
        registry: Gymnasium's, by ids.
    """
    if package:
        return f"{package} is there, but registers no '{name}' with Gymnasium.{_ids_of(package, name, registry)}"
    space = name.partition("/")[0] if "/" in name else ""
    if space and _is_there(space):
        return f"Gymnasium knows no '{name}' yet: its package is imported first where you write gym/{space}:{name}."
    return (
        f"Gymnasium knows no '{name}'.{suggest_few(name, registry)} An id of another package is written "
        "gym/package:Id-v0; a class or function of yours path/to/file.py:name."
    )


def newer_id(name: str, registry: Mapping[str, Any]) -> str:
    """Names the newest version of an id, where it has another; else nothing."""
    stem, version = _parted(name)
    versions = [(number, other) for other in registry for base, number in [_parted(other)] if base == stem]
    newest = max(versions, default=(version, name))
    return f" Its newest version is {newest[1]}." if newest[0] > version else ""


def _ids_of(package: str, name: str, registry: Mapping[str, Any]) -> str:
    tops = {ident: _module_of(spec).partition(".")[0] for ident, spec in registry.items() if spec.entry_point}
    theirs = sorted(ident for ident, top in tops.items() if top == package.partition(".")[0])
    # What a module registers may be made by another one; only what comes with Gymnasium is surely not meant.
    hint = suggest_few(name, theirs or [ident for ident, top in tops.items() if top != "gymnasium"])
    if hint or not theirs:
        return hint
    more = f", ... ({len(theirs)} in all)" if len(theirs) > MOST_LISTED else ""
    return f" It registers {', '.join(theirs[:MOST_LISTED])}{more}."


def _module_of(spec: Any) -> str:
    """The module that holds what makes an environment."""
    entry = spec.entry_point
    return entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None) or ""


def _parted(name: str) -> tuple[str, int]:
    """An id without its version, and that; -1 for none."""
    found = re.fullmatch(r"(.*)-v(\d+)", name)
    return (found[1], int(found[2])) if found else (name, -1)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
