"""Which runs a sweep consists of, and what they are called: a grid, a list, or both."""

import dataclasses
import decimal
import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError, require
from penstock._mapping_files import parse_mapping, read_mapping
from penstock.training.config_files import Given, given_by, read_given, told_of

PARTS = ("base", "grid", "runs")
"""What a sweep's file may hold."""

LONGEST_NAME = 120
"""Longer names of points are cut, and made unique by a hash: file systems take 255 bytes."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: of its folder: what it says beside the base, ``actor_learning_rate=1e-4,policy=flow``.
        given: what the base and the point say of the run.
    """

    name: str
    given: Given


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is varied, as it was written.

    Attributes:
        where: the file, for messages; empty where there is none.
        base: what all runs share.
        grid: names and the values that they take; every combination is a run.
        runs: further names and values, each with the grid's combinations; one of none where there is no list.
    """

    where: str = ""
    base: Given = dataclasses.field(default_factory=Given)
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    runs: Sequence[Mapping[str, Any]] = ({},)

    def with_grid(self, grid: Mapping[str, Sequence[Any]]) -> "Sweep":
        """The same with further names, or other values of a name."""
        return dataclasses.replace(self, grid={**self.grid, **grid})

    def points(self) -> list[Point]:
        """All runs, in the order of the list, the last name of the grid varying fastest.

        Raises:
            ConfigurationError: nothing is varied, a name is unknown, or two runs would have one name.
        """
        if not self.grid and not any(self.runs):
            raise ConfigurationError(
                "nothing is varied. Name a grid, for example --grid actor_learning_rate=1e-4,3e-4, or a file with "
                "`grid` or `runs` (docs/experiments.md)."
            )
        points: dict[str, Point] = {}
        for entry in self.runs:
            for twice in {*entry} & {*self.grid}:
                raise ConfigurationError(f"'{twice}' is in the grid and in the list of runs. Leave one out.")
            for values in itertools.product(*self.grid.values()):
                combination = dict(zip(self.grid, values, strict=True))
                varied = {**entry, **combination}
                called = varied.pop("name", None)
                stated = [str(called), *([point_name(combination)] if combination else [])]
                name = point_name(varied) if called is None else file_name(",".join(stated))
                with told_of(self.where):
                    if name in points:
                        raise ConfigurationError(f"two runs would be called '{name}'. Give each a `name`.")
                points[name] = Point(name, self._given(name, varied))
        return list(points.values())

    def _given(self, name: str, varied: Mapping[str, Any]) -> Given:
        where = f"{self.where}: {name}" if self.where else name
        prefix = "world_options."
        options = {key.removeprefix(prefix): value for key, value in varied.items() if key.startswith(prefix)}
        point = given_by({key: value for key, value in varied.items() if not key.startswith(prefix)}, where)
        fields = {**self.base.fields, **point.fields}
        shared = {**self.base.fields.get("world_options", {}), **options}
        fields |= {"world_options": shared} if shared else {}
        return Given(where, fields, {**self.base.settings, **point.settings})


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep's file: ``base``, ``grid`` and ``runs``; or a file of one run, which is the base.

    Raises:
        ConfigurationError: naming the file, and what is wrong with it.
    """
    content = read_mapping(path)
    where = str(path)
    if not set(content) & set(PARTS):
        return Sweep(where, read_given(path))
    with told_of(where):
        for name in content:
            if name not in PARTS:
                raise ConfigurationError(
                    f"unknown field '{name}'. Beside {', '.join(PARTS)} a sweep's file holds nothing: what all runs "
                    "share belongs below base."
                )
        base = content.get("base") or {}
        require(isinstance(base, Mapping), "base", base, "must map names to values")
        grid = content.get("grid") or {}
        require(isinstance(grid, Mapping), "grid", grid, "must map names to lists of values")
        runs = content.get("runs") or [{}]
        fits = isinstance(runs, list) and all(isinstance(entry, Mapping) for entry in runs)
        require(fits, "runs", runs, "must be a list, and each entry map names to values")
        named_grid = {}
        for name, values in grid.items():
            require(isinstance(values, list), f"grid: {name}", values, f"must be a list of values, as in [{values}]")
            named_grid[_named(name)] = _varied(name, values)
        listed = [_flat(entry) for entry in runs]
    return Sweep(where, given_by(base, f"{where}: base"), named_grid, listed)


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Reads ``name=value,value`` texts; a value may be a list: ``actor_hidden=[64,64],[128,128]``.

    Raises:
        ConfigurationError: a text of another form, a name or a value that is there twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        require(bool(equals and name and values), "grid", text, "write name=value,value, as in policy=gaussian,flow")
        name = _named(name.removeprefix("--"))
        if name in grid:
            raise ConfigurationError(f"grid: '{name}' is there twice. Leave one out.")
        read = parse_mapping(f"values: [{values}]", f"grid: {name}", "YAML")["values"]
        grid[name] = _varied(name, [None if value == "None" else value for value in read])
    return grid


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a list without mappings: ``settings.NAME`` and ``world_options.NAME`` in their place."""
    pairs: list[tuple[str, Any]] = []
    for name, value in entry.items():
        nested = name.replace("-", "_") in ("settings", "world_options") and isinstance(value, Mapping)
        pairs += [(f"{name}.{inner}", below) for inner, below in value.items()] if nested else [(name, value)]
    flat: dict[str, Any] = {}
    for name, value in pairs:
        if _named(name) in flat:
            raise ConfigurationError(f"runs: '{_named(name)}' is there twice in one entry. Leave one out.")
        flat[_named(name)] = value
    return flat


def _named(name: str) -> str:
    """The name of what is varied; ``settings.`` before it, as messages have it, is left out."""
    name = name.replace("-", "_").removeprefix("settings.").replace("world_option.", "world_options.")
    if name in ("run_dir", "settings", "world_options"):
        instead = {"settings": "the settings themselves", "world_options": "world_options.NAME"}
        hint = f"Name {instead[name]}" if name in instead else "Folders are named by what varies, or by `name`"
        raise ConfigurationError(f"'{name}' cannot be varied. {hint}.")
    return name


def _varied(name: str, values: list[Any]) -> list[Any]:
    require(bool(values), f"grid: {name}", values, "must hold one value or more")
    texts = [value_text(value) for value in values]
    for text in texts:
        if texts.count(text) > 1:
            raise ConfigurationError(f"grid: {name}: the value {text} is there twice. Leave one out.")
    return values


def point_name(varied: Mapping[str, Any]) -> str:
    """The name of a point: what it says, as a name of a folder."""
    said = [f"{name.removeprefix('world_options.')}={value_text(value)}" for name, value in varied.items()]
    return file_name(",".join(said) or "base")


def value_text(value: Any) -> str:
    """A value in the shortest words: ``1e-4``, ``64x64``, ``true``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        return _shortest(value) if math.isfinite(value) else repr(value)
    if isinstance(value, list | tuple):
        return "x".join(map(value_text, value))
    if isinstance(value, Mapping):
        return "+".join(f"{name}={value_text(entry)}" for name, entry in value.items())
    return str(value)


def _shortest(value: float) -> str:
    """``0.0003`` as ``3e-4``, and 0.01 as it is: the shorter of the two, plain where they are alike."""
    plain = format(decimal.Decimal(repr(value)), "f").removesuffix(".0")
    sign, digits, exponent = decimal.Decimal(repr(value)).normalize().as_tuple()
    first, *rest = map(str, digits)
    fraction = f".{''.join(rest)}" if rest else ""
    power = int(exponent) + len(rest)
    return min(plain, f"{'-' if sign else ''}{first}{fraction}e{power}", key=len)


def file_name(text: str) -> str:
    """A text as the name of a folder that every shell and file system takes."""
    safe = re.sub(r"[^\w.,=+:-]+", "-", text).strip("-.") or "run"
    if len(safe.encode()) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"
