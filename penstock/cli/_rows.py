"""``penstock train ... --sweep RATE=VALUE,VALUE``: learning rates and seeds as rows of one program."""

import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError, PenstockError
from penstock.cli._run import closing_lines, loggers_from_options
from penstock.reports.curves import plot_single
from penstock.reports.live import Progress
from penstock.storage.run_folder import holds_a_run
from penstock.sweeps.points import Sweep, parse_grid
from penstock.training.loop import train_together
from penstock.training.plan import RunPlan, default_run_dir


def train_rows(plan: RunPlan, options: Any, typed: Collection[str]) -> int:
    """Trains one run for each combination of learning rates, all in one program, and reports. Returns the exit code.

    Args:
        plan: what all have in common.
        options: as parsed; ``sweep`` says what is varied, ``run_dir`` where the run folders lie.
        typed: names of the options that were typed.

    Raises:
        ConfigurationError: what is varied is no learning rate, or is an option too; the folder is that of a run.
    """
    if "film_seconds" in typed or ("video" in typed and options.film.video):
        raise ConfigurationError(
            "--video and --film-seconds: no run of --sweep is filmed. Leave them out; `penstock video RUN` films one."
        )
    grid = parse_grid(options.sweep)
    present = plan.settings.flat()
    for name in grid:
        if not name.endswith("learning_rate"):
            raise ConfigurationError(
                f"sweep: '{name}' is no learning rate, and rows of one program differ in learning rates alone. "
                f"`penstock sweep {plan.title} --grid {name}=...` varies it, in a program for each run."
            )
        if name in typed:
            raise ConfigurationError(f"{name} is swept, and given as an option, too. Leave one of the two out.")
        if name in present and present[name] is None:
            raise ConfigurationError(f"sweep: {name} is None here, so that nothing is learned by it. Leave one out.")
    base = options.run_dir or Path(f"{default_run_dir(plan)}-sweep")
    if holds_a_run(base):
        raise ConfigurationError(
            f"{base} is the folder of a run. Name another --run-dir: every rate gets a folder in it."
        )
    runs = []
    for point in Sweep(grid=grid).points():
        settings = type(plan.settings).of(**{**present, **point.given.settings})
        runs.append((dataclasses.replace(plan, settings=settings), base / point.name))
    results = train_together(
        runs,
        observer=Progress(),
        loggers=[loggers_from_options(options.loggers) for _ in runs],
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
    print(f"next        penstock plot {base}/*/   penstock video RUN   penstock evaluate RUN", file=sys.stderr)
    return max(result.exit_code for result in results)
