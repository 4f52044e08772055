"""``penstock sweep [ALGORITHM] --grid NAME=VALUE,VALUE ...``: trains a grid or a list of settings, side by side."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from penstock._errors import ConfigurationError, require
from penstock._jax_setup import set_up_jax

if TYPE_CHECKING:
    from penstock.sweeps.points import Point
    from penstock.sweeps.runs import SweepRun


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Trains a grid or a list of settings, several runs side by side. The same command goes on where it was stopped.

    All options of `penstock train` may stand here too, and hold for every run.
    """

    grid: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE,VALUE ...")] = ()
    """What is varied: every combination is a run. A value may be a list: actor_hidden=[64,64],[128,128]."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """File with base, grid and runs, YAML or JSON (docs/experiments.md); or a file of one run, which is the base."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the run folders; by default runs/ and the name of the file, or runs/sweep-ALGORITHM-WORLD."""
    processes: int | None = None
    """Runs side by side on this machine; by default half as many as there are cores."""
    dry_run: bool = False
    """List the runs and start none."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    algorithm, rest = (arguments[0], arguments[1:]) if arguments[:1] and arguments[0][:1] != "-" else (None, arguments)
    options, rest = tyro.cli(
        SweepOptions,
        args=rest,
        prog="penstock sweep",
        return_unknown_args=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )
    if options.processes is not None:
        require(options.processes >= 1, "processes", options.processes, "must be at least 1")
    environment = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process only checks; accelerators are for the runs
    set_up_jax()
    from penstock.sweeps.points import Sweep, parse_grid, read_sweep
    from penstock.sweeps.runs import check

    sweep = Sweep() if options.config is None else read_sweep(options.config)
    sweep = sweep.with_grid(parse_grid(options.grid))
    runs = planned(sweep.points(), algorithm, rest, options)
    check(runs)
    if options.dry_run:
        print("\n".join(str(one.folder) for one in runs))
        return 0
    return conducted(runs, options, environment)


def planned(
    points: "list[Point]", algorithm: str | None, arguments: list[str], options: SweepOptions
) -> "list[SweepRun]":
    """The runs, each with the plan that ``penstock train`` would make of its options."""
    from penstock.algorithms.registry import algorithm_entry
    from penstock.cli._run import plan_from_options
    from penstock.cli.train import parse_train_options
    from penstock.sweeps.runs import SweepRun
    from penstock.training.config_files import told_of
    from penstock.training.plan import default_run_dir

    made: list[tuple[Point, Any, Any]] = []
    for point in points:
        name = algorithm or point.given.fields.get("algorithm")
        if name is None:
            raise ConfigurationError("name the algorithm first: penstock sweep sac --world classic/pendulum --grid ...")
        with told_of(point.name):
            given = dataclasses.replace(point.given, fields={"video": False, **point.given.fields}, where="")
            train_options = parse_train_options(algorithm_entry(name), arguments, given)
            made.append((point, train_options, plan_from_options(train_options)))
    stem = options.config.stem if options.config is not None else f"sweep-{default_run_dir(made[0][2]).name}"
    folder = options.run_dir or Path("runs") / stem
    return [
        SweepRun(
            point.name,
            folder / point.name,
            plan,
            {name: getattr(train_options, name) for name in ("video", "tensorboard")},
        )
        for point, train_options, plan in made
    ]


def conducted(runs: "list[SweepRun]", options: SweepOptions, environment: dict[str, str]) -> int:
    """Carries the sweep out and says what came of it. Returns the exit code."""
    from penstock.sweeps.conduct import Status, carry_out, exit_code, last_words
    from penstock.sweeps.launchers import LocalProcesses, usable_cores
    from penstock.training.signals import GracefulStop

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    shown: dict[str, Status] = {}

    def show(tracked) -> None:
        for one in tracked:
            if shown.get(one.run.name) != one.status:
                shown[one.run.name] = one.status
                report(f"{one.status.value:<8}  {one.run.name}")

    launcher = LocalProcesses(options.processes or max(1, usable_cores() // 2), environment)
    with GracefulStop(report) as stop:
        tracked = carry_out(runs, launcher, stop, show)
    for one in tracked:
        print(one.status.value, one.run.name, one.run.progress(), last_words(one.run))
    print(f"plot  penstock plot {runs[0].folder.parent}/*/")
    return exit_code(tracked)
