"""Files that survive a kill: written whole and synced, or not there at all."""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
TRASH = ".trash-"
REPLACED = ".replaced-"
BAD = ".bad-"


def _phase(name: str) -> None:
    """Does nothing. Fault tests replace it to stop the process at a named moment of a write or a deletion."""
    del name


def phase(name: str) -> None:
    """Marks a moment at which a kill is interesting. See `_phase`."""
    _phase(name)


def sync_directory(directory: Path) -> None:
    """Makes renames, creations and deletions inside ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Creates a directory and its missing parents, durably."""
    missing = [directory, *directory.parents]
    missing = missing[: next((i for i, path in enumerate(missing) if path.is_dir()), len(missing))]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and syncs its content (not its directory)."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content``: a reader sees the old file or the new one, also after a kill."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{unique()}")
    try:
        write_synced(temporary, content)
        phase("file-written")
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def discard(directory: Path) -> None:
    """Deletes a directory in two steps, so that a kill never leaves half of it under its own name."""
    trash = directory.with_name(f"{TRASH}{directory.name}-{unique()}")
    directory.rename(trash)
    phase("trash-renamed")
    sync_directory(directory.parent)
    for entry in sorted(trash.iterdir()):
        if entry.is_file() or entry.is_symlink():
            entry.unlink()
        else:
            shutil.rmtree(entry)
        phase("trash-half-deleted")
    trash.rmdir()
    phase("trash-deleted")


def clean_leftovers(directory: Path) -> list[str]:
    """Removes what killed writers left: temporary and trash entries. Call it only under the run's lock.

    Returns:
        The names of what was removed or put back.
    """
    if not directory.is_dir():
        return []
    handled: list[str] = []
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith(REPLACED):
            original = entry.with_name(entry.name.removeprefix(REPLACED))
            if not original.exists():
                entry.rename(original)
            else:
                shutil.rmtree(entry)
        elif entry.name.startswith((TEMPORARY, TRASH)):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        else:
            continue
        handled.append(entry.name)
    if handled:
        sync_directory(directory)
    return handled


def unique() -> str:
    """A short token that no other file carries. Not from a seeded generator: it names files, never decides."""
    return uuid.uuid4().hex[:8]


def strict_json(text: bytes | str) -> Any:
    """Parses JSON, refusing duplicate names and NaN. Raises `ValueError` with a reason."""

    def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=unique_names, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
