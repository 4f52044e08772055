"""``penstock plot RUN...``: learning curves, with interquartile mean and bootstrap interval over seeds and runs."""

import dataclasses
import glob
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from penstock._errors import require
from penstock.cli._arguments import parse

if TYPE_CHECKING:  # figures are imported when there is something to draw, so that help and mistakes are quick
    from collections.abc import Sequence

    from penstock.reports.aggregates import Aggregate
    from penstock.reports.arms import Comparison
    from penstock.reports.summaries import ArmSummary


@dataclasses.dataclass(frozen=True)
class PlotOptions:
    """Draws runs together. Runs with one label (or algorithm) and the same settings form one arm.

    Where settings differ, arms are named by what differs; docs/plots.md says which settings count. Runs of several
    worlds get a panel each, and a second figure with the numbers over all worlds.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]RUN ...")]
    """Run folders, each with a name to be called by if you like: 'with past=runs/a'."""
    output: Path = Path("curves.png")
    """The figure, in the format of its ending: .png, .svg or .pdf; or a folder. A table appears beside it."""
    csv: Path | None = None
    """Where to write what is drawn, as CSV (docs/plots.md)."""
    metric: str = "eval/return_deterministic"
    """What to draw: any name in metrics.jsonl."""
    x: Literal["env_steps", "wall_seconds", "cpu_seconds"] = "env_steps"
    """Horizontal axis."""
    width: Annotated[float | None, arg(metavar="INCHES")] = None
    """Width of the figure, for example of a page's column; by default what the panels need."""
    title: str = ""
    """What stands above the figure; by default the world."""
    normalize: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="WORLD=LOW,HIGH")] = ()
    """Several worlds: the returns that count as 0 and as 1, for each world; or 'arms': the lowest and highest arm."""
    baseline: Annotated[str, arg(metavar="ARM")] = ""
    """Several worlds: the arm that the others are compared with; by default the first."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(PlotOptions, each_with_its_option(arguments), "penstock plot")
    output = options.output / "curves.png" if options.output.is_dir() else options.output
    require(
        output.suffix.lower() in ("", ".png", ".svg", ".pdf"),
        "output",
        str(output),
        "must end in .png, .svg or .pdf" + ("; for numbers, add --csv" if output.suffix.lower() == ".csv" else ""),
    )
    if options.csv is not None:
        require(options.csv.suffix.lower() == ".csv", "csv", str(options.csv), "must end in .csv")
    sources = [source for text in options.runs for source in named_runs(text)]
    from penstock.reports.aggregates import NO_SHARED_ARM, aggregate, parse_references
    from penstock.reports.arms import compare
    from penstock.reports.curves import glyph_note, plot_comparison
    from penstock.reports.runs import read_runs
    from penstock.reports.summaries import summarise

    comparison = compare(read_runs(sources), options.metric, options.x)
    references = parse_references(options.normalize, list(comparison.worlds))
    over_worlds = aggregate(comparison, references, options.baseline)
    written = plot_comparison(
        comparison, over_worlds, output, title=options.title or None, width=options.width, csv=options.csv
    )
    print("\n\n".join(_tables(comparison, summarise(comparison), over_worlds)))
    print("\n".join(str(path) for path in written))
    none_shared = (NO_SHARED_ARM,) if len(comparison.worlds) > 1 else ()
    notes = [
        *comparison.notes,
        *(over_worlds.notes if over_worlds else none_shared),
        glyph_note(comparison, options.title),
    ]
    for note in filter(None, notes):
        print(f"note: {note}", file=sys.stderr)
    return 0


def each_with_its_option(arguments: list[str]) -> list[str]:
    """``--normalize A=0,1 B=0,2`` as ``--normalize A=0,1 --normalize B=0,2``: both ways of giving several are usual."""
    spread: list[str] = []
    behind = False
    for position, text in enumerate(arguments):
        is_value = position > 0 and arguments[position - 1] == "--normalize"
        is_another = behind and not is_value and re.fullmatch(r"[^-=][^=]*=[^,=/]+,[^,=/]+", text) is not None
        spread += ["--normalize", text] if is_another else [text]
        behind = is_value or is_another or (behind and text == "--normalize") or text.startswith("--normalize=")
    return spread


def named_runs(text: str) -> list[tuple[str, Path]]:
    """Reads ``RUN`` or ``NAME=RUN``; a pattern behind a name, which no shell expands, stands for all its folders.

    Raises:
        ConfigurationError: the name or the folder is empty, or a pattern fits nothing.
    """
    if "=" not in text or Path(text).exists():
        return [("", Path(text))]
    name, _, folder = text.partition("=")
    require(bool(name.strip() and folder), "runs", text, "write RUN or NAME=RUN, for example 'no past=runs/a'")
    if Path(folder).exists() or not glob.has_magic(folder):
        return [(name, Path(folder))]
    found = sorted(glob.glob(folder))  # noqa: PTH207 - the pattern may be absolute
    require(bool(found), "runs", text, f"no folder fits the pattern {folder}. Check it, or name the folders")
    return [(name, Path(path)) for path in found]


def _tables(comparison: "Comparison", summaries: "Sequence[ArmSummary]", over_worlds: "Aggregate | None") -> list[str]:
    """A table for each world, what the names of arms leave out, and the table over all worlds."""
    from penstock.reports.tables import terminal_width, text_table

    width = terminal_width()
    tables = []
    for world in comparison.worlds:
        rows = [summary.row() for summary in summaries if summary.world == world]
        for row in rows:
            del row["world"]
        tables.append(f"{world}\n{text_table(rows, width=width)}" if world else text_table(rows, width=width))
    for arm in comparison.arms:
        if arm in comparison.shortened:
            settings = comparison.settings[arm].items()
            tables.append("\n".join([f"{arm}:", *(f"  {field} = {value}" for field, value in settings)]))
    if over_worlds is not None:
        counts = {f"{count:,.0f}" for count in over_worlds.steps.values()}
        steps = ", ".join(f"{count:,.0f} on {world}" for world, count in over_worlds.steps.items())
        steps = next(iter(counts)) if len(counts) == 1 else steps
        heading = textwrap.fill(f"all worlds, read at {steps} environment steps", max(width, 20))
        tables.append(f"{heading}\n{text_table(over_worlds.rows, width=width)}")
    return tables
