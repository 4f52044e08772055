"""``penstock play FILE``: plays an exported policy."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from penstock._errors import ConfigurationError, require, suggest
from penstock._extras import MissingExtraError
from penstock._files import OutputError
from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse
from penstock.cli._filming import Filming


@dataclasses.dataclass(frozen=True)
class PlayOptions:
    """Plays an exported policy: the file acts, not the checkpoint. Prints returns, and films the first episode."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """What `penstock export` wrote: .npz, .onnx or .stablehlo."""
    world: str = ""
    """Where it plays; by default the world that it was trained in, with the same options."""
    world_option: tuple[str, ...] = ()
    """Options of the world, as name=value, for example max_episode_steps=200; others stay as it was trained with."""
    evaluation: Literal["run", "randomized", "nominal"] = "run"
    """Where that world is randomised: play as the run was evaluated, in the randomised world, or in the nominal one."""
    episodes: int = 1
    """Episodes to play."""
    seed: int = 0
    """Seed of the first episode's reset, and of noise where the policy takes any; the next episode has the next."""
    video: bool = True
    """Film the first episode, where the world can be drawn."""
    output: Path | None = None
    """The film, .mp4 or .gif; by default beside the file."""
    viewer: bool = False
    """Show it in MuJoCo's viewer, in real time, in place of the film. Needs a display."""
    json: bool = False
    """Print one JSON object in place of lines."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(PlayOptions, arguments, "penstock play")
    require(options.episodes >= 1, "episodes", options.episodes, "must be at least 1")
    require(options.seed >= 0, "seed", options.seed, "must be 0 or greater")
    if options.output is not None and (options.viewer or not options.video):
        raise ConfigurationError(
            f"output = '{options.output}': is the film's, and none is made with "
            f"{'--viewer' if options.viewer else '--no-video'}. Leave one of the two out."
        )
    set_up_jax()
    from penstock.cli._film import NoPicturesError, write_pictures
    from penstock.export.files import open_policy
    from penstock.export.playing import Tally, play
    from penstock.render.video import FORMATS
    from penstock.training.plan import parse_world_options
    from penstock.worlds.loading import load_world

    if options.output is not None:
        suffix = options.output.suffix
        rule = f"must end in .mp4 or .gif.{suggest(suffix, FORMATS)}"
        require(suffix in FORMATS, "output", str(options.output), rule)
    file = open_policy(options.file)
    trained = file.metadata["world"]
    name = options.world or trained["name"]
    same = trained["options"] if name == trained["name"] else {}
    world = load_world(name, 1, **(same | parse_world_options(options.world_option)))
    world = world.for_evaluation(None if options.evaluation == "run" else options.evaluation)
    filmed = options.output or options.file.with_suffix(".mp4")
    results, film = [], None
    for episode in range(options.episodes):
        draws = options.video and not options.viewer and episode == 0
        steps = play(file, world, options.seed + episode, pictures=draws, viewer=options.viewer)
        tally = Tally(options.seed + episode)
        counted = tally.over(steps)
        with contextlib.closing(steps):
            if draws:
                try:
                    pictures = (step.picture for step in counted)
                    with Filming(quiet=True) as progress:
                        film = write_pictures(pictures, world, filmed, steps=world.episode_length, progress=progress)
                except (NoPicturesError, MissingExtraError, OutputError) as error:
                    told = str(error).partition("\n")[0]
                    print(f"no film: {told}", file=sys.stderr)
            for _ in counted:  # what the film left over
                pass
        results.append(tally)
        if not options.json:
            print(tally.line(), flush=True)
    returns = np.array([tally.total for tally in results])
    if options.json:
        episodes = [{"seed": tally.seed, "return": tally.total, "steps": tally.steps} for tally in results]
        print(json.dumps({"file": str(options.file), "world": name, "episodes": episodes}))
        return 0
    if len(results) > 1:
        print(
            f"mean return {returns.mean():.6g}, standard deviation {returns.std(ddof=1):.3g}, {len(results)} episodes"
        )
    if film is not None:
        print(film)
    return 0
