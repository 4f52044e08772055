"""Environment steps per second of PPO and NFPO, end to end, beside Stable-Baselines3's PPO on the same task.

    pip install stable-baselines3 torch
    python benchmarks/on_policy_speed.py run gym/HalfCheetah-v5 --num-envs 8 --rounds 3
    python benchmarks/on_policy_speed.py report

Same task, networks (64, 64, tanh), window (2,048 steps), minibatches (32 of 64), epochs (10), normalised observations,
one thread. Each measurement is a process of its own; arms take turns. What is counted are CPU and wall seconds from the
end of the first iteration to the end of the last: starting, and compiling (told apart, in CPU seconds), are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent / "results" / "on_policy_speed.json"
WINDOW, ITERATIONS = 2048, 12


def penstock_arm(algorithm: str, world: str, num_envs: int) -> dict[str, float]:
    """Measures one of ours in this process."""
    begin = time.process_time()
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    from penstock.storage.metrics_log import read_metrics
    from penstock.training.loop import Silent, train
    from penstock.training.plan import make_plan

    settings = {"window": WINDOW // num_envs}
    plan = make_plan(
        algorithm,
        world,
        settings=settings,
        num_envs=num_envs,
        steps=WINDOW * ITERATIONS,
        log_every=1,
        evaluate_every=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(plan, Path(folder) / "run", observer=Silent(lambda line: None))
        rows = read_metrics(Path(folder) / "run" / "metrics.jsonl")
    first, last = rows[0], rows[-1]
    steps = last["env_steps"] - first["env_steps"]
    cpu, wall = (last[name] - first[name] for name in ("cpu_seconds", "wall_seconds"))
    total = time.process_time() - begin
    per_iteration = cpu / (ITERATIONS - 1)
    return {"steps": steps, "cpu_seconds": cpu, "wall_seconds": wall, "start_cpu_seconds": total - cpu - per_iteration}


def sb3_arm(world: str, num_envs: int) -> dict[str, float]:
    """Measures Stable-Baselines3 in this process."""
    begin = time.process_time()
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)

    class Times(BaseCallback):
        def __init__(self):
            super().__init__()
            self.at = []

        def _on_rollout_start(self):
            self.at.append((self.num_timesteps, time.process_time(), time.perf_counter()))

        def _on_step(self):
            return True

    envs = VecNormalize(make_vec_env(world.removeprefix("gym/"), num_envs), norm_obs=True, norm_reward=False)
    model = PPO("MlpPolicy", envs, n_steps=WINDOW // num_envs, batch_size=64, n_epochs=10, device="cpu")
    times = Times()
    model.learn(WINDOW * ITERATIONS, callback=times)
    times.at.append((model.num_timesteps, time.process_time(), time.perf_counter()))
    first, last = times.at[1], times.at[-1]
    steps, cpu, wall = (b - a for a, b in zip(first, last, strict=True))
    started = times.at[0][1] - begin
    return {"steps": steps, "cpu_seconds": cpu, "wall_seconds": wall, "start_cpu_seconds": started}


ARMS = {"PPO": "ppo", "NFPO": "nfpo", "Stable-Baselines3 PPO": ""}


def run(arguments: argparse.Namespace) -> None:
    record = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"measurements": []}
    for _ in range(arguments.rounds):
        for arm in ARMS:
            command = [
                sys.executable,
                __file__,
                "one",
                arguments.world,
                "--arm",
                arm,
                "--num-envs",
                str(arguments.num_envs),
            ]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            row = {"world": arguments.world, "num_envs": arguments.num_envs, "arm": arm}
            row |= json.loads(done.stdout.splitlines()[-1])
            print(row, flush=True)
            record["measurements"].append(row)
            OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


def report(arguments: argparse.Namespace) -> None:
    from penstock.reports.tables import markdown_table

    rows = json.loads(OUTPUT.read_text())["measurements"]
    table = []
    for world, num_envs in dict.fromkeys((row["world"], row["num_envs"]) for row in rows):
        own = [row for row in rows if (row["world"], row["num_envs"]) == (world, num_envs)]
        cost = {}
        for arm in ARMS:
            of_arm = [row for row in own if row["arm"] == arm]
            cost[arm] = [row["cpu_seconds"] / row["steps"] for row in of_arm]
        for arm in ARMS:
            pairs = list(zip(cost["Stable-Baselines3 PPO"], cost[arm], strict=True))
            over = list(zip(cost[arm], cost["PPO"], strict=True))
            table.append(
                {
                    "world": world,
                    "environments": num_envs,
                    "arm": arm,
                    "steps per CPU second": f"{1 / statistics.median(cost[arm]):,.0f}",
                    "times Stable-Baselines3": f"{statistics.median(a / b for a, b in pairs):.2f}",
                    "cost over PPO": f"{statistics.median(a / b for a, b in over):.2f}",
                    "start, CPU s": f"{statistics.median(r['start_cpu_seconds'] for r in own if r['arm'] == arm):.0f}",
                }
            )
    print(markdown_table(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "one", "report"])
    parser.add_argument("world", nargs="?", default="gym/HalfCheetah-v5")
    parser.add_argument("--arm", default="PPO", choices=ARMS)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.action == "one":
        name = ARMS[arguments.arm]
        measure = penstock_arm if name else sb3_arm
        print(json.dumps(measure(*([name] if name else []), arguments.world, arguments.num_envs)))
        return
    {"run": run, "report": report}[arguments.action](arguments)


if __name__ == "__main__":
    main()
