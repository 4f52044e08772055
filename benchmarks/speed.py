"""Cost of training iterations: compile time, environment steps per CPU second, and RFO against SHAC2.

    python benchmarks/speed.py            # all worlds and algorithms; writes benchmarks/results/speed.json
    python benchmarks/speed.py --worlds soft/jumper-mini

Every program is the one that ``penstock train`` runs, with the preset of its world (smaller where ``SMALLER`` says
so). The programs of one world are compiled first (traced once each), then timed in turns, A B C A B C ..., so that a
drift of the machine's speed hits all alike. Ratios are medians of the pairs.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["PENSTOCK_CACHE"] = ""  # compile times are to be measured, not looked up
from penstock._jax_setup import set_up_jax

set_up_jax()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from penstock.algorithms.registry import family  # noqa: E402
from penstock.reports.tables import markdown_table  # noqa: E402
from penstock.training.drivers.functional import FunctionalDriver, seed_keys  # noqa: E402
from penstock.training.plan import make_plan  # noqa: E402
from penstock.worlds import world_entries  # noqa: E402

OUTPUT = Path(__file__).parent / "results" / "speed.json"

SMALLER = {"soft/jumper": {"num_envs": 8, "settings": {"window": 16}}}
"""Worlds whose preset is made for a GPU, at a size that two CPU cores can time."""


def prepare(algorithm: str, world: str, overrides: dict) -> dict:
    """Compiles one arm."""
    plan = make_plan(algorithm, world, **{"steps": 10_000_000, **overrides})
    program = FunctionalDriver(plan.make_learner(plan.make_world()), plan.make_world().with_num_envs(2))
    state = program.init(seed_keys(0, 1))
    iterations = jnp.asarray(1, jnp.int32)
    begin = time.process_time()
    program.compile(state, iterations, None)
    seconds = time.process_time() - begin
    state, _ = jax.block_until_ready(program.train(state, iterations))  # it takes the memory of what it was given
    return {
        "algorithm": algorithm,
        "train": program.train,
        "state": state,
        "compile_seconds": seconds,
        "traces": program.traces["train"],
        "steps": plan.num_envs * plan.settings.iteration_steps,
        "times": [],
    }


def time_in_turns(arms: list[dict], turns: int, iterations: int) -> None:
    """Times ``iterations`` iterations of every arm, ``turns`` times in turn."""
    count = jnp.asarray(iterations, jnp.int32)
    for _ in range(turns):
        for arm in arms:
            begin = time.process_time()
            arm["state"], _ = arm["train"](arm["state"], count)
            jax.block_until_ready(arm["state"])
            arm["times"].append((time.process_time() - begin) / iterations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=[entry.name for entry in world_entries()])
    parser.add_argument("--algorithms", nargs="*", default=list(family("pathwise")))
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    results = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else {}
    for world in arguments.worlds:
        arms = [prepare(algorithm, world, SMALLER.get(world, {})) for algorithm in arguments.algorithms]
        slowest = max(arm["compile_seconds"] for arm in arms)
        time_in_turns(arms, arguments.turns, 4 if slowest > 10 else 20)
        by_name = {arm["algorithm"]: arm for arm in arms}
        rows = []
        for arm in arms:
            seconds = statistics.median(arm["times"])
            row = {
                "world": world,
                "algorithm": arm["algorithm"],
                "env steps per iteration": arm["steps"],
                "CPU ms per iteration": round(1e3 * seconds, 2),
                "env steps per CPU second": round(arm["steps"] / seconds),
                "compile CPU s": round(arm["compile_seconds"], 1),
                "traces": arm["traces"],
            }
            if "shac2" in by_name:
                pairs = zip(arm["times"], by_name["shac2"]["times"], strict=True)
                row["times SHAC2"] = round(statistics.median(a / b for a, b in pairs), 2)
            rows.append(row)
        results[world] = rows
        print(markdown_table(rows), flush=True)
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
