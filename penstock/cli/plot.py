"""``penstock plot RUN...``: learning curves, with interquartile mean and bootstrap interval over seeds and runs."""

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from penstock._errors import require
from penstock.cli._arguments import parse


@dataclasses.dataclass(frozen=True)
class PlotOptions:
    """Draws runs together. Runs of one algorithm (or one label) form one arm."""

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path = Path("curves.png")
    """PNG to write, or a folder; an SVG and a table (JSON and Markdown) appear beside it."""
    metric: str = "eval/return_deterministic"
    """What to draw: any name in metrics.jsonl."""
    x: Literal["env_steps", "wall_seconds", "cpu_seconds"] = "env_steps"
    """Horizontal axis."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(PlotOptions, arguments, "penstock plot")
    output = options.output / "curves.png" if options.output.is_dir() else options.output
    require(output.suffix in ("", ".png", ".svg"), "output", str(output), "must end in .png; an SVG appears beside it")
    from penstock.reports.curves import plot_runs, summary_table
    from penstock.reports.tables import text_table

    written = plot_runs(list(options.runs), output, metric=options.metric, x=options.x)
    rows = [summary.row() for summary in summary_table(list(options.runs), options.metric)]
    print(text_table(rows))
    print("\n".join(str(path) for path in written))
    return 0
