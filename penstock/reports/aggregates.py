"""Arms over several worlds: normalised scores, their interquartile mean, and who is better how often."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock._errors import ConfigurationError, require, suggest
from penstock.reports.arms import Comparison
from penstock.reports.runs import SeedCurve
from penstock.reports.statistics import (
    Estimate,
    bootstrap_interval,
    common_grid,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

References = Mapping[str, tuple[float | int, float | int]]
"""For each world the return that counts as 0, and the one that counts as 1."""

NO_SHARED_ARM = (
    "No arm has runs on every world: there are no numbers over all worlds. To pair arms whose names differ from "
    "world to world, name them: NAME=RUN."
)
"""What is said where there is nothing to aggregate."""

RELATIVE = "arms"
"""In place of references: the lowest and the highest of the arms that are shown."""

_RETURNS = ("eval/return_mean", "eval/return_deterministic")
_SUITE_RANGE = (0.0, 1000.0)
"""DMControl pays rewards in [0, 1] for 1,000 steps: the suite is made so that returns are comparable as they are."""


@dataclasses.dataclass(frozen=True)
class ArmAggregate:
    """One arm over all worlds.

    Attributes:
        arm: its name.
        seeds: number of seeds on each world.
        normalised: interquartile mean of the normalised scores of all seeds and worlds; None without references.
        profile: value, low, high of the fraction of runs above `Aggregate.thresholds`; None without references.
        improvement: probability of improvement over the baseline; None for the baseline itself.
    """

    arm: str
    seeds: Mapping[str, int]
    normalised: Estimate | None
    profile: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    improvement: Estimate | None

    def row(self, baseline: str) -> dict[str, Any]:
        """The aggregate as a table row, for people."""
        counts = sorted(set(self.seeds.values()))
        shown = {
            "arm": self.arm,
            "worlds": len(self.seeds),
            "seeds": str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        }
        if self.normalised is not None:
            shown["normalised IQM [95 % interval]"] = str(self.normalised)
        if self.improvement is not None:
            shown[f"P(better than {baseline}) [95 % interval]"] = str(self.improvement)
        return shown


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """All arms over all worlds.

    Attributes:
        arms: one for each arm that has runs on every world.
        baseline: the arm with which the others are compared.
        steps: for each world the environment steps at which every seed of every arm is read.
        references: the normalisation, if there is one.
        relative: whether the references are the arms' own lowest and highest score.
        thresholds: normalised scores at which the profiles are evaluated.
        notes: sentences for the user.
    """

    arms: tuple[ArmAggregate, ...]
    baseline: str
    steps: Mapping[str, float]
    references: References | None
    relative: bool
    thresholds: np.ndarray
    notes: tuple[str, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table, for people."""
        return [arm.row(self.baseline) for arm in self.arms]


def parse_references(texts: Sequence[str], worlds: Sequence[str]) -> dict[str, tuple[float, float]] | str:
    """Reads texts like ``soft/jumper-mini=0,200``; the single text ``arms`` stands for itself.

    Raises:
        ConfigurationError: a text of another form, an unknown world, a world given twice, or numbers that do not rise.
    """
    if list(texts) == [RELATIVE]:
        return RELATIVE
    references: dict[str, tuple[float, float]] = {}
    for text in texts:
        world, _, pair = text.rpartition("=")
        numbers = re.fullmatch(r"\s*([^,\s]+)\s*,\s*([^,\s]+)\s*", pair)
        try:
            low, high = (float(number) for number in numbers.groups()) if numbers and world else (math.nan, math.nan)
        except ValueError:
            low = high = math.nan
        rule = f"write WORLD=LOW,HIGH, for example {worlds[0] or 'WORLD'}=0,200, or '{RELATIVE}' alone"
        require(math.isfinite(low) and math.isfinite(high), "normalize", text, rule)
        require(world in worlds, "normalize", text, f"no run is of world '{world}'.{suggest(world, worlds)}")
        require(world not in references, "normalize", text, f"'{world}' is given twice; leave one out")
        require(low < high, "normalize", text, "LOW, which counts as 0, must be below HIGH, which counts as 1")
        references[world] = (low, high)
    return references


