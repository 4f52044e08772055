"""What ``train`` and ``resume`` share: train with a progress display, then draw and film."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock._errors import PenstockError, raised
from penstock._own_code import resolved_spec
from penstock._own_sources import with_absolute_files
from penstock.cli._film import film
from penstock.cli._filming import Filming
from penstock.cli._groups import FilmOptions, Grouped, LoggerOptions
from penstock.reports.curves import plot_single
from penstock.reports.live import Progress
from penstock.storage.loggers import Logger, make_loggers
from penstock.training.loop import Result, train
from penstock.training.plan import RunPlan, parse_world_options


def plan_from_options(options: Grouped) -> RunPlan:
    """The plan that a parsed command line describes."""
    shared = ("algorithm", "settings", "seed", "seeds", "steps", "num_envs", "history", "log_every")
    more = (
        "evaluate_every",
        "evaluation_episodes",
        "deterministic_action",
        "deterministic_draws",
        "precision",
        "label",
    )
    told = ("log_info", "best_by", "best_is")
    flat = options.flat()
    fields = {name: flat[name] for name in (*shared, *more, *told)}
    world_options = with_absolute_files(parse_world_options(flat["world_option"]))
    return RunPlan(world=resolved_spec(flat["world"]), world_options=world_options, **fields)


def loggers_from_options(options: LoggerOptions) -> list[Logger]:
    """The loggers that a parsed command line names."""
    return make_loggers(options.tensorboard, options.wandb, options.logger)


def train_run(
    plan: RunPlan,
    run_dir: Path,
    *,
    film: FilmOptions,
    loggers: Sequence[Logger],
    allow_config_change: bool,
) -> int:
    """Trains, or continues, and reports. Returns the exit code.

    Progress goes to standard error, results to standard output.
    """
    progress = Progress()
    result = train(
        plan,
        run_dir,
        observer=progress,
        loggers=loggers,
        allow_config_change=allow_config_change,
    )
    if result.finished:
        report(result, film.video, film.film_seconds)
    return result.exit_code


def report(result: Result, video: bool, film_seconds: float | None = None) -> None:
    """Draws the curve, films the policy, says where everything is, and ends with the result in one line.

    Missing extras cost only the picture. A run that was complete before keeps the pictures that it has.
    """
    folder = result.folder.path
    print(f"run folder  {folder}")
    try:
        curve = folder / "figures" / "return.png"
        print(f"curve       {plot_single(folder) if result.worked or not curve.is_file() else curve}")
    except PenstockError as error:
        print(f"no curve: {error}")
    if video:
        path = folder / "videos" / "final.mp4"
        try:
            if not result.worked and path.is_file():
                print("the film is that of the run's end; `penstock video` makes others", file=sys.stderr)
            else:
                learner = result.driver.learner
                agent = learner.evaluated(result.state.seed(0).learned)
                with Filming() as progress:
                    path = film(learner, agent, path, seconds=film_seconds, progress=progress)
            print(f"video       {path}")
        except PenstockError as error:
            print(f"no video: {error}")
        except Exception as error:  # somebody's code that draws; the run is saved
            print(f"no video: {raised(error)}")
    print("\n".join(closing_lines(folder.resolve().name, result.last_rows)))
    print(f"next        penstock evaluate {folder}   penstock video {folder}   penstock plot {folder}", file=sys.stderr)


SPOKEN = {
    "eval/return_deterministic": "deterministic return",
    "eval/forward_velocity": "deterministic forward speed",
}


def spoken(metric: str) -> str:
    """How a metric is called where people read of it."""
    return SPOKEN.get(metric, metric)


def closing_lines(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """What the last evaluation showed: one line per seed where there are several, then the mean over seeds.

    Args:
        name: name of the run folder.
        rows: the last evaluation's metrics, one row per seed.
    """
    metric, unit = "eval/return_deterministic", ""
    if not all(metric in row for row in rows):
        return [f"{name}: trained without evaluation; `penstock evaluate` brings one"]
    if all("eval/forward_velocity" in row for row in rows):
        metric, unit = "eval/forward_velocity", " m/s"
    digits = 2 if unit else 1
    values = [math.nan if row[metric] is None else row[metric] for row in rows]
    told = [f"{spoken(metric)} {value:.{digits}f}{unit}" for value in [*values, sum(values) / len(values)]]
    if all(row.get("eval/success_rate") is not None for row in rows):
        rates = [row["eval/success_rate"] for row in rows]
        rates.append(sum(rates) / len(rates))
        told = [f"{text}, success rate {rate:.2f}" for text, rate in zip(told, rates, strict=True)]
    seeds = [f"seed {row['seed']}: {text}" for row, text in zip(rows, told[:-1], strict=True)] if len(rows) > 1 else []
    return [*seeds, f"{name}: {told[-1]}"]
