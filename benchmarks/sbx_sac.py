"""Trains SBX's SAC on a Gymnasium environment and writes evaluation returns, to stand beside Penstock's on one task.

    python benchmarks/sbx_sac.py Pendulum-v1 --steps 20000 --hidden 256 256 --seeds 0 1 2 --output pendulum.jsonl
    python benchmarks/sbx_sac.py my_package.tasks:make_task --output task.jsonl

Needs the package sbx-rl. The environment is a Gymnasium id, or ``module:function`` of a function that makes one. Each
evaluation plays whole episodes with the mode of the policy in an environment of its own. A line of the output holds
``env_steps``, ``seed``, ``eval/return_deterministic`` (mean over the episodes), ``episodes`` and ``cpu_seconds``
(training so far, evaluation not counted).
"""

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import gymnasium as gym
import sbx
from stable_baselines3.common.callbacks import BaseCallback


def environment_factory(name: str) -> Callable[[], gym.Env]:
    """What makes an environment from its id or from ``module:function``."""
    module, _, function = name.partition(":")
    if function and name not in gym.registry:  # an id may also be written module:id
        found = getattr(importlib.import_module(module), function, None)
        if found is not None:
            return found
    return lambda: gym.make(name)


def mean_return(model, env: gym.Env, episodes: int, seed: int) -> float:
    """Mean undiscounted return of the policy's mode; episode i starts from seed ``seed + i``."""
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        ended = False
        while not ended:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            ended = terminated or truncated
    return total / episodes


class Evaluation(BaseCallback):
    """Writes one line every so many environment steps."""

    def __init__(self, env: gym.Env, output: Path, seed: int, every: int, episodes: int):
        super().__init__()
        self.env, self.output, self.seed, self.every, self.episodes = env, output, seed, every, episodes
        self.begin, self.spent = time.process_time(), 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            now = time.process_time()
            value = mean_return(self.model, self.env, self.episodes, seed=10_000)
            line = {
                "env_steps": self.num_timesteps,
                "seed": self.seed,
                "eval/return_deterministic": value,
                "episodes": self.episodes,
                "cpu_seconds": round(now - self.begin - self.spent, 2),
            }
            with self.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
            self.spent += time.process_time() - now
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", help="a Gymnasium id, or module:function")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; must not exist yet")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256], help="widths of the actor")
    parser.add_argument("--critic-hidden", type=int, nargs="+", help="widths of the critics; as the actor's by default")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warmup-steps", type=int, default=1_000, help="random steps before learning")
    parser.add_argument("--updates-per-step", type=int, default=1)
    parser.add_argument("--discount", type=float, default=0.99)
    parser.add_argument("--replay-capacity", type=int, default=1_000_000)
    parser.add_argument("--evaluate-every", type=int, default=1_000, help="environment steps")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of an evaluation")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise SystemExit(
            f"{arguments.output} exists: lines of two runs would mix. Move it away or choose another name."
        )
    make = environment_factory(arguments.environment)
    for seed in arguments.seeds:
        model = sbx.SAC(
            "MlpPolicy",
            make(),
            seed=seed,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.batch_size,
            learning_starts=arguments.warmup_steps,
            train_freq=1,
            gradient_steps=arguments.updates_per_step,
            gamma=arguments.discount,
            buffer_size=min(arguments.replay_capacity, arguments.steps),
            policy_kwargs={
                "net_arch": {"pi": arguments.hidden, "qf": arguments.critic_hidden or arguments.hidden},
            },
        )
        model.learn(
            arguments.steps,
            callback=Evaluation(make(), arguments.output, seed, arguments.evaluate_every, arguments.episodes),
        )


if __name__ == "__main__":
    main()
