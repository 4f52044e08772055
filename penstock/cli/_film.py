"""Films one deterministic episode."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from penstock._errors import PenstockError
from penstock._types import Key
from penstock.algorithms.learner import Learner
from penstock.policies import Agent
from penstock.render.video import announced, fitted, thinned, write_episode, write_video
from penstock.scene.items import Scene
from penstock.training.evaluation import run_episodes
from penstock.training.hosted_evaluation import HostedEvaluator
from penstock.worlds import FunctionalWorld, World
from penstock.worlds.hosted.hosted_world import HostedWorld

FILM_KEY = 0xF11A


def film(
    learner: Learner,
    agent: Agent,
    path: Path,
    *,
    seed: int = 0,
    deterministic: bool = True,
    size: tuple[int, int] = (960, 540),
    seconds: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Films one episode of an agent, in real time, or at the rate that an environment states.

    Args:
        learner: the algorithm.
        agent: who acts.
        path: the file, .mp4 or .gif.
        seed: of the reset and of the policy's noise.
        deterministic: act without noise.
        size: width and height in pixels, at most.
        seconds: of the environment's time, at most; None for the whole episode.
        progress: told the share that is drawn.

    Raises:
        PenstockError: the world cannot be drawn, or an extra is missing.
    """
    world = learner.world.for_evaluation()
    steps = world.episode_length if seconds is None else max(1, math.ceil(seconds / world.control_timestep))
    key = jax.random.fold_in(jax.random.key(seed), FILM_KEY)
    if isinstance(world, HostedWorld):
        return _film_hosted(learner, world, agent, path, key, deterministic, size, steps, progress)
    scenes = _scenes(world, agent, key, deterministic, steps)
    pictures = ((lambda scene=scene: scene) for scene in scenes)
    return write_pictures(pictures, world, path, size=size, steps=len(scenes), progress=progress)


def _scenes(world: World, agent: Agent, key: Key, deterministic: bool, most: int) -> list[Scene | None]:
    """One scene for each of the first ``most`` control steps of an episode on a functional world.

    Raises:
        PenstockError: the world cannot be drawn.
    """
    world = world.with_num_envs(1)
    if not isinstance(world, FunctionalWorld):
        raise PenstockError(f"'{world.name}' is a {type(world).__name__}, which cannot be filmed.")

    @jax.jit
    def episode(agent, key):
        evaluation, bodies = run_episodes(agent, world, key, deterministic=deterministic)
        return evaluation.episode_length, bodies

    length, bodies = jax.device_get(episode(agent, key))
    steps = range(min(int(np.asarray(length)[0]), most))
    return [world.task.scene(jax.tree.map(lambda leaf, t=t: leaf[t], bodies), 0) for t in steps]


class Blank:
    """Looks at pictures that pass: whether all of them together are one colour."""

    def __init__(self):
        self.blank = True
        self._colour: np.ndarray | None = None

    def passed(self, frame: np.ndarray) -> np.ndarray:
        """The frame."""
        self._colour = frame[0, 0] if self._colour is None else self._colour
        self.blank = self.blank and bool((frame == self._colour).all())
        return frame


def _film_hosted(
    learner: Learner,
    world: HostedWorld,
    agent: Agent,
    path: Path,
    key: Key,
    deterministic: bool,
    size: tuple[int, int],
    most: int,
    progress: Callable[[float], None],
) -> Path:
    """Films one episode of a hosted world: drawn by our renderer, or as the environment renders itself."""
    refuse_pictureless(world)
    world = world.filmed()
    evaluator = HostedEvaluator(learner, world)
    played = evaluator.play(jax.tree.leaves(agent), key, [], deterministic=deterministic)

    def pictures():
        for t, _ in itertools.islice(played, most):
            caption = f"t = {t * world.control_timestep:.2f} s"
            scenes = world.declared.pictures == "scene"
            yield functools.partial(evaluator.world.scene, caption) if scenes else evaluator.world.frame

    try:
        return write_pictures(
            pictures(), world, path, size=size, steps=min(most, world.episode_length), progress=progress
        )
    finally:
        evaluator.world.close()


def write_pictures(
    pictures: Iterable[Callable[[], Any]],
    world: World,
    path: Path,
    *,
    size: tuple[int, int] = (960, 540),
    steps: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Writes an episode whose pictures are made while it is played, in real time or at the rate that a world states.

    Args:
        pictures: one per control step: draws what is there now, a scene for our renderer, or a frame. Those that the
            film leaves out are not drawn.
        world: whose they are.
        path: the file.
        size: width and height in pixels, at most.
        steps: how many there are, at most.
        progress: told the share that is drawn.

    Raises:
        NoPicturesError: the world cannot be drawn.
    """
    with warnings.catch_warnings():
        # ffmpeg is started by fork and exec at once, which JAX's threads do not mind.
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
        return _written(pictures, world, path, size, steps, progress)


def _written(pictures, world, path, size, steps, progress):
    if isinstance(world, HostedWorld) and world.declared.pictures == "rgb_array":
        stride, shown = thinned(1.0 / world.declared.picture_rate)
        seen = Blank()
        frames = (seen.passed(_drawn(picture)) for t, picture in enumerate(pictures) if t % stride == 0)
        written = write_video(announced(fitted(frames, size), steps // stride, progress), path, 1.0 / shown)
        if seen.blank:
            raise NoPicturesError(
                f"'{world.name}' draws nothing: all pictures that its render() returned are one colour, as in "
                f"{written}. Look at how it renders where there is no display."
            )
        return written
    refuse_pictureless(world)
    scenes = [scene for picture in pictures if (scene := _drawn(picture)) is not None]
    if not scenes:
        raise NoPicturesError(f"'{world.name}' has no pictures: its task does not implement `scene`.")
    return write_episode(scenes, path, world.control_timestep, size=size, progress=progress)


def _drawn(picture):
    try:
        return picture()
    except PenstockError as error:
        raise NoPicturesError(str(error)) from error


class NoPicturesError(PenstockError):
    """A world cannot be drawn."""


def refuse_pictureless(world: World) -> None:
    """Refuses a hosted world that cannot be drawn.

    Raises:
        NoPicturesError: says why.
    """
    if isinstance(world, HostedWorld) and world.declared.pictures == "none":
        raise NoPicturesError(
            f"'{world.name}' has no pictures: it has no MuJoCo model where Gymnasium's environments have it, and its "
            "metadata['render_modes'] lacks 'rgb_array'. Give it a render() that returns arrays of (height, width, 3) "
            "bytes, and say so there."
        )
