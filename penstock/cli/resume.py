"""``penstock resume RUN``: continues the run in a folder, with the settings it was started with."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse
from penstock.cli._filming import require_film_seconds
from penstock.cli._groups import FilmOptions, LoggerOptions


@dataclasses.dataclass(frozen=True)
class ResumeOptions:
    """Continues the run in a folder."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""
    world: str = ""
    """Where the run's world is now, if it was moved: path/to/file.py:Name."""
    use_copies: bool = False
    """Execute the copies that the run keeps of your own files, where the originals are gone or edited."""
    steps: int | None = None
    """New budget of environment steps per seed. Learning rates then decay over the new plan."""
    film: FilmOptions = dataclasses.field(default_factory=FilmOptions)
    """The film of the trained policy."""
    loggers: Annotated[LoggerOptions, arg(name="logger")] = dataclasses.field(default_factory=LoggerOptions)
    """Where metrics are sent beside the run folder."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(ResumeOptions, arguments, "penstock resume")
    require_film_seconds(options.film.film_seconds)
    set_up_jax()
    from penstock.cli._run import loggers_from_options, train_run
    from penstock.training.restore import read_plan

    plan = read_plan(options.run_dir, options.world, options.use_copies)
    if options.steps is not None:
        plan = dataclasses.replace(plan, steps=options.steps)
    return train_run(
        plan,
        options.run_dir,
        film=options.film,
        loggers=loggers_from_options(options.loggers),
        allow_config_change=False,
    )
