"""Checkpoints: bit-exact round trips, templates, damage (F5, F8, F9, F11, F12), retention, crash dumps."""

import errno
import hashlib
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from penstock._errors import ConfigurationError
from penstock.training import _manifest, store
from penstock.training._tensor_file import TensorReader, open_regular, write_tensors

FIXTURE = Path(__file__).parent / "fixtures" / "checkpoint_v1" / "step-000000000007"


class Learner(eqx.Module):
    weights: dict[str, jax.Array]
    half: jax.Array
    brain: jax.Array
    flags: jax.Array
    empty: jax.Array
    weak: jax.Array
    keys: jax.Array
    other_key: jax.Array
    step: jax.Array
    host: np.ndarray
    activation: object
    gain: float

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.weights = {"a/b": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "c": jnp.array([-0.0, 1e-42])}
        self.half = jnp.asarray(rng.normal(size=5), jnp.float16)
        self.brain = jnp.asarray(rng.normal(size=(2, 3)), jnp.bfloat16)
        self.flags = jnp.asarray(rng.integers(0, 2, 7), bool)
        self.empty = jnp.zeros((0, 4), jnp.float32)
        self.weak = jnp.full((3,), float(rng.normal()))
        self.keys = jax.random.split(jax.random.key(seed), 3)
        self.other_key = jax.random.key(seed, impl="rbg")
        self.step = jnp.int32(seed)
        self.host = rng.normal(size=6)
        self.activation = jax.nn.relu
        self.gain = 0.1


def bits(leaf) -> bytes:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_identical(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if eqx.is_array(a):
            assert a.dtype == b.dtype and a.shape == b.shape and type(a) is type(b)
            assert bits(a) == bits(b)
            assert getattr(a, "weak_type", None) == getattr(b, "weak_type", None)


def save(directory: Path, step: int = 3, state=None, **options) -> Path:
    state = {"w": np.arange(24.0).reshape(4, 6) + step, "n": np.int64([step])} if state is None else state
    return store.save_checkpoint(directory, step, state, config_hash="abc", **options)


TEMPLATE = {"w": np.zeros((4, 6)), "n": np.zeros(1, np.int64)}


def reseal(checkpoint: Path, edit) -> None:
    """Forges a manifest: edits its JSON and seals it again, independently of the implementation."""
    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    edit(content)
    body = json.dumps(content, indent=1).encode()[:-2]
    path.write_bytes(body + b',\n "manifest_sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n')


def reseal_arrays(checkpoint: Path, content: bytes) -> None:
    """Forges the array file together with its size and hash in the manifest."""
    (checkpoint / "state.safetensors").write_bytes(content)
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    reseal(checkpoint, lambda manifest: manifest["files"].update({"state.safetensors": record}))


def header(entries, data: bytes) -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return len(text).to_bytes(8, "little") + text + data


# Round trips


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = Learner(1)
    path = save(tmp_path / "checkpoints", 12, state, extra={"metrics_offset": 10, "loss": 0.1}, score=1.5)
    assert path.name == "step-000000000012"
    loaded, manifest = store.load_checkpoint(path, Learner(2))
    assert_identical(loaded, state)
    assert loaded.activation is jax.nn.relu
    assert manifest.step == 12 and manifest.config_hash == "abc" and manifest.score == 1.5
    assert manifest.extra == {"metrics_offset": 10, "loss": 0.1}
    assert manifest.x64 is False and manifest.versions["jax"] == jax.__version__
    for a, b in [(loaded.keys[1], state.keys[1]), (loaded.other_key, state.other_key)]:
        assert bits(jax.random.normal(a, (4,))) == bits(jax.random.normal(b, (4,)))


def test_a_template_needs_no_values(tmp_path):
    state = {"model": Learner(1).weights, "key": jax.random.key(4, impl="rbg"), "n": jnp.full((2,), 1.0)}
    path = save(tmp_path, 1, state)
    loaded, _ = store.load_checkpoint(path, jax.eval_shape(lambda: state))
    assert_identical(loaded, state)


def test_a_weak_counter_that_became_strong_still_fits(tmp_path):
    path = save(tmp_path, 1, {"n": jnp.asarray(np.int32(5))})
    loaded, _ = store.load_checkpoint(path, {"n": jnp.asarray(0)})
    assert loaded["n"] == 5 and not loaded["n"].weak_type


def test_doubles(tmp_path):
    with jax.enable_x64(True):
        state = {"x": jnp.asarray([0.1, 1e300]), "n": jnp.asarray([2**40])}
        path = save(tmp_path, 1, state)
        loaded, manifest = store.load_checkpoint(path, jax.tree.map(jnp.zeros_like, state))
        assert_identical(loaded, state)
        assert manifest.x64 is True
    with pytest.raises(store.CheckpointMismatchError, match=r"jax_enable_x64 = True; it is False now"):
        store.load_checkpoint(path, {"x": jnp.zeros(2), "n": jnp.zeros(1, jnp.int32)})


def test_a_loaded_state_may_be_donated(tmp_path):
    state = {"w": jnp.arange(1000.0)}
    loaded, _ = store.load_checkpoint(save(tmp_path, 1, state), state)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    for _ in range(3):
        loaded = step(loaded)
    assert bits(loaded["w"]) == bits(jnp.arange(1000.0) + 3)


def test_the_safetensors_package_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([True, False, True]),
        "c": np.zeros((0, 3), np.int8),
        "é ['x'].y[0]": np.array(3.5),
        "d": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    }
    size, sha256 = write_tensors(tmp_path / "ours", arrays)
    raw = (tmp_path / "ours").read_bytes()
    assert len(raw) == size and hashlib.sha256(raw).hexdigest() == sha256
    found = dict(safetensors.deserialize(raw))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name]["shape"] == list(array.shape) and bytes(found[name]["data"]) == array.tobytes()
    assert found["d"]["dtype"] == "BF16"

    del arrays["d"]  # the package's NumPy side has no bfloat16
    safetensors.numpy.save_file(arrays, tmp_path / "theirs")
    with open_regular(tmp_path / "theirs") as file:
        reader = TensorReader(file, "theirs", (tmp_path / "theirs").stat().st_size)
        read = dict(reader.arrays())
        assert reader.sha256() == hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(store.CheckpointError, match=r"\['z'\] has dtype complex128"):
        save(tmp_path, 1, {"z": np.zeros(2, complex)})
    with pytest.raises(store.CheckpointError, match=r"path out of the checkpoint"):
        save(tmp_path, 1, {"../../etc": np.zeros(2)})
    with pytest.raises(store.CheckpointError, match=r"dtype object"):
        save(tmp_path, 1, {"o": np.array([{}, []], object)})
    with pytest.raises(ConfigurationError, match=r"extra of the checkpoint at step 1 is not JSON"):
        save(tmp_path, 1, extra={"loss": float("nan")})
    assert store.latest_checkpoint(tmp_path) is None and not list(tmp_path.iterdir())


