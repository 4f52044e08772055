"""How figures look: few lines, direct labels, arms that colour blindness and grey printing leave distinct."""

import contextlib
import dataclasses
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from penstock._errors import require
from penstock._extras import extra
from penstock._files import replacing
from penstock.reports.tables import quantity

FORMATS = (".png", ".svg", ".pdf")
"""File endings of figures."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#B8860B", "#56B4E9", "#332288", "#666666", "#882255", "#44AA99")
"""Line colours: the Okabe-Ito set with its light yellow and orange replaced by tones that carry text on white."""

DASHES: tuple[Any, ...] = (
    "-",
    (0, (5.5, 1.8)),
    (0, (1.1, 1.3)),
    (0, (7, 1.6, 1.1, 1.6)),
    (0, (3, 1.3, 1.1, 1.3, 1.1, 1.3)),
)
"""Line styles. The next arms have them again, in other colours and with markers."""

MARKERS = ("", "o", "s", "^", "D", "v")
"""Markers of the first five arms, of the next five, and so on."""

INK, SOFT, FAINT = "#22262b", "#6b7280", "#e3e6ea"

RULES = {
    "font.size": 10,
    "text.parse_math": False,  # a $ in a label is a $
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,  # letters as TrueType: journals refuse Type 3
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": "large",
    "axes.titlepad": 8,
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


NARROW = 5.0
"""A figure of fewer inches is meant for a column of a page: smaller letters, and no labels beside the lines."""


@dataclasses.dataclass(frozen=True)
class Look:
    """How one arm is drawn. Colour, dashes and marker each say nothing alone; together they are an arm's own.

    Attributes:
        color: of line, band and text.
        dash: matplotlib's line style.
        marker: on some points of the line; empty for none.
    """

    color: str
    dash: Any
    marker: str

    def line(self, points: int = 0, place: int = 0) -> dict[str, Any]:
        """Keywords of a line; with few points each has its marker, with many some, which ``place`` sets apart."""
        few = 0 < points <= 12
        every = max(1, points // 7)
        return {
            "color": self.color,
            "ls": self.dash,
            "marker": self.marker or ("." if few else None),
            "markerfacecolor": "white" if self.marker else self.color,
            "ms": letter_size() * (0.5 if self.marker else 0.7),
            "markevery": None if few or not points else (place * every // 5 % every, every),
            "dash_capstyle": "butt",
            "solid_capstyle": "round",
        }


def look(place: int) -> Look:
    """How the arm at this place of a comparison is drawn: always alike, however many others there are."""
    return Look(
        PALETTE[place % len(PALETTE)], DASHES[place % len(DASHES)], MARKERS[place // len(DASHES) % len(MARKERS)]
    )


@contextlib.contextmanager
def canvas(
    panels: int = 1, width: float | int | None = None, height: float | int | None = None
) -> Iterator[tuple[Any, list[Any]]]:
    """Yields a figure and its axes, in rows where there are many. Touches no global matplotlib state for long.

    Args:
        panels: number of axes.
        width: of the figure, in inches; by default what the panels need.
        height: of one row of panels, in inches; by default in proportion.
    """
    matplotlib = extra("matplotlib", "plots")
    figures = extra("matplotlib.figure", "plots")
    if width is None:
        columns = 2 if panels == 4 else min(panels, 3)
        width = 7.2 if panels == 1 else 4.2 * columns
    else:
        require(math.isfinite(width) and 1.5 <= width <= 100, "width", width, "must lie between 1.5 and 100 inches")
        columns = max(1, min(panels, int(width / 1.7), 3 if panels != 4 else 2))
    rows = -(-panels // columns)
    if height is None:
        height = min(4.0, 0.56 * width) if panels == 1 else min(3.2, 0.8 * width / columns)
        height = max(height, 1.9)
    large = width >= NARROW and width / columns >= 3.2
    sizes = {"font.size": 10 if large else 8, "lines.linewidth": 2.0 if large else 1.5}
    with matplotlib.rc_context({**RULES, **sizes}):
        figure = figures.Figure(figsize=(width, height * rows), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for empty in axes[panels:]:
            empty.remove()
        yield figure, axes[:panels]


def figure_paths(output: Path) -> list[Path]:
    """Where a figure is written: as its ending says; without one as PNG and as SVG."""
    return [output] if output.suffix.lower() in FORMATS else [Path(f"{output}{end}") for end in (".png", ".svg")]


def save(figure: Any, output: Path) -> list[Path]:
    """Writes a figure in the format of its ending, ``.png``, ``.svg`` or ``.pdf``; without one as PNG and as SVG.

    Returns:
        The paths. See `missing_glyphs` for letters that the font lacks: they are drawn as boxes, without a warning.
    """
    paths = figure_paths(output)
    for path in paths:
        kind = path.suffix.lower()
        options = {
            ".png": {"dpi": 160 if figure.get_figwidth() >= NARROW else 300},
            ".svg": {"metadata": {"Date": None}},
            ".pdf": {"metadata": {"CreationDate": None}},
        }[kind]
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, format=kind[1:], **options)
    return paths


def missing_glyphs(texts: Sequence[str]) -> str:
    """The letters of some texts that the font of figures cannot draw."""
    fonts = extra("matplotlib.font_manager", "plots")
    known = fonts.get_font(fonts.findfont("DejaVu Sans")).get_charmap()
    return "".join(dict.fromkeys(letter for text in texts for letter in text if ord(letter) not in known))


def wrap(text: str, letters: int) -> str:
    """Breaks a text into lines, between words where that is possible."""
    parts = textwrap.wrap(text, max(letters, 8), break_on_hyphens=False)
    return "\n".join(parts) or text


def letters(inches: float | int, size: float | int) -> int:
    """About how many letters of ``size`` points fit into a line."""
    return int(inches * 72 / (0.56 * size))


def below(figure: Any, entries: Sequence[tuple[str, Look]], note: str) -> None:
    """Makes the figure higher for what stands below its panels: the names of arms, if any, and an explanation.

    Args:
        figure: its panels are finished.
        entries: name and look per arm; they stand in as many columns as fit.
        note: one sentence, in small letters.
    """
    lines = extra("matplotlib.lines", "plots")
    width, height = figure.get_size_inches()
    note = wrap(note, letters(width - 0.2, 0.75 * letter_size()))
    note_height = (note.count("\n") + 1) * 0.75 * letter_size() * 1.3 / 72 + 0.06
    room = letters(width - 0.2, letter_size())
    names = [wrap(name, room - 8) for name, _ in entries]
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    rows = -(-len(entries) // max(1, room // (longest + 8)))
    columns = -(-len(entries) // max(1, rows))
    tallest = max((name.count("\n") + 1 for name in names), default=0)
    names_height = rows * tallest * letter_size() * 1.45 / 72 + 0.08 * bool(entries)
    total = height + note_height + names_height
    figure.set_size_inches(width, total)
    figure.get_layout_engine().set(rect=(0, (note_height + names_height) / total, 1, height / total))
    figure.text(
        0.1 / width, 0.06 / total, note, fontsize=0.75 * letter_size(), color=SOFT, va="bottom", linespacing=1.2
    )
    if not entries:
        return
    made = figure.legend(
        [lines.Line2D([], [], **entry.line()) for _, entry in entries],
        ["-"] * len(names),  # matplotlib leaves out names that begin with an underscore: they are set below
        loc="lower left",
        bbox_to_anchor=(0, note_height / total),
        ncols=columns,
        frameon=False,
        handlelength=3.6,
        columnspacing=1.6,
        labelspacing=0.35,
        borderaxespad=0.2,
    )
    for text, name, (_, entry) in zip(made.get_texts(), names, entries, strict=True):
        text.set(text=name, color=entry.color)


def label_lines(axes: Any, ends: Sequence[tuple[float, str, Look]]) -> None:
    """Writes each line's name to the right of the axes, at the height of its end, pushed apart where they collide.

    Args:
        axes: where the lines are drawn; its vertical limits must be final.
        ends: height in data units, text and look per line.
    """
    low, high = axes.get_ylim()
    size = 0.95 * letter_size()
    inches = 0.78 * axes.figure.get_size_inches()[1]
    gap = 1.4 * size / 72 / inches * max((text.count("\n") + 1 for _, text, _ in ends), default=1)
    wanted = sorted(enumerate(ends), key=lambda entry: entry[1][0])
    places = [(end - low) / (high - low) for _, (end, _, _) in wanted]
    heights = spread_apart(places, gap)
    moved = max((abs(place - height) for place, height in zip(places, heights, strict=True)), default=0.0)
    gutter = 0.015 if moved < 0.03 else 0.045  # steep leaders need room beside the text
    sample = 0.065
    for (_, (_, text, entry)), place, height in zip(wanted, places, heights, strict=True):
        # A sample of the line stands before its name, so that a grey print can be read, too.
        x = 1.0 + gutter
        style = {**entry.line(), "transform": axes.transAxes, "clip_on": False}
        axes.plot([x, x + sample], [height, height], **{**style, "marker": None})
        if entry.marker:
            axes.plot([x + sample / 2], [height], **{**style, "ls": "none"})
        axes.text(
            x + sample + 0.012,
            height,
            text,
            transform=axes.transAxes,
            color=entry.color,
            va="center",
            fontweight="bold",
            fontsize=size,
            linespacing=1.15,
        )
        if abs(place - height) > 0.03:
            axes.plot([1.0, x], [place, height], transform=axes.transAxes, color=entry.color, lw=0.8, alpha=0.7,
                      clip_on=False)  # fmt: skip


def letter_size() -> float:
    """Size of the letters of the figure that is being drawn."""
    return float(extra("matplotlib", "plots").rcParams["font.size"])


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


def tick(value: float | int, _: object = None) -> str:
    """A tick label (matplotlib passes the position too)."""
    return quantity(value)