def aggregate(
    comparison: Comparison,
    normalize: References | str | None = None,
    baseline: str = "",
    *,
    confidence: float | int = 0.95,
) -> Aggregate | None:
    """Aggregates over the worlds of a comparison.

    Each seed's score on a world is its metric at the last step that every seed of every arm has reached there, so that
    all are read at the same budget. Nothing is normalised by invention: scores are normalised by the references that
    are given, or, on DMControl's worlds without options, by the range of returns that the suite states, 0 to 1,000.
    If a world has neither, there is a probability of improvement alone, which needs none.

    Args:
        comparison: of runs on several worlds.
        normalize: see `References`; or ``arms``.
        baseline: the arm with which the others are compared; the first one by default.
        confidence: of the intervals.

    Returns:
        The aggregate; None where there are fewer than two worlds, or no arm has runs on all of them.

    Raises:
        ConfigurationError: the baseline is no arm with runs on every world, or references cannot be used.
    """
    if isinstance(normalize, str):
        require(normalize in ("", RELATIVE), "normalize", normalize, f"is neither references nor '{RELATIVE}'")
    worlds = list(comparison.worlds)
    complete = [arm for arm in comparison.arms if all(arm in arms for arms in comparison.worlds.values())]
    if baseline:
        require(baseline in comparison.arms, "baseline", baseline, f"is no arm.{suggest(baseline, comparison.arms)}")
    if len(worlds) < 2:
        for field, given in (("normalize", normalize), ("baseline", baseline)):
            require(not given, field, given, "concerns several worlds, and all runs are of one. Leave it out")
        return None
    if not complete:
        for field, given in (("normalize", normalize), ("baseline", baseline)):
            require(not given, field, given, f"cannot be used. {NO_SHARED_ARM}")
        return None
    notes = [
        f"'{arm}' has no run on {' and '.join(w for w in worlds if arm not in comparison.worlds[w])}: it is left out "
        "of the numbers over all worlds. To pair arms whose names differ from world to world, name them: NAME=RUN."
        for arm in comparison.arms
        if arm not in complete
    ]
    baseline = baseline or complete[0]
    require(baseline in complete, "baseline", baseline, "has no run on some of the worlds. Choose an arm that has")
    steps, scores = {}, {}
    for world in worlds:
        steps[world], scores[world] = _scores({arm: comparison.worlds[world][arm] for arm in complete})
        if math.isnan(steps[world]):
            notes.append(f"On {world} the seeds have no step in common: the numbers over all worlds do not exist.")
    references, missing = _references(comparison, scores, normalize)
    if references is None:
        notes.append(
            f"Scores are not normalised, because {missing} has no reference: add --normalize '{missing}=LOW,HIGH' with "
            f"the returns that count as 0 and as 1, or --normalize {RELATIVE} for the lowest and highest arm."
        )
    strata = {
        arm: [
            scores[world][arm] if references is None else _normalised(scores[world][arm], *references[world])
            for world in worlds
        ]
        for arm in complete
    }
    pooled = np.concatenate([part for parts in strata.values() for part in parts])
    finite = pooled[np.isfinite(pooled)]
    thresholds = np.linspace(min(0.0, *finite), max(1.0, *finite), 201) if len(finite) else np.linspace(0, 1, 201)
    counts = {len(scores[world][arm]) for world in worlds for arm in complete}
    if references is not None and len(counts) > 1:
        notes.append(
            "Not all arms have as many seeds on every world: the normalised IQM pools runs, so that a world with more "
            "seeds weighs more in it. Profiles and probabilities weigh all worlds alike."
        )
    broken = [arm for arm in complete if any(np.isnan(part).any() for part in strata[arm])]
    if broken:
        names = ", ".join(f"'{arm}'" for arm in broken)
        notes.append(f"A seed of {names} ends at a value that is not finite: its numbers over all worlds do not exist.")
    arms = tuple(
        ArmAggregate(
            arm=arm,
            seeds={world: len(scores[world][arm]) for world in worlds},
            normalised=None if references is None else bootstrap_interval(strata[arm], confidence=confidence),
            profile=None if references is None else performance_profile(strata[arm], thresholds, confidence=confidence),
            improvement=None
            if arm == baseline
            else probability_of_improvement(strata[arm], strata[baseline], confidence=confidence),
        )
        for arm in complete
    )
    return Aggregate(arms, baseline, steps, references, normalize == RELATIVE, thresholds, tuple(notes))


def _scores(arms: Mapping[str, Sequence[SeedCurve]]) -> tuple[float, dict[str, np.ndarray]]:
    """The last step that all seeds have reached, and each seed's value there."""
    curves = [(curve.env_steps, curve.values) for seeds in arms.values() for curve in seeds]
    if max(steps[0] for steps, _ in curves) > min(steps[-1] for steps, _ in curves):
        return math.nan, {arm: np.full(len(seeds), np.nan) for arm, seeds in arms.items()}
    grid, values = common_grid(curves)
    last = iter(values[:, -1])
    return float(grid[-1]), {arm: np.array([next(last) for _ in seeds]) for arm, seeds in arms.items()}


def _references(
    comparison: Comparison, scores: Mapping[str, Mapping[str, np.ndarray]], normalize: References | str | None
) -> tuple[References | None, str]:
    """References of all worlds; or None and the first world that has none."""
    references: dict[str, tuple[float | int, float | int]] = {}
    for world, arms in scores.items():
        if normalize == RELATIVE:
            middles = [float(interquartile_mean(values)) for values in arms.values()]
            low, high = min(middles), max(middles)
            if not low < high:
                raise ConfigurationError(
                    f"normalize = '{RELATIVE}': on {world} all arms score alike, or not at all, so that there is no "
                    f"lowest and highest. Give returns: --normalize '{world}=LOW,HIGH'."
                )
            references[world] = (low, high)
        elif isinstance(normalize, Mapping) and world in normalize:
            references[world] = normalize[world]
        elif _has_suite_range(comparison, world):
            references[world] = _SUITE_RANGE
        else:
            return None, world
    return references, ""


def _has_suite_range(comparison: Comparison, world: str) -> bool:
    suite = world.startswith("dmc/") and not world.startswith("dmc/lqr")
    return suite and world in comparison.plain_worlds and comparison.metric in _RETURNS


def _normalised(scores: np.ndarray, low: float | int, high: float | int) -> np.ndarray:
    return (scores - low) / (high - low)
