"""The compiled programs of a run: start, train a block of iterations, evaluate. Each is traced once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from penstock._types import Scalar
from penstock.algorithms.metric_rules import is_counter, steps_of
from penstock.training.evaluation import evaluation_metrics
from penstock.training.post_mortem import Fault, explain_fault
from penstock.worlds import FunctionalWorld


class Program:
    """Programs over K seeds at once. States carry a leading axis of length K.

    On a CPU the seeds run one after the other inside one program (each seed then does bit for bit what it does alone);
    on an accelerator they run side by side.

    Attributes:
        traces: how often each program was traced, for tests and for the log.
    """

    def __init__(self, learner: Any, evaluation_world: FunctionalWorld):
        self.learner = learner
        self.evaluation_world = evaluation_world
        self.traces = {"init": 0, "train": 0, "evaluate": 0}
        over_seeds = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)

        def init(keys):
            self.traces["init"] += 1
            return _strong(over_seeds(learner.init, keys))

        def train(states, iterations):
            self.traces["train"] += 1
            states, metrics = over_seeds(functools.partial(_train_one, learner, iterations), states)
            return _strong(states), metrics

        def evaluate(states, keys):
            self.traces["evaluate"] += 1

            def one(pair):
                state, key = pair
                return evaluation_metrics(learner.agent(state), evaluation_world, key)

            return over_seeds(one, (states, keys))

        self.init = jax.jit(init)
        self.train: Callable[..., Any] = jax.jit(train)
        self.evaluate: Callable[..., Any] = jax.jit(evaluate)

    def template(self, keys: Key[Array, "K"]) -> PyTree:
        """A state with shapes and dtypes but no values, for loading a checkpoint."""
        return jax.eval_shape(self.init, keys)

    def resume(self, states: PyTree) -> PyTree:
        """Goes on from loaded states: nothing is to be done, everything is in them."""
        return states

    def close(self) -> None:
        """Nothing is open."""

    def compile(self, states: PyTree, iterations: Int[Array, ""], keys: Key[Array, "K"]) -> None:
        """Compiles training and evaluation now, so that no later call does."""
        self.train = jax.jit(self.train).lower(states, iterations).compile()
        self.evaluate = jax.jit(self.evaluate).lower(states, keys).compile()

    def explain(self, fault: Fault) -> str:
        """Says what went wrong in a block of iterations. See `explain_fault`."""
        return explain_fault(self.learner, self.train, fault)


def _train_one(learner: Any, iterations: jax.Array, state: PyTree) -> tuple[PyTree, dict[str, Scalar]]:
    """Runs ``iterations`` (a traced number) iterations; returns the mean of each metric over them.

    Counters (``world/``, ``.../skipped``) are summed instead. What belongs to gradient steps is a mean over gradient
    steps: iterations without one, as during warm-up, do not count. What the learner measures about its state alone is
    measured once, at the end of the block.
    """
    shapes = jax.eval_shape(learner.step, state)[1]
    zeros = {name: jnp.zeros(shape.shape, jnp.float32) for name, shape in shapes.items()}
    counters = {name: steps_of(name, shapes) for name in shapes}

    def body(_, carry):
        state, sums = carry
        state, metrics = learner.step(state)
        return state, {
            name: sums[name] + metrics[name] * (metrics[counters[name]] if counters[name] else 1.0) for name in sums
        }

    state, sums = jax.lax.fori_loop(0, iterations, body, (state, zeros))

    def mean(name):
        count = jnp.maximum(sums[counters[name]], 1.0) if counters[name] else iterations
        return sums[name] / count

    means = {name: sums[name] if is_counter(name) else mean(name) for name in sums}
    return state, means | learner.measure(state)


def _strong(states: PyTree) -> PyTree:
    """Removes weak types, which come from Python numbers: the next call would be traced anew for them."""

    def strong(leaf):
        return (
            leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(leaf, leaf.dtype)
        )

    return jax.tree.map(strong, states)


def seed_keys(seed: int, seeds: int) -> Key[Array, "K"]:
    """One key per seed: ``jax.random.key(seed + i)``, so that seed 3 of five is the run with ``--seed 3``."""
    return jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds))
