"""Recurrent cells: a memory that every observation changes, and that starts from zeros when an episode begins."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from penstock._types import Key

CellName = Literal["gru", "lstm"]


class Recurrence(eqx.Module):
    """A GRU or LSTM cell whose memory is one flat array.

    Weights begin uniform in +-1 / sqrt(H), as Equinox's and PyTorch's cells do.

    Attributes:
        cell: Equinox's.
        size: H, numbers that come out.
        memory_size: M: H of a GRU, whose memory is what came out last; 2 H of an LSTM: what came out, then the cell's
            state.
    """

    cell: eqx.nn.GRUCell | eqx.nn.LSTMCell
    size: int = eqx.field(static=True)
    memory_size: int = eqx.field(static=True)

    def __init__(self, key: Key, inputs: int, size: int, kind: CellName):
        made = {"gru": eqx.nn.GRUCell, "lstm": eqx.nn.LSTMCell}[kind]
        self.cell = made(inputs, size, key=key)
        self.size = size
        self.memory_size = size if kind == "gru" else 2 * size

    def __call__(
        self, memory: Float[Array, "M"], features: Float[Array, "inputs"]
    ) -> tuple[Float[Array, "M"], Float[Array, "H"]]:
        """One control step of one environment: the memory after it, and what comes out."""
        if isinstance(self.cell, eqx.nn.GRUCell):
            after = self.cell(features, memory)
            return after, after
        out, state = self.cell(features, (memory[: self.size], memory[self.size :]))
        return jnp.concatenate([out, state]), out

    def unroll(
        self, memory: Float[Array, "M"], features: Float[Array, "T inputs"], begins: Bool[Array, "T"]
    ) -> tuple[Float[Array, "T M"], Float[Array, "T H"]]:
        """T control steps of one environment.

        Args:
            memory: before the first.
            features: of every step.
            begins: whether an episode begins at the step: the memory is then zeros before it.

        Returns:
            Memories after every step, and what came out.
        """

        def step(memory, now):
            features, begins = now
            memory, out = self(jnp.where(begins, 0.0, memory), features)
            return memory, (memory, out)

        return jax.lax.scan(step, memory, (features, begins))[1]


def cleared(memory: Any, where: Any) -> Any:
    """Memories of N environments, zeros where an episode begins.

    Args:
        memory: a pytree of arrays whose first axis counts environments, all of NumPy or all of JAX; None is None.
        where: ``(N,)`` flags.
    """

    def clear(leaf):
        xp = jnp if isinstance(leaf, jax.Array) else np
        return xp.where(where.reshape(-1, *[1] * (leaf.ndim - 1)), xp.zeros((), leaf.dtype), leaf)

    return jax.tree.map(clear, memory)


RecurrenceMaker = Callable[[Key, int], Recurrence | None]
"""Draws a cell from a key, for a number of features that go in; None for none."""
