"""The numbers behind a figure: what is drawn, as CSV; and one row per arm, for tables and JSON."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.reports.aggregates import Aggregate
from penstock.reports.arms import Comparison
from penstock.reports.runs import SeedCurve
from penstock.reports.statistics import (
    Estimate,
    area_under_curve,
    bootstrap_curves,
    bootstrap_interval,
    common_grid,
    interquartile_mean,
)


@dataclasses.dataclass(frozen=True)
class ArmCurve:
    """What is drawn of one arm.

    Attributes:
        seeds: the curves of its seeds.
        x: ``(G,)``, where the mean is drawn: from the latest start to the earliest end of the seeds; may be empty.
        middle: ``(G,)``, interquartile mean over seeds.
        low: ``(G,)``, lower end of the pointwise interval; NaN where there is none.
        high: ``(G,)``, upper end.
    """

    seeds: Sequence[SeedCurve]
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def has_band(self) -> bool:
        """Whether there is an interval anywhere."""
        return bool(np.isfinite(self.low).any())

    @property
    def end(self) -> float:
        """The height at which the mean ends, or the last seed where there is no mean; NaN if nothing is finite."""
        values = self.middle if len(self.x) else self.seeds[-1].values
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else math.nan


def arm_curve(seeds: Sequence[SeedCurve], confidence: float | int | None = 0.95) -> ArmCurve:
    """The mean of an arm's seeds along the horizontal axis, with its interval.

    Args:
        seeds: their curves.
        confidence: of the interval; None for no interval.
    """
    points = [drawn_points(curve) for curve in seeds]
    if not _overlap(points):
        nothing = np.zeros(0)
        return ArmCurve(seeds, nothing, nothing, nothing, nothing)
    grid, values = common_grid(points)
    if confidence is None:
        middle = interquartile_mean(values.T)
        return ArmCurve(seeds, grid, middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan))
    return ArmCurve(seeds, grid, *bootstrap_curves([values], confidence=confidence, resamples=2000))


def drawn_points(curve: SeedCurve) -> tuple[np.ndarray, np.ndarray]:
    """A seed's points: of evaluations within the clock's resolution, which share one abscissa, the last."""
    keep = np.append(np.diff(curve.x) > 0, True)
    return curve.x[keep], curve.values[keep]


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """One row of the table that belongs to a figure.

    Attributes:
        world: the world.
        arm: its name.
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


def summarise(comparison: Comparison, confidence: float | int = 0.95) -> list[ArmSummary]:
    """One row per world and arm."""
    rows = []
    for world, arms in comparison.worlds.items():
        for arm, seeds in arms.items():
            points = [(curve.env_steps, curve.values) for curve in seeds]
            if _overlap(points):
                grid, values = common_grid(points)
            else:
                grid, values = np.array([np.nan]), np.full((len(seeds), 1), np.nan)
            rows.append(
                ArmSummary(
                    world=world,
                    arm=arm,
                    seeds=len(seeds),
                    final=bootstrap_interval([values[:, -1]], confidence=confidence),
                    area=bootstrap_interval([area_under_curve(grid, values)], confidence=confidence),
                    env_steps=float(grid[-1]),
                    cpu_seconds=float(np.mean([curve.cpu_seconds for curve in seeds])),
                )
            )
    return rows


def as_json(
    comparison: Comparison, summaries: Sequence[ArmSummary], aggregate: Aggregate | None, confidence: float
) -> str:
    """The table, what differs between arms, and the numbers over all worlds, as a JSON text."""
    content: dict[str, Any] = {
        "metric": comparison.metric,
        "confidence": confidence,
        "rows": [
            dataclasses.asdict(summary) | {"settings": comparison.settings.get(summary.arm, {})}
            for summary in summaries
        ],
    }
    if aggregate is not None:
        content["over_worlds"] = {
            "baseline": aggregate.baseline,
            "env_steps": dict(aggregate.steps),
            "references": None if aggregate.references is None else dict(aggregate.references),
            "arms": [
                {
                    "arm": arm.arm,
                    "seeds": dict(arm.seeds),
                    "normalised_iqm": arm.normalised and dataclasses.asdict(arm.normalised),
                    "probability_of_improvement": arm.improvement and dataclasses.asdict(arm.improvement),
                }
                for arm in aggregate.arms
            ],
        }
    return json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"


def curves_csv(comparison: Comparison, drawn: dict[str, dict[str, ArmCurve]]) -> str:
    """Every point of the means, their bands, and the seeds, as CSV; see docs/plots.md for the columns."""
    rows = []
    for world, arms in drawn.items():
        for arm, curve in arms.items():
            for x, middle, low, high in zip(curve.x, curve.middle, curve.low, curve.high, strict=True):
                rows.append([world, arm, "iqm", "", x, middle, low, high])
            for seed in curve.seeds:
                for x, value in zip(*drawn_points(seed), strict=True):
                    rows.append([world, arm, "seed", seed.seed, x, value, math.nan, math.nan])
    return _csv(["world", "arm", "line", "seed", comparison.x, comparison.metric, "low", "high"], rows)


def aggregate_csv(aggregate: Aggregate) -> str:
    """Every point and interval of the figure over all worlds, as CSV; see docs/plots.md for the columns."""
    rows = []
    for arm in aggregate.arms:
        if arm.normalised is not None:
            rows.append([arm.arm, "normalised_iqm", math.nan, *_triple(arm.normalised)])
        if arm.improvement is not None:
            rows.append([arm.arm, "probability_of_improvement", math.nan, *_triple(arm.improvement)])
        if arm.profile is not None:
            for threshold, *values in zip(aggregate.thresholds, *arm.profile, strict=True):
                rows.append([arm.arm, "performance_profile", threshold, *values])
    return _csv(["arm", "quantity", "threshold", "value", "low", "high"], rows)


def _triple(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> Any:
        if isinstance(value, str):
            return value
        number = float(value)  # exact, and without an exponent or a point where it is whole
        if not math.isfinite(number):
            return ""
        return int(number) if number.is_integer() and abs(number) < 1e15 else repr(number)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    # JSON has no NaN; an interval that does not exist is null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _overlap(points: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    return bool(max(steps[0] for steps, _ in points) <= min(steps[-1] for steps, _ in points))
