"""Parts of a state in files of their own, and long ones in segments that are written once."""

import errno
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.storage import _layout, store
from tests.storage.small_checkpoints import assert_identical, flip, reseal

LAYOUT = store.Layout({"agent": ("['agent']",), "ring": ("['ring']",)}, {"ring": 1}, ("agent",))
ROW = 2 * (3 * 4 + 1)
"""Bytes of a row of the ring: two seeds, three numbers and a flag."""


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(_layout, "SEGMENT_BYTES", 10 * ROW)


def state(filled: int, step: int = 1, slots: int = 64):
    """A ring of which some slots are filled, and the rest of a run."""
    ring = {"x": np.zeros((2, slots, 3), np.float32), "end": np.zeros((2, slots), bool)}
    ring["x"][:, :filled] = np.arange(1, 3 * filled + 1).reshape(filled, 3)
    ring["end"][:, :filled:5] = True
    return {"agent": {"w": np.arange(5.0) + step}, "critic": np.arange(7.0) * step, "ring": ring, "n": 3}


def save(directory: Path, step: int, saved, **options) -> Path:
    return store.save_checkpoint(directory, step, saved, config_hash="abc", layout=LAYOUT, **options)


def names(checkpoint: Path) -> list[str]:
    return sorted(path.name.removesuffix(".safetensors") for path in checkpoint.glob("*.safetensors"))


def segments(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("ring-*"))


def shared(one: Path, other: Path) -> list[str]:
    """Names of the files that two checkpoints have in common."""
    return sorted(
        path.name for path in one.iterdir() if (other / path.name).exists() and path.samefile(other / path.name)
    )


# What is written


def test_each_part_has_a_file_and_only_filled_slots_are_written(tmp_path):
    full = state(25)
    path = save(tmp_path, 1, full)
    assert names(path) == ["agent", "ring-000000000000", "ring-000000000010", "ring-000000000020", "state"]
    assert (path / "ring-000000000020.safetensors").stat().st_size < 5 * ROW + 250
    template = jax.tree.map(np.zeros_like, full)
    loaded, manifest = store.load_checkpoint(path, {**template, "n": 3})
    assert_identical(loaded, full)
    assert manifest.whole and sum(leaf.part == "ring" for leaf in manifest.leaves) == 2


