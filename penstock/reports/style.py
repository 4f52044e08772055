"""How figures look: few lines, direct labels, colours that survive colour blindness and grey printing."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from penstock._extras import extra
from penstock._files import replacing

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#B8860B", "#56B4E9", "#332288", "#666666", "#882255", "#44AA99")
"""Line colours: the Okabe-Ito set with its light yellow and orange replaced by tones that carry text on white."""

INK, SOFT, FAINT = "#22262b", "#6b7280", "#e3e6ea"

RULES = {
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.left": False,
    "text.color": INK,
    "svg.hashsalt": "penstock",
}
"""Settings of matplotlib for every figure."""


@contextlib.contextmanager
def canvas(columns: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Yields a figure and its axes side by side, in the house style. Touches no global matplotlib state for long."""
    matplotlib = extra("matplotlib", "plots")
    figures = extra("matplotlib.figure", "plots")
    with matplotlib.rc_context(RULES):
        figure = figures.Figure(figsize=(7.2 if columns == 1 else 5.6 * columns, 4.0), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        yield figure, list(axes)


def save(figure: Any, output: Path) -> list[Path]:
    """Writes ``output`` as PNG and as SVG, whatever suffix it has.

    Returns:
        The two paths.
    """
    paths = []
    for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        path = output.with_suffix(suffix) if output.suffix in (".png", ".svg") else Path(f"{output}{suffix}")
        with replacing(path) as temporary:
            figure.savefig(temporary, **options)
        paths.append(path)
    return paths


def label_lines(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes each line's name to the right of the axes, at the height of its end, pushed apart where they collide.

    Args:
        axes: where the lines are drawn; its vertical limits must be final.
        ends: height in data units, text and colour per line.
    """
    low, high = axes.get_ylim()
    gap = 0.062 * max(1, max((text.count("\n") + 1 for _, text, _ in ends), default=1))
    wanted = sorted(((end - low) / (high - low), text, color) for end, text, color in ends)
    heights = spread_apart([place for place, _, _ in wanted], gap)
    moved = max((abs(place - height) for (place, _, _), height in zip(wanted, heights, strict=True)), default=0.0)
    gutter = 0.02 if moved < 0.03 else 0.05  # steep leaders need room beside the text
    for (place, text, color), height in zip(wanted, heights, strict=True):
        axes.text(
            1.01 + gutter,
            height,
            text,
            transform=axes.transAxes,
            color=color,
            va="center",
            fontweight="bold",
            fontsize=9.5,
            linespacing=1.15,
        )
        if abs(place - height) > 0.03:
            axes.plot([1.0, 1.0 + gutter], [place, height], transform=axes.transAxes, color=color, lw=0.8, alpha=0.7,
                      clip_on=False)  # fmt: skip


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """Moves sorted ``places`` until neighbours are ``gap`` apart, inside [0, 1] if they fit."""
    clusters: list[list[float]] = []  # each: [centre, members]
    for place in places:
        clusters.append([min(max(place, 0.0), 1.0), 1])
        while len(clusters) > 1:
            (below, n), (above, m) = clusters[-2], clusters[-1]
            if above - below >= gap * (n + m) / 2:
                break
            centre = (below * n + above * m) / (n + m)
            half = gap * (n + m - 1) / 2
            clusters[-2:] = [[min(max(centre, min(half, 0.5)), max(1 - half, 0.5)), n + m]]
    return [centre + gap * (i - (n - 1) / 2) for centre, n in clusters for i in range(int(n))]
