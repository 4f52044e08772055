"""Environment steps per second of hosted worlds with random actions, in this process, in processes, and in EnvPool.

    python benchmarks/hosted_stepping.py                  # prints a table, writes results/hosted_stepping.json

EnvPool's column is left out where the package is missing. Measured through `HostedWorld`, as training steps it.
"""

import importlib.util
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from penstock.reports.tables import markdown_table
from penstock.worlds import make_world

WORLDS = ("gym/HalfCheetah-v5", "gym/Humanoid-v5", "dmc/cartpole-swingup", "dmc/walker-run")
NUMBERS = (1, 4, 16)
REPEATS = 3
STEPS = 2_000


def steps_per_second(name: str, num_envs: int, vectorization: str) -> list[float]:
    """Wall-clock rates of several stretches of ``STEPS`` environment steps."""
    world = make_world(name, num_envs, vectorization=vectorization)
    generator = np.random.default_rng(0)
    state = world.reset(jax.random.key(0))

    def play(steps):
        nonlocal state
        begin = time.perf_counter()
        for _ in range(steps):
            action = generator.uniform(-1.0, 1.0, (num_envs, world.action_size)).astype(np.float32)
            state, _ = world.step(state, action)
        return time.perf_counter() - begin

    play(20)
    rates = [num_envs * (STEPS // num_envs) / play(STEPS // num_envs) for _ in range(REPEATS)]
    world.close()
    return rates


def main() -> None:
    kinds = ["serial", "processes"] + (["envpool"] if importlib.util.find_spec("envpool") else [])
    rows, record = [], []
    for name in WORLDS:
        for num_envs in NUMBERS:
            row = {"world": name, "environments": num_envs}
            for kind in kinds:
                if kind == "envpool" and not name.startswith("gym/"):
                    continue
                rates = steps_per_second(name, num_envs, kind)
                row[kind] = f"{np.median(rates):,.0f}"
                record.append({"world": name, "num_envs": num_envs, "kind": kind, "steps_per_second": rates})
                print(f"{name} {num_envs} {kind}: {np.median(rates):,.0f}", file=sys.stderr, flush=True)
            rows.append(row)
    print(markdown_table(rows))
    packages = {p: version(p) for p in ("gymnasium", "mujoco", "dm_control", *kinds[2:])}
    path = Path(__file__).parent / "results" / "hosted_stepping.json"
    path.write_text(json.dumps({"packages": packages, "rows": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
