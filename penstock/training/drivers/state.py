"""Everything that evolves in a run, in one pytree."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from jaxtyping import Array

from penstock._types import AxisNames, environment_axis
from penstock.algorithms.learner import Clock
from penstock.data import Replay
from penstock.worlds import World


class RunState(eqx.Module):
    """A run of K seeds, or one of them: then the leading axis K, which all leaves but the clock's have, is gone.

    Attributes:
        learned: what the algorithm learns.
        world: state of the N environments; for hosted worlds, what is known of it.
        memory: what the driver keeps for the learner: a replay memory, what is remembered while acting
            (`Learner.acting_memory`), or None.
        key: base random key; never consumed, only folded with purpose and count.
        clock: how far the run is.
    """

    learned: Any
    world: Any
    memory: Any
    key: jaxtyping.Key[Array, "*seeds"]
    clock: Clock

    @property
    def parts(self) -> tuple[Any, Any, Any, Any]:
        """What each seed has of its own."""
        return self.learned, self.world, self.memory, self.key

    def seed(self, index: int) -> "RunState":
        """One seed's state. What lives on the host stays a view, so that writing to it writes there."""
        return self.with_parts(jax.tree.map(lambda leaf: leaf[index, ...], self.parts))

    def rows(self, which: slice) -> "RunState":
        """Some of the seeds, with their leading axis. What lives on the host stays a view."""
        return self.with_parts(jax.tree.map(lambda leaf: leaf[which], self.parts))

    @staticmethod
    def together(states: Sequence["RunState"]) -> "RunState":
        """States of one clock as one, one after the other along the axis of seeds."""

        def joined(*leaves):
            return (np if isinstance(leaves[0], np.ndarray) else jnp).concatenate(leaves)

        return states[0].with_parts(jax.tree.map(joined, *(state.parts for state in states)))

    def with_parts(self, parts: tuple[Any, Any, Any, Any], clock: Clock | None = None) -> "RunState":
        """The same with other `parts`, and another clock where one is given."""
        learned, world, memory, key = parts
        return RunState(learned, world, memory, key, self.clock if clock is None else clock)

    @property
    def seeds(self) -> int:
        """K."""
        return self.key.shape[0]

    def axes(self, world: World) -> "RunState":
        """In the place of every array the names of its axes: of the seeds, the environments, the slots of a memory.

        Args:
            world: the run's.
        """

        def one_seed(tree):
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)

        def unnamed(tree):
            return jax.tree.map(lambda leaf: AxisNames((None,) * leaf.ndim), tree)

        learned, key = (unnamed(one_seed(part)) for part in (self.learned, self.key))
        memory = one_seed(self.memory)
        if isinstance(memory, Replay):
            memory = memory.axes()
        else:
            memory = jax.tree.map(lambda leaf: environment_axis(leaf.shape, 0), memory)
        parts = learned, world.axes(one_seed(self.world)), memory, key
        seeds = jax.tree.map(lambda names: AxisNames(("seed", *names.names)), parts)
        return jax.tree.unflatten(jax.tree.structure(self), jax.tree.leaves((*seeds, unnamed(self.clock))))

    def with_memory(self, memory: Any) -> "RunState":
        """The same with another memory; of a template without values too."""
        return eqx.tree_at(lambda state: state.memory, self, memory, is_leaf=lambda part: part is None)
