"""One random key per purpose: switching one consumer off does not shift the others."""

import zlib

import jax
from jaxtyping import Array, Int

from penstock._types import Key


def purpose_key(base: Key, update: Int[Array, ""], purpose: str) -> Key:
    """The key for one purpose (a fixed English name) in one update. ``base`` itself is never consumed."""
    return jax.random.fold_in(jax.random.fold_in(base, zlib.crc32(purpose.encode())), update)
