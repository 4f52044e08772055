"""Control steps per second of a hosted world with and without domain randomisation, in turns, in this process.

    python benchmarks/randomization_cost.py            # prints a table, writes results/randomization_cost.json

Mass, friction, latency and noise of ``gym/HalfCheetah-v5``, 16 environments, random actions; wall-clock seconds: run it
on an idle machine. The cost of an episode's start is the difference of the times of a reset, per environment.
"""

import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from penstock._jax_setup import set_up_jax
from penstock.reports.tables import markdown_table
from penstock.worlds import make_world

OUTPUT = Path(__file__).resolve().parent / "results" / "randomization_cost.json"
WORLD, NUM_ENVS, STEPS, RESETS, ROUNDS = "gym/HalfCheetah-v5", 16, 500, 20, 5
RANDOMIZE = {
    "mass": {"scale": [0.9, 1.1]},
    "friction": {"scale": [0.5, 1.5]},
    "action_latency": {"steps": [0, 1]},
    "observation_noise": {"add": [-0.01, 0.01]},
}
ARMS = {"nominal": {}, "randomised": {"randomize": RANDOMIZE}}


def main():
    set_up_jax()
    worlds = {name: make_world(WORLD, NUM_ENVS, **options) for name, options in ARMS.items()}
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (STEPS, NUM_ENVS, 6)).astype(np.float32)
    rates, resets = ({name: [] for name in ARMS} for _ in range(2))
    for number in range(ROUNDS):
        for name, world in worlds.items():
            begin = time.perf_counter()
            for reset in range(RESETS):
                state = world.reset(jax.random.key(reset))
            resets[name].append((time.perf_counter() - begin) / RESETS / NUM_ENVS)
            begin = time.perf_counter()
            for action in actions:
                state, _ = world.step(state, action)
            rates[name].append(STEPS * NUM_ENVS / (time.perf_counter() - begin))
        print(number, {name: round(values[-1]) for name, values in rates.items()}, flush=True)
    rows = [
        {
            "world": f"{WORLD}, {name}",
            "environments": NUM_ENVS,
            "control steps per second": round(statistics.median(rates[name])),
            "reset, ms per environment": round(1e3 * statistics.median(resets[name]), 2),
        }
        for name in ARMS
    ]
    OUTPUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
