"""What a run leaves on the disk, and how long its checkpoints take.

    python benchmarks/disk.py                                   # prints tables, adds to results/disk.json
    python benchmarks/disk.py --before PATH/TO/OTHER/CHECKOUT   # the same beside what another version does
    python benchmarks/disk.py --full                            # with a replay memory that is full from the start

Each arm is a run of a million steps on ``dmc/walker-run`` that is stopped at 5,000, with the algorithm's default
settings but for an evaluation, and so a checkpoint, every 1,000 steps. The first gradient step comes at 5,000, or where
the name of the arm says. A file with several names is counted once, for the newest checkpoint where that has it;
"copied" is what a copy takes that makes several files of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from penstock.reports.tables import markdown_table

ARMS = {
    "sac": ("sac", {}),
    "flowrl": ("flowrl", {}),
    "sac-flow": ("sac-flow", {}),
    "sac, learning from 1,000": ("sac", {"warmup_steps": 1_000}),
    "flowrl, learning from 4,800": ("flowrl", {"warmup_steps": 4_800}),
}
STEPS, EVERY = 5_000, 1_000
OUTPUT = Path(__file__).parent / "results" / "disk.json"

RUN = """
import json, sys, time
import numpy as np
import penstock
from penstock.data.replay import Replay
from penstock.training import loop

algorithm, run_dir, settings, steps, every, full = json.loads(sys.argv[1])
seconds = []
training = getattr(loop, "_Training", None) or loop._Run  # the name before runs were trained together
save, create = training._checkpoint, Replay.create_on_host.__func__

def timed(self, *arguments):
    begin = time.perf_counter()
    saved = save(self, *arguments)
    seconds.append(time.perf_counter() - begin)
    return saved

def filled(cls, *arguments):
    memory, generator = create(cls, *arguments), np.random.default_rng(0)
    for leaf in (memory.ring.observation.vector, memory.ring.next_observation.vector, memory.ring.action):
        leaf[...] = generator.standard_normal(leaf.shape, np.float32)
    memory.filled[...] = memory.slots
    return memory

training._checkpoint = timed
if full:
    Replay.create_on_host = classmethod(filled)
penstock.train(algorithm, "dmc/walker-run", run_dir=run_dir, evaluate_every=every, evaluation_episodes=1, log_every=10,
               progress=False, on_metrics=lambda rows: rows[0]["env_steps"] >= steps, **settings)
print(json.dumps(seconds))
"""


def measure(arm: str, checkout: Path, full: bool) -> dict:
    """Runs an arm with the code of a checkout; sizes of its files in bytes, and seconds of its checkpoints."""
    algorithm, settings = ARMS[arm]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        request = json.dumps([algorithm, str(run_dir), settings, STEPS, EVERY, full])
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, "-c", RUN, request]
        finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise SystemExit(finished.stderr)
        seconds = json.loads(finished.stdout.splitlines()[-1])
        return {"arm": arm, "full": full, "seconds": seconds, **sizes(run_dir)}


def sizes(run_dir: Path) -> dict:
    """Bytes of every file of a run: of its newest checkpoint, and beside it."""
    newest = max(path.name for path in (run_dir / "checkpoints").glob("step-*"))
    files = sorted(path for path in run_dir.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.parent.name != newest or path.parent.parent.name != "checkpoints")
    seen: set[int] = set()
    found: dict = {"newest": {}, "beside": {}, "copied": 0}
    for path in files:
        status = path.stat()
        found["copied"] += status.st_size
        if status.st_ino in seen:
            continue
        seen.add(status.st_ino)
        inside = path.parent == run_dir / "checkpoints" / newest
        name = path.name if inside else str(path.relative_to(run_dir))
        found["newest" if inside else "beside"][name] = status.st_size
    return found


def table(record: list[dict]) -> str:
    """One line for each version of each arm."""
    rows = []
    for row in record:
        newest, beside = sum(row["newest"].values()), sum(row["beside"].values())
        numbers = {
            "whole run": newest + beside,
            "newest checkpoint": newest,
            "beside it": beside,
            "copied": row["copied"],
        }
        rows.append(
            {
                "arm": row["arm"] + ", memory full" * row["full"],
                "version": row["version"],
                **{name: f"{size / 1e6:,.2f} MB" for name, size in numbers.items()},
                "seconds per checkpoint": f"{np.median(row['seconds'][1:]):.3f}",
            }
        )
    return markdown_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--before", type=Path, help="another checkout of Penstock")
    parser.add_argument(
        "--full", action="store_true", help="the replay memory is full of random numbers from the start"
    )
    arguments = parser.parse_args()
    versions = {"now": Path(__file__).resolve().parent.parent}
    if arguments.before is not None:
        versions = {"before": arguments.before.resolve(), **versions}
    record = []
    for arm in arguments.arms:
        for version, checkout in versions.items():
            record.append({"version": version, **measure(arm, checkout, arguments.full)})
            print(table(record[-1:]), file=sys.stderr, flush=True)
    record = sorted(
        [*others(record), *record], key=lambda row: (row["full"], list(ARMS).index(row["arm"]), row["version"])
    )
    for row in record:
        if row["version"] == "now":
            print(f"\n{row['arm']}{', memory full' * row['full']}\n")
            files = [(where, *item) for where in ("newest", "beside") for item in row[where].items()]
            print(markdown_table([{"": where, "file": name, "bytes": f"{size:,}"} for where, name, size in files]))
    print(f"\n{table(record)}")
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


def others(record: list[dict]) -> list[dict]:
    """What was measured before, and was not measured anew."""
    keys = {(row["full"], row["arm"], row["version"]) for row in record}
    before = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else []
    return [row for row in before if (row["full"], row["arm"], row["version"]) not in keys]


if __name__ == "__main__":
    main()
