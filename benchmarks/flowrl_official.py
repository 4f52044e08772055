"""Trains the official FlowRL (bytedance/FlowRL at e26279b) and writes evaluation returns, to stand beside Penstock's.

    python benchmarks/flowrl_official.py dmc/cartpole-swingup --flowrl CHECKOUT --steps 50000 --output FlowRL-official
    python benchmarks/flowrl_official.py Pendulum-v1 --flowrl CHECKOUT --hidden 256 --seeds 0 1 --output FlowRL-pendulum

Needs torch beside Penstock. The environment is a Gymnasium id, or the name of a hosted world of Penstock
(``dmc/<domain>-<task>``), and is the very environment that Penstock trains on. The user's own checkout runs unmodified,
on the CPU, in float32 and not compiled, prepared as `peers.flowrl` tells. The loop is that of its ``main.py``: act,
update, step, remember. What differs from it:

* A transition's mask is 0 where the environment terminated; there, where it ended in another step than the 1000th.
* Evaluation has an environment and random numbers of its own; there, it shares them with training.
* The environment is seeded; there, a task's start is not.
* ``--updates-per-step`` may be a fraction: 0.5 makes an update in every second environment step.

What is not an option is its default: expectile 0.9, lambda 0.1, epsilon 0 (no noise is added to actions), target rate
0.95, delay 2 of policy and targets, replay of 80 % uniform and 20 % newest 2048, one midpoint step.

The output is a folder with ``config.json`` and ``metrics.jsonl``, as of a run of Penstock. The official policy has one
mode only: ``select_action(evaluate=True)`` starts from random noise too, and that is ``eval/return_mean``. For
``eval/return_deterministic``, the same call is made with the start noise set to 0, as Penstock's mode has it.
"""

import argparse
import contextlib
import os
from pathlib import Path
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import peers
import torch
from peer_learning import Lines, begin_output, environment_factory, mean_return, parser_for


def evaluate(agent, env: gym.Env, episodes: int) -> dict[str, float]:
    """Mean returns with random and with zero start noise. Leaves torch's random numbers as they were."""
    zeros = mock.patch("torch.normal", lambda mean, std, size, device: torch.zeros(size, device=device))
    found = {}
    for name, start in (("eval/return_mean", contextlib.nullcontext()), ("eval/return_deterministic", zeros)):
        with torch.random.fork_rng(devices=[]), start:
            torch.manual_seed(10_000)
            found[name] = mean_return(lambda o: agent.select_action(o, evaluate=True), env, episodes)
    return found


def train(arguments: argparse.Namespace, seed: int) -> None:
    """One seed."""
    from model.algo import flowAC
    from utilis.default_config import default_config
    from utilis.Replaybuffer import ReplayMemory

    settings = default_config.copy()
    settings.update(
        seed=seed,
        hidden_size=arguments.hidden,
        batch_size=arguments.batch_size,
        lr=arguments.learning_rate,
        start_steps=arguments.warmup_steps,
    )
    settings.update(cuda=False, device=0, epsilon=0.0, lamda=0.1)  # the last two are the defaults of main.py
    make = environment_factory(arguments.environment)
    env, evaluation_env = make(), make()
    torch.manual_seed(seed)
    np.random.seed(seed)
    env.action_space.seed(seed)
    agent = flowAC(env.observation_space.shape[0], env.action_space, settings)
    agent.policy.device = torch.device("cpu")
    memory = ReplayMemory(settings.replay_size, seed)

    lines, updates, owed = Lines(arguments, seed), 0, 0.0
    observation, _ = env.reset(seed=seed)
    for step in range(arguments.steps):
        if step < settings.start_steps:
            action = env.action_space.sample()
        else:
            action = agent.select_action(observation)
            owed += arguments.updates_per_step
            while owed >= 1.0:
                agent.update_parameters(memory, settings.batch_size, updates)
                updates, owed = updates + 1, owed - 1.0
        after, reward, terminated, truncated, _ = env.step(action)
        memory.push(observation, action, reward, after, float(not terminated))
        observation = env.reset()[0] if terminated or truncated else after

        if (step + 1) % arguments.evaluate_every == 0:
            lines.write(step + 1, lambda: evaluate(agent, evaluation_env, arguments.episodes))


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--flowrl", type=Path, required=True, help="checkout of bytedance/FlowRL")
    parser.add_argument("--hidden", type=int, default=512, help="width of all hidden layers; their numbers are fixed")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warmup-steps", type=int, default=5_000, help="random steps before learning")
    parser.add_argument("--updates-per-step", type=float, default=1.0)
    arguments = parser.parse_args()
    begin_output(arguments)
    if arguments.warmup_steps < arguments.batch_size:
        raise SystemExit("--warmup-steps must reach --batch-size: the official replay draws without repetition.")
    # Called for what it does to torch and to the import path; the agent that it builds is not used.
    peers.flowrl(arguments.flowrl, 1, 1, transitions=1)
    for seed in arguments.seeds:
        train(arguments, seed)


if __name__ == "__main__":
    main()