def test_python_numbers_in_the_state_must_agree(tmp_path):
    path = save(tmp_path, 1, {"count": 5, "w": np.zeros(2)})
    loaded, _ = store.load_checkpoint(path, {"count": 5, "w": np.ones(2)})
    assert loaded["count"] == 5
    with pytest.raises(store.CheckpointMismatchError, match=r"\['count'\] is constant 5 in .* and constant 6 in this"):
        store.load_checkpoint(path, {"count": 6, "w": np.ones(2)})


def test_a_mismatch_lists_the_first_differences(tmp_path):
    path = save(tmp_path)
    with pytest.raises(store.CheckpointMismatchError) as caught:
        store.load_checkpoint(path, {"w": np.zeros((4, 5)), "m": np.zeros(3)})
    message = str(caught.value)
    assert "['m'] is missing from the checkpoint" in message
    assert "['n'] has no place in this run" in message
    assert "['w'] is float64(4, 6) in the checkpoint and float64(4, 5) in this run" in message
    with pytest.raises(store.CheckpointMismatchError, match=r"and 44 more"):
        store.load_checkpoint(path, {**TEMPLATE, **{f"x{i}": np.zeros(1) for i in range(50)}})


def test_a_different_generator_is_a_mismatch(tmp_path):
    path = save(tmp_path, 1, {"key": jax.random.key(0)})
    with pytest.raises(store.CheckpointMismatchError, match=r"threefry2x32 key .* rbg key"):
        store.load_checkpoint(path, {"key": jax.random.key(0, impl="rbg")})


def test_a_loaded_state_does_not_compile_anything_again(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s))
    state = step(step({"x": jnp.ones(3), "weak": jnp.full((2,), 0.0), "n": jnp.int32(0)}))
    compiled = step._cache_size()
    loaded, _ = store.load_checkpoint(save(tmp_path, 1, state), state)
    step(loaded)
    assert step._cache_size() == compiled


