"""``penstock sweep [ALGORITHM] --grid NAME=VALUE,VALUE ...``: trains a grid or a list of settings, side by side."""

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from penstock._errors import ConfigurationError, require
from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse_known

if TYPE_CHECKING:
    from penstock.sweeps.conduct import Tracked
    from penstock.sweeps.launchers import Launcher
    from penstock.sweeps.points import Sweep
    from penstock.sweeps.runs import SweepRun
    from penstock.training.plan import RunPlan
    from penstock.training.signals import GracefulStop


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
    """Runs side by side; by default half as many as this machine has cores, or all jobs of a cluster."""
    launcher: Literal["local", "slurm"] = "local"
    """Where runs are trained: in processes of this machine, or as jobs of a cluster (pip install 'penstock[slurm]')."""
    slurm_partition: str = ""
    """Partition of the jobs."""
    slurm_minutes: int = 1440
    """Time limit of a job. A run that takes longer saves, is queued again, and goes on."""
    slurm_option: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """Further options of sbatch: gres=gpu:1 mem=8G account=x."""
    dry_run: bool = False
    """List the runs and start none."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    algorithm, rest = (arguments[0], arguments[1:]) if arguments[:1] and arguments[0][:1] != "-" else (None, arguments)
    options, rest = parse_known(SweepOptions, rest, "penstock sweep")
    if options.processes is not None:
        require(options.processes >= 1, "processes", options.processes, "must be at least 1")
    refuse_idle_options(options)
    with only_checking():
        set_up_jax()
    from penstock.sweeps.points import Sweep, parse_grid, read_sweep
    from penstock.sweeps.runs import checked

    sweep = Sweep() if options.config is None else read_sweep(options.config)
    sweep = sweep.with_grid(parse_grid(options.grid))
    runs = checked(planned(sweep, algorithm, rest, options), "--allow-config-change" in rest)
    if options.dry_run:
        print("\n".join(f"{'ended' if one.ended else 'waiting':<8}  {one.folder}" for one in runs))
        return 0
    return conducted(runs, launcher_of(runs[0].folder.parent, options))


def planned(sweep: "Sweep", algorithm: str | None, arguments: list[str], options: SweepOptions) -> "list[SweepRun]":
    """The runs, each with the plan that ``penstock train`` would make of its options.

    Args:
        sweep: what is varied.
        algorithm: as it was typed.
        arguments: options of ``penstock train``, which hold for all runs.
        options: of this command.

    Raises:
        ConfigurationError: naming the run, and what is wrong with its options.
    """
    from penstock.algorithms.registry import algorithm_entry
    from penstock.cli._run import plan_from_options
    from penstock.cli.train import parse_train_options, typed_names
    from penstock.sweeps.runs import SweepRun
    from penstock.training.config_files import BESIDE, told_of

    for name in typed_names(arguments) & set(sweep.grid):
        raise ConfigurationError(f"{name} is varied, and given as an option, too. Leave one of the two out.")
    if algorithm is not None and "algorithm" in sweep.grid:
        raise ConfigurationError("algorithm is varied: name none behind `penstock sweep`.")
    made = []
    for point in sweep.points():
        fields = {"video": False, **point.given.fields}
        fields |= {} if algorithm is None else {"algorithm": algorithm}
        with told_of(point.given.where):
            if "algorithm" not in fields:
                raise ConfigurationError("no algorithm is named. Write penstock sweep sac ..., or `algorithm: sac`.")
            given = dataclasses.replace(point.given, fields=fields, where="")
            train_options = parse_train_options(algorithm_entry(fields["algorithm"]), arguments, given)
            if train_options.sweep:
                raise ConfigurationError("--sweep is of `penstock train`. Write --grid in its place.")
            made.append((point.name, train_options.flat(), plan_from_options(train_options)))
    base = sweep.base.beside.run_dir
    stem = options.config.stem if options.config is not None else sweep_name([plan for _, _, plan in made])
    folder = options.run_dir or (Path("runs") / stem if base is None else Path(base))
    flags = ("--allow-config-change",) if "--allow-config-change" in arguments else ()
    beside = [name for name in BESIDE if name not in ("preset", "run_dir")]
    return [
        SweepRun(name, folder / name, plan, {field: flat[field] for field in beside}, flags)
        for name, flat, plan in made
    ]


def sweep_name(plans: "Sequence[RunPlan]") -> str:
    """What a sweep is called that nobody gave a name: ``sweep-ALGORITHM-WORLD``, without what varies."""
    from penstock.training.plan import world_text

    titles, worlds = {plan.title for plan in plans}, {world_text(plan.world) for plan in plans}
    return "-".join(["sweep", *(name for names in (titles, worlds) if len(names) == 1 for name in names)])


def refuse_idle_options(options: SweepOptions) -> None:
    """Refuses options of a cluster where there is none.

    Raises:
        ConfigurationError: naming the option.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if options.launcher == "local" and field.name.startswith("slurm_") and value != field.default:
            raise ConfigurationError(
                f"{field.name} = {value!r}: does nothing without --launcher slurm. Add that, or leave this out."
            )


