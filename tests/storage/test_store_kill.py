"""SIGKILL in every phase of saving, keeping the best, making smaller, and deleting (F1, for the store)."""

import json
import subprocess
import sys

import pytest

# One process imports everything once, then forks a child per case while it has a single thread.
SCRIPT = '''
import json, os, signal, sys
from pathlib import Path
import numpy as np
from penstock.storage import _durable, _layout, store

root, phases = Path(sys.argv[1]), json.loads(sys.argv[2])
LAST = 6
_layout.SEGMENT_BYTES = 240  # five rows of the ring
LAYOUT = store.Layout({"agent": ("['agent']",), "ring": ("['ring']",)}, {"ring": 1}, ("agent",))

def state(step):
    """The ring has four more rows at each step, so that the first segment is full at the second."""
    ring = np.zeros((2, 40, 3))
    ring[:, : 4 * step] = 1.0 + np.arange(4.0 * step)[:, None]
    return {"agent": np.arange(3.0) * step, "w": np.arange(50.0) * step, "n": np.int64([step]), "ring": ring}

def assert_is(loaded, step, names):
    assert all(loaded[name].tobytes() == state(step)[name].tobytes() for name in names), step

def run(directory):
    """What a training loop does: continue from the newest checkpoint, save, keep the best, prune."""
    store.clean_leftovers(directory)
    store.clean_leftovers(directory / "best")
    reports = []
    newest = store.latest_checkpoint(directory, reports.append)
    assert not reports, reports
    step = 0
    if newest is not None:
        store.choose_best(directory, lasting=LAYOUT.lasting)
        store.prune_checkpoints(directory, lasting=LAYOUT.lasting)
        loaded, manifest = store.load_checkpoint(newest, state(0))
        step = manifest.step
        assert_is(loaded, step, state(0))
    done = directory.parent / (directory.name + ".done")
    promised = int(done.read_text() or 0) if done.exists() else 0
    assert step >= promised, (step, promised)
    best = store.best_checkpoint(directory, reports.append, part="agent")
    assert not reports and (best is not None or promised == 0), reports
    for path in [best, *(path for _, path in store.list_checkpoints(directory))] if best else []:
        loaded, manifest = store.load_checkpoint(path, state(0), only={"['agent']"})
        assert_is(loaded, manifest.step, ["agent"])
    # Whatever happens to the newest one, the one before it takes its place.
    whole = [path for _, path in store.list_checkpoints(directory) if store.verify_checkpoint(path).whole]
    assert len(whole) >= min(2, step), whole
    while step < LAST:
        step += 1
        # Each step is saved twice, so that replacing a checkpoint is exercised, too.
        for _ in range(2):
            path = store.save_checkpoint(
                directory, step, state(step), config_hash="", score=float(step % 4), layout=LAYOUT
            )
            done.write_text(str(step))
        store.keep_best(path, lasting=LAYOUT.lasting)
        store.prune_checkpoints(directory, lasting=LAYOUT.lasting)

def listing(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

assert in_child(lambda: run(root / "whole")) == 0
expected = listing(root / "whole")

results = {}
for phase in phases:
    for nth in (1, 5):
        directory = root / f"{phase}-{nth}"
        def kill_at_nth(name, seen=[]):
            if name == phase:
                seen.append(1)
                if len(seen) == nth:
                    os.kill(os.getpid(), signal.SIGKILL)
        def killed():
            _durable._phase = kill_at_nth
            run(directory)
        first = in_child(killed)
        killed_as_planned = os.WIFSIGNALED(first) and os.WTERMSIG(first) == signal.SIGKILL
        second = in_child(lambda: run(directory))
        results[f"{phase}-{nth}"] = [killed_as_planned, second, listing(directory) == expected]
print(json.dumps({"expected": expected, "results": results}))
'''

PHASES = [
    "file-linked",
    "arrays-begun",
    "arrays-half-written",
    "arrays-written",
    "manifest-written",
    "old-set-aside",
    "old-replaced",
    "committed",
    "best-copied",
    "best-verified",
    "made-smaller",
    "trash-renamed",
    "trash-half-deleted",
    "trash-deleted",
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    root = tmp_path_factory.mktemp("kills")
    command = [sys.executable, "-c", SCRIPT, str(root), json.dumps(PHASES)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout), finished.stderr


def test_the_uninterrupted_run_leaves_what_it_should(outcome):
    expected = outcome[0]["expected"]
    directories = [name for name in expected if name.count("step-") == 1 and "." not in name]
    assert directories == [
        "best/step-000000000003",
        "step-000000000001",
        "step-000000000002",
        "step-000000000004",
        "step-000000000005",
        "step-000000000006",
    ]
    segments = [name.removesuffix(".safetensors") for name in expected if "ring-" in name]
    fifth = [f"step-000000000005/ring-{first:012d}" for first in (0, 5, 10, 15)]
    assert segments == [*fifth, *[f"step-000000000006/ring-{first:012d}" for first in (0, 5, 10, 15, 20)]]


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_continues_and_ends_with_the_same_files(outcome, phase):
    cases = {name: case for name, case in outcome[0]["results"].items() if name.rpartition("-")[0] == phase}
    for name, (_, second, same) in cases.items():
        assert second == 0, f"{name}: the second run failed\n{outcome[1][-2000:]}"
        assert same, f"{name}: other files are left"
    assert cases[f"{phase}-1"][0], "the phase was never reached, so nothing was tested"
