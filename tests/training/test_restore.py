"""Opening a run for reading: sentences where there is none, and nothing changed where there is one."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from penstock._errors import PenstockError
from penstock.storage.store import list_checkpoints
from penstock.training.loop import train
from penstock.training.restore import read_plan, restore_run

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from tiny_runs import STEPS_PER_UPDATE, SharedProgram, tiny_plan


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("restore") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.training.programs.Program", SharedProgram)
        result = train(tiny_plan(), run_dir)
    return run_dir, result


def test_last_and_best(run_dir):
    path, result = run_dir
    before = sorted((entry, entry.stat().st_mtime_ns) for entry in path.rglob("*"))
    last = restore_run(path, "last")
    assert last.plan == tiny_plan() and last.manifest.step == tiny_plan().updates * STEPS_PER_UPDATE
    for ours, theirs in zip(jax.tree.leaves(last.state.actor), jax.tree.leaves(result.state.actor), strict=True):
        assert np.array_equal(ours, theirs)
    best = restore_run(path, "best")
    scores = [manifest_score(checkpoint) for _, checkpoint in list_checkpoints(path / "checkpoints")]
    assert best.manifest.score is not None and best.manifest.score >= max(scores)
    assert sorted((entry, entry.stat().st_mtime_ns) for entry in path.rglob("*")) == before, "reading changes nothing"


def manifest_score(checkpoint):
    from penstock.storage.store import read_manifest

    return read_manifest(checkpoint).score


def test_a_damaged_newest_checkpoint_is_left_where_it_is(run_dir, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run_dir[0], copy)
    newest = list_checkpoints(copy / "checkpoints")[-1][1]
    (newest / "manifest.json").write_text("{}")
    assert restore_run(copy).manifest.step < tiny_plan().updates * STEPS_PER_UPDATE
    assert newest.is_dir()


def test_folders_without_a_run_are_named(tmp_path, run_dir):
    with pytest.raises(PenstockError, match=r"nope holds no run: it has no config\.json"):
        read_plan(tmp_path / "nope")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((run_dir[0] / "config.json").read_bytes())
    for which in ("last", "best"):
        with pytest.raises(PenstockError, match=f"no {which} checkpoint"):
            restore_run(tmp_path / "empty", which)
    (tmp_path / "empty" / "config.json").write_text('{"algorithm": "rfo", "world": 3}')
    with pytest.raises(PenstockError, match="world = 3"):
        read_plan(tmp_path / "empty")
