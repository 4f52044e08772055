"""Two checkouts of Penstock beside each other: what a change made faster, slower, smaller.

    git worktree add ../before 8952cd2
    python benchmarks/before_after.py ../before iterations        # pathwise algorithms, as speed.py
    python benchmarks/before_after.py ../before updates           # gradient steps off-policy, as update_speed.py
    python benchmarks/before_after.py ../before hosted            # training on hosted worlds, as hosted_training.py
    python benchmarks/before_after.py ../before memory            # of a functional off-policy run (Linux)
    python benchmarks/before_after.py ../before report

Each checkout has a process of its own, in which its own benchmarks build what is timed. The two take turns, before and
after, before and after, and one waits while the other computes; ratios are medians of the pairs, with their range. Adds
to benchmarks/results/before_after.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUTPUT = Path(__file__).parent / "results" / "before_after.json"

PATHWISE = [
    f"{world} {algorithm}"
    for world in ("soft/jumper-mini", "soft/jumper", "classic/pendulum", "classic/two-gap-wall")
    for algorithm in ("apg", "shac", "shac2", "sapo", "rfo")
]
OFF_POLICY = ["sac", "crossq", "flowrl-cheetah", "flowrl-dog", "flow-t", "flow-g"]
HOSTED = [f"gym/HalfCheetah-v5 {algorithm}" for algorithm in ("sac", "crossq", "flowrl", "sac-flow")]
FUNCTIONAL = ["classic/cartpole-swingup sac"]
ROWS = {"iterations": PATHWISE, "updates": OFF_POLICY, "hosted": HOSTED, "memory": FUNCTIONAL}
UNIT = {
    "iterations": "CPU ms per iteration",
    "updates": "CPU ms per gradient step",
    "hosted": "CPU ms per environment step",
    "memory": "MiB",
}


# In the process of one checkout, whose own penstock and benchmarks are found first.


def prepare_iterations(row: str):
    import speed

    world, algorithm = row.split()
    arm = speed.prepare(algorithm, world, speed.SMALLER.get(world, {}))
    iterations = {"soft/jumper": 4, "soft/jumper-mini": 16}.get(world, 60)

    def turn() -> float:
        speed.time_in_turns([arm], 1, iterations)
        return 1e3 * arm["times"][-1]

    return turn, arm["compile_seconds"]


def prepare_updates(row: str):
    import update_speed

    ours = update_speed.rows(None, None)[row][1]()
    first = update_speed.warm_up(ours)
    blocks = max(1, round(1.0 / update_speed.cpu_seconds(lambda: ours.run(update_speed.BLOCK))))
    updates = blocks * update_speed.BLOCK
    return lambda: 1e3 * update_speed.cpu_seconds(lambda: ours.run(updates)) / updates, first


def prepare_hosted(row: str):
    import jax
    import numpy as np

    from penstock.training.plan import make_plan
    from penstock.worlds import make_world

    try:
        from penstock.training.running import make_driver
    except ImportError:  # as 8952cd2 has it
        from penstock.training.programs import make_program as make_driver  # pyright: ignore[reportMissingImports]

    world, algorithm = row.split()
    plan = make_plan(algorithm, world, preset="light", settings={"warmup_steps": 500}, steps=100_000, seeds=1)
    driver = make_driver(plan.make_learner(plan.make_world()), make_world(world, 1))
    keys = jax.random.split(jax.random.key(0), 1)
    states = driver.init(keys)
    begin = time.process_time()
    driver.compile(states, np.int32(1), keys)
    first = time.process_time() - begin
    steps = plan.num_envs * plan.settings.collect_steps
    states, _ = driver.train(states, np.int32(-(-1_000 // steps)))  # past the warm-up

    def turn() -> float:
        nonlocal states
        begin = time.process_time()
        states, _ = driver.train(states, np.int32(500 // steps))
        jax.block_until_ready(states.learned)
        return 1e3 * (time.process_time() - begin) / (500 // steps * steps)

    return turn, first


def work(kind: str, row: str) -> None:
    """Says how long compilation took, then the figure of one turn for every line that comes in."""
    sys.path.insert(0, str(Path.cwd() / "benchmarks"))
    os.environ["PENSTOCK_CACHE"] = ""
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    import penstock

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the benchmarks print is no answer
    if not Path(penstock.__file__).is_relative_to(Path.cwd()):
        sys.exit(f"penstock was found at {penstock.__file__}, not in {Path.cwd()}")
    turn, compile_seconds = {"iterations": prepare_iterations, "updates": prepare_updates, "hosted": prepare_hosted}[
        kind
    ](row)
    turn()
    print(json.dumps(compile_seconds), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers, flush=True)


# In the process that is called.


def environment(checkout: Path) -> dict:
    return {**os.environ, "PYTHONPATH": str(checkout), "PENSTOCK_CACHE": ""}


def in_turns(kind: str, row: str, checkouts: dict[str, Path], turns: int) -> dict:
    sides = {}
    for name, checkout in checkouts.items():
        sides[name] = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(checkout), "work", "--kind", kind, "--rows", row],
            cwd=checkout,
            env=environment(checkout),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        sides[name].first = json.loads(sides[name].stdout.readline())  # the other is started when this one is ready
    times = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            side.stdin.write("\n")
            side.stdin.flush()
            times[name].append(json.loads(side.stdout.readline()))
    for side in sides.values():
        side.stdin.close()
        side.wait()
    return {"times": times, "compile": {name: side.first for name, side in sides.items()}}


def memory_in_turns(row: str, checkouts: dict[str, Path], turns: int) -> dict:
    """Largest resident memory while a run learns, compilation and checkpoints apart: between two of its lines."""
    world, algorithm = row.split()
    command = f"-m penstock train {algorithm} --world {world} --preset light --seeds 4"
    command += " --steps 8000000 --replay-capacity 8000000 --evaluate-every 4000000"
    peaks = {name: [] for name in checkouts}
    for _ in range(turns):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as folder:
                process = subprocess.Popen(
                    [sys.executable, *command.split(), "--run-dir", folder],
                    cwd=checkout,
                    env=environment(checkout),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                proc = Path("/proc") / str(process.pid)
                _lines_of_progress(process, 3)
                (proc / "clear_refs").write_text("5")  # the largest so far is forgotten
                _lines_of_progress(process, 2)
                status = (proc / "status").read_text()
                process.terminate()
                process.communicate()
                peaks[name].append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    return {"times": peaks, "compile": dict.fromkeys(checkouts)}


def _lines_of_progress(process: subprocess.Popen, count: int) -> None:
    """Waits for so many lines."""
    assert process.stderr is not None
    for line in process.stderr:
        count -= "steps/s" in line
        if count == 0:
            return
    sys.exit(f"training ended early: {process.args}")


def report(results: dict) -> None:
    from penstock.reports.tables import markdown_table

    for kind, rows in results.items():
        table = []
        for row, found in rows.items():
            before, after = found["times"]["before"], found["times"]["after"]
            ratios = [b / a for a, b in zip(before, after, strict=True)]
            line = {
                "row": row,
                f"before, {UNIT[kind]}": f"{statistics.median(before):.3g}",
                "after": f"{statistics.median(after):.3g}",
                "after / before": f"{statistics.median(ratios):.3f} [{min(ratios):.2f}, {max(ratios):.2f}]",
            }
            if found["compile"]["before"]:
                line["compile, CPU s"] = f"{found['compile']['before']:.1f} / {found['compile']['after']:.1f}"
            table.append(line)
        print(markdown_table(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("what", choices=[*ROWS, "report", "work"])
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--kind", choices=list(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "work":
        return work(arguments.kind, arguments.rows[0])
    results = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else {}
    if arguments.what == "report":
        return report(results)
    checkouts = {"before": arguments.before.resolve(), "after": Path(__file__).resolve().parents[1]}
    for row in arguments.rows or ROWS[arguments.what]:
        if arguments.what == "memory":
            found = memory_in_turns(row, checkouts, arguments.turns)
        else:
            found = in_turns(arguments.what, row, checkouts, arguments.turns)
        results.setdefault(arguments.what, {})[row] = found
        report({arguments.what: {row: found}})
        OUTPUT.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
