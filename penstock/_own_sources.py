"""Which files somebody's code consists of: a file, and what it imports from beside it, now or later."""

import ast
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

MODELS = (".xml", ".mjcf", ".urdf", ".sdf", ".stl", ".obj", ".ply", ".msh", ".vtk", ".yaml", ".yml", ".toml")
"""Endings of files that count where a module names them. Others may be what it writes: logs, results."""


def source_files(path: pathlib.Path) -> list[pathlib.Path]:
    """A Python file, and the modules and other files beside it that it needs.

    Modules are those that it imports, directly or not, anywhere in its functions; files are models (`MODELS`) that its
    text names.

    Args:
        path: of the file.

    Returns:
        Absolute paths, sorted; the file itself among them.
    """
    path = path.resolve()
    found, waiting = {path}, [path]
    while waiting:
        for other in _mentioned(waiting.pop(), path.parent):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return sorted(found)


def source_hash(path: pathlib.Path) -> str:
    """SHA-256 of what a Python file consists of; of its bytes alone where it needs no other file.

    Where it lies, and what it is called, does not matter.
    """
    path = path.resolve()
    files = source_files(path)
    if files == [path]:
        return file_hash(path)
    parts = (f"{other.relative_to(path.parent)} {file_hash(other)}\n" for other in files if other != path)
    return hashlib.sha256("".join([file_hash(path), "\n", *parts]).encode()).hexdigest()


def file_hash(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_file(value: Any) -> bool:
    """Whether an option of a world is the name of a file."""
    try:
        return isinstance(value, str) and "." in value and pathlib.Path(value).is_file()
    except (OSError, ValueError):
        return False


def with_absolute_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a world in which files are named so that they are found from any folder."""
    return {name: str(pathlib.Path(value).resolve()) if names_file(value) else value for name, value in options.items()}


def _mentioned(path: pathlib.Path, folder: pathlib.Path) -> frozenset[pathlib.Path]:
    if path.suffix != ".py":
        return frozenset()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return frozenset()
    return _mentioned_in(text, path, folder)


@functools.lru_cache(256)
def _mentioned_in(text: str, path: pathlib.Path, folder: pathlib.Path) -> frozenset[pathlib.Path]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return frozenset()
    found: set[pathlib.Path] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                found |= _module(folder, name.name)
        elif isinstance(node, ast.ImportFrom):
            base = folder
            if node.level:
                base = path.parent
                for _ in range(node.level - 1):
                    base = base.parent
            module = node.module or ""
            found |= _module(base, module) if module else set()
            for name in node.names:
                found |= _module(base, f"{module}.{name.name}" if module else name.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= _named_file(path.parent, node.value)
    return frozenset(other for other in found if other.is_relative_to(folder))


def _module(base: pathlib.Path, dotted: str) -> set[pathlib.Path]:
    """Files of a module and of the packages that it lies in, as far as they are below ``base``."""
    found, place = set(), base
    for part in dotted.split("."):
        place = place / part
        found |= {file.resolve() for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return found


def _named_file(folder: pathlib.Path, text: str) -> set[pathlib.Path]:
    if not 0 < len(text) < 200 or not text.endswith(MODELS):
        return set()
    try:
        place = (folder / text).resolve()
        return {place} if place.is_file() else set()
    except (OSError, ValueError):
        return set()
