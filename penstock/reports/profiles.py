"""The figure over several worlds: interquartile means, performance profiles, probabilities of improvement."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.reports.aggregates import Aggregate
from penstock.reports.statistics import Estimate
from penstock.reports.style import FAINT, SOFT, Look, below, canvas, letter_size, letters, save, tick, wrap


def draw_aggregate(
    aggregate: Aggregate,
    looks: Mapping[str, Look],
    output: Path,
    *,
    width: float | int | None = None,
    confidence: float | int = 0.95,
) -> list[Path]:
    """Draws what there is of an aggregate: without references the probabilities alone.

    Args:
        aggregate: the numbers.
        looks: how each arm is drawn, as in the figure of the curves.
        output: see `save`.
        width: of the figure in inches; by default what its panels need.
        confidence: of the intervals, for the explanation.

    Returns:
        The files written.
    """
    scored = aggregate.references is not None
    compared = len(aggregate.arms) > 1
    arms = [arm.arm for arm in aggregate.arms]
    row = max(2.2, 0.32 * len(arms) + 0.9)
    with canvas(2 * scored + compared, width, row) as (figure, panels):
        columns = panels[0].get_subplotspec().get_gridspec().ncols
        room = letters(0.8 * figure.get_size_inches()[0] / columns, 1.1 * letter_size())
        rest = iter(panels)
        if scored:
            _intervals(next(rest), {arm.arm: arm.normalised for arm in aggregate.arms}, looks)
        if compared:
            axes = next(rest)
            _intervals(axes, {arm.arm: arm.improvement for arm in aggregate.arms}, looks)
            axes.axvline(0.5, color=SOFT, lw=1, zorder=0.5)
            axes.set_xlim(-0.03, 1.03)
            if scored and columns > 1:
                axes.set_yticklabels([])  # the names stand to the left already
        if scored:
            _profiles(next(rest), aggregate, looks)
        titles = ["normalised IQM"] * scored + [f"P(better than {aggregate.baseline})"] * compared
        for axes, title in zip(panels, [*titles, "fraction of runs above a score"], strict=False):
            axes.set_title(wrap(title, room))
        below(figure, [], _explanation(aggregate, confidence))
        return save(figure, output)


def _intervals(axes: Any, arms: Mapping[str, Estimate | None], looks: Mapping[str, Look]) -> None:
    """One bar per arm from the lower to the upper end of its interval, with a mark at the estimate."""
    for place, (arm, estimate) in enumerate(arms.items()):
        if estimate is None or np.isnan(estimate.value):
            continue  # the baseline beside itself; a seed that is not finite
        entry = looks[arm]
        if np.isfinite(estimate.low):
            axes.barh(place, estimate.high - estimate.low, left=estimate.low, height=0.6, color=entry.color, alpha=0.25)
        axes.plot([estimate.value] * 2, [place - 0.3, place + 0.3], color=entry.color, lw=2.5, solid_capstyle="butt")
        # The arm's own dashes and marker tell in a grey print which line of the profiles is its.
        style = entry.line()
        axes.plot([estimate.low, estimate.high], [place, place], **{**style, "marker": None})
        if entry.marker:
            axes.plot([estimate.value], [place], **{**style, "ls": "none"})
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_yticks(range(len(arms)), [wrap(arm, 24) for arm in arms])
    for text, arm in zip(axes.get_yticklabels(), arms, strict=True):
        text.set_color(looks[arm].color)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)


def _profiles(axes: Any, aggregate: Aggregate, looks: Mapping[str, Look]) -> None:
    for place, arm in enumerate(aggregate.arms):
        assert arm.profile is not None
        value, low, high = arm.profile
        entry = looks[arm.arm]
        if np.isfinite(low).any():
            axes.fill_between(aggregate.thresholds, low, high, color=entry.color, alpha=0.12, lw=0)
        axes.plot(aggregate.thresholds, value, **entry.line(len(value), place))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(aggregate.thresholds[0], aggregate.thresholds[-1])
    axes.set_xlabel("normalised score")
    axes.xaxis.set_major_formatter(tick)
    axes.axhline(0.5, color=FAINT, lw=1.2, zorder=0.5)


def _explanation(aggregate: Aggregate, confidence: float | int) -> str:
    worlds = len(aggregate.steps)
    note = (
        f"{worlds} worlds; marks: estimates; bars and bands: {confidence:.0%} bootstrap intervals, stratified by world"
    )
    if aggregate.references is None:
        return note
    if aggregate.relative:
        return f"{note}; scores: 0 is the lowest and 1 the highest arm of each world"
    limits = {world: f"{low:g} to {high:g}" for world, (low, high) in aggregate.references.items()}
    if len(set(limits.values())) == 1:
        return f"{note}; scores: 0 to 1 are returns of {next(iter(limits.values()))}"
    return f"{note}; scores: 0 to 1 are returns of " + ", ".join(f"{pair} on {world}" for world, pair in limits.items())
