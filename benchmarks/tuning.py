"""Equal tuning effort: the same number of trials for RFO and each of its strongest controls, on seeds kept for tuning.

    python benchmarks/tuning.py run soft/jumper-mini --arms RFO SAPO
    python benchmarks/tuning.py report soft/jumper-mini

Each trial changes a few settings of ``START``. The trial that wins (final plus area under the curve, IQM over
seeds of the deterministic return) may become the preset; the comparison itself then uses other seeds (learning.py).
"""

import argparse
import subprocess
import sys
from pathlib import Path

LEARNING = Path(__file__).parent / "learning.py"
RESULTS = Path(__file__).parent / "results" / "tuning"
FIRST_SEED, SEEDS = 11, 3

START = {
    "RFO": [
        *("actor_learning_rate=2e-3", "stepper='euler'", "flow_steps=4", "velocity='mlp'"),
        *("past_coefficient=0.2", "uniform_coefficient=0.05", "deterministic_action='zero'"),
    ],
    "SHAC": ["actor_learning_rate=2e-3"],
    "SHAC2": ["actor_learning_rate=2e-3"],
    "SAPO": ["actor_learning_rate=2e-3", "initial_temperature=1.0", "gradient_clip=0.5"],
}
"""Where the search began: the published settings. The preset now holds the winners; of RFO also what came after."""

TRIALS: dict[str, dict[str, list[str]]] = {
    "RFO": {
        "start": [],
        "past-0.05": ["past_coefficient=0.05"],
        "past-0.05-clip-1": ["past_coefficient=0.05", "gradient_clip=1.0"],
        "lr-4e-3": ["actor_learning_rate=4e-3"],
        "clip-1-lr-4e-3": ["gradient_clip=1.0", "actor_learning_rate=4e-3"],
        "midpoint": ["stepper='midpoint'", "flow_steps=2"],
        "midpoint-past-0.05-clip-1": [
            "stepper='midpoint'",
            "flow_steps=2",
            "past_coefficient=0.05",
            "gradient_clip=1.0",
        ],
        "uniform-0.02": ["uniform_coefficient=0.02"],
        "lr-6e-3": ["actor_learning_rate=6e-3"],
        "lr-4e-3-past-0.1": ["actor_learning_rate=4e-3", "past_coefficient=0.1"],
        "lr-4e-3-midpoint": ["actor_learning_rate=4e-3", "stepper='midpoint'", "flow_steps=2"],
        "lr-4e-3-uniform-0.1": ["actor_learning_rate=4e-3", "uniform_coefficient=0.1"],
        "lr-4e-3-elu": ["actor_learning_rate=4e-3", "activation='elu'"],
        "lr-4e-3-no-decay": ["actor_learning_rate=4e-3", "weight_decay=0.0"],
        "lr-6e-3-midpoint": ["actor_learning_rate=6e-3", "stepper='midpoint'", "flow_steps=2"],
        "lr-8e-3-midpoint": ["actor_learning_rate=8e-3", "stepper='midpoint'", "flow_steps=2"],
    },
    "SHAC": {
        "start": [],
        "std-0.6": ["initial_log_std=-0.5"],
        "mixing-0.5": ["target_mixing=0.5"],
        "lr-4e-3": ["actor_learning_rate=4e-3"],
        "clip-0.5": ["gradient_clip=0.5"],
        "clip-2-lr-4e-3": ["gradient_clip=2.0", "actor_learning_rate=4e-3"],
        "state-std": ["state_dependent_std=True"],
        "silu-gain-1": ["activation='silu'"],
        "lr-6e-3": ["actor_learning_rate=6e-3"],
        "lr-4e-3-silu": ["actor_learning_rate=4e-3", "activation='silu'"],
        "lr-4e-3-clip-0.5": ["actor_learning_rate=4e-3", "gradient_clip=0.5"],
        "lr-4e-3-mixing-0.5": ["actor_learning_rate=4e-3", "target_mixing=0.5"],
        "lr-4e-3-std-1.6": ["actor_learning_rate=4e-3", "initial_log_std=0.5"],
        "lr-4e-3-std-0.6": ["actor_learning_rate=4e-3", "initial_log_std=-0.5"],
        "lr-3e-3": ["actor_learning_rate=3e-3"],
        "lr-3e-3-silu": ["actor_learning_rate=3e-3", "activation='silu'"],
    },
    "SHAC2": {
        "start": [],
        "std-0.6": ["initial_log_std=-0.5"],
        "clip-1": ["gradient_clip=1.0"],
        "lr-4e-3": ["actor_learning_rate=4e-3"],
        "clip-1-lr-4e-3": ["gradient_clip=1.0", "actor_learning_rate=4e-3"],
        "no-decay": ["weight_decay=0.0"],
        "elu-gain-1.4": ["activation='elu'"],
        "elu-gain-1.4-clip-1": ["activation='elu'", "gradient_clip=1.0"],
        "lr-6e-3": ["actor_learning_rate=6e-3"],
        "lr-4e-3-std-1.6": ["actor_learning_rate=4e-3", "initial_log_std=0.5"],
        "lr-4e-3-std-0.6": ["actor_learning_rate=4e-3", "initial_log_std=-0.5"],
        "lr-4e-3-global-std": ["actor_learning_rate=4e-3", "state_dependent_std=False"],
        "lr-4e-3-elu": ["actor_learning_rate=4e-3", "activation='elu'"],
        "lr-4e-3-no-decay": ["actor_learning_rate=4e-3", "weight_decay=0.0"],
        "lr-3e-3": ["actor_learning_rate=3e-3"],
        "lr-3e-3-std-1.6": ["actor_learning_rate=3e-3", "initial_log_std=0.5"],
    },
    "SAPO": {
        "start": [],
        "std-0.6": ["initial_log_std=-0.5"],
        "clip-1": ["gradient_clip=1.0"],
        "lr-4e-3": ["actor_learning_rate=4e-3"],
        "clip-1-lr-4e-3": ["gradient_clip=1.0", "actor_learning_rate=4e-3"],
        "temperature-0.2": ["initial_temperature=0.2"],
        "temperature-0.05": ["initial_temperature=0.05"],
        "temperature-0.2-clip-1": ["initial_temperature=0.2", "gradient_clip=1.0"],
        "temperature-0.2-lr-4e-3": ["initial_temperature=0.2", "actor_learning_rate=4e-3"],
        "temperature-0.05-lr-4e-3": ["initial_temperature=0.05", "actor_learning_rate=4e-3"],
        "temperature-0.2-clip-1-lr-4e-3": [
            *("initial_temperature=0.2", "gradient_clip=1.0"),
            "actor_learning_rate=4e-3",
        ],
        "temperature-0.05-clip-1": ["initial_temperature=0.05", "gradient_clip=1.0"],
        "temperature-0.2-lr-6e-3": ["initial_temperature=0.2", "actor_learning_rate=6e-3"],
        "temperature-0.2-elu": ["initial_temperature=0.2", "activation='elu'"],
        "temperature-0.2-clip-1-lr-3e-3": [
            *("initial_temperature=0.2", "gradient_clip=1.0"),
            "actor_learning_rate=3e-3",
        ],
        "temperature-0.1-clip-1": ["initial_temperature=0.1", "gradient_clip=1.0"],
    },
}


