"""What the scripts that train other people's codes share: the environment, the evaluation and the lines they write."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np

from penstock.worlds import make_world


def parser_for(description: str | None) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", help="a Gymnasium id, or dmc/<domain>-<task>")
    parser.add_argument("--output", type=Path, required=True, help="a folder like a run's; must not exist yet")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--evaluate-every", type=int, default=10_000, help="environment steps")
    parser.add_argument("--episodes", type=int, default=5, help="episodes of an evaluation")
    return parser


def begin_output(arguments: argparse.Namespace, label: str = "") -> None:
    """Makes the folder, so that `penstock plot` can read it; ends the program where it exists.

    Args:
        arguments: of `parser_for`.
        label: name of the arm in comparisons; the folder's unless given.
    """
    output = arguments.output
    if output.exists():
        raise SystemExit(f"{output} exists: lines of two runs would mix. Move it away or choose another name.")
    output.mkdir(parents=True)
    config = {"label": label or output.name, "world": world_name(arguments.environment)}
    (output / "config.json").write_text(json.dumps(config) + "\n")


def world_name(name: str) -> str:
    """The hosted world that a Gymnasium id or a world's name means."""
    return name if "/" in name else f"gym/{name}"


def environment_factory(name: str) -> Callable[[], gym.Env]:
    """What makes the environment that Penstock trains on."""
    return make_world(world_name(name), 1).source.make


def mean_return(act: Callable[[np.ndarray], np.ndarray], env: gym.Env, episodes: int) -> float:
    """Mean undiscounted return of whole episodes; episode i starts from seed ``10_000 + i``."""
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        ended = False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total += float(reward)
            ended = terminated or truncated
    return total / episodes


class Lines:
    """Writes evaluations with the CPU seconds of training before them; those of evaluations are not counted.

    Seeds run one after the other here. As in a run of Penstock, CPU seconds are those of all seeds together: one
    seed's, times their number.
    """

    def __init__(self, arguments: argparse.Namespace, seed: int):
        self.output, self.seed, self.episodes = arguments.output, seed, arguments.episodes
        self.seeds = len(arguments.seeds)
        self.begin, self.spent = time.process_time(), 0.0

    def write(self, env_steps: int, evaluate: Callable[[], dict[str, float]]) -> None:
        """Evaluates, and writes and prints the line."""
        now = time.process_time()
        line = {
            "env_steps": env_steps,
            "seed": self.seed,
            **evaluate(),
            "cpu_seconds": round(self.seeds * (now - self.begin - self.spent), 2),
        }
        with (self.output / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
        self.spent += time.process_time() - now