@contextlib.contextmanager
def only_checking() -> Iterator[None]:
    """Lets JAX start on the CPU: this process only looks at plans, and accelerators are for the runs."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        del os.environ["JAX_PLATFORMS"]
        if before is not None:
            os.environ["JAX_PLATFORMS"] = before


def launcher_of(folder: Path, options: SweepOptions) -> "Launcher":
    """Who starts the runs."""
    from penstock.sweeps.launchers import LocalProcesses, usable_cores

    if options.launcher == "local":
        return LocalProcesses(options.processes or max(1, usable_cores() // 2))
    from penstock.sweeps.slurm import SlurmJobs

    pairs = [text.partition("=") for text in options.slurm_option]
    for (name, equals, value), text in zip(pairs, options.slurm_option, strict=True):
        require(bool(name and equals and value), "slurm_option", text, "write name=value, for example gres=gpu:1")
    return SlurmJobs(
        folder,
        jobs=options.processes,
        partition=options.slurm_partition,
        minutes=options.slurm_minutes,
        options={name.removeprefix("--"): value for name, _, value in pairs},
    )


def conducted(runs: "list[SweepRun]", launcher: "Launcher") -> int:
    """Carries the sweep out and says what came of it. Returns the exit code."""
    from penstock.sweeps.conduct import carry_out, exit_code
    from penstock.sweeps.display import SweepDisplay
    from penstock.training.signals import GracefulStop

    display = SweepDisplay()

    def quit_at_once(code: int) -> None:
        launcher.stop()  # they have been asked before, and end at once, too
        os._exit(code)

    def told(text: str) -> None:
        display.message(f"{text.partition(':')[0]}: leaving the jobs alone" if launcher.outlived else text)

    try:
        with GracefulStop(told, quit_at_once=quit_at_once) as stop, hang_up_asks(stop):
            tracked = carry_out(runs, launcher, stop, display.show)
    finally:
        display.close()
    report(tracked, launcher.farewell())
    return exit_code(tracked)


@contextlib.contextmanager
def hang_up_asks(stop: "GracefulStop") -> Iterator[None]:
    """Lets the end of the terminal be a request to stop, unless the command was told to outlive it (``nohup``)."""
    before = signal.getsignal(signal.SIGHUP)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: stop.ask())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL if before is None else before)


def report(tracked: "list[Tracked]", farewell: str = "") -> None:
    """Says where all runs stand, what the failed ones said last, and what to type next.

    Args:
        tracked: the runs.
        farewell: what to do with those that go on.
    """
    from penstock.cli._run import spoken
    from penstock.reports.tables import terminal_width, text_table
    from penstock.storage.run_folder import OUTPUT_NAME
    from penstock.sweeps.conduct import Status, last_words
    from penstock.sweeps.display import counts

    rows = []
    for one in tracked:
        progress = one.run.progress()
        rows.append({"run": one.run.name, "state": one.status.value, "env steps": progress.steps})
        rows[-1][spoken(one.run.plan.best_by)] = progress.score
    print(text_table(rows, width=terminal_width()))
    folder = tracked[0].run.folder.parent
    for one in tracked:
        if one.status is Status.FAILED:
            said = one.run.folder / OUTPUT_NAME
            print(f"failed      {one.run.name}: {last_words(one)} (all it said: {said})")
    print(f"{folder}: {counts(tracked)}")
    if any(one.status is Status.RUNNING for one in tracked):
        print(farewell, file=sys.stderr)
    elif any(one.status in (Status.STOPPED, Status.WAITING) for one in tracked):
        print("the same command continues the sweep", file=sys.stderr)
    elif any(one.status is Status.FAILED for one in tracked):
        print("the same command tries again what failed", file=sys.stderr)
    drawn = [one.run.folder for one in tracked if one.run.progress().score is not None]
    if drawn:
        print(
            f"next        penstock plot {folders_text(folder, drawn)} --output {shlex.quote(str(folder))}",
            file=sys.stderr,
        )


def folders_text(folder: Path, drawn: list[Path]) -> str:
    """Run folders for a shell: a pattern where it means just these, else one by one."""
    beside = {path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if beside == set(drawn):
        return f"{shlex.quote(str(folder))}/*/"
    return " ".join(shlex.quote(str(path)) for path in drawn)