@pytest.mark.parametrize("filled", [0, 1, 10, 64])
def test_however_many_slots_are_filled_the_state_comes_back(tmp_path, filled):
    full = state(filled)
    full["ring"]["x"][:, filled // 2] = -0.0  # not nothing
    full["ring"]["x"][1, :] = 0.0  # of one seed
    path = save(tmp_path, 1, full)
    store.verify_checkpoint(path)
    assert_identical(store.load_checkpoint(path, state(0))[0], full)


def test_arrays_of_a_device_too(tmp_path):
    full = jax.tree.map(jnp.asarray, {**state(25)["ring"], "key": jax.random.split(jax.random.key(1), (2, 64))})
    layout = store.Layout({"ring": ("['",)}, {"ring": 1})
    path = store.save_checkpoint(tmp_path, 1, full, config_hash="", layout=layout)
    assert names(path)[0] == "ring-000000000000"
    assert_identical(store.load_checkpoint(path, jax.eval_shape(lambda: full))[0], full)


def test_a_long_ring_has_a_limited_number_of_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(_layout, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(_layout, "MOST_SEGMENTS", 7)
    path = save(tmp_path, 1, state(64))
    assert len(segments(path)) == 7
    assert_identical(store.load_checkpoint(path, state(0))[0], state(64))


def test_rows_of_unequal_number_are_a_mistake(tmp_path):
    uneven = {**state(3), "ring": {"x": np.zeros((2, 4)), "end": np.zeros((2, 5))}}
    with pytest.raises(ConfigurationError, match=r"rows of the part 'ring' = \[4, 5\]: must be as many"):
        save(tmp_path, 1, uneven)


# What is shared


def test_what_has_not_changed_is_written_once(tmp_path):
    one = save(tmp_path, 1, state(25))
    two = save(tmp_path, 2, state(33))
    first = ["ring-000000000000.safetensors", "ring-000000000010.safetensors"]
    assert shared(one, two) == ["agent.safetensors", *first, "state.safetensors"]
    three = save(tmp_path, 3, state(33, step=2))
    assert shared(two, three) == [path.name for path in segments(two)]
    wrapped = state(64, step=2)
    wrapped["ring"]["end"][1, 3] ^= True  # the oldest slots are written anew
    four, five = save(tmp_path, 4, state(64, step=2)), save(tmp_path, 5, wrapped)
    assert shared(four, five) == [
        path.name for path in [five / "agent.safetensors", *segments(five)[1:], five / "state.safetensors"]
    ]
    for path, content in ((one, state(25)), (two, state(33)), (four, state(64, step=2)), (five, wrapped)):
        assert_identical(store.load_checkpoint(path, state(0))[0], content)


def test_deleting_a_checkpoint_leaves_what_others_share_with_it(tmp_path):
    for step in range(8, 14):
        path = save(tmp_path, step, state(3 * step))
        store.prune_checkpoints(tmp_path, lasting=LAYOUT.lasting)
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [8, 11, 12, 13]
    first = segments(path)[0]
    assert first.stat().st_nlink == 2, "of the two that are whole"
    store.verify_checkpoint(path)
    assert_identical(store.load_checkpoint(path, state(0))[0], state(39))


def test_what_was_damaged_meanwhile_is_written_again(tmp_path):
    one = save(tmp_path, 1, state(25))
    flip(segments(one)[0], -3)
    os.truncate(one / "agent.safetensors", 20)
    (one / "state.safetensors").unlink()
    two = save(tmp_path, 2, state(25))
    assert shared(one, two) == [path.name for path in segments(two)[1:]]
    store.verify_checkpoint(two)


def test_nothing_is_shared_with_a_checkpoint_that_does_not_say_what_it_holds(tmp_path):
    one = save(tmp_path, 1, state(25))
    flip(one / "manifest.json", 300)
    two = save(tmp_path, 2, state(25))
    assert shared(one, two) == []
    store.verify_checkpoint(two)


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for step in range(1, 5):
        path = save(tmp_path, step, state(25), score=float(step))
        store.keep_best(path, lasting=LAYOUT.lasting)
        store.prune_checkpoints(tmp_path, lasting=LAYOUT.lasting)
    assert [names(path) for _, path in store.list_checkpoints(tmp_path)][:2] == [["agent"], ["agent"]]
    assert shared(tmp_path / "step-000000000003", path) == [] and names(tmp_path / "best" / path.name) == ["agent"]
    assert_identical(store.load_checkpoint(path, state(0))[0], state(25))


# What stays


def test_older_checkpoints_and_the_best_keep_what_lasts(tmp_path):
    for step in (4, 5, 6, 7):
        store.keep_best(
            save(tmp_path, step, state(3 * step, step), score=float(-abs(step - 5))), lasting=LAYOUT.lasting
        )
        store.prune_checkpoints(tmp_path, lasting=LAYOUT.lasting)
    listed = dict(store.list_checkpoints(tmp_path))
    assert {step: len(names(path)) for step, path in listed.items()} == {4: 1, 5: 1, 6: 4, 7: 5}
    best = store.best_checkpoint(tmp_path, part="agent")
    assert best is not None and best.name == "step-000000000005" and names(best) == ["agent"]
    for path, step in ((listed[4], 4), (best, 5), (listed[7], 7)):
        template = state(0, step=0)
        loaded, manifest = store.load_checkpoint(path, template, only={"['agent']['w']"})
        np.testing.assert_array_equal(loaded["agent"]["w"], np.arange(5.0) + step)
        assert loaded["critic"] is template["critic"] and loaded["ring"]["x"] is template["ring"]["x"]
        assert manifest.step == step and manifest.whole == (step == 7) and manifest.score == -abs(step - 5)
    with pytest.raises(
        store.CheckpointMismatchError, match=r"keep a part of the state: agent.safetensors. It can be ev"
    ):
        store.load_checkpoint(listed[4], state(0))
    assert store.best_checkpoint(tmp_path) is None, "none from which a run could go on"


def test_of_what_is_asked_for_alone_nothing_else_is_read(tmp_path):
    path = save(tmp_path, 1, state(25))
    for name in ("ring-000000000010.safetensors", "state.safetensors"):
        flip(path / name, -1)
    loaded, _ = store.load_checkpoint(path, state(0, step=0), only={"['agent']['w']"})
    np.testing.assert_array_equal(loaded["agent"]["w"], np.arange(5.0) + 1)
    assert store.latest_checkpoint(tmp_path, set_aside=False, part="agent") == path
    flip(path / "agent.safetensors", -1)
    with pytest.raises(store.CheckpointDamagedError, match=r"agent\.safetensors does not have the SHA-256"):
        store.load_checkpoint(path, state(0), only={"['agent']['w']"})
    assert store.latest_checkpoint(tmp_path, lambda text: None, set_aside=False, part="agent") is None


def test_checkpoints_of_the_first_format_are_asked_for_a_part_too(tmp_path):
    """They have one file for everything, and stay as they are."""
    fixture = Path(__file__).parent / "fixtures" / "checkpoint_v1"
    shutil.copytree(fixture, tmp_path, dirs_exist_ok=True)
    (_, path), *_ = store.list_checkpoints(tmp_path)
    template = {"layer": {"w": jnp.zeros((2, 3)), "b": None}, "key": None, "count": None}
    assert store.latest_checkpoint(tmp_path, part="agent") == path
    loaded, _ = store.load_checkpoint(path, template, only={"['layer']['w']"})
    assert loaded["layer"]["w"][0, 1] == -1.25
    for step in (8, 9, 10):
        save(tmp_path, step, state(3))
        store.prune_checkpoints(tmp_path, lasting=LAYOUT.lasting)
    assert names(path) == ["state"] and store.verify_checkpoint(path).whole
    flip(path / "state.safetensors", -1)
    with pytest.raises(store.CheckpointDamagedError, match="SHA-256"):
        store.verify_checkpoint(path, "agent")


# Damage


def away(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()  # others may have the file
    path.write_bytes(content[:-7])


def spoil(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    flip(path, -7)


@pytest.mark.parametrize("damage", [away, cut, spoil])
@pytest.mark.parametrize("name", ["ring-000000000000", "ring-000000000020", "agent", "state"])
def test_f11_whatever_file_is_damaged_the_checkpoint_before_takes_over(tmp_path, name, damage):
    store.prune_checkpoints(tmp_path)
    for step in (1, 2, 4):
        newest = save(tmp_path, step, state(9 * step, step))
        store.prune_checkpoints(tmp_path, lasting=LAYOUT.lasting)
    damage(newest / f"{name}.safetensors")
    reports: list[str] = []
    found = store.latest_checkpoint(tmp_path, reports.append)
    assert found is not None and found.name == "step-000000000002" and len(reports) == 1
    assert f"{name}.safetensors" in reports[0] and newest.name in reports[0] and ".bad-" in reports[0]
    assert_identical(store.load_checkpoint(found, state(0))[0], state(18, 2))


def test_f11_where_nothing_whole_is_left_there_is_nothing_to_go_on_from(tmp_path):
    for step in (1, 2, 4):
        save(tmp_path, step, state(9 * step, step))
        store.prune_checkpoints(tmp_path, lasting=LAYOUT.lasting)
    for _, path in store.list_checkpoints(tmp_path)[1:]:
        away(path / "state.safetensors")
    assert store.latest_checkpoint(tmp_path, lambda text: None) is None
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [1], "the agent of the first is sound"
    assert store.set_all_aside(tmp_path) == 1 and store.list_checkpoints(tmp_path) == []
    assert len(list(tmp_path.glob(".bad-*"))) == 3


FORGED = {
    "a segment less": (
        lambda m: m["files"].pop("ring-000000000010.safetensors"),
        r"gap or an overlap before ring-.*20",
    ),
    "the first less": (
        lambda m: m["files"].pop("ring-000000000000.safetensors"),
        r"gap or an overlap before ring-.*10",
    ),
    "rows twice": (lambda m: m["files"]["ring-000000000010.safetensors"].update(rows=[5, 20]), r"gap or an overlap"),
    "rows backwards": (lambda m: m["files"]["ring-000000000010.safetensors"].update(rows=[20, 10]), "is incomplete"),
    "rows of no part": (
        lambda m: m["files"]["ring-000000000010.safetensors"].update(part="agent"),
        "gap or an overlap",
    ),
    "too many rows": (lambda m: m["leaves"][-1].update(shape=[2, 20, 3]), r"lists more rows of .* than it has"),
    "other rows": (lambda m: m["files"]["ring-000000000020.safetensors"].update(rows=[20, 26]), r"lists it as .*6"),
    "no axis": (lambda m: m.update(segmented={}), r"lists \['agent.safetensors', 'state.safetensors'\] instead of"),
    "another part": (lambda m: m["files"]["agent.safetensors"].update(part="state"), r"agent.safetensors holds"),
}


@pytest.mark.parametrize("name", FORGED)
def test_f11_a_manifest_that_contradicts_itself_is_refused(tmp_path, name):
    edit, reason = FORGED[name]
    path = save(tmp_path, 1, state(25))
    assert store.read_manifest(path).leaves[-1].path == "['ring']['x']"
    reseal(path, edit)
    with pytest.raises(store.CheckpointDamagedError, match=reason):
        store.verify_checkpoint(path)
    with pytest.raises(store.CheckpointDamagedError, match=reason):
        store.load_checkpoint(path, state(0))


def test_f9_a_full_disk_needs_only_what_is_new(tmp_path, monkeypatch):
    save(tmp_path, 1, state(60))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("penstock.storage._checkpoint.write_tensors", full)
    with pytest.raises(store.CheckpointNotWrittenError, match=r"It needs (\d+) bytes") as caught:
        save(tmp_path, 2, state(61))
    manifest = (tmp_path / "step-000000000001" / "manifest.json").stat().st_size
    assert int(str(caught.value).split("needs ")[1].split()[0]) < manifest + 10 * ROW + 600
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000000000001"]
    store.verify_checkpoint(tmp_path / "step-000000000001")


def test_f9_a_checkpoint_that_cannot_be_made_smaller_is_reported(tmp_path, monkeypatch):
    for step in (1, 2, 4):
        save(tmp_path, step, state(9 * step))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("penstock.storage._retention.write_synced", full)
    reports: list[str] = []
    assert store.prune_checkpoints(tmp_path, reports.append, LAYOUT.lasting) == []
    assert len(reports) == 1 and "step-000000000001 could not be made smaller: No space left on device" in reports[0]
    assert all(store.verify_checkpoint(path).whole for _, path in store.list_checkpoints(tmp_path))


def test_a_crash_dump_keeps_filled_slots_only(tmp_path):
    full = state(25)
    path, _ = store.save_crash_dump(tmp_path, 3, full, seed=0, config_hash="", layout=LAYOUT)
    assert len(segments(path)) == 3
    assert_identical(store.load_checkpoint(path, state(0))[0], full)
