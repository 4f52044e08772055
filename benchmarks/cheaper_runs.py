"""What a run costs beside its learning: compilation of a second run, films, and several learning rates.

    python benchmarks/cheaper_runs.py                       # this checkout
    python benchmarks/cheaper_runs.py --before CHECKOUT     # beside another one, in turns

Every row is a fresh process of ``penstock`` with one thread, and a cache of compiled programs of its own; CPU seconds
are those of the process and its children.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from penstock.reports.tables import markdown_table

HERE = Path(__file__).resolve().parent
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
SEEDS = 3
RFO = ("train", "rfo", "--world", "classic/pendulum", "--no-video", "--evaluate-every", "20000")
SAC = ("train", "sac", "--world", "classic/pendulum", "--warmup-steps", "500", "--evaluate-every", "1000")

ROWS: dict[str, tuple[str, ...]] = {
    "RFO, 20,000 steps, nothing compiled yet": (*RFO, "--steps", "20000"),
    "the same once more": (*RFO, "--steps", "20000"),
    "with 30,000 steps": (*RFO, "--steps", "30000"),
    "with another learning rate": (*RFO, "--steps", "20000", "--actor-learning-rate", "1e-3"),
    "SAC, 1,000 steps, nothing compiled yet": (*SAC, "--steps", "1000", "--no-video"),
    "the same once more, without a film": (*SAC, "--steps", "1000", "--no-video"),
    "with 1,500 steps": (*SAC, "--steps", "1500", "--no-video"),
    "1,000 steps with a film, drawn for the first time": (*SAC, "--steps", "1000"),
    "1,000 steps with a film": (*SAC, "--steps", "1000"),
}


class Side:
    """One checkout, with a cache of its own.

    Attributes:
        name: for the table.
        checkout: its folder.
        seconds: CPU seconds by row.
    """

    def __init__(self, name: str, checkout: Path, folder: Path):
        self.name, self.checkout, self.folder = name, checkout, folder / name
        self.folder.mkdir()
        self.seconds: dict[str, float] = {}
        self._count = itertools.count()

    def measure(self, row: str, *commands: tuple[str, ...]) -> None:
        """Runs commands one after the other, each into a run folder of its own."""
        before = _children()
        for command in commands:
            self.run(*command, "--run-dir", str(self.folder / f"run-{next(self._count)}"))
        self.seconds[row] = round(_children() - before, 1)
        print(f"{self.name:<8} {self.seconds[row]:>8.1f} CPU s  {row}", file=sys.stderr, flush=True)

    def run(self, *command: str) -> None:
        """Runs one command in a fresh process."""
        environment = os.environ | {"PYTHONPATH": str(self.checkout), "PENSTOCK_CACHE": str(self.folder / "cache")}
        environment |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "penstock", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, to be measured beside this one")
    parser.add_argument("--steps", type=int, default=100_000, help="of each run of the rates")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cheaper_runs.json")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cheaper-runs-"))
    sides = [Side("now", HERE.parent, folder)]
    if arguments.before is not None:
        sides.insert(0, Side("before", arguments.before.resolve(), folder))
    for row, command in ROWS.items():
        for side in sides:
            side.measure(row, command)
    now = sides[-1]
    steps = ("--steps", str(arguments.steps))
    rates = [f"{rate:g}" for rate in RATES]
    apart = [
        (*RFO, *steps, "--actor-learning-rate", rate, "--seed", str(seed)) for rate in rates for seed in range(SEEDS)
    ]
    several = (*RFO, *steps, "--sweep", f"actor_learning_rate={','.join(rates)}", "--seeds", str(SEEDS))
    count = f"{len(rates)} learning rates x {SEEDS} seeds of RFO, {arguments.steps:,} steps"
    for side in sides:
        side.measure(f"{count}, a run for each", *apart)
    now.measure(f"{count}, rows of one program", several)
    rows = {row: {side.name: side.seconds.get(row) for side in sides} for side in sides for row in side.seconds}
    arguments.output.write_text(json.dumps(rows, indent=2) + "\n")
    print(markdown_table([{"CPU seconds": row, **found} for row, found in rows.items()]))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
