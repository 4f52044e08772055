"""Does what a policy learned on ``soft/jumper`` hold in finer time steps, and under the published contact?

    python benchmarks/finer_physics.py run --runs RUN [RUN ...]     # runs of headline.py, by their last checkpoints
    python benchmarks/finer_physics.py report

A body that leaps higher than anybody expected may have found a fault of the simulator. Each policy is played, without
any more training, in the world it was trained in (10 substeps of a control step), with 2, 4 and 8 times as many
substeps (80 are the published number), and on the ground with the published constants of contact. Sixteen episodes
with its noise, the same starts for all. ``run`` adds to ``benchmarks/results/finer_physics.json``.
"""

import argparse
from pathlib import Path

import numpy as np
from study import study

DATA = Path(__file__).parent / "results" / "finer_physics.json"

EPISODES = 16
SEED = 7
WORLDS = {
    "10 substeps": {},
    "20": {"substeps": 20},
    "40": {"substeps": 40},
    "80": {"substeps": 80},
    "80, published contact": {"substeps": 80, "contact": "constant"},
}
"""What each world changes."""


def look_at(folder: Path) -> dict:
    """Return, and the mean over episodes of the highest point of the body's centre, in each world."""
    import jax

    from penstock.physics.layout import unpack
    from penstock.training.evaluation import run_episodes
    from penstock.training.restore import restore_run
    from penstock.worlds.registry import make_functional_world

    restored = restore_run(folder)
    agent, *_ = restored.agents
    found = {}
    for name, options in WORLDS.items():
        world = make_functional_world("soft/jumper", num_envs=EPISODES, **options)

        def play(key, world=world):
            evaluation, body = run_episodes(agent, world, key, deterministic=False)
            return evaluation.episode_return, unpack(body.position)[1].mean(axis=1)

        returns, height = map(np.asarray, jax.jit(play)(jax.random.key(SEED)))
        highest = float(height.max(axis=0).mean())
        found[name] = {"return": float(returns.mean()), "highest": highest}
        print(f"{folder.name}, {name}: {returns.mean():,.0f}, {highest:.1f} m", flush=True)
    return found


def table(data) -> str:
    """Return and highest point, m, of each run in each world."""
    from penstock.reports.tables import markdown_table

    rows = [
        {"run": name, **{world: f"{row[world]['return']:,.0f}, {row[world]['highest']:.1f} m" for world in WORLDS}}
        for name, row in data.items()
    ]
    return markdown_table(rows)


def run(arguments, data):
    for folder in map(Path, arguments.runs):
        data[folder.name] = look_at(folder)
        yield data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], help="run folders of soft/jumper")
    study(parser, DATA, run, table, draw=lambda data: ())


if __name__ == "__main__":
    main()
