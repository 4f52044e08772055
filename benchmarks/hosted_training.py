"""Environment steps per second of hosted worlds with learning on, and where the time goes.

    python benchmarks/hosted_training.py                  # prints a table, writes results/hosted_training_light.json
    python benchmarks/hosted_training.py --preset ""      # the published sizes; results/hosted_training.json

The rate is of training as it runs, where environments step while gradient steps are computed. The shares are of
further stretches in which every transfer and every gradient step is waited for, so that they stand apart; evaluation
and compilation are in neither. Wall-clock seconds: run it on an idle machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from penstock.reports.tables import markdown_table

WORLDS = ("dmc/cartpole-swingup", "dmc/walker-walk", "gym/HalfCheetah-v5")
ALGORITHMS = ("sac", "crossq", "flowrl", "sac-flow")
PARTS = ("environment", "handing_over", "learning", "acting", "replay")
REPEATS = 3


def measure(algorithm: str, world: str, preset: str, stretch: int) -> dict:
    """Rates of several stretches, and the shares of several more."""
    import jax

    from penstock.training.plan import make_plan
    from penstock.training.running import make_driver
    from penstock.worlds import make_world

    plan = make_plan(algorithm, world, preset=preset, settings={"warmup_steps": 500}, steps=100_000, seeds=1)
    learner = plan.make_learner(plan.make_world())
    program = make_driver(learner, make_world(world, 1))
    keys = jax.random.split(jax.random.key(0), 1)
    states = program.init(keys)
    program.compile(states, np.int32(1), keys)
    per_iteration = plan.num_envs * plan.settings.collect_steps
    iterations = max(1, stretch // per_iteration)
    states, _ = program.train(states, np.int32(-(-1_000 // per_iteration)))  # past the warm-up

    def play():
        nonlocal states
        begin, cpu = time.perf_counter(), time.process_time()
        states, _ = program.train(states, np.int32(iterations))
        jax.block_until_ready(states.learned)
        return time.perf_counter() - begin, time.process_time() - cpu

    stretches = [play() for _ in range(REPEATS)]
    program.stopwatch.apart = True
    before = {part: getattr(program.stopwatch, part) for part in PARTS}
    apart = sum(play()[0] for _ in range(REPEATS))
    spent = {part: getattr(program.stopwatch, part) - before[part] for part in PARTS}
    program.close()
    steps = iterations * per_iteration
    return {
        "world": world,
        "algorithm": algorithm,
        "num_envs": plan.num_envs,
        "gradient_steps_per_env_step": plan.settings.updates_per_step / plan.num_envs,
        "steps_per_second": [steps / wall for wall, _ in stretches],
        "cpu_ms_per_step": [1e3 * cpu / steps for _, cpu in stretches],
        "shares": {part: seconds / apart for part, seconds in spent.items()},
        "steps_per_second_apart": REPEATS * steps / apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="light")
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS))
    parser.add_argument("--stretch", type=int, default=2_000, help="environment steps of a timed stretch")
    arguments = parser.parse_args()
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    record = []
    for world in arguments.worlds:
        for algorithm in arguments.algorithms:
            found = measure(algorithm, world, arguments.preset, arguments.stretch)
            record.append(found)
            print(world, algorithm, np.round(found["steps_per_second"]), file=sys.stderr, flush=True)
    rows = [
        {
            "world": row["world"],
            "algorithm": row["algorithm"],
            "steps / s": f"{np.median(row['steps_per_second']):,.0f}",
            "CPU ms / step": f"{np.median(row['cpu_ms_per_step']):.2f}",
            **{part.replace("handing_over", "transfer"): f"{100 * row['shares'][part]:.0f} %" for part in PARTS},
        }
        for row in record
    ]
    print(markdown_table(rows))
    name = f"hosted_training{'_' + arguments.preset if arguments.preset else ''}.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
