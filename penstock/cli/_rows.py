"""``penstock train ... --sweep RATE=VALUE,VALUE``: learning rates and seeds as rows of one program."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from penstock._errors import PenstockError
from penstock.cli._run import closing_lines, loggers_from_options
from penstock.reports.curves import plot_single
from penstock.reports.live import Progress
from penstock.sweeps.points import Sweep, parse_grid
from penstock.training.loop import train_together
from penstock.training.plan import RunPlan, default_run_dir


def train_rows(plan: RunPlan, options: Any) -> int:
    """Trains one run for each combination of learning rates, all in one program, and reports. Returns the exit code.

    Args:
        plan: what all have in common.
        options: as parsed; ``sweep`` says what is varied, ``run_dir`` where the run folders lie.
    """
    grid = parse_grid(options.sweep)
    base = options.run_dir or Path(f"{default_run_dir(plan)}-sweep")
    runs = []
    for point in Sweep(grid=grid).points():
        settings = type(plan.settings).of(**{**plan.settings.flat(), **point.given.settings})
        fields = {name: value for name, value in point.given.fields.items() if name != "world_options"}
        runs.append((dataclasses.replace(plan, settings=settings, **fields), base / point.name))
    results = train_together(
        runs,
        observer=Progress(),
        loggers=[loggers_from_options(options) for _ in runs],
        allow_config_change=options.allow_config_change,
    )
    for result in results:
        folder = result.folder.path
        if not result.finished:
            continue
        try:
            if result.worked:
                plot_single(folder)
        except PenstockError as error:
            print(f"no curve: {error}")
        print(closing_lines(str(folder), result.last_rows)[-1])
    print(f"next        penstock plot {base}/*   penstock video RUN   penstock evaluate RUN", file=sys.stderr)
    return max(result.exit_code for result in results)
