"""Learning curves of several runs with their uncertainty, or of one fresh run; and the table behind them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock._errors import require, suggest
from penstock._files import write_text
from penstock.reports.aggregates import Aggregate, References, aggregate
from penstock.reports.arms import Comparison, compare
from penstock.reports.profiles import draw_aggregate
from penstock.reports.runs import Run, RunError, RunSource, read_run, read_runs, seed_curves
from penstock.reports.style import (
    FAINT,
    NARROW,
    Look,
    below,
    canvas,
    label_lines,
    letter_size,
    letters,
    look,
    missing_glyphs,
    save,
    tick,
    wrap,
)
from penstock.reports.summaries import (
    ArmCurve,
    ArmSummary,
    aggregate_csv,
    arm_curve,
    as_json,
    curves_csv,
    drawn_points,
    summarise,
)
from penstock.reports.tables import markdown_table

AXES = {
    "env_steps": "environment steps",
    "wall_seconds": "wall-clock time of the run (s)",
    "cpu_seconds": "CPU time per seed (s)",
}
"""Possible horizontal axes."""

MANY_ARMS = 5
"""A panel with more arms draws no line for each seed and names each arm in one line."""

LONG_NAME = 26
"""Letters of a line of a name beside the panel; longer names go below it."""

LABELS = {
    "eval/return_mean": "return of stochastic evaluation",
    "eval/return_deterministic": "return of deterministic evaluation",
    "eval/forward_velocity": "forward velocity in evaluation (m/s)",
    "eval/success_rate": "success rate in evaluation",
    "eval/success_rate_at_end": "success rate at the end of episodes in evaluation",
}
"""What a metric is called in a figure; others go by their key."""


def plot_runs(
    runs: Sequence[RunSource],
    output: Path | str,
    metric: str = "eval/return_deterministic",
    *,
    x: str = "env_steps",
    title: str | None = None,
    confidence: float | int = 0.95,
    width: float | int | None = None,
    csv: Path | str | None = None,
    normalize: References | str | None = None,
    baseline: str = "",
) -> list[Path]:
    """Compares runs: interquartile mean and bootstrap interval over the seeds of each arm, seeds as thin lines.

    Runs with the same title (the name that is given, else the label, else the algorithm) and the same settings form an
    arm; docs/plots.md says which settings count. Each world gets a panel. An arm's mean ends where its shortest seed
    ends; the thin lines go on. Panels of many arms leave them out. Runs of several worlds get a second figure,
    ``OUTPUT-worlds``, with the numbers over all worlds.

    Args:
        runs: run folders, or pairs of a name and a run folder.
        output: the figure, in the format of its ending, ``.png``, ``.svg`` or ``.pdf``; without one as PNG and SVG. Its
            table appears beside it, as ``.json`` and ``.md``.
        metric: key in ``metrics.jsonl``.
        x: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``.
        title: above the figure; the world's name by default.
        confidence: of the pointwise interval.
        width: of the figure in inches; by default what its panels need.
        csv: where to write what is drawn, as CSV; the numbers over all worlds go to ``CSV-worlds``.
        normalize: see `aggregate`.
        baseline: see `aggregate`.

    Returns:
        The files written.

    Raises:
        RunError: a folder is missing, empty, damaged or lacks the metric, a seed would count twice, or one given name
            stands for runs whose settings differ.
        ConfigurationError: the axis, the width, the normalisation or the baseline cannot be used.
        MissingExtraError: matplotlib is not installed.
    """
    check_axis(x)
    comparison = compare(read_runs(runs), metric, x)
    over_worlds = aggregate(comparison, normalize, baseline, confidence=confidence)
    return plot_comparison(
        comparison,
        over_worlds,
        Path(output),
        title=title,
        confidence=confidence,
        width=width,
        csv=None if csv is None else Path(csv),
    )


def plot_comparison(
    comparison: Comparison,
    over_worlds: Aggregate | None,
    output: Path,
    *,
    title: str | None = None,
    confidence: float | int = 0.95,
    width: float | int | None = None,
    csv: Path | None = None,
) -> list[Path]:
    """Draws runs that have been grouped already. See `plot_runs`."""
    drawn = {
        world: {arm: arm_curve(seeds, confidence) for arm, seeds in arms.items()}
        for world, arms in comparison.worlds.items()
    }
    written = _draw_curves(comparison, drawn, output, title, confidence, width)
    stem = written[0].with_suffix("")
    looks = {arm: look(place) for place, arm in enumerate(comparison.arms)}
    has_figure = over_worlds is not None and (over_worlds.references is not None or len(over_worlds.arms) > 1)
    if over_worlds is not None and has_figure:
        written += draw_aggregate(over_worlds, looks, _beside(output), width=width, confidence=confidence)
    summaries = summarise(comparison, confidence)
    written.append(write_text(stem.with_suffix(".json"), as_json(comparison, summaries, over_worlds, confidence)))
    tables = [markdown_table([summary.row() for summary in summaries])]
    if over_worlds is not None:
        tables.append(markdown_table(over_worlds.rows))
    written.append(write_text(stem.with_suffix(".md"), "\n\n".join(tables) + "\n"))
    if csv is not None:
        written.append(write_text(csv, curves_csv(comparison, drawn)))
        if over_worlds is not None and has_figure:
            written.append(write_text(_beside(csv), aggregate_csv(over_worlds)))
    return written


def summary_table(
    runs: Sequence[RunSource], metric: str = "eval/return_deterministic", *, confidence: float | int = 0.95
) -> list[ArmSummary]:
    """One row per world and arm: the numbers behind `plot_runs`. Needs no optional dependency.

    Args:
        runs: run folders, or pairs of a name and a run folder.
        metric: key in ``metrics.jsonl``.
        confidence: of the intervals.

    Raises:
        RunError: as for `plot_runs`.
    """
    return summarise(compare(read_runs(runs), metric), confidence)


def plot_single(run_dir: Path, *, x: str = "env_steps") -> Path:
    """Draws the returns of one run, and its forward velocity where it has one, into ``figures/return.png``.

    Of a run with several seeds, each seed is a thin line and the interquartile mean a thick one. Also writes the SVG.

    Args:
        run_dir: the run folder.
        x: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``.

    Returns:
        Path of the PNG.

    Raises:
        RunError: the folder is missing, empty or damaged, or holds no evaluation yet.
        MissingExtraError: matplotlib is not installed.
    """
    check_axis(x)
    run = read_run(Path(run_dir))
    returns = [
        (metric, name)
        for metric, name in (
            ("eval/return_deterministic", "deterministic"),
            ("eval/return_mean", "stochastic"),
        )
        if metric in run.metrics
    ]
    if not returns:
        raise RunError(f"{run.folder} holds no evaluation yet. Let it run on to its first one, then plot again.")
    velocity = "eval/forward_velocity" in run.metrics
    with canvas(2 if velocity else 1, 11.2 if velocity else None, 4.0) as (figure, panels):
        ends = []
        for place, (metric, name) in enumerate(returns):
            curve = arm_curve(seed_curves(run, metric, x), None)
            _draw_arm(panels[0], curve, look(place), place, True)
            ends.append((curve.end, name, look(place)))
        _finish(panels[0], x, "return per episode")
        if len(returns) > 1:
            label_lines(panels[0], [end for end in ends if math.isfinite(end[0])])
        if velocity:
            _draw_arm(panels[1], arm_curve(seed_curves(run, "eval/forward_velocity", x), None), look(2), 2, True)
            _finish(panels[1], x, "forward velocity (m/s)")
        figure.suptitle(_headline(run), x=0.012, ha="left", fontsize=11, fontweight="bold")
        return save(figure, run.folder / "figures" / "return")[0]


def check_axis(x: str) -> None:
    """Refuses what is not in `AXES`."""
    require(x in AXES, "x", x, f"is not a horizontal axis.{suggest(x, AXES)}")


def glyph_note(comparison: Comparison, title: str | None = None) -> str:
    """A sentence about letters in names that figures cannot draw; empty where there are none."""
    missing = missing_glyphs([*comparison.arms, *comparison.worlds, comparison.metric, title or ""])
    return (
        f"The font of figures has no {' '.join(missing)}: a box stands for each. Give other names." if missing else ""
    )


def _draw_curves(
    comparison: Comparison,
    drawn: dict[str, dict[str, ArmCurve]],
    output: Path,
    title: str | None,
    confidence: float | int,
    width: float | int | None,
) -> list[Path]:
    looks = {arm: (place, look(place)) for place, arm in enumerate(comparison.arms)}
    label = LABELS.get(comparison.metric, comparison.metric)
    with canvas(len(drawn), width) as (figure, panels):
        size, height = figure.get_size_inches()
        columns = panels[0].get_subplotspec().get_gridspec().ncols
        room = letters(0.8 * size / columns, 1.1 * letter_size())
        for place, (axes, (world, arms)) in enumerate(zip(panels, drawn.items(), strict=True)):
            for arm, curve in arms.items():
                _draw_arm(axes, curve, looks[arm][1], looks[arm][0], len(arms) <= MANY_ARMS)
            _finish(axes, comparison.x, wrap(title if title and len(drawn) == 1 else world, room))
            if place % columns == 0:
                axes.set_ylabel(wrap(label, letters(0.75 * height / -(-len(drawn) // columns), letter_size())))
        if title and len(drawn) > 1:
            figure.suptitle(wrap(title, letters(size, 1.2 * letter_size())), x=0.01, ha="left")
        names, entries = _beside_lines(drawn, size), []
        if names is None:
            alike = _same_count(drawn)
            entries = [(arm if alike else f"{arm} · {_counts(drawn, arm)}", entry) for arm, (_, entry) in looks.items()]
        else:
            ((_, arms),) = drawn.items()
            ends = [(curve.end, names[arm], looks[arm][1]) for arm, curve in arms.items()]
            label_lines(panels[0], [end for end in ends if math.isfinite(end[0])])
        below(figure, entries, _explanation(drawn, confidence))
        return save(figure, output)


def _draw_arm(axes: Any, curve: ArmCurve, entry: Look, place: int, seeds: bool) -> None:
    """Draws one arm, with or without a line for each seed."""
    single = len(curve.seeds) == 1
    if not single and (seeds or not len(curve.x)):
        for seed in curve.seeds:
            x, values = drawn_points(seed)
            marker = "." if len(x) == 1 else None
            axes.plot(x, values, color=entry.color, lw=0.8, alpha=0.3, marker=marker, solid_capstyle="round")
    if not len(curve.x):
        return
    if curve.has_band:
        axes.fill_between(curve.x, curve.low, curve.high, color=entry.color, alpha=0.16 if seeds else 0.09, lw=0)
    axes.plot(curve.x, curve.middle, **entry.line(len(curve.x), place))
    if len(curve.x) == 1 and curve.has_band:
        spread = [curve.middle - curve.low, curve.high - curve.middle]
        axes.errorbar(curve.x, curve.middle, spread, color=entry.color, lw=1.2, capsize=3)


def _finish(axes: Any, x: str, title: str) -> None:
    axes.set_xlabel(AXES[x])
    axes.set_title(title)
    axes.xaxis.set_major_formatter(tick)
    axes.margins(x=0.02)
    high = axes.get_xlim()[1]
    axes.set_xlim(0, high)  # every axis counts from the start of the run
    bottom, top = axes.get_ylim()
    if bottom < 0 < top:
        axes.axhline(0, color=FAINT, lw=1.2, zorder=0.5)


def _beside_lines(drawn: dict[str, dict[str, ArmCurve]], size: float | int) -> dict[str, str] | None:
    """The texts that name the arms beside their lines; None where there is no room for that."""
    if len(drawn) > 1 or size < NARROW:
        return None
    ((_, arms),) = drawn.items()
    names = {arm: wrap(arm, LONG_NAME) for arm in arms}
    if len(arms) <= MANY_ARMS or not _same_count(drawn):
        glue = " · " if len(arms) > MANY_ARMS else "\n"
        names = {arm: f"{name}{glue}{_count(len(arms[arm].seeds))}" for arm, name in names.items()}
    lines = [name.split("\n") for name in names.values()]
    too_long = max(len(line) for name in lines for line in name) > LONG_NAME + 10
    return None if too_long or max(map(len, lines)) * len(lines) > 15 else names


def _explanation(drawn: dict[str, dict[str, ArmCurve]], confidence: float | int) -> str:
    count = _same_count(drawn)
    note = (
        f"thick: interquartile mean over {_count(count) if count > 1 else 'seeds'}" if count != 1 else "one seed each"
    )
    if any(len(arms) <= MANY_ARMS and any(len(c.seeds) > 1 for c in arms.values()) for arms in drawn.values()):
        note += "; thin: single seeds"
    if any(curve.has_band for arms in drawn.values() for curve in arms.values()):
        note += f"; band: pointwise {confidence:.0%} bootstrap interval"
    return note


def _headline(run: Run) -> str:
    seeds = sorted({row["seed"] for row in run.rows if row.get("seed") is not None}, key=str)
    if len(seeds) > 1:
        seed = _count(len(seeds))
    elif run.config.get("seed") is not None:
        seed = f"seed {run.config['seed']}"
    else:
        seed = ""
    return " · ".join(part for part in (run.title, run.world, seed) if part)


def _same_count(drawn: dict[str, dict[str, ArmCurve]]) -> int:
    """The number of seeds that all arms have on all worlds; 0 where they differ."""
    counts = {len(curve.seeds) for arms in drawn.values() for curve in arms.values()}
    return counts.pop() if len(counts) == 1 else 0


def _counts(drawn: dict[str, dict[str, ArmCurve]], arm: str) -> str:
    counts = sorted({len(arms[arm].seeds) for arms in drawn.values() if arm in arms})
    return _count(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def _beside(path: Path) -> Path:
    """The file of the numbers over all worlds."""
    return path.with_name(f"{path.stem}-worlds{path.suffix}")
