"""Which parts of a run's state lie in which files of a checkpoint, and how long they are kept.

    agent      what the agent is made of: all that evaluation, films and `penstock.load` need
    learner    what else is learned: critics, targets, optimisers
    memory     the slots of a replay memory, in segments
    state      the rest: state of the world, position in the memory, random keys, clock

A run that learns from a replay memory can go on from its newest two checkpoints, and older ones keep the agent. Where
there is no such memory all checkpoints keep everything.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from penstock.algorithms.learner import Batches, Learner
from penstock.policies import Agent
from penstock.storage.store import Layout

AGENT, LEARNER, MEMORY = "agent", "learner", "memory"
_SLOTS = (".memory.ring",)

OF_ONE_SEED = Layout({MEMORY: _SLOTS}, {MEMORY: 0})
"""The parts of one seed's state, as it is kept for a post-mortem."""


def layout_of(learner: Learner) -> Layout:
    """The parts of a run's state, of all its seeds."""
    return Layout(
        parts={AGENT: tuple(sorted(agent_names(learner))), LEARNER: (".learned",), MEMORY: _SLOTS},
        segmented={MEMORY: 1},
        lasting=(AGENT,) if isinstance(learner.data, Batches) else (),
    )


def agent_names(learner: Learner) -> set[str]:
    """Names of the arrays of a run's state on which its agent depends, found by tracing `Learner.evaluated`."""
    shapes = learner.shapes()

    def agent(learned):
        return jax.tree.leaves(eqx.filter(learner.evaluated(learned), eqx.is_array))

    program = jax.make_jaxpr(agent)(shapes).jaxpr
    needed = {variable for variable in program.outvars if isinstance(variable, Var)}
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(variable for variable in equation.invars if isinstance(variable, Var))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    named = zip(paths, program.invars, strict=True)
    return {f".learned{jax.tree_util.keystr(path)}" for path, variable in named if variable in needed}


def agents_of(learner: Learner, learned: Any, seeds: int) -> list[Agent]:
    """The agent of each seed.

    Args:
        learner: the algorithm.
        learned: of all seeds. Arrays that are not among `agent_names` may be `jax.ShapeDtypeStruct`.
        seeds: K.
    """

    def of_seed(leaf, index):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf[index]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        # The agent does not depend on it, so that anything of its shape will do.
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape[1:])

    return [learner.evaluated(jax.tree.map(functools.partial(of_seed, index=index), learned)) for index in range(seeds)]
