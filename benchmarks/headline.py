"""RFO against its controls on `soft/jumper`, a million environment steps, at a size that two CPU cores can pay.

    python benchmarks/headline.py run tuning --processes 2     # the same number of trials for RFO, SAPO and SHAC2
    python benchmarks/headline.py report tuning
    python benchmarks/headline.py run study                    # the winners on other seeds, a million steps each
    python benchmarks/headline.py report study

Every run is a process of its own with one thread and one seed (`learning.py`); one that was interrupted continues, one
that has ended is not repeated. All arms share `SIZE`; ``TRIALS`` says what each trial changes, `WINNERS` what the study
took over.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

LEARNING = Path(__file__).parent / "learning.py"
RESULTS = Path(__file__).parent / "results"
WORLD = "soft/jumper"

SIZE = [
    *("window=16", "actor_hidden=(256,128)", "critic_hidden=(128,128)", "critic_passes=4", "critic_minibatches=1"),
    *("critic_learning_rate=2e-3", "actor_learning_rate=4e-3"),
]
"""Of all arms, with 8 environments: the preset of the world is made for a GPU."""

GAUSSIAN = ["initial_log_std=0.0"]
"""Gaussians start with the latent standard deviation 1 with which a flow starts."""

BASE = {
    "RFO": [],
    "RFO-chunk": [],
    "RFO-naive": [],
    "RFO-mlp": [],
    "RFO-gated": [],
    "RFO-decoded": [],
    "uniform-only": [],
    "SAPO": [*GAUSSIAN, "initial_temperature=0.2"],
    "SHAC2": GAUSSIAN,
    "SHAC": GAUSSIAN,
}

EARLY = "final_learning_rate=2e-3"
"""Rates as at the start of a schedule made for a million steps. Such as fall to nothing within the 100,000 steps of a
trial measure how well an arm can do with little."""

TRIALS: dict[str, dict[str, list[str]]] = {
    "RFO": {
        "start": [],
        "no-past": ["past_coefficient=0.0"],
        "no-decay": [EARLY],
        "lr-2e-3": ["actor_learning_rate=2e-3"],
        "no-decay+no-past": [EARLY, "past_coefficient=0.0"],
        "no-decay+lr-2e-3": [EARLY, "actor_learning_rate=2e-3"],
        "no-decay+clip-1": [EARLY, "gradient_clip=1.0"],
        "no-decay+window-32": [EARLY, "window=32"],
        "no-decay+uniform-0.02": [EARLY, "uniform_coefficient=0.02"],
        "no-decay+midpoint": [EARLY, "stepper='midpoint'", "flow_steps=2"],
    },
    "SAPO": {
        "start": [],
        "temperature-0.05": ["initial_temperature=0.05"],
        "no-decay": [EARLY],
        "lr-2e-3": ["actor_learning_rate=2e-3"],
        "no-decay+temperature-0.05": [EARLY, "initial_temperature=0.05"],
        "no-decay+lr-2e-3": [EARLY, "actor_learning_rate=2e-3"],
        "no-decay+clip-1": [EARLY, "gradient_clip=1.0"],
        "no-decay+window-32": [EARLY, "window=32"],
        "no-decay+std-0.37": [EARLY, "initial_log_std=-1.0"],
        "no-decay+temperature-1": [EARLY, "initial_temperature=1.0"],
    },
    "SHAC2": {
        "start": [],
        "std-0.37": ["initial_log_std=-1.0"],
        "no-decay": [EARLY],
        "lr-2e-3": ["actor_learning_rate=2e-3"],
        "no-decay+std-0.37": [EARLY, "initial_log_std=-1.0"],
        "no-decay+lr-2e-3": [EARLY, "actor_learning_rate=2e-3"],
        "no-decay+clip-1": [EARLY, "gradient_clip=1.0"],
        "no-decay+window-32": [EARLY, "window=32"],
        "no-decay+elu-gain-1.4": [EARLY, "activation='elu'"],
        "no-decay+no-weight-decay": [EARLY, "weight_decay=0.0"],
    },
}
"""The same number for each, in rounds: a study that is cut short has given every arm as many."""

WINNERS: dict[str, list[str]] = {
    "RFO": [],
    "SAPO": ["window=32"],
    "SHAC2": ["gradient_clip=1.0"],
}
"""Settings of the study, beside `SIZE` and `BASE`: those of the best trial of each in stochastic return. Rates decay
over the whole study, as published. Arms that were not tuned take those of their relative: `RELATIVE`."""

RELATIVE = {"RFO-chunk": "RFO", "RFO-naive": "RFO", "uniform-only": "RFO", "SHAC": "SHAC2"}

TUNING_SEED = 41
TUNING_STEPS, STUDY_STEPS = 100_000, 1_000_000
STUDY_SEEDS = dict.fromkeys(("RFO", "RFO-chunk", "uniform-only", "SAPO", "SHAC2"), (1, 2, 3, 4, 5))
STUDY_SEEDS |= dict.fromkeys(("RFO-naive", "SHAC"), (1, 2))


def jobs(stage: str) -> list[list[str]]:
    """Arguments of `learning.py` for each run of a stage, in the order in which they start."""
    if stage == "study":
        most = max(map(len, STUDY_SEEDS.values()))
        every = [(arm, seeds[i]) for i in range(most) for arm, seeds in STUDY_SEEDS.items() if i < len(seeds)]
        return [
            _job("headline", arm, arm, seed, STUDY_STEPS, 51_200, WINNERS[RELATIVE.get(arm, arm)])
            for arm, seed in every
        ]
    rounds = itertools.zip_longest(*([(arm, trial) for trial in trials] for arm, trials in TRIALS.items()))
    return [
        _job("headline-tuning", arm, f"{arm}+{trial}", TUNING_SEED, TUNING_STEPS, 25_600, TRIALS[arm][trial])
        for pairs in rounds
        for arm, trial in pairs
    ]


def _job(suite: str, arm: str, label: str, seed: int, steps: int, every: int, settings: list[str]) -> list[str]:
    run = [f"--suite={suite}", f"--arm={arm}", f"--label={label}", f"--folder={label}-seed-{seed}", f"--seed={seed}"]
    size = ["--seeds=1", f"--steps={steps}", f"--evaluate-every={every}", "--num-envs=8"]
    return ["arm", WORLD, *run, *size, "--set", *SIZE, *BASE[arm], *settings]


def is_finished(job: list[str]) -> bool:
    """Whether the results of a run hold its last evaluation."""
    given = dict(part[2:].split("=", 1) for part in job if part.startswith("--") and "=" in part)
    path = RESULTS / given["suite"] / WORLD.replace("/", "-") / given["folder"] / "metrics.jsonl"
    return path.is_file() and json.loads(path.read_text().splitlines()[-1])["env_steps"] >= int(given["steps"])


def run(arguments: argparse.Namespace) -> None:
    """Runs what is left of a stage, several processes at a time, one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"

    def one(job: list[str]) -> None:
        outcome = subprocess.run([sys.executable, str(LEARNING), *job], check=False, env=environment)
        print(f"{job[4]} {job[5]}: exit {outcome.returncode}", flush=True)

    left = [job for job in jobs(arguments.stage) if not is_finished(job)]
    with concurrent.futures.ThreadPoolExecutor(arguments.processes) as pool:
        list(pool.map(one, left))


def report(arguments: argparse.Namespace) -> None:
    """Prints the tables, trials best first, and draws the study's figures."""
    from penstock.reports.curves import plot_runs, summary_table
    from penstock.reports.tables import markdown_table

    folder = RESULTS / ("headline" if arguments.stage == "study" else "headline-tuning") / WORLD.replace("/", "-")
    runs = sorted(path for path in folder.iterdir() if (path / "metrics.jsonl").is_file())
    for metric in ("eval/return_mean", "eval/return_deterministic"):
        rows = sorted(summary_table(runs, metric), key=lambda row: -(row.final.value + row.area.value))
        print(f"\n{WORLD}, {metric}\n\n{markdown_table([row.row() for row in rows])}")
        if arguments.stage == "study":
            print(*plot_runs(runs, folder / f"{metric.split('/')[1]}.png", metric=metric))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "report"])
    parser.add_argument("stage", choices=["tuning", "study"])
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    {"run": run, "report": report}[arguments.action](arguments)


if __name__ == "__main__":
    main()
