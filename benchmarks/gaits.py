"""How does a soft body earn its return: by speed or by height? What tells good seeds from bad ones on ``soft/jumper``.

    python benchmarks/gaits.py run --runs runs/headline/soft-jumper/*   # runs of headline.py, by their last checkpoints
    python benchmarks/gaits.py report                               # table and figure from the data

Sixteen episodes of each run with its noise on, the same starts for all. The reward is speed plus three times the
height gained, less a small cost of actions: reported are the sums of the first two over an episode, the highest point
of the body's centre, the part of the time at which no vertex is near the ground, and how often it leaves the ground.
``run`` adds to ``benchmarks/results/gaits.json``, ``report`` draws ``docs/images/gaits.png``.
"""

import argparse
from pathlib import Path

import numpy as np
from study import study

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "results" / "gaits.json"
FIGURE = ROOT / "docs" / "images" / "gaits.png"

EPISODES = 16
SEED = 7
LEAP = 8.0
"""A centre of mass that rises so high, m, belongs to a body that leaps; between 4 m and 12 m none was seen."""
GAITS = ("leaps", "runs")
PARTS = {"return": "return", "of it speed": "speed_part", "of it height": "height_part"}


def look_at(folder: Path) -> dict:
    """The parts of the return of one run, and the height over time of its first episode."""
    import jax

    from penstock.physics.layout import unpack
    from penstock.training.evaluation import run_episodes
    from penstock.training.restore import restore_run

    restored = restore_run(folder)
    world, (agent, *_) = restored.learner.world.with_num_envs(EPISODES), restored.agents
    task = world.task

    def play(key):
        evaluation, body = run_episodes(agent, world, key, deterministic=False)
        height, speed = unpack(body.position)[1], unpack(body.velocity)[0]
        return evaluation.episode_return, height.mean(axis=1), height.min(axis=1), speed.mean(axis=1)

    returns, height, lowest, speed = map(np.asarray, jax.jit(play)(jax.random.key(SEED)))
    airborne = lowest > task.body.contact.radius
    return {
        "arm": folder.name.rsplit("-seed-", 1)[0],
        "return": float(returns.mean()),
        "return_std": float(returns.std()),
        "speed_part": float(speed.sum(axis=0).mean()),
        "height_part": float(task.height_weight * (height - task.start_height).sum(axis=0).mean()),
        "highest": float(height.max(axis=0).mean()),
        "airborne": float(airborne.mean()),
        "take_offs": float((airborne[1:] & ~airborne[:-1]).sum(axis=0).mean()),
        "timestep": task.control_timestep,
        "height": np.round(height[:, 0], 3).tolist(),
    }


def gait(row: dict) -> str:
    """Its name."""
    return GAITS[0] if row["highest"] > LEAP else GAITS[1]


def table(data) -> str:
    """The data for people, best return first."""
    from penstock.reports.tables import markdown_table

    rows = [
        {
            "run": name,
            "gait": gait(row),
            **{told: f"{row[part]:,.0f}" for told, part in PARTS.items()},
            "highest, m": f"{row['highest']:.1f}",
            "airborne": f"{row['airborne']:.0%}",
            "take-offs": f"{row['take_offs']:.0f}",
        }
        for name, row in sorted(data.items(), key=lambda item: -item[1]["return"])
    ]
    return markdown_table(rows)


def draw(data):
    """Height over time of one episode of each run, and the parts of the return."""
    import matplotlib.figure

    from penstock.reports.style import INK, PALETTE, RULES, SOFT, save

    colors = dict(zip(GAITS, (PALETTE[0], PALETTE[1]), strict=True))
    with matplotlib.rc_context(RULES):
        figure = matplotlib.figure.Figure(figsize=(10.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        for row in data.values():
            time = row["timestep"] * np.arange(len(row["height"]))
            left.plot(time, row["height"], color=colors[gait(row)], linewidth=1.1, alpha=0.75)
            right.scatter(row["speed_part"], row["height_part"], color=colors[gait(row)], s=36, linewidth=0)
        left.set_xlabel("time, s")
        left.set_ylabel("height of the body's centre, m", color=INK)
        left.set_title("One episode of each trained policy", fontsize=10)
        right.set_xlabel("sum of speed")
        right.set_ylabel("sum of 3 x height gained", color=INK)
        right.set_title("What the return is made of", fontsize=10)
        count = {name: sum(gait(row) == name for row in data.values()) for name in GAITS}
        for name in GAITS:
            left.plot([], [], color=colors[name], linewidth=2.2, label=f"{name} ({count[name]})")
        left.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
        for axes in (left, right):
            axes.tick_params(colors=SOFT)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, FIGURE)


def run(arguments, data):
    for folder in map(Path, arguments.runs):
        data[folder.name] = look_at(folder)
        print(f"{folder.name}: {data[folder.name]['return']:,.0f}", flush=True)
        yield data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], help="run folders of soft bodies that jump")
    study(parser, DATA, run, table, draw)


if __name__ == "__main__":
    main()
