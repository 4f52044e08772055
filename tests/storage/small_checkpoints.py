"""Small states and their checkpoints; how a checkpoint is damaged (flip) and forged (reseal)."""

import hashlib
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from penstock.storage import store


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


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(raw))


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
