"""``penstock video RUN``: films a trained policy."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse
from penstock.cli._filming import Filming, require_film_seconds


@dataclasses.dataclass(frozen=True)
class VideoOptions:
    """Films one episode of a trained policy."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""
    world: str = ""
    """Another world in place of the run's own, or the same at another place: path/to/file.py:Name."""
    use_copies: bool = False
    """Execute the copies that the run keeps of your own files, where the originals are gone or edited."""
    output: Path | None = None
    """File to write, .mp4 or .gif; by default videos/CHECKPOINT.mp4 in the run folder."""
    checkpoint: Literal["best", "last"] = "last"
    """Which checkpoint to use."""
    seed: int = 0
    """Seed of the reset and, with --no-deterministic, of the policy's noise."""
    deterministic: bool = True
    """Act without noise, by the run's rule."""
    film_seconds: float | None = None
    """Length at most, in seconds of the environment's time; None for the whole episode."""
    width: int = 960
    """Width of the picture in pixels (even)."""
    height: int = 540
    """Height of the picture in pixels (even)."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(VideoOptions, arguments, "penstock video")
    require_film_seconds(options.film_seconds)
    set_up_jax()
    from penstock.cli._film import film
    from penstock.training.restore import restore_run

    restored = restore_run(options.run_dir, options.checkpoint, options.world, options.use_copies)
    path = options.output or options.run_dir / "videos" / f"{options.checkpoint}.mp4"
    size = (options.width, options.height)
    with Filming(quiet=True) as progress:
        path = film(
            restored.learner,
            restored.agents[0],
            path,
            seed=options.seed,
            deterministic=options.deterministic,
            size=size,
            seconds=options.film_seconds,
            progress=progress,
        )
    print(path)
    return 0
