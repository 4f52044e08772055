"""Reads run folders: ``config.json`` and ``metrics.jsonl``, as one curve per seed."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import PenstockError, suggest

STEP_KEY = "env_steps"
"""Environment steps, on every line of ``metrics.jsonl``."""


class RunError(PenstockError):
    """A run folder is missing, empty or damaged."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: where it lies.
        config: content of ``config.json``.
        rows: lines of ``metrics.jsonl``, in order.
        name: what the user who compares calls it; empty where nobody has said.
    """

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    name: str = ""

    @property
    def title(self) -> str:
        """What people call it: the name that was given, else its ``label``, else its algorithm."""
        algorithm = str(self.config.get("algorithm") or "").rpartition(":")[2]  # of one in a file, its name
        for name in (self.name, self.config.get("label"), algorithm, self.folder.resolve().name):
            text = "".join(character if character.isprintable() else " " for character in str(name or "")).strip()
            if text:
                return text
        return "run"

    @property
    def world(self) -> str:
        """Name of the world, of one in a file without its folders; empty if the configuration does not say."""
        world = str(self.config.get("world") or "")
        place, colon, attribute = world.rpartition(":")
        return f"{Path(place).name}:{attribute}" if colon and place.endswith(".py") else world

    @property
    def metrics(self) -> list[str]:
        """All metrics that appear on some line."""
        return sorted({key for row in self.rows for key in row})


@dataclasses.dataclass(frozen=True)
class SeedCurve:
    """One metric of one seed.

    Attributes:
        seed: the seed, as text.
        folder: run folder that it comes from.
        env_steps: ``(G,)``, strictly increasing.
        x: ``(G,)``, the horizontal axis: environment steps or seconds, not decreasing.
        values: ``(G,)``; NaN where the metric was not finite.
        cpu_seconds: CPU seconds of the program up to the last point, divided by its number of seeds; NaN if unknown.
    """

    seed: str
    folder: Path
    env_steps: np.ndarray
    x: np.ndarray
    values: np.ndarray
    cpu_seconds: float


def read_run(folder: Path, name: str = "") -> Run:
    """Reads one run folder.

    A last line that was cut off by a kill is left out; ``config.json`` may be absent.

    Args:
        folder: the run folder.
        name: what to call the run in place of its label.

    Raises:
        RunError: the folder or ``metrics.jsonl`` is missing or empty, cannot be read, or a line is damaged.
    """
    metrics = folder / "metrics.jsonl"
    try:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise RunError(f"There is no run folder {folder}: it {what}. Name the folder that a run wrote.")
        if not metrics.is_file():
            inside = sorted(path.parent.name for path in folder.glob("*/metrics.jsonl"))
            hint = f"It holds run folders: name them, for example {folder / inside[0]}." if inside else ""
            hint = hint or "Name the folder that a run wrote."
            raise RunError(f"{folder} is not a run folder: it has no metrics.jsonl. {hint}")
        text = metrics.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(_unreadable(metrics, error)) from error
    lines = [line for line in text.split("\n") if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise RunError(f"Line {number} of {metrics} is not JSON ({error}). Delete that line to go on.") from error
        if not isinstance(row, dict):
            raise RunError(f"Line {number} of {metrics} is not a JSON object. Delete that line to go on.")
        rows.append(row)
    if not rows:
        raise RunError(f"{metrics} is empty: the run stopped before its first report. Continue it, then plot again.")
    return Run(folder, _read_config(folder / "config.json"), rows, name)


RunSource = Path | str | tuple[str, Path | str]
"""A run folder, or a pair of a name for it and the folder."""


def read_runs(sources: Sequence[RunSource]) -> list[Run]:
    """Reads several run folders. See `read_run`."""
    pairs = [source if isinstance(source, tuple) else ("", source) for source in sources]
    return [read_run(Path(folder), name) for name, folder in pairs]


def seed_curves(run: Run, metric: str, x: str = STEP_KEY) -> list[SeedCurve]:
    """Curves of ``metric``, one per seed, in the order of the seeds.

    Several lines at the same step (a run that was continued) count once: the last one holds.

    Args:
        run: as read by `read_run`.
        metric: key of the metric, for example ``eval/return_deterministic``.
        x: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``; CPU seconds are divided by the number of seeds.

    Raises:
        RunError: no line has the metric, or a line holds something that is not a number.
    """
    default_seed = run.config.get("seed", run.folder.name)
    by_seed: dict[str, dict[float, dict[str, float]]] = {}
    for row in run.rows:
        if metric in row and row.get(STEP_KEY) is not None and row.get(x) is not None:
            numbers = {key: _number(row.get(key), key, run) for key in (STEP_KEY, x, "cpu_seconds", metric)}
            if math.isfinite(numbers[STEP_KEY]) and math.isfinite(numbers[x]):
                by_seed.setdefault(str(row.get("seed", default_seed)), {})[numbers[STEP_KEY]] = numbers
    if not by_seed:
        known = [key for key in run.metrics if "/" in key]
        hint = suggest(metric, known) if known else " It has no evaluations or training metrics yet."
        raise RunError(f"{run.folder / 'metrics.jsonl'} has no line with '{metric}' and '{x}'.{hint}")
    seeds = len(by_seed)
    curves = []
    for seed in sorted(by_seed, key=_natural):
        rows = [by_seed[seed][step] for step in sorted(by_seed[seed])]
        share = 1 / seeds if x == "cpu_seconds" else 1.0
        curves.append(
            SeedCurve(
                seed=seed,
                folder=run.folder,
                env_steps=np.array([row[STEP_KEY] for row in rows]),
                # A clock that was set back, for example on another host, must not let the curve run backwards.
                x=np.maximum.accumulate(np.array([row[x] for row in rows])) * share,
                values=np.array([row[metric] for row in rows]),
                cpu_seconds=rows[-1]["cpu_seconds"] / seeds,
            )
        )
    return curves


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if not path.exists():
            return {}
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(_unreadable(path, error)) from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON ({error}). Restore the file, or delete it to plot without it.") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is not a JSON object. Restore the file, or delete it to plot without it.")
    return config


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {(error.strerror or str(error)).lower()}. Check its name and its permissions."


def _number(value: Any, key: str, run: Run) -> float:
    """NaN for ``null``, which stands for a number that is not finite, and for what is not finite."""
    if value is None:
        return math.nan
    try:
        if isinstance(value, str | bool):
            raise TypeError
        number = float(value)
    except OverflowError:
        return math.nan
    except (TypeError, ValueError):
        raise RunError(
            f"{run.folder / 'metrics.jsonl'}: {key} = {json.dumps(value)}: must be a number or null. "
            "Delete that line, or choose another metric."
        ) from None
    return number if math.isfinite(number) else math.nan


def _natural(seed: str) -> tuple[int, int, str]:
    digits = seed.removeprefix("-")
    return (0, int(seed), "") if digits.isdecimal() and len(digits) < 1000 else (1, 0, seed)