DEVICES = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from penstock.training import store
mesh = jax.make_mesh((2,), ("env",), axis_types=(jax.sharding.AxisType.Auto,))
spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("env"))
template = {"x": jax.device_put(jnp.zeros(8), spread), "k": jax.random.key(0)}
state, manifest = store.load_checkpoint(Path(sys.argv[1]), template)
assert manifest.devices["devices"] == 1 and state["x"].sharding == spread
np.testing.assert_array_equal(state["x"], np.arange(8.0))
state["x"] = jax.jit(lambda x: x * 2)(state["x"])
assert store.save_checkpoint(Path(sys.argv[2]), 2, state, config_hash="")
"""


def test_f6_another_number_of_devices(tmp_path):
    state = {"x": jnp.arange(8.0), "k": jax.random.key(9)}
    path = save(tmp_path / "one", 1, state)
    subprocess.run([sys.executable, "-c", DEVICES, str(path), str(tmp_path / "two")], check=True, timeout=60)
    loaded, manifest = store.load_checkpoint(tmp_path / "two" / "step-000000000002", state)
    assert manifest.devices["devices"] == 2
    assert_identical(loaded, {**state, "x": 2 * jnp.arange(8.0)})


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    path = save(tmp_path, 3, {"w": np.ones((4, 6)), "n": np.int64([9])})
    assert store.load_checkpoint(path, TEMPLATE)[0]["n"] == 9
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000000000003"]


# Order (F5)


def test_f5_the_step_decides_and_not_the_clock(tmp_path, monkeypatch):
    for step, clock in [(10, 5e9), (200, 1e9), (30, 9e9)]:
        monkeypatch.setattr(_manifest.time, "time", lambda clock=clock: clock)
        path = save(tmp_path, step)
        os.utime(path, (clock, clock))
        os.utime(path / "manifest.json", (clock, clock))
    latest = store.latest_checkpoint(tmp_path)
    assert latest is not None and latest.name == "step-000000000200"
    assert store.read_manifest(latest).wall_time == 1e9


# Formats (F8)


def test_f8_the_committed_checkpoint_of_format_1_loads():
    template = {"layer": {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}, "key": jax.random.key(1)}
    template["count"] = jnp.int32(0)
    loaded, manifest = store.load_checkpoint(FIXTURE, template)
    assert manifest.step == 7 and manifest.format_version == 1 and manifest.extra == {"metrics_offset": 321}
    np.testing.assert_array_equal(loaded["layer"]["w"], [[0.5, -1.25, 3.0], np.float32([1e-3, 0.0, -7.0])])
    np.testing.assert_array_equal(loaded["layer"]["b"].astype(jnp.float32), [1.5, -2.0, 0.25])
    assert loaded["count"] == 41 and bits(loaded["key"]) == bits(jax.random.key(2026))


def test_f8_a_newer_format_is_not_damage(tmp_path):
    save(tmp_path, 1)
    reseal(save(tmp_path, 2), lambda manifest: manifest.update(format_version=99))
    with pytest.raises(store.CheckpointTooNewError, match=r"format 99 .* reads up to format 1. Upgrade Penstock"):
        store.latest_checkpoint(tmp_path)
    assert (tmp_path / "step-000000000002").is_dir()


def test_f8_an_older_format_is_migrated_or_refused(tmp_path, monkeypatch):
    path = save(tmp_path, 2)
    monkeypatch.setattr(_manifest, "FORMAT_VERSION", 2)
    with pytest.raises(store.CheckpointError, match=r"has checkpoint format 1, which Penstock .* no longer reads"):
        store.verify_checkpoint(path)
    migration = {1: lambda content: {**content, "format_version": 2, "extra": {"migrated": True}}}
    monkeypatch.setattr(_manifest, "migrations", migration)
    assert store.load_checkpoint(path, TEMPLATE)[1].extra == {"migrated": True}


# Damage (F11)


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(raw))


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
    assert f"needs {caught.value.bytes_needed} bytes" in str(caught.value)
    assert written <= caught.value.bytes_needed <= written + 500


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


# Numbers


def test_a_non_finite_state_is_refused_and_named(tmp_path):
    save(tmp_path, 1)
    state = {"good": jnp.ones(2), "bad": {"w": jnp.array([1.0, jnp.nan])}, "best": jnp.array(-jnp.inf), "n": 1}
    state["half"] = jnp.array([jnp.inf], jnp.bfloat16)
    assert store.non_finite_leaves(state) == ["['bad']['w']", "['best']", "['half']"]
    with pytest.raises(store.NonFiniteStateError, match=r"step 2 holds NaN or infinity in \['bad'\]\['w'\]") as caught:
        save(tmp_path, 2, state, may_be_non_finite=("['best']",))
    assert caught.value.leaves == ["['bad']['w']", "['half']"]
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [1]
    fine = {"best": jnp.array(-jnp.inf)}
    assert_identical(store.load_checkpoint(save(tmp_path, 2, fine, may_be_non_finite=("['best']",)), fine)[0], fine)


def test_a_crash_dump_names_array_environment_step_and_seed_and_replays(tmp_path):
    before = {"qvel": jnp.ones((5, 3)), "last": jnp.ones((2, 5)), "key": jax.random.key(1)}
    after = {**before, "qvel": before["qvel"].at[3, 1].set(jnp.nan).at[4, 0].set(jnp.inf)}
    after["last"] = before["last"].at[1, 2].set(-jnp.inf)
    path, sentence = store.save_crash_dump(
        tmp_path, 77, before, seed=5, config_hash="h", observed=after, num_envs=5, extra={"learning_rate": 0.1}
    )
    assert "step 77, seed 5" in sentence and str(path) in sentence and "1 more arrays" in sentence
    found = store.find_non_finite(after, num_envs=5)
    assert [leaf.path for leaf in found] == ["['last']", "['qvel']"]
    assert found[0].environments == (2,) and found[0].infinite == 1
    assert found[1].environments == (3, 4) and found[1].nan == 1 and found[1].first == (3, 1)
    loaded, manifest = store.load_checkpoint(path, before)
    assert_identical(loaded, before)
    assert manifest.extra["crash"]["seed"] == 5 and manifest.extra["learning_rate"] == 0.1
    assert manifest.extra["crash"]["non_finite"][1]["environments"] == [3, 4]

    broken, _ = store.save_crash_dump(tmp_path, 78, after, seed=5, config_hash="h")
    assert_identical(store.load_checkpoint(broken, before)[0], after)
    for step in (79, 80):
        store.save_crash_dump(tmp_path, step, before, seed=5, config_hash="h")
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [78, 79, 80]


# Retention


def test_the_last_and_one_per_power_of_two_stay(tmp_path):
    for step in range(0, 40, 3):
        save(tmp_path, step)
        store.prune_checkpoints(tmp_path, keep_last=2)
    # First at or after 1, 2, 4, 8, 16, 32: 3 (for 2), 6, 9, 18, 33; and step 0.
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [0, 3, 6, 9, 18, 33, 36, 39]
    assert store.prune_checkpoints(tmp_path, keep_last=1, powers_of_two=False) == [0, 3, 6, 9, 18, 33, 36]
    with pytest.raises(ConfigurationError, match=r"keep_last = 0"):
        store.prune_checkpoints(tmp_path, keep_last=0)


def test_nothing_is_deleted_while_the_newest_does_not_verify(tmp_path):
    for step in (1, 2, 3):
        path = save(tmp_path, step)
    flip(path / "state.safetensors", 150)
    reports: list[str] = []
    assert store.prune_checkpoints(tmp_path, keep_last=1, powers_of_two=False, report=reports.append) == []
    assert len(store.list_checkpoints(tmp_path)) == 3 and "No older checkpoint is deleted" in reports[0]


def test_the_best_is_kept_apart(tmp_path):
    kept: list[bool] = []
    for step, score in [(1, 1.0), (2, 5.0), (3, 2.0), (4, None), (5, float("nan")), (6, 5.0)]:
        path = save(tmp_path, step, score=score)
        kept.append(store.keep_best(path))
        store.prune_checkpoints(tmp_path, keep_last=1, powers_of_two=False)
    assert kept == [True, True, False, False, False, True]
    best = store.best_checkpoint(tmp_path)
    assert best is not None and best.name == "step-000000000006" and best.parent.name == "best"
    assert [step for step, _ in store.list_checkpoints(tmp_path / "best")] == [6]
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [6]
    again = save(tmp_path, 6, {**TEMPLATE, "n": np.int64([66])}, score=5.5)
    assert store.keep_best(again) and store.keep_best(again)
    assert store.load_checkpoint(tmp_path / "best" / again.name, TEMPLATE)[0]["n"] == 66
    store.keep_best(save(tmp_path, 7, score=9.0), keep=2)
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


def test_the_documented_reader_reads_a_checkpoint(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "run_folder.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace: dict = {}
    exec(compile(code, "docs/run_folder.md", "exec"), namespace)
    state = {name: leaf for name, leaf in vars(Learner(3)).items() if eqx.is_array(leaf)}
    path = save(tmp_path, 4, state)
    manifest, arrays = namespace["read_checkpoint"](path)
    assert manifest["step"] == 4 and arrays.keys() == {leaf["path"] for leaf in manifest["leaves"]}
    for name, leaf in state.items():
        words = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        np.testing.assert_array_equal(arrays[f"['{name}']"], np.asarray(words, None if name != "brain" else np.float32))
    flip(path / "state.safetensors", -1)
    with pytest.raises(ValueError, match="damaged"):
        namespace["read_checkpoint"](path)
