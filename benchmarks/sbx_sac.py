"""Trains SBX's SAC on a Gymnasium environment and writes evaluation returns, to stand beside Penstock's on one task.

    python benchmarks/sbx_sac.py Pendulum-v1 --steps 20000 --hidden 256 256 --seeds 0 1 2 --output pendulum.jsonl
    python benchmarks/sbx_sac.py dmc/cartpole-swingup --preset light --steps 50000 --seeds 1 2 3 --output cartpole.jsonl

Needs the package sbx-rl beside Penstock. The environment is a Gymnasium id, or the name of a hosted world of Penstock
(``dmc/<domain>-<task>``), and is the very environment that Penstock trains on. ``--preset light`` takes environments,
widths, batches, rates and temperature of Penstock's preset of that name. Each evaluation plays whole episodes with the
mode of the policy in an environment of its own. A line of the output holds ``env_steps``, ``seed``,
``eval/return_deterministic`` (mean over the episodes), ``episodes`` and ``cpu_seconds`` (training so far, evaluation
not counted).
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import gymnasium as gym
import sbx
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from penstock.algorithms.sac import Config
from penstock.training.presets import named_preset
from penstock.worlds import make_world


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
    parser.add_argument("environment", help="a Gymnasium id, or dmc/<domain>-<task>")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; must not exist yet")
    parser.add_argument("--preset", default="", help="of Penstock's SAC, for example light")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--evaluate-every", type=int, default=10_000, help="environment steps")
    parser.add_argument("--episodes", type=int, default=5, help="episodes of an evaluation")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise SystemExit(
            f"{arguments.output} exists: lines of two runs would mix. Move it away or choose another name."
        )
    run, settings = named_preset("sac", arguments.preset) if arguments.preset else ({}, {})
    config, num_envs = Config(**settings), run.get("num_envs", 1)
    name = arguments.environment
    make = make_world(name if "/" in name else f"gym/{name}", 1).source.make
    for seed in arguments.seeds:
        model = sbx.SAC(
            "MlpPolicy",
            make_vec_env(make, num_envs, seed=seed),
            seed=seed,
            learning_rate=config.actor_learning_rate,
            qf_learning_rate=config.critic_learning_rate,
            batch_size=config.batch_size,
            learning_starts=config.warmup_steps,
            train_freq=1,  # in control steps of all environments
            gradient_steps=config.updates_per_step,
            gamma=config.discount,
            tau=config.target_rate,
            ent_coef=f"auto_{config.initial_temperature}",  # at the actor's rate
            buffer_size=min(config.replay_capacity, arguments.steps),
            policy_kwargs={
                "net_arch": {"pi": list(config.actor_hidden), "qf": list(config.critic_hidden)},
                "layer_norm": config.layer_norm,
            },
        )
        model.learn(
            arguments.steps,
            callback=Evaluation(make(), arguments.output, seed, arguments.evaluate_every, arguments.episodes),
        )


if __name__ == "__main__":
    main()
