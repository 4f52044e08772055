"""The driver of functional worlds: everything inside `jax.jit`, a block of iterations at a time.

`begin` and `iterate` are one seed's run, pure; `FunctionalDriver` compiles them for K seeds at once. Which data an
iteration gathers is the learner's matter (`Learner.data`):

    differentiable window    the learner rolls out from the world's state, and differentiates
    window of records        the driver acts for H steps, then one update on all of them
    batches                  after every control step, updates on samples of everything so far
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array, Int

from penstock._errors import CapabilityError
from penstock._seeds import side_by_side
from penstock._types import Key, Scalar
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import (
    Batches,
    Clock,
    DifferentiableWindow,
    Evidence,
    Learner,
    Metrics,
    WindowOfRecords,
    added,
    counts,
    means,
    nothing,
    results,
    where_due,
)
from penstock.data import Records, Replay
from penstock.networks.recurrence import cleared
from penstock.training.drivers.memory import allocated, experience_shapes, memory_notice, remembered, require_memory
from penstock.training.drivers.open_loop import after, next_actions, no_plans
from penstock.training.drivers.rates import Rates, rates_of
from penstock.training.drivers.state import RunState
from penstock.training.evaluation import evaluation_metrics
from penstock.training.hosted_evaluation import Supervision
from penstock.training.post_mortem import Fault, explain_fault
from penstock.worlds import FunctionalWorld
from penstock.worlds.world import WorldState, strong

# ---------------------------------------------------------------------- one seed


def begin(learner: Learner, key: Key) -> RunState:
    """The state of one seed before the first iteration."""
    keys, need = learner.run_keys(key), learner.data
    world = _world(learner).reset(keys.world, stagger=need.stagger)
    memory = learner.acting_memory(_world(learner).num_envs)
    if isinstance(need, Batches):
        memory = Replay.create(experience_shapes(learner), allocated(learner))
    return RunState(learner.init(keys.learned), world, memory, keys.base, Clock.start())


def iterate(learner: Learner, state: RunState) -> tuple[RunState, Metrics, Evidence]:
    """One iteration of one seed: ``N * steps`` environment steps, and the updates that they bring."""
    match learner.data:
        case DifferentiableWindow():
            state, metrics, evidence = _differentiated(learner, state)
        case WindowOfRecords(steps):
            state, metrics, evidence = _recorded(learner, state, steps)
        case Batches() as need:
            state, metrics, evidence = _sampled(learner, state, need)
        case need:
            raise CapabilityError(f"{learner.name} asks for {need!r}, which no driver knows.")
    clock = state.clock
    env_steps = clock.env_steps + learner.steps_per_update
    clock = dataclasses.replace(clock, update=clock.update + 1, env_steps=env_steps)
    return dataclasses.replace(state, clock=clock), metrics, evidence


def _differentiated(learner, state):
    updated = learner.update(state.learned, state.world, state.key, state.clock)
    if updated.world is None:
        raise CapabilityError(
            f"{learner.name} learns from a differentiable window, and its update returned no world: return "
            "Updated(..., world=the state behind the window)."
        )
    reached = dataclasses.replace(state, learned=updated.learned, world=updated.world)
    return reached, updated.metrics, updated.evidence or Evidence({})


def _recorded(learner, state, steps):
    world = _world(learner)

    def control_step(carry, index):
        world_state, memory = carry
        observation = world_state.observation
        key = purpose_key(state.key, state.clock.update * steps + index, "explore")
        memory, drawn = learner.explore_remembering(state.learned, memory, observation, key)
        world_state, seen = world.step(world_state, drawn.action)
        ends = seen.terminated, seen.truncated, seen.final_observation, jnp.ones_like(seen.terminated)
        records = Records(observation, drawn.action, drawn.record, seen.reward, *ends)
        return (world_state, cleared(memory, seen.done)), (records, _shown(seen))

    start = (state.world, state.memory)
    (world_state, memory), (records, shown) = jax.lax.scan(control_step, start, jnp.arange(steps))
    records = dataclasses.replace(records, memory=state.memory)
    updated = learner.update(state.learned, jax.lax.stop_gradient(records), state.key, state.clock)
    metrics = _world_metrics(shown) | updated.metrics
    reached = dataclasses.replace(state, learned=updated.learned, world=world_state, memory=memory)
    return reached, metrics, Evidence(shown[0])


def _sampled(learner, state, need: Batches):
    world = _world(learner)
    num_envs, flat_size = world.num_envs, need.chunk_length * world.action_size

    def control_step(carry, index):
        learned, memory, world_state, plans, clock, measured = carry
        observation = world_state.observation
        # Count and readiness follow from the clock alone: conditions on them stay conditions under several seeds.
        count = clock.update * need.steps + index
        consult = lambda: jax.lax.cond(  # noqa: E731
            clock.env_steps + index * num_envs < need.warmup_steps,
            lambda key: jax.random.uniform(key, (num_envs, flat_size), minval=-1.0, maxval=1.0),
            lambda key: learner.explore(learned, observation, key).action,
            purpose_key(state.key, count, "explore"),
        )
        plans, action, kept = next_actions(plans, index, consult)
        world_state, seen = world.step(world_state, action)
        plans = after(plans, seen)
        memory = memory.add(jax.lax.stop_gradient(remembered(observation, kept, seen)))
        filled = num_envs * (jnp.minimum(count + 1, memory.slots) // need.chunk_length)
        ready = (clock.env_steps + (index + 1) * num_envs >= need.warmup_steps) & (filled >= need.batch_size)
        part = lambda carry: _updates(learner, need, carry[0], memory, state.key, carry[1])  # noqa: E731
        (learned, clock), metrics = where_due(ready, part, (learned, clock))
        return (learned, memory, world_state, plans, clock, added(measured, metrics)), _shown(seen)

    none = nothing(
        jax.eval_shape(lambda: _updates(learner, need, state.learned, state.memory, state.key, state.clock)[1])
    )
    plans = no_plans(num_envs, need.chunk_length, world.action_size)
    carry = (state.learned, state.memory, state.world, plans, state.clock, none)
    (learned, memory, world_state, _, clock, metrics), shown = jax.lax.scan(control_step, carry, jnp.arange(need.steps))
    reached = RunState(learned, world_state, memory, state.key, clock)
    return reached, metrics | _world_metrics(shown), Evidence(shown[0])


def _updates(learner, need: Batches, learned, memory, key, clock):
    """``updates_per_step`` updates, each on a batch of its own."""

    def one(carry, _):
        learned, clock = carry
        batch = memory.sample(purpose_key(key, clock.gradient_steps, "batch"), need.batch_size, **need.sampling)
        updated = learner.update_from_batch(learned, batch, key, clock)
        clock = dataclasses.replace(clock, gradient_steps=clock.gradient_steps + 1)
        return (updated.learned, clock), updated.metrics | counts({"train/gradient_steps": 1})

    carry, metrics = jax.lax.scan(one, (learned, clock), None, length=need.updates_per_step)
    return carry, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def _shown(transition):
    return transition.diagnostics, transition.reward, transition.diverged


def _world_metrics(shown) -> Metrics:
    diagnostics, reward, diverged = shown
    seen = {f"train/{name}": value.mean() for name, value in {**diagnostics, "reward": reward}.items()}
    return means(seen) | counts({"world/diverged": diverged.sum()})


def _world(learner: Learner) -> FunctionalWorld:
    if not isinstance(learner.world, FunctionalWorld):
        raise CapabilityError(f"'{learner.world.name}' does not live inside jit; the hosted driver trains on it.")
    return learner.world


# ---------------------------------------------------------------------- K seeds


class FunctionalDriver:
    """K seeds at once.

    On a CPU they run one after the other inside one program (each seed then does bit for bit what it does alone); on an
    accelerator side by side. States carry a leading axis K, but for the clock, which all share.

    Attributes:
        traces: how often each program was traced, for tests and for the log.
    """

    def __init__(
        self,
        learner: Learner,
        evaluation_world: FunctionalWorld,
        *,
        rates: Rates | None = None,
        together: bool | None = None,
    ):
        """Binds the driver to a learner.

        Args:
            learner: the algorithm.
            evaluation_world: the same world with one environment per episode.
            rates: learning rates of every row, ``(K,)`` each; None gives all rows the learner's own.
            together: run seeds side by side; None does so on accelerators.
        """
        self.learner = learner
        self.rates = rates
        self.evaluation_world = evaluation_world
        self.supervision = Supervision()  # compiled blocks cannot be stopped in the middle
        self.traces = {"init": 0, "train": 0, "evaluate": 0}
        side = jax.default_backend() != "cpu" if together is None else together
        over_seeds = _side_by_side if side else jax.lax.map

        def init(keys):
            self.traces["init"] += 1
            learned, world, memory, key = over_seeds(lambda key: begin(learner, key).parts, keys)
            return strong(RunState(learned, world, memory, key, Clock.start()))

        def train(states, rates, iterations):
            self.traces["train"] += 1
            block = block_of(learner, iterations, states.clock)
            if side:
                parts, clock, metrics = _side_by_side(block, (states.parts, rates), (0, None, 0))
            else:
                parts, clock, metrics = _in_place(block, states.parts, rates)
            return strong(states.with_parts(parts, clock)), metrics

        def evaluate(states, keys):
            self.traces["evaluate"] += 1
            one = lambda pair: evaluation_metrics(learner.evaluated(pair[0]), evaluation_world, pair[1])  # noqa: E731
            return over_seeds(one, (states.learned, keys))

        self.init = jax.jit(init)
        self._train, self._evaluate = jax.jit(train, donate_argnums=0), jax.jit(evaluate)
        self._compiled: Callable[..., Any] = self._train
        self.evaluate: Callable[..., Any] = self._evaluate

    def train(self, states: RunState, iterations: Int[Array, ""]) -> tuple[RunState, dict[str, Any]]:
        """A block of iterations. Consumes the states."""
        return self._compiled(states, rates_of(self.learner, self.rates, states.seeds), iterations)

    def template(self, keys: jaxtyping.Key[Array, "K"]) -> RunState:
        """A state with shapes and dtypes but no values, for loading a checkpoint."""
        return jax.eval_shape(self.init, keys)

    def resume(self, states: RunState) -> RunState:
        """Goes on from loaded states: nothing is to be done, everything is in them."""
        return states

    def close(self) -> None:
        """Nothing is open."""

    def compile(self, states: RunState, iterations: Int[Array, ""], keys: jaxtyping.Key[Array, "K"] | None) -> None:
        """Compiles training, and evaluation unless there are no keys for it, so that no later call does."""
        rates = rates_of(self.learner, self.rates, states.seeds)
        self._compiled = self._train.lower(states, rates, iterations).compile()
        if keys is not None:
            self.evaluate = self._evaluate.lower(states, keys).compile()

    def explain(self, fault: Fault) -> str:
        """Says what went wrong in a block of iterations. See `explain_fault`."""
        learner = self.learner
        if self.rates is not None:
            learner = learner.with_rates(jax.tree.map(lambda leaf: leaf[fault.index], self.rates))
        return explain_fault(learner, iterate, self.train, fault)

    def require_memory(self, seeds: int) -> None:
        """Refuses a memory that this machine cannot hold."""
        require_memory(self.learner, seeds)

    def notices(self) -> list[str]:
        """What a user should know before the first step, in sentences."""
        return [*memory_notice(self.learner), *self.learner.opening_notices()]


def block_of(learner: Learner, iterations: Int[Array, ""], clock: Clock) -> Callable[..., Any]:
    """A block of ``iterations`` (a traced number) iterations, as a function of one seed's parts of a state and rates.

    It returns these parts, the clock, and what is logged. What the learner measures about what it learned alone is
    measured once, at the end.
    """
    unbound = learner

    def block(row):
        (learned, world, memory, key), rates = row
        learner = unbound.with_rates(rates)
        state = RunState(learned, world, memory, key, clock)
        none = nothing(jax.eval_shape(lambda state: iterate(learner, state)[1], state))

        def body(_, carry):
            state, measured = carry
            state, metrics, _ = iterate(learner, state)
            return state, added(measured, metrics)

        state, measured = jax.lax.fori_loop(0, iterations, body, (state, none))
        key = purpose_key(state.key, state.clock.update, "measure")
        assert isinstance(state.world, WorldState)
        memory = None if isinstance(state.memory, Replay) else state.memory
        observation = state.world.observation
        numbers: dict[str, Scalar] = learner.measure_remembering(state.learned, memory, observation, key)
        return state.parts, state.clock, results(measured) | numbers

    return block


def _side_by_side(function, xs, axes: Any = 0):
    """`jax.vmap` over seeds. Outputs with None in ``axes``, as the clock, are the same for all and have no axis."""

    def named(x):
        with side_by_side("seeds"):
            return function(x)

    return jax.vmap(named, axis_name="seeds", out_axes=axes)(xs)


def _in_place(block, parts, rates):
    """One seed after the other, each written where it was read: of their memories one is held twice, not all."""

    def one(parts, row):
        index, rates = row
        after, clock, metrics = block((jax.tree.map(lambda leaf: leaf[index], parts), rates))
        return jax.tree.map(lambda leaf, seed: leaf.at[index].set(seed), parts, after), (clock, metrics)

    seeds = jax.tree.leaves(parts)[0].shape[0]
    parts, (clock, metrics) = jax.lax.scan(one, parts, (jnp.arange(seeds), rates))
    return parts, jax.tree.map(lambda leaf: leaf[0], clock), metrics


def seed_keys(seed: int, seeds: int) -> jaxtyping.Key[Array, "K"]:
    """One key per seed: ``jax.random.key(seed + i)``, so that seed 3 of five is the run with ``--seed 3``."""
    return jax.vmap(jax.random.key)(jnp.arange(seed, seed + seeds))
