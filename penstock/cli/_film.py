"""Films one deterministic episode."""

import warnings
from pathlib import Path

import jax
import numpy as np

from penstock._errors import PenstockError
from penstock._types import Key
from penstock.algorithms.learner import Learner
from penstock.policies import Agent
from penstock.render.video import write_episode
from penstock.scene.items import Scene
from penstock.training.evaluation import run_episodes
from penstock.training.hosted_evaluation import HostedEvaluator
from penstock.worlds import FunctionalWorld
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
) -> Path:
    """Films one episode of an agent, in real time.

    Raises:
        PenstockError: the world cannot be drawn, or an extra is missing.
    """
    scenes = episode_scenes(learner, agent, seed=seed, deterministic=deterministic)
    with warnings.catch_warnings():
        # ffmpeg is started by fork and exec at once, which JAX's threads do not mind.
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
        return write_episode(scenes, path, learner.world.control_timestep, size=size)


def episode_scenes(learner: Learner, agent: Agent, *, seed: int = 0, deterministic: bool = True) -> list[Scene]:
    """One scene per control step of one episode of an agent.

    Raises:
        PenstockError: the world cannot be drawn.
    """
    world = learner.world.with_num_envs(1)
    key = jax.random.fold_in(jax.random.key(seed), FILM_KEY)
    if isinstance(world, HostedWorld):
        return _hosted_scenes(learner, world, agent, key, deterministic)

    if not isinstance(world, FunctionalWorld):
        raise PenstockError(f"'{world.name}' is a {type(world).__name__}, which cannot be filmed.")

    @jax.jit
    def episode(agent, key):
        evaluation, bodies = run_episodes(agent, world, key, deterministic=deterministic)
        return evaluation.episode_length, bodies

    length, bodies = jax.device_get(episode(agent, key))
    steps = range(int(np.asarray(length)[0]))
    drawn = [world.task.scene(jax.tree.map(lambda leaf, t=t: leaf[t], bodies), 0) for t in steps]
    scenes = [scene for scene in drawn if scene is not None]
    if not scenes or len(scenes) < len(drawn):
        raise PenstockError(f"'{world.name}' has no pictures: its task does not implement `scene`.")
    return scenes


def _hosted_scenes(learner: Learner, world: HostedWorld, agent: Agent, key: Key, deterministic: bool) -> list[Scene]:
    if world.vectorization != "serial":
        raise PenstockError(
            f"'{world.name}' is filmed in this process only; it has vectorization={world.vectorization}."
        )
    evaluator = HostedEvaluator(learner, world)
    scenes: list[Scene | None] = []

    def watch(present: HostedWorld) -> None:
        if not scenes or scenes[-1] is not None:
            scenes.append(present.scene(f"t = {len(scenes) * world.control_timestep:.2f} s"))

    try:
        evaluator.run(jax.tree.leaves(agent), key, deterministic=deterministic, watch=watch)
    finally:
        evaluator.world.close()
    drawn = [scene for scene in scenes if scene is not None]
    if len(drawn) < len(scenes):
        raise PenstockError(f"'{world.name}' has no pictures: only environments of MuJoCo can be filmed.")
    return drawn
