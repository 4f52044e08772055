"""MuJoCo Playground on a CPU: environments stepped by C MuJoCo and by MJX, in turns. Needs ``penstock[playground]``.

    python benchmarks/playground_engines.py run                  # all; --worlds CheetahRun for one
    python benchmarks/playground_engines.py report

Random actions, observations, rewards and resets included, all inside one compiled program. What is counted: CPU
seconds until the first batch of steps has ended (making the environment, tracing, compiling, and the steps), and
control steps per CPU second after that, the better of two batches.
"""

import argparse
import time
from pathlib import Path

from study import study

DATA = Path(__file__).parent / "results" / "playground_engines.json"
WORLDS = {"CartpoleBalance": {}, "CheetahRun": {}, "Go1JoystickFlatTerrain": {"meshes": "stand-in"}}
ENGINES = ("c", "jax")
NUM_ENVS = 64
STEPS = 100


def measure(ident: str, engine: str) -> dict[str, float]:
    """Both numbers of one environment under one engine."""
    import jax

    from penstock.worlds.registry import make_world

    begin = time.process_time()
    world = make_world(f"playground/{ident}", NUM_ENVS, impl=engine, **WORLDS[ident])

    def moved(state, key):
        action = jax.random.uniform(key, (NUM_ENVS, world.action_size), minval=-1.0, maxval=1.0)
        state, transition = world.step(state, action)
        return state, transition.reward

    @jax.jit
    def batch(state, key):
        return jax.lax.scan(moved, state, jax.random.split(key, STEPS))

    state, reward = jax.block_until_ready(batch(jax.jit(world.reset)(jax.random.key(0)), jax.random.key(1)))
    first, best = time.process_time() - begin, 0.0
    for seed in (2, 3):
        begin = time.process_time()
        state, reward = jax.block_until_ready(batch(state, jax.random.key(seed)))
        best = max(best, NUM_ENVS * STEPS / (time.process_time() - begin))
    return {"first": first, "steps_per_second": best, "reward": float(reward.mean())}


def table(data) -> str:
    """A row for each environment and engine."""
    from penstock.reports.tables import markdown_table

    rows = [
        {
            "environment": ident,
            "engine": engine,
            "CPU s until the first batch has ended": f"{numbers['first']:.0f}",
            "control steps per CPU s": f"{numbers['steps_per_second']:,.0f}",
        }
        for ident, engines in data.items()
        for engine, numbers in engines.items()
    ]
    return markdown_table(rows)


def run(arguments, data):
    for ident in arguments.worlds:
        for engine in ENGINES:
            data.setdefault(ident, {})[engine] = measure(ident, engine)
            print(f"{ident}, {engine}: {data[ident][engine]}", flush=True)
            yield data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), choices=list(WORLDS))
    study(parser, DATA, run, table, draw=lambda data: ())


if __name__ == "__main__":
    main()
