"""Learning curves of all arms on one world: one process per arm, all seeds of an arm in one program.

    python benchmarks/learning.py run soft/jumper-mini --arms RFO SAPO --seeds 5 --steps 250000
    python benchmarks/learning.py report soft/jumper-mini
    python benchmarks/learning.py run dmc/cartpole-swingup --preset light --arms SAC SAC-Flow-G --seeds 3 --steps 50000

``run`` trains into ``runs/learning/WORLD/ARM`` (an interrupted arm continues) and copies evaluation lines to
``benchmarks/results/learning/WORLD/ARM``. ``report`` prints the table and draws the figure from those small files.
"""

import argparse
import ast
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from arms import ARMS

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"

KEPT = {"env_steps", "update", "seed", "wall_seconds", "cpu_seconds", "eval/return_mean", "eval/return_deterministic"}
KEPT |= {"policy/saturation", "actor/return_gradient_norm", "policy/latent_std", "critic/loss"}
KEPT |= {"actor/better_stored", "actor/weight_mean", "critic/target_mean", "critic/behaviour_value_mean"}
"""What is kept of the many runs of a side study; of the comparison itself, everything."""


def slug(world: str) -> str:
    return world.replace("/", "-")


def train_arm(arguments: argparse.Namespace) -> None:
    """Trains one arm in this process."""
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    from penstock.training.loop import Silent, train
    from penstock.training.plan import RUN_FIELDS, make_plan, parse_world_options

    algorithm, settings = ARMS[arguments.arm]
    settings = settings | {name: ast.literal_eval(value) for name, value in (pair.split("=") for pair in arguments.set)}
    given = {"evaluate_every": arguments.evaluate_every, "num_envs": arguments.num_envs}
    fields = {name: value for name, value in given.items() if value}
    fields |= {name: settings.pop(name) for name in RUN_FIELDS if name in settings}
    plan = make_plan(
        algorithm,
        arguments.world,
        preset=arguments.preset,
        settings=settings,
        label=arguments.label or arguments.arm,
        steps=arguments.steps,
        seed=arguments.seed,
        seeds=arguments.seeds,
        world_options=parse_world_options(tuple(arguments.world_option)),
        **fields,
    )
    name = arguments.folder or arguments.label or arguments.arm
    folder = ROOT / "runs" / arguments.suite / slug(arguments.world) / name
    train(plan, folder, observer=Silent(print), allow_config_change=False)
    target = RESULTS / arguments.suite / slug(arguments.world) / folder.name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "config.json", target / "config.json")
    with (folder / "metrics.jsonl").open() as source, (target / "metrics.jsonl").open("w") as kept:
        for line in source:
            row = json.loads(line)
            if "eval/return_mean" in row:
                kept_names = KEPT if arguments.suite != "learning" else row
                short = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items() if k in kept_names}
                kept.write(json.dumps(short) + "\n")


def run_arms(arguments: argparse.Namespace) -> None:
    """Trains the arms one after the other, each in a process of its own, so that CPU seconds are its own."""
    for arm in arguments.arms:
        begin = time.monotonic()
        command = [sys.executable, __file__, "arm", arguments.world, "--arm", arm]
        for name in ("seed", "seeds", "steps", "suite", "label", "folder", "evaluate_every", "num_envs", "preset"):
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        command += ["--set", *arguments.set] if arguments.set else []
        command += ["--world-option", *arguments.world_option] if arguments.world_option else []
        outcome = subprocess.run(command, check=False)
        print(f"{arm}: exit {outcome.returncode}, {time.monotonic() - begin:.0f} s", flush=True)


def report(arguments: argparse.Namespace) -> None:
    """Prints the table and draws the figure."""
    from penstock.reports.curves import plot_runs, summary_table
    from penstock.reports.tables import markdown_table

    folder = RESULTS / arguments.suite / slug(arguments.world)
    runs = sorted(path for path in folder.iterdir() if (path / "metrics.jsonl").is_file())
    if arguments.arms:
        runs = [folder / arm for arm in arguments.arms]
    everything = runs
    for metric in ("eval/return_deterministic", "eval/return_mean"):
        runs = [path for path in everything if metric in (path / "metrics.jsonl").read_text()]  # peers lack some
        print(f"\n{arguments.world}, {metric}\n")
        print(markdown_table([summary.row() for summary in summary_table(runs, metric)]))
        for written in plot_runs(runs, folder / f"{metric.split('/')[1]}.png", metric=metric):
            print(written.relative_to(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "arm", "report"])
    parser.add_argument("world")
    parser.add_argument("--arms", nargs="*", default=[])
    parser.add_argument("--arm", default="")
    parser.add_argument("--label", default="")
    parser.add_argument("--folder", default="", help="of the run, where an arm has one for each seed; else its label")
    parser.add_argument("--suite", default="learning", help="folder of runs and results")
    parser.add_argument("--preset", default="", help="settings by name, for example light")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250_000)
    parser.add_argument("--evaluate-every", type=int, default=0, help="0: as the preset says")
    parser.add_argument("--num-envs", type=int, default=0, help="0: as the preset says")
    parser.add_argument("--set", nargs="*", default=[], help="settings, as name=value")
    parser.add_argument("--world-option", nargs="*", default=[], help="options of the world, as name=value")
    arguments = parser.parse_args()
    if arguments.action == "run":
        arguments.arms = arguments.arms or list(ARMS)
    {"run": run_arms, "arm": train_arm, "report": report}[arguments.action](arguments)


if __name__ == "__main__":
    main()
