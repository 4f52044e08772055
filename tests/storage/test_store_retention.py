"""What a run keeps: non-finite states and crash dumps, the last and the best checkpoints, leftovers."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._types import AxisNames
from penstock.storage import store
from tests.storage.small_checkpoints import TEMPLATE, assert_identical, flip, save

# Numbers


def test_a_non_finite_state_is_refused_and_named(tmp_path):
    save(tmp_path, 1)
    state = {"good": jnp.ones(2), "bad": {"w": jnp.array([1.0, jnp.nan])}, "best": jnp.array(-jnp.inf), "n": 1}
    state["half"] = jnp.array([jnp.inf], jnp.bfloat16)
    names = ["['bad']['w']", "['best']", "['half']"]
    assert [leaf.path for leaf in store.find_non_finite(state)] == names
    with pytest.raises(store.NonFiniteStateError) as caught:
        save(tmp_path, 2, state)
    assert f"step 2 holds NaN or infinity in {', '.join(names)}; it is not saved" in str(caught.value)
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [1]


def test_a_crash_dump_names_array_environment_step_and_seed_and_replays(tmp_path):
    before = {"qvel": jnp.ones((5, 3)), "last": jnp.ones((2, 5)), "key": jax.random.key(1)}
    after = {**before, "qvel": before["qvel"].at[3, 1].set(jnp.nan).at[4, 0].set(jnp.inf)}
    after["last"] = before["last"].at[1, 2].set(-jnp.inf)
    axes = {"qvel": AxisNames(("environment", None)), "last": AxisNames((None, "environment")), "key": AxisNames(())}
    path, sentence = store.save_crash_dump(
        tmp_path, 77, after, seed=5, config_hash="h", axes=axes, extra={"learning_rate": 0.1}
    )
    assert "step 77, seed 5" in sentence and str(path) in sentence and "1 more arrays" in sentence
    found = store.find_non_finite(after, axes)
    assert [leaf.path for leaf in found] == ["['last']", "['qvel']"]
    assert found[0].environments == (2,) and found[0].infinite == 1
    assert found[1].environments == (3, 4) and found[1].nan == 1 and found[1].first == (3, 1)
    loaded, manifest = store.load_checkpoint(path, before)
    assert_identical(loaded, after)
    assert manifest.extra["crash"]["seed"] == 5 and manifest.extra["learning_rate"] == 0.1
    assert manifest.extra["crash"]["non_finite"][1]["environments"] == [3, 4]

    sound, sentence = store.save_crash_dump(tmp_path, 78, before, seed=5, config_hash="h")
    assert_identical(store.load_checkpoint(sound, before)[0], before)
    assert "every number in it is finite" in sentence
    for step in (79, 80):
        store.save_crash_dump(tmp_path, step, before, seed=5, config_hash="h")
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [78, 79, 80]


# Retention


def test_the_last_and_one_per_power_of_two_stay(tmp_path):
    for step in range(0, 40, 3):
        save(tmp_path, step)
        store.prune_checkpoints(tmp_path)
    # First at or after 1, 2, 4, 8, 16, 32: 3 (for 2), 6, 9, 18, 33; and step 0; and the last three.
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [0, 3, 6, 9, 18, 33, 36, 39]
    for step in (42, 45):
        save(tmp_path, step)
    assert store.prune_checkpoints(tmp_path) == [36]
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [0, 3, 6, 9, 18, 33, 39, 42, 45]


def test_nothing_is_deleted_while_the_newest_does_not_verify(tmp_path):
    for step in range(8, 13):
        path = save(tmp_path, step)
    flip(path / "state.safetensors", 150)
    reports: list[str] = []
    assert store.prune_checkpoints(tmp_path, reports.append) == []
    assert len(store.list_checkpoints(tmp_path)) == 5 and "No older checkpoint is deleted" in reports[0]


def test_the_best_is_kept_apart(tmp_path):
    kept: list[bool] = []
    for step, score in [(1, 1.0), (2, 5.0), (3, 2.0), (4, None), (5, float("nan")), (6, 5.0)]:
        path = save(tmp_path, step, score=score)
        kept.append(store.keep_best(path))
        for old, other in store.list_checkpoints(tmp_path):
            if old != step:
                shutil.rmtree(other)
    assert kept == [True, True, False, False, False, True]
    best = store.best_checkpoint(tmp_path)
    assert best is not None and best.name == "step-000000000006" and best.parent.name == "best"
    assert [step for step, _ in store.list_checkpoints(tmp_path / "best")] == [6]
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [6]
    again = save(tmp_path, 6, {**TEMPLATE, "n": np.int64([66])}, score=5.5)
    assert store.keep_best(again) and store.keep_best(again)
    assert store.load_checkpoint(tmp_path / "best" / again.name, TEMPLATE)[0]["n"] == 66
    # A kill between the copy of a better one and the deletion of the one before leaves both.
    shutil.copytree(save(tmp_path, 7, score=9.0), tmp_path / "best" / "step-000000000007")
    assert [step for step, _ in store.list_checkpoints(tmp_path / "best")] == [6, 7]
    flip(tmp_path / "best" / "step-000000000007" / "state.safetensors", 150)
    reports: list[str] = []
    best = store.best_checkpoint(tmp_path, reports.append)
    assert best is not None and best.name == "step-000000000006" and len(reports) == 1


def test_a_damaged_best_one_keeps_no_other_out(tmp_path):
    assert store.keep_best(save(tmp_path, 1, score=5.0))
    flip(tmp_path / "best" / "step-000000000001" / "state.safetensors", 150)
    reports: list[str] = []
    assert store.keep_best(save(tmp_path, 2, score=3.0), report=reports.append)
    assert len(reports) == 1 and "step-000000000001 is damaged" in reports[0]
    best = store.best_checkpoint(tmp_path, reports.append)
    assert best is not None and best.name == "step-000000000002"
    assert not store.keep_best(save(tmp_path, 3, score=2.0), report=reports.append)


def test_another_score_chooses_another_best_among_those_that_are_there(tmp_path):
    """As where a run goes on with another metric: what was the best by the former one goes."""
    for step, score in [(1, 3.0), (2, 9.0), (3, 5.0)]:
        store.keep_best(save(tmp_path, step, score=score))
    kept = lambda: [step for step, _ in store.list_checkpoints(tmp_path / "best")]  # noqa: E731
    store.choose_best(tmp_path)
    assert kept() == [2]
    lowest = lambda manifest: -manifest.score  # noqa: E731
    store.choose_best(tmp_path, score_of=lowest)
    best = store.best_checkpoint(tmp_path, score_of=lowest)
    assert kept() == [1] and best is not None and best.name == "step-000000000001"
    store.choose_best(tmp_path, score_of=lambda manifest: None)
    assert kept() == [1], "nothing is known to be better"
    assert store.best_checkpoint(tmp_path, score_of=lambda manifest: None) == best
    unknown = lambda manifest: None if manifest.step < 3 else 0.0  # noqa: E731
    assert store.keep_best(tmp_path / "step-000000000003", score_of=unknown)
    assert kept() == [3], "what has no score keeps no other out"


def test_choosing_the_best_passes_over_a_damaged_checkpoint_and_finishes_what_was_begun(tmp_path):
    for step, score in [(1, 3.0), (2, 9.0)]:
        save(tmp_path, step, score=score)
    flip(tmp_path / "step-000000000002" / "state.safetensors", 150)
    reports: list[str] = []
    store.choose_best(tmp_path, reports.append)
    assert [step for step, _ in store.list_checkpoints(tmp_path / "best")] == [1]
    assert len(reports) == 1 and "step-000000000002 is damaged" in reports[0]
    # A kill between the copy of a better one and the deletion of the one before leaves both.
    better = save(tmp_path, 3, score=10.0)
    shutil.copytree(better, tmp_path / "best" / better.name)
    store.choose_best(tmp_path, reports.append)
    assert [step for step, _ in store.list_checkpoints(tmp_path / "best")] == [3]


def test_a_best_copy_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = save(tmp_path, 1, score=1.0)
    assert store.keep_best(path)
    shutil.rmtree(path)
    best = store.best_checkpoint(tmp_path)
    assert best is not None and store.load_checkpoint(best, TEMPLATE)[0]["n"] == 1


def test_f9_a_best_copy_that_does_not_fit_is_reported(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save(tmp_path, 1, score=1.0)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    reports: list[str] = []
    assert not store.keep_best(path, report=reports.append)
    assert len(reports) == 1 and "No space left on device" in reports[0]
    assert not list((tmp_path / "best").iterdir())


def test_leftovers_of_killed_runs_go(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".tmp-step-000000000002-aa").mkdir()
    (tmp_path / ".trash-step-000000000000-bb").mkdir()
    (tmp_path / ".bad-step-000000000000-cc").mkdir()
    save(tmp_path, 5).rename(tmp_path / ".replaced-step-000000000005")
    assert len(store.clean_leftovers(tmp_path)) == 3
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == [".bad-step-000000000000-cc", "step-000000000001", "step-000000000005"]
    assert store.clean_leftovers(tmp_path / "nowhere") == []
