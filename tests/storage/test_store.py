"""Checkpoints: bit-exact round trips, templates, order (F5), formats (F8), the documented reader."""

import hashlib
import os
import re
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
from penstock.storage import _layout, _manifest, store
from penstock.storage._tensor_file import TensorReader, open_regular, write_tensors
from tests.storage.small_checkpoints import TEMPLATE, Learner, assert_identical, bits, flip, reseal, save

FIXTURE = Path(__file__).parent / "fixtures" / "checkpoint_v1" / "step-000000000007"


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
from penstock.storage import store
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
    assert b'"format_version": 1' in (FIXTURE / "manifest.json").read_bytes()
    assert manifest.step == 7 and manifest.whole and manifest.extra == {"metrics_offset": 321}
    np.testing.assert_array_equal(loaded["layer"]["w"], [[0.5, -1.25, 3.0], np.float32([1e-3, 0.0, -7.0])])
    np.testing.assert_array_equal(loaded["layer"]["b"].astype(jnp.float32), [1.5, -2.0, 0.25])
    assert loaded["count"] == 41 and bits(loaded["key"]) == bits(jax.random.key(2026))


def test_f8_a_newer_format_is_not_damage(tmp_path):
    save(tmp_path, 1)
    reseal(save(tmp_path, 2), lambda manifest: manifest.update(format_version=99))
    with pytest.raises(store.CheckpointTooNewError, match=r"format 99 .* reads up to format 2. Upgrade Penstock"):
        store.latest_checkpoint(tmp_path)
    assert (tmp_path / "step-000000000002").is_dir()


def test_f8_an_older_format_is_migrated_or_refused(tmp_path, monkeypatch):
    path = save(tmp_path, 2)
    monkeypatch.setattr(_manifest, "FORMAT_VERSION", 3)
    with pytest.raises(store.CheckpointError, match=r"has checkpoint format 2, which Penstock .* no longer reads"):
        store.verify_checkpoint(path)
    migration = {2: lambda content: {**content, "format_version": 3, "extra": {"migrated": True}}}
    monkeypatch.setattr(_manifest, "migrations", migration)
    assert store.load_checkpoint(path, TEMPLATE)[1].extra == {"migrated": True}


def test_the_documented_reader_reads_a_checkpoint(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "run_folder.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace: dict = {}
    exec(compile(code, "docs/run_folder.md", "exec"), namespace)
    state = {name: leaf for name, leaf in vars(Learner(3)).items() if eqx.is_array(leaf)}
    state["ring"] = np.arange(3 * 50.0).reshape(3, 50)
    monkeypatch.setattr(_layout, "SEGMENT_BYTES", 3 * 8 * 20)
    layout = store.Layout({"agent": ("['weights']", "['host']"), "ring": ("['ring']",)}, {"ring": 1})
    path = save(tmp_path, 4, {**state, "ring": np.pad(state["ring"], [(0, 0), (0, 30)])}, layout=layout)
    assert len(list(path.glob("ring-*"))) == 3
    manifest, arrays = namespace["read_checkpoint"](path)
    assert manifest["step"] == 4 and arrays.keys() == {leaf["path"] for leaf in manifest["leaves"]}
    for name, leaf in state.items():
        words = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        np.testing.assert_array_equal(arrays[f"['{name}']"], np.asarray(words, None if name != "brain" else np.float32))
    flip(path / "state.safetensors", -1)
    with pytest.raises(ValueError, match="damaged"):
        namespace["read_checkpoint"](path)
    assert namespace["read_checkpoint"](FIXTURE)[1]["['count']"] == 41, "of the first format too"


def test_arrays_are_found_under_the_names_that_they_once_had(tmp_path):
    old = {"policy": {"inner": {"weight": jnp.arange(3.0)}}, "count": jnp.asarray(4)}
    new = {"policy": {"weight": jnp.zeros(3)}, "count": jnp.asarray(0)}
    path = store.save_checkpoint(tmp_path, 1, old, config_hash="")
    with pytest.raises(store.CheckpointMismatchError):
        store.load_checkpoint(path, new)
    state, manifest = store.load_checkpoint(path, new, [("['inner']", ""), ("['count']", "['weight']")])
    np.testing.assert_array_equal(state["policy"]["weight"], [0.0, 1.0, 2.0])
    assert int(state["count"]) == 4, "a name that is known stays"
    assert manifest.leaves[-1].path == "['policy']['inner']['weight']", "the manifest is what was written"
