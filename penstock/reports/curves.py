"""Learning curves of several runs with their uncertainty, or of one fresh run; and the table behind them."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import require, suggest
from penstock._files import write_text
from penstock.reports.runs import STEP_KEY, Run, RunError, SeedCurve, collect, read_run, seed_curves
from penstock.reports.statistics import (
    Estimate,
    area_under_curve,
    bootstrap_curves,
    bootstrap_interval,
    common_grid,
    interquartile_mean,
)
from penstock.reports.style import FAINT, PALETTE, SOFT, canvas, label_lines, save
from penstock.reports.tables import markdown_table, quantity

AXES = {
    "env_steps": "environment steps",
    "wall_seconds": "wall-clock time of the run (s)",
    "cpu_seconds": "CPU time per seed (s)",
}
"""Possible horizontal axes."""

CONFIDENCE = 0.95
"""Of all intervals."""

MANY_ARMS = 5
"""A panel with more arms draws no line for each seed and names each arm in one line."""

LABELS = {
    "eval/return_mean": "return of stochastic evaluation",
    "eval/return_deterministic": "return of deterministic evaluation",
    "eval/forward_velocity": "forward velocity in evaluation (m/s)",
}
"""What a metric is called in a figure; others go by their key."""


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """One row of the table that belongs to a figure.

    Attributes:
        world: the world.
        arm: label or algorithm.
        seeds: number of seeds.
        final: interquartile mean of the metric at ``env_steps``, with its interval; NaN if the seeds share no step.
        area: the same of the area under the curve, normalised by its range: a mean height.
        env_steps: the last step that all seeds of the arm reached.
        cpu_seconds: CPU seconds per seed, mean over seeds; NaN if not recorded.
    """

    world: str
    arm: str
    seeds: int
    final: Estimate
    area: Estimate
    env_steps: float
    cpu_seconds: float

    def row(self) -> dict[str, Any]:
        """The summary as a table row, for people."""
        return {
            "world": self.world,
            "arm": self.arm,
            "seeds": self.seeds,
            "final IQM [95 % interval]": str(self.final),
            "AUC IQM [95 % interval]": str(self.area),
            "env steps": self.env_steps,
            "CPU s per seed": self.cpu_seconds,
        }


def plot_runs(
    runs: Sequence[Path],
    output: Path,
    metric: str = "eval/return_deterministic",
    *,
    x: str = "env_steps",
) -> list[Path]:
    """Compares runs: interquartile mean and bootstrap interval over the seeds of each arm, seeds as thin lines.

    Runs with the same label (or algorithm, where they have none) form an arm; each world gets a panel. An arm's mean
    ends where its shortest seed ends; the thin lines go on. Panels of many arms leave them out.

    Args:
        runs: run folders.
        output: the figure; written as ``.png`` and ``.svg``, and its table as ``.json`` and ``.md`` beside them.
        metric: key in ``metrics.jsonl``.
        x: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``.

    Returns:
        The files written.

    Raises:
        RunError: a folder is missing, empty, damaged or lacks the metric, or a seed would count twice.
        MissingExtraError: matplotlib is not installed.
    """
    require(x in AXES, "x", x, f"is not a horizontal axis.{suggest(x, AXES)}")
    worlds = collect([read_run(Path(folder)) for folder in runs], metric, x)
    names = list(dict.fromkeys(arm for arms in worlds.values() for arm in arms))
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    with canvas(len(worlds)) as (figure, panels):
        for axes, (world, arms) in zip(panels, worlds.items(), strict=True):
            many = len(arms) > MANY_ARMS
            ends = [_draw_arm(axes, curves, colors[arm], band=True, seeds=not many) for arm, curves in arms.items()]
            _finish(axes, x, world, metric)
            label_lines(
                axes,
                [
                    (end, f"{arm}{' · ' if many else chr(10)}{_count(len(curves))}", colors[arm])
                    for end, (arm, curves) in zip(ends, arms.items(), strict=True)
                    if math.isfinite(end)
                ],
            )
        some_band = any(len(curves) > 1 for arms in worlds.values() for curves in arms.values())
        note = "thick: interquartile mean over seeds"
        if any(len(arms) <= MANY_ARMS for arms in worlds.values()):
            note += "; thin: single seeds"
        if some_band:
            note += f"; band: pointwise {CONFIDENCE:.0%} bootstrap interval"
        figure.supxlabel(note, fontsize=7.5, color=SOFT, x=0.01, ha="left")
        written = save(figure, Path(output))
    summaries = _summaries(worlds)
    stem = written[0].with_suffix("")
    written.append(write_text(stem.with_suffix(".json"), _as_json(summaries, metric)))
    written.append(write_text(stem.with_suffix(".md"), markdown_table([s.row() for s in summaries]) + "\n"))
    return written


def summary_table(runs: Sequence[Path], metric: str = "eval/return_deterministic") -> list[ArmSummary]:
    """One row per world and arm: the numbers behind `plot_runs`. Needs no optional dependency.

    Args:
        runs: run folders.
        metric: key in ``metrics.jsonl``.

    Raises:
        RunError: as for `plot_runs`.
    """
    return _summaries(collect([read_run(Path(folder)) for folder in runs], metric))


def plot_single(run_dir: Path) -> Path:
    """Draws the returns of one run, and its forward velocity where it has one, into ``figures/return.png``.

    Of a run with several seeds, each seed is a thin line and the interquartile mean a thick one. Also writes the SVG.

    Args:
        run_dir: the run folder.

    Returns:
        Path of the PNG.

    Raises:
        RunError: the folder is missing, empty or damaged, or holds no evaluation yet.
        MissingExtraError: matplotlib is not installed.
    """
    run = read_run(Path(run_dir))
    known = {"eval/return_deterministic": "deterministic", "eval/return_mean": "stochastic"}
    returns = {metric: name for metric, name in known.items() if metric in run.metrics}
    if not returns:
        raise RunError(f"{run.folder} holds no evaluation yet. Let it run on to its first one, then plot again.")
    velocity = "eval/forward_velocity" in run.metrics
    with canvas(2 if velocity else 1) as (figure, panels):
        ends = []
        for color, (metric, name) in zip(PALETTE, returns.items(), strict=False):
            ends.append((_draw_arm(panels[0], seed_curves(run, metric), color, band=False), name, color))
        _finish(panels[0], STEP_KEY, "return per episode", "")
        if len(returns) > 1:
            label_lines(panels[0], [end for end in ends if math.isfinite(end[0])])
        if velocity:
            _draw_arm(panels[1], seed_curves(run, "eval/forward_velocity"), PALETTE[2], band=False)
            _finish(panels[1], STEP_KEY, "forward velocity (m/s)", "")
        figure.suptitle(_headline(run), x=0.012, ha="left", fontsize=11, fontweight="bold")
        return save(figure, run.folder / "figures" / "return.png")[0]


def _draw_arm(axes: Any, curves: Sequence[SeedCurve], color: str, *, band: bool, seeds: bool = True) -> float:
    """Draws an arm, with or without its interval and a line per seed, and returns the height at which its mean ends."""
    single = len(curves) == 1
    for curve in curves:
        if seeds and not single:
            marker = "." if len(curve.x) == 1 else None
            axes.plot(curve.x, curve.values, color=color, lw=0.8, alpha=0.3, marker=marker, solid_capstyle="round")
    points = [_by(curve.x, curve.values) for curve in curves]
    if not _overlap(points):
        return float(points[-1][1][-1])
    grid, values = common_grid(points)
    if single or not band:
        middle = low = high = interquartile_mean(values.T)
    else:
        middle, low, high = bootstrap_curves([values], confidence=CONFIDENCE, resamples=2000)
        axes.fill_between(grid, low, high, color=color, alpha=0.16 if seeds else 0.09, lw=0)
    few = len(grid) <= 12
    axes.plot(grid, middle, color=color, lw=2, marker="o" if few else None, ms=4, solid_capstyle="round")
    if len(grid) == 1 and not single and band:
        axes.errorbar(grid, middle, [middle - low, high - middle], color=color, lw=1.2, capsize=3)
    finite = middle[np.isfinite(middle)]
    return float(finite[-1]) if len(finite) else math.nan


def _overlap(points: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    return bool(max(steps[0] for steps, _ in points) <= min(steps[-1] for steps, _ in points))


def _by(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Two evaluations within the clock's resolution share one abscissa: the later holds.
    keep = np.append(np.diff(x) > 0, True)
    return x[keep], values[keep]


def _finish(axes: Any, x: str, title: str, metric: str) -> None:
    axes.set_xlabel(AXES[x])
    axes.set_title(" · ".join(part for part in (title, LABELS.get(metric, metric)) if part))
    axes.xaxis.set_major_formatter(lambda value, _: quantity(value))
    axes.margins(x=0.02)
    high = axes.get_xlim()[1]
    axes.set_xlim(0, high)  # every axis counts from the start of the run
    bottom, top = axes.get_ylim()
    if bottom < 0 < top:
        axes.axhline(0, color=FAINT, lw=1.2, zorder=0.5)


def _headline(run: Run) -> str:
    seeds = sorted({row["seed"] for row in run.rows if row.get("seed") is not None}, key=str)
    if len(seeds) > 1:
        seed = _count(len(seeds))
    elif run.config.get("seed") is not None:
        seed = f"seed {run.config['seed']}"
    else:
        seed = ""
    return " · ".join(part for part in (run.arm, run.world, seed) if part)


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def _summaries(worlds: dict[str, dict[str, list[SeedCurve]]]) -> list[ArmSummary]:
    rows = []
    for world, arms in worlds.items():
        for arm, curves in arms.items():
            points = [(curve.env_steps, curve.values) for curve in curves]
            if _overlap(points):
                grid, values = common_grid(points)
            else:
                grid, values = np.array([np.nan]), np.full((len(curves), 1), np.nan)
            rows.append(
                ArmSummary(
                    world=world,
                    arm=arm,
                    seeds=len(curves),
                    final=bootstrap_interval([values[:, -1]], confidence=CONFIDENCE),
                    area=bootstrap_interval([area_under_curve(grid, values)], confidence=CONFIDENCE),
                    env_steps=float(grid[-1]),
                    cpu_seconds=float(np.mean([curve.cpu_seconds for curve in curves])),
                )
            )
    return rows


def _as_json(summaries: Sequence[ArmSummary], metric: str) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        # JSON has no NaN; an interval that does not exist is null.
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = [plain(dataclasses.asdict(summary)) for summary in summaries]
    return json.dumps({"metric": metric, "confidence": CONFIDENCE, "rows": rows}, indent=2, ensure_ascii=False) + "\n"