def run(arguments: argparse.Namespace) -> None:
    """Trains the trials one after the other; an interrupted or finished trial continues where it was."""
    for arm in arguments.arms or TRIALS:
        for trial, settings in TRIALS[arm].items():
            command = [sys.executable, str(LEARNING), "run", arguments.world, "--arms", arm, "--suite", "tuning"]
            command += ["--label", f"{arm}+{trial}", "--seed", str(FIRST_SEED), "--seeds", str(SEEDS)]
            command += ["--steps", str(arguments.steps), "--set", *START[arm], *settings]
            subprocess.run(command, check=False)


def report(arguments: argparse.Namespace) -> None:
    """Prints every trial, best first within its arm."""
    from penstock.reports.curves import summary_table
    from penstock.reports.tables import markdown_table

    folder = RESULTS / arguments.world.replace("/", "-")
    for arm in arguments.arms or TRIALS:
        runs = [folder / f"{arm}+{trial}" for trial in TRIALS[arm] if (folder / f"{arm}+{trial}").is_dir()]
        if runs:
            rows = summary_table(runs, "eval/return_deterministic")
            rows = sorted(rows, key=lambda row: -(row.final.value + row.area.value))
            print(markdown_table([row.row() for row in rows]), "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "report"])
    parser.add_argument("world")
    parser.add_argument("--arms", nargs="*", default=[], choices=list(TRIALS))
    parser.add_argument("--steps", type=int, default=200_000)
    arguments = parser.parse_args()
    {"run": run, "report": report}[arguments.action](arguments)


if __name__ == "__main__":
    main()
