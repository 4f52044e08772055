"""Reads run folders: ``config.json`` and ``metrics.jsonl``, as curves per seed and arm."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import PenstockError, suggest
from penstock.storage.run_folder import CONFIG_NAME, METRICS_NAME, read_config

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
    """

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def arm(self) -> str:
        """What the run is compared as: its ``label``, else its algorithm."""
        algorithm = str(self.config.get("algorithm") or "").rpartition(":")[2]  # of one in a file, its name
        return str(self.config.get("label") or algorithm or self.folder.name)

    @property
    def world(self) -> str:
        """Name of the world, or an empty string if the configuration does not say."""
        return str(self.config.get("world") or "")

    @property
    def metrics(self) -> list[str]:
        """All metrics that appear on some line."""
        return sorted({key for row in self.rows for key in row})


@dataclasses.dataclass(frozen=True)
class SeedCurve:
    """One metric of one seed.

    Attributes:
        arm: see `Run.arm`.
        world: see `Run.world`.
        seed: the seed, as text.
        folder: run folder that it comes from.
        env_steps: ``(G,)``, strictly increasing.
        x: ``(G,)``, the horizontal axis: environment steps or seconds, not decreasing.
        values: ``(G,)``.
        cpu_seconds: CPU seconds of the program up to the last point, divided by its number of seeds; NaN if unknown.
    """

    arm: str
    world: str
    seed: str
    folder: Path
    env_steps: np.ndarray
    x: np.ndarray
    values: np.ndarray
    cpu_seconds: float


def read_run(folder: Path) -> Run:
    """Reads one run folder.

    A last line that was cut off by a kill is left out; ``config.json`` may be absent.

    Raises:
        RunError: the folder or ``metrics.jsonl`` is missing or empty, or a line is damaged.
        ConfigurationError: ``config.json`` is damaged.
    """
    metrics = folder / METRICS_NAME
    if not folder.is_dir():
        raise RunError(f"There is no run folder {folder}.")
    if not metrics.is_file():
        raise RunError(f"{folder} is not a run folder: it has no metrics.jsonl. Name the folder that a run wrote.")
    lines = [line for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(f"Line {number} of {metrics} is not JSON ({error}). Delete that line to go on.") from error
        if not isinstance(row, dict):
            raise RunError(f"Line {number} of {metrics} is not a JSON object. Delete that line to go on.")
        rows.append(row)
    if not rows:
        raise RunError(f"{metrics} is empty: the run stopped before its first report. Continue it, then plot again.")
    return Run(folder, read_config(folder) if (folder / CONFIG_NAME).is_file() else {}, rows)


def seed_curves(run: Run, metric: str, x: str = STEP_KEY) -> list[SeedCurve]:
    """Curves of ``metric``, one per seed, in the order of the seeds.

    Several lines at the same step (a run that was continued) count once: the last one holds.

    Args:
        run: as read by `read_run`.
        metric: key of the metric, for example ``eval/return_deterministic``.
        x: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``; CPU seconds are divided by the number of seeds.

    Raises:
        RunError: no line has the metric.
    """
    default_seed = run.config.get("seed", run.folder.name)
    by_seed: dict[str, dict[float, dict[str, Any]]] = {}
    for row in run.rows:
        if metric in row and row.get(STEP_KEY) is not None and row.get(x) is not None:
            by_seed.setdefault(str(row.get("seed", default_seed)), {})[float(row[STEP_KEY])] = row
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
                arm=run.arm,
                world=run.world,
                seed=seed,
                folder=run.folder,
                env_steps=_column(rows, STEP_KEY),
                x=_column(rows, x) * share,
                values=_column(rows, metric),
                cpu_seconds=float(_column(rows, "cpu_seconds")[-1]) / seeds,
            )
        )
    return curves


def collect(runs: Sequence[Run], metric: str, x: str = STEP_KEY) -> dict[str, dict[str, list[SeedCurve]]]:
    """Curves of several runs: world, then arm, then its seeds, in the order in which they appear.

    Raises:
        RunError: a metric is missing, or two runs bring the same seed of the same arm (which would count it twice).
    """
    if not runs:
        raise RunError("There are no runs to compare. Name one run folder or more.")
    worlds: dict[str, dict[str, list[SeedCurve]]] = {}
    for run in runs:
        for curve in seed_curves(run, metric, x):
            arm = worlds.setdefault(curve.world, {}).setdefault(curve.arm, [])
            for other in arm:
                if other.seed == curve.seed:
                    raise RunError(
                        f"{other.folder} and {curve.folder} both hold seed {curve.seed} of '{curve.arm}': one seed "
                        "would count twice. Leave one out, or give one run another label."
                    )
            arm.append(curve)
    return worlds


def _column(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) is None else float(row[key]) for row in rows])


def _natural(seed: str) -> tuple[int, int, str]:
    return (0, int(seed), "") if seed.lstrip("-").isdigit() else (1, 0, seed)
