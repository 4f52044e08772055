"""Questions to all seeds at once, so that what nobody needs is skipped on accelerators too.

Where seeds run side by side (`jax.vmap`), a condition that belongs to one seed becomes a selection: both branches are
computed. A condition on all seeds together stays a condition. Where they run one after the other nothing changes.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

_AXIS: contextvars.ContextVar[str | None] = contextvars.ContextVar("axis of the seeds", default=None)


@contextlib.contextmanager
def side_by_side(axis: str) -> Iterator[None]:
    """While this is open, what is traced runs inside a `jax.vmap` over seeds whose ``axis_name`` is ``axis``."""
    token = _AXIS.set(axis)
    try:
        yield
    finally:
        _AXIS.reset(token)


def anywhere(flags: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether a flag holds anywhere, in this seed or in any that runs beside it."""
    found, axis = flags.any(), _AXIS.get()
    return found if axis is None else jax.lax.pmax(found.astype(jnp.int32), axis) > 0
