"""Damaged (F11) and hostile (F12) checkpoints, full disks (F9), files in the way (F10)."""

import errno
import os
import pickle
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from penstock.storage import store
from tests.storage.small_checkpoints import TEMPLATE, flip, header, reseal, reseal_arrays, save

# Damage (F11)


def test_f11_any_flipped_bit_is_found(tmp_path):
    path = save(tmp_path)
    for name in ("manifest.json", "state.safetensors"):
        original = (path / name).read_bytes()
        places = range(len(original))
        for position in {*places[:16], *places[::9], *places[-110:]}:
            flip(path / name, position)
            with pytest.raises(store.CheckpointDamagedError, match=r"(manifest\.json|state\.safetensors)"):
                store.verify_checkpoint(path)
            (path / name).write_bytes(original)
    store.verify_checkpoint(path)


def cut(path: Path, name: str, size: int) -> None:
    os.truncate(path / name, size)


DAMAGE = {
    "truncated arrays": (lambda p: cut(p, "state.safetensors", 100), r"state.safetensors has 100 bytes instead of \d+"),
    "empty arrays": (lambda p: cut(p, "state.safetensors", 0), "state.safetensors has 0 bytes"),
    "truncated manifest": (lambda p: cut(p, "manifest.json", 300), "manifest.json does not have the SHA-256"),
    "empty manifest": (lambda p: cut(p, "manifest.json", 0), "manifest.json is empty"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
    "no arrays": (lambda p: (p / "state.safetensors").unlink(), "state.safetensors is missing"),
    "extra file": (lambda p: (p / "notes.txt").write_text("hi"), "notes.txt is in it but not in manifest.json"),
    "manifest without a file": (lambda p: reseal(p, lambda m: m.update(files={})), r"lists \[\] instead of"),
    "zero-length array": (
        lambda p: reseal_arrays(
            p, header({n: {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]} for n in ("['n']", "['w']")}, b"")
        ),
        r"holds \"\['n'\]\" as \('float64', \(0,\)\), manifest.json lists it as \('int64', \(1,\)\)",
    ),
    "a file for the directory": (lambda p: (shutil.rmtree(p), p.write_text("x")), "it is not a directory"),
    "a step that is not its own": (lambda p: reseal(p, lambda m: m.update(step=4)), "manifest.json is of step 4"),
    "not a manifest": (lambda p: reseal(p, lambda m: m.pop("leaves")), "manifest.json is incomplete"),
    "a leaf that is no leaf": (lambda p: reseal(p, lambda m: m["leaves"].append(3)), "manifest.json is incomplete"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_f11_damage_is_named_set_aside_and_passed_over(tmp_path, name):
    damage, reason = DAMAGE[name]
    save(tmp_path, 2)
    path = save(tmp_path, 3)
    damage(path)
    with pytest.raises(store.CheckpointDamagedError, match=reason) as caught:
        store.load_checkpoint(path, TEMPLATE)
    assert "Use an earlier checkpoint" in str(caught.value)
    reports: list[str] = []
    latest = store.latest_checkpoint(tmp_path, reports.append)
    assert latest == tmp_path / "step-000000000002"
    assert len(reports) == 1 and "step-000000000003" in reports[0] and ".bad-step-000000000003" in reports[0]
    assert len(list(tmp_path.glob(".bad-*"))) == 1 and not path.exists()
    assert store.latest_checkpoint(tmp_path, reports.append) == latest and len(reports) == 1


def test_f11_a_reader_without_the_lock_renames_nothing(tmp_path):
    path = save(tmp_path, 3)
    flip(path / "state.safetensors", 200)
    reports: list[str] = []
    assert store.latest_checkpoint(tmp_path, reports.append, set_aside=False) is None
    assert path.is_dir() and len(reports) == 1


# Hostile files (F12)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch /tmp/penstock-was-here",))


HOSTILE = {
    "pickle": (lambda: pickle.dumps({"w": Bomb()}, protocol=4) + bytes(200), "is a pickle, which may carry code"),
    "old pickle": (lambda: pickle.dumps({"w": Bomb()}, protocol=0) + bytes(200), "states a header of"),
    "zip": (lambda: b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(200), "is a zip archive"),
    "npy": (lambda: b"\x93NUMPY\x01\x00v\x00" + bytes(200), "is a NumPy file"),
    "huge header": (lambda: (2**63 - 1).to_bytes(8, "little") + bytes(100), "states a header of 9223372036854775807"),
    "header past the end": (lambda: (101).to_bytes(8, "little") + bytes(100), "states a header of 101 bytes"),
    "deep header": (lambda: header("[" * 200_000, b""), "(nested too deeply|not JSON)"),
    "object array": (
        lambda: header({"['w']": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        "the dtype 'O', which Penstock does not read",
    ),
    "parent path": (
        lambda: header({"../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        "path out of the checkpoint",
    ),
    "absolute path": (
        lambda: header({"/etc/passwd": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        "path out of the checkpoint",
    ),
    "huge shape": (
        lambda: header({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)),
        "4 bytes for",
    ),
    "negative shape": (
        lambda: header({"x": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, bytes(4)),
        "not counts",
    ),
    "overlap": (
        lambda: header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(8)),
        "a gap or an overlap",
    ),
    "hidden bytes": (
        lambda: header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(99)),
        "describes 4 bytes of arrays but holds 99",
    ),
    "two of one name": (lambda: header('{"a": {}, "a": {}}', b""), "occurs twice"),
    "not a number": (lambda: header('{"a": NaN}', b""), "NaN is not JSON"),
    "other arrays": (lambda: header({}, b""), "manifest.json lists it as"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_f12_hostile_arrays_are_refused_unread(tmp_path, name):
    content, reason = HOSTILE[name]
    path = save(tmp_path)
    reseal_arrays(path, content())
    with pytest.raises(store.CheckpointDamagedError, match=reason):
        store.load_checkpoint(path, TEMPLATE)
    assert not Path("/tmp/penstock-was-here").exists()


@pytest.mark.parametrize("name", ["../state.safetensors", "/etc/passwd", ".hidden", "a/b", ""])
def test_f12_file_names_stay_inside(tmp_path, name):
    path = save(tmp_path)
    reseal(path, lambda manifest: manifest["files"].update({name: {"size": 1, "sha256": ""}}))
    with pytest.raises(store.CheckpointDamagedError, match=r"is not allowed"):
        store.load_checkpoint(path, TEMPLATE)


def test_f12_links_and_pipes_are_refused(tmp_path):
    path = save(tmp_path, 1)
    elsewhere = tmp_path / "elsewhere"
    (path / "state.safetensors").rename(elsewhere)
    (path / "state.safetensors").symlink_to(elsewhere)
    with pytest.raises(store.CheckpointDamagedError, match=r"state.safetensors is a symbolic link"):
        store.verify_checkpoint(path)
    (path / "state.safetensors").unlink()
    os.mkfifo(path / "state.safetensors")
    with pytest.raises(store.CheckpointDamagedError, match=r"state.safetensors is not a regular file"):
        store.verify_checkpoint(path)
    save(tmp_path, 2).rename(tmp_path / "moved")
    (tmp_path / "step-000000000002").symlink_to(tmp_path / "moved")
    with pytest.raises(store.CheckpointDamagedError, match=r"it is a symbolic link"):
        store.verify_checkpoint(tmp_path / "step-000000000002")


# Disk full (F9)


def test_f9_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    save(tmp_path, 1)
    state = {"w": np.zeros(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # a write fails midway, as on a full disk
    try:
        with pytest.raises(store.CheckpointNotWrittenError, match=r"Earlier checkpoints are untouched") as caught:
            save(tmp_path, 2, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000000000001"]
    assert store.latest_checkpoint(tmp_path) == tmp_path / "step-000000000001"
    path = save(tmp_path, 2, state)
    written = sum(file.stat().st_size for file in path.iterdir())
    needed = re.search(r"needs (\d+) bytes", str(caught.value))
    assert needed is not None and written <= int(needed[1]) <= written + 500


def test_f9_a_sync_that_fails_is_a_failure(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(store.CheckpointNotWrittenError, match=r"No space left on device"):
            save(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_f10_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(store.CheckpointNotWrittenError, match=r"could not be written to"):
        save(tmp_path / "file", 1)
