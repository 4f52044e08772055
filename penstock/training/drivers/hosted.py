"""The driver of hosted worlds: the host steps environments, compiled functions act and learn.

For learners from batches one control step is

    1. act: one compiled call, or uniform random actions during warm-up
    2. learn: ``updates_per_step`` gradient steps in one compiled call, started but not waited for
    3. the environments step, while the gradient steps are computed
    4. the replay memory, in host memory, takes the transition

so that a gradient step sees all transitions but the newest. For learners from a window of records all steps of an
iteration are acted first, and one compiled update learns from them. Nothing depends on how long anything took: the same
seed gives the same run. What is drawn comes from the state's key and counters, and episodes begin with seeds of their
own.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from penstock._errors import CapabilityError, ConfigurationError
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import (
    Batches,
    Clock,
    Learner,
    Metrics,
    WindowOfRecords,
    added,
    counts,
    nothing,
    results,
)
from penstock.data import Batch, Experience, Records, Replay
from penstock.networks.recurrence import cleared
from penstock.training.drivers.memory import allocated, experience_shapes, memory_notice, remembered, require_memory
from penstock.training.drivers.open_loop import after, next_actions, no_plans
from penstock.training.drivers.rates import Rates, rates_of
from penstock.training.drivers.seen import Seen
from penstock.training.drivers.state import RunState
from penstock.training.hosted_evaluation import HostedEvaluator, Supervision
from penstock.training.post_mortem import Fault
from penstock.worlds import Transition
from penstock.worlds.hosted.hosted_world import HostedState, HostedWorld
from penstock.worlds.world import strong

_BATCH, _WARMUP = 0, 1
"""Purposes of the host's random numbers."""


@dataclasses.dataclass
class Stopwatch:
    """Seconds that parts of a run took, as the main thread saw them.

    Attributes:
        acting: waiting for actions, which includes waiting for the gradient steps before them.
        environment: the environments' steps and resets.
        replay: writing to the replay memory and drawing batches from it.
        handing_over: starting gradient steps, with the transfer of their batches; with ``apart``, the transfer.
        learning: with ``apart``, the gradient steps.
        apart: waits for every transfer and every gradient step, so that their times stand apart. Slower: for
            measurements.
    """

    acting: float = 0.0
    environment: float = 0.0
    replay: float = 0.0
    handing_over: float = 0.0
    learning: float = 0.0
    apart: bool = False


class HostedDriver:
    """K seeds, one after the other, each with environments of its own. All of a state but the clock has an axis K.

    Attributes:
        traces: how often each compiled function was traced.
        stopwatch: where the time went.
    """

    def __init__(self, learner: Learner, evaluation_world: HostedWorld, *, rates: Rates | None = None):
        """Binds the driver to a learner.

        Args:
            learner: the algorithm.
            evaluation_world: the same world with one environment per episode.
            rates: learning rates of every row, ``(K,)`` each; None gives all rows the learner's own.
        """
        assert isinstance(learner.world, HostedWorld)
        if learner.data.stagger:
            raise CapabilityError(
                f"'{learner.world.name}' is hosted: its episodes begin at their beginning, not at a random age, which "
                f"{learner.name} asks for."
            )
        self.learner = learner
        self.rates = rates
        self.world = learner.world
        self.evaluator = HostedEvaluator(learner, evaluation_world)
        self.worlds: list[HostedWorld] = []
        self.seen: list[Seen] = []
        self.traces = {"init": 0, "act": 0, "learn": 0, "measure": 0}
        self.stopwatch = Stopwatch()
        self.supervision = Supervision()
        self._structure = jax.tree.structure(learner.shapes())
        self._learn_all = jax.jit(lambda keys: jax.lax.map(self._init_learned, keys))
        self._split = jax.jit(jax.vmap(lambda key: learner.run_keys(key)[1:]))
        self._act = jax.jit(self._traced_act)
        self._learn = jax.jit(self._traced_learn, donate_argnums=(0, 1))
        self._measure = jax.jit(self._traced_measure)
        self._metrics: Metrics = {}

    # ------------------------------------------------------------------ compiled

    def _init_learned(self, key: jax.Array) -> Any:
        self.traces["init"] += 1
        return strong(self.learner.init(self.learner.run_keys(key).learned))

    def _traced_act(self, leaves, memory, observation, key, count):
        """What is remembered now, and what was drawn: actions and records."""
        self.traces["act"] += 1
        learned = jax.tree.unflatten(self._structure, leaves)
        key = purpose_key(key, count, "explore")
        memory, drawn = self.learner.explore_remembering(learned, memory, observation, key)
        return memory, (drawn.action, drawn.record if isinstance(self.learner.data, WindowOfRecords) else None)

    def _traced_learn(self, leaves, measured, data, key, clock, rates):
        self.traces["learn"] += 1
        learned, metrics = self._learned_from(jax.tree.unflatten(self._structure, leaves), data, key, clock, rates)
        return strong(jax.tree.leaves(learned)), added(measured, metrics)

    def _traced_measure(self, leaves, memory, observation, key, clock):
        self.traces["measure"] += 1
        learned = jax.tree.unflatten(self._structure, leaves)
        key = purpose_key(key, clock.update, "measure")
        return self.learner.measure_remembering(learned, memory, observation, key)

    def _learned_from(self, learned, data, key, clock, rates):
        """What the updates on ``data`` make of it: one for each of several batches, or one for a window of records."""
        learner = self.learner.with_rates(rates)
        if not isinstance(data, Batch):
            updated = learner.update(learned, data, key, clock)
            return updated.learned, updated.metrics

        def one(carry, batch):
            learned, clock = carry
            updated = learner.update_from_batch(learned, batch, key, clock)
            clock = dataclasses.replace(clock, gradient_steps=clock.gradient_steps + 1)
            return (updated.learned, clock), updated.metrics | counts({"train/gradient_steps": 1})

        (learned, _), metrics = jax.lax.scan(one, (learned, clock), data)
        return learned, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

    # ------------------------------------------------------------------ what the loop calls

    def template(self, keys: Key[Array, "K"]) -> RunState:
        """A state with shapes and dtypes but no values, for loading a checkpoint."""
        seeds, num_envs = keys.shape[0], self.world.num_envs

        def on_host(leaf):
            # Takes no memory: one number, seen everywhere.
            return np.broadcast_to(np.zeros((), leaf.dtype), (seeds, *leaf.shape))

        example = self._example()
        numbers = np.zeros((num_envs,), np.int32)
        world = HostedState(
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), example.observation),
            numbers,
            numbers,
            np.zeros((2,), np.uint32),
        )
        memory = self._no_memory()
        if isinstance(self.learner.data, Batches):
            memory = jax.eval_shape(lambda: Replay.create(example, allocated(self.learner)))
        memory = jax.tree.map(on_host, memory)
        learned = jax.eval_shape(self._learn_all, keys)
        return RunState(learned, jax.tree.map(on_host, world), memory, keys, Clock.start())

    def init(self, keys: Key[Array, "K"]) -> RunState:
        """Draws the states before the first iteration, and starts the environments."""
        key_world, key_base = self._split(keys)
        seeds = keys.shape[0]
        self._open(seeds)
        memory = _stack_on_host([self._no_memory()] * seeds)
        if isinstance(self.learner.data, Batches):
            rings = [Replay.create_on_host(self._example(), allocated(self.learner)) for _ in range(seeds)]
            memory = _stack_on_host(rings)
        states = [world.reset(key_world[index]) for index, world in enumerate(self.worlds)]
        return RunState(self._learn_all(keys), _stack_on_host(states), memory, key_base, Clock.start())

    def resume(self, states: RunState) -> RunState:
        """Goes on from loaded states: memory is made writable, and every environment begins its next episode.

        The episodes that were under way count as truncated: their simulators' states were not saved.
        """
        seeds = states.seeds
        self._open(seeds)
        states = dataclasses.replace(states, memory=jax.tree.map(np.array, states.memory))
        return dataclasses.replace(states, world=_stack_on_host(self._begin_next_episodes(states)))

    def _begin_next_episodes(self, states: RunState) -> list[HostedState]:
        """Cuts the episodes that are under way."""
        for index in range(states.seeds):
            memory = states.seed(index).memory
            if isinstance(memory, Replay):
                memory.cut()
            else:
                jax.tree.map(lambda leaf: leaf.fill(0.0), memory)
        for index, world in enumerate(self.worlds):
            self.seen[index] = Seen(world.num_envs)
        return [world.restart(states.seed(index).world) for index, world in enumerate(self.worlds)]

    def compile(self, states: RunState, iterations: Int[Array, ""], keys: Key[Array, "K"] | None) -> None:
        """Compiles what training and evaluation call, so that no later call does."""
        del iterations
        state = states.seed(0)
        leaves = jax.tree.leaves(state.learned)
        remembered = self._no_memory()
        drawn = self._act(leaves, remembered, state.world.observation, state.key, np.int32(0))[1]
        data = self._example_data(state, drawn)
        nothing_yet = self._nothing(leaves, data, state)
        self._learn(_copies(leaves), nothing_yet, data, state.key, Clock.start(), self._rates(0, states.seeds))
        self._measure(leaves, remembered, state.world.observation, state.key, Clock.start())
        if keys is not None:
            self.evaluator.compile(self._agent_leaves(states, 0))

    def train(self, states: RunState, iterations: Int[Array, ""]) -> tuple[RunState, dict[str, np.ndarray]]:
        """Runs ``iterations`` iterations of every seed. The replay memory is changed in place."""
        one = self._train_on_batches if isinstance(self.learner.data, Batches) else self._train_on_records
        ran = [one(index, states.seed(index), int(iterations)) for index in range(len(self.worlds))]
        learned = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state.learned for state, _ in ran))
        world = _stack_on_host([state.world for state, _ in ran])
        memory = states.memory  # a replay memory was written to where it is
        if not isinstance(memory, Replay):
            memory = _stack_on_host([state.memory for state, _ in ran])
        states = RunState(learned, world, memory, states.key, ran[0][0].clock)
        self.evaluator.tell_missing(self.worlds[0], self.supervision)
        return states, _by_name([metrics for _, metrics in ran])

    def evaluate(self, states: RunState, keys: Key[Array, "K"]) -> dict[str, np.ndarray]:
        """Stochastic and deterministic episodes of every seed."""
        seeds = keys.shape[0]
        try:
            rows = [
                self.evaluator.metrics(
                    self._agent_leaves(states, index),
                    keys[index],
                    self.supervision,
                    (index / seeds, (index + 1) / seeds),
                )
                for index in range(seeds)
            ]
        finally:
            self._after_evaluation(states)
        return _by_name(rows)

    def _agent_leaves(self, states: RunState, index: int) -> list[jax.Array]:
        return jax.tree.leaves(self.learner.evaluated(states.seed(index).learned))

    def _after_evaluation(self, states: RunState) -> None:
        if self.worlds and self.world.at_once is not None:  # evaluation took place where training does
            self._begin_next_episodes(states)

    def explain(self, fault: Fault) -> str:
        """Says what went wrong in a block of iterations, from what the world and the metrics saw.

        A simulator's past cannot be played again: nothing is replayed, and no dump is written beside the checkpoints.
        """
        seen = self.worlds[fault.index].take_faults()
        cause = f": {'; '.join(seen[:3])}" if seen else ""
        return f"{fault.happened()} in seed {fault.seed}, the last {fault.iterations} iterations{cause}"

    def require_memory(self, seeds: int) -> None:
        """Refuses a memory that this machine cannot hold."""
        require_memory(self.learner, seeds)

    def notices(self) -> list[str]:
        """What a user should know before the first step, in sentences."""
        return [*memory_notice(self.learner), *self.learner.opening_notices()]

    def close(self) -> None:
        """Ends all environments."""
        for world in (*self.worlds, self.evaluator.world):
            world.close()

    # ------------------------------------------------------------------ one seed

    def _train_on_batches(self, index: int, state: RunState, iterations: int) -> tuple[RunState, dict[str, Any]]:
        need, world, watch = self.learner.data, self.worlds[index], self.stopwatch
        assert isinstance(need, Batches)
        num_envs, replay, key, rates = world.num_envs, state.memory, state.key, self._rates(index, len(self.worlds))
        words = np.asarray(jax.random.key_data(key))
        clock = jax.tree.map(int, jax.device_get(state.clock))
        env_steps, gradient_steps, count = clock.env_steps, clock.gradient_steps, clock.update * need.steps
        leaves = _copies(jax.tree.leaves(state.learned))  # given away at the first gradient step
        measured = self._nothing(leaves, self._draw(replay, words, 0), state)
        present, seen = world.present(), self.seen[index]
        plans = no_plans(num_envs, need.chunk_length, world.action_size, host=True)
        box = (num_envs, need.chunk_length * world.action_size)

        def consult():
            if env_steps < need.warmup_steps:
                return _random(words, _WARMUP, count).uniform(-1.0, 1.0, box).astype(np.float32)
            return np.asarray(self._act(leaves, None, present.observation, key, np.int32(count))[1][0])

        for step in range(iterations * need.steps):
            if step and step % need.steps == 0 and self._stops_here:
                iterations = step // need.steps
                break
            begin = time.perf_counter()
            plans, action, kept = next_actions(plans, step, consult)
            acted = drawn = handed = learned = time.perf_counter()
            if env_steps >= need.warmup_steps and replay.filled // need.chunk_length * num_envs >= need.batch_size:
                batches = self._draw(replay, words, gradient_steps)
                drawn = time.perf_counter()
                if watch.apart:
                    batches = jax.block_until_ready(jax.device_put(batches))
                    handed = time.perf_counter()
                now = _clock(count // need.steps, env_steps, gradient_steps)
                leaves, measured = self._learn(leaves, measured, batches, key, now, rates)
                gradient_steps += need.updates_per_step
                if watch.apart:
                    jax.block_until_ready(leaves)
                learned = time.perf_counter()
                handed = handed if watch.apart else learned
            observation = present.observation
            present, transition = world.step(present, action)
            stepped = time.perf_counter()
            plans = after(plans, transition)
            replay.write(remembered(observation, kept, transition))
            seen.add(transition)
            env_steps += num_envs
            count += 1
            written = time.perf_counter()
            watch.acting += acted - begin
            watch.replay += drawn - acted + written - stepped
            watch.handing_over += handed - drawn
            watch.learning += learned - handed
            watch.environment += stepped - learned
        clock = jax.tree.map(jnp.asarray, _clock(clock.update + iterations, env_steps, gradient_steps))
        return self._ended(index, state, leaves, present, clock, measured)

    def _train_on_records(self, index: int, state: RunState, iterations: int) -> tuple[RunState, dict[str, Any]]:
        need, world, key = self.learner.data, self.worlds[index], state.key
        assert isinstance(need, WindowOfRecords)
        leaves, clock, memory = _copies(jax.tree.leaves(state.learned)), state.clock, state.memory
        rates = self._rates(index, len(self.worlds))
        present, seen, measured = world.present(), self.seen[index], None
        for iteration in range(iterations):
            if iteration and self._stops_here:
                break
            steps, first, at_first = [], int(clock.update) * need.steps, memory
            for t in range(need.steps):
                observation = present.observation
                acted = self._act(leaves, memory, observation, key, np.int32(first + t))
                memory, drawn = jax.tree.map(np.asarray, acted)
                present, transition = world.step(present, drawn[0])
                seen.add(transition)
                steps.append(_record(observation, drawn, transition))
                memory = cleared(memory, transition.done | ~steps[-1].valid)
            records = dataclasses.replace(_stack_on_host(steps), memory=at_first)
            if measured is None:
                measured = self._nothing(leaves, records, state)
            leaves, measured = self._learn(leaves, measured, records, key, clock, rates)
            env_steps = clock.env_steps + world.num_envs * need.steps
            clock = dataclasses.replace(clock, update=clock.update + 1, env_steps=env_steps)
        reached = dataclasses.replace(state, memory=memory)
        return self._ended(index, reached, leaves, present, clock, measured)

    def _ended(self, index, state, leaves, present, clock, measured):
        """State and metrics at the end of a block."""
        metrics = {name: float(value) for name, value in results(measured).items()} | self.seen[index].take()
        metrics["world/bad_starts"] = float(self.worlds[index].take_bad_starts())
        memory = None if isinstance(state.memory, Replay) else state.memory
        numbers = self._measure(leaves, memory, present.observation, state.key, clock)
        metrics |= {name: float(value) for name, value in numbers.items()}
        learned = jax.tree.unflatten(self._structure, leaves)
        return RunState(learned, present, state.memory, state.key, clock), metrics

    def _open(self, seeds: int) -> None:
        """Makes the environments of every seed."""
        for world in self.worlds:
            world.close()
        num_envs, most = self.world.num_envs, self.world.at_once or seeds * self.world.num_envs
        if seeds * num_envs > most:
            raise ConfigurationError(
                f"'{self.world.name}': single_instance = True, and {seeds} x {num_envs} environments are asked for. "
                "Pass --seeds 1 --num-envs 1."
            )
        self.worlds = [self.world.with_num_envs(num_envs) for _ in range(seeds)]
        self.seen = [Seen(num_envs) for _ in range(seeds)]

    def _example(self) -> Experience:
        """Shapes of one control step's experience, on the host."""
        example = experience_shapes(self.learner)
        if not self.world.declared.idle_steps:
            return example
        return dataclasses.replace(example, valid=jax.ShapeDtypeStruct(example.terminated.shape, bool))

    def _example_data(self, state: RunState, drawn: Any) -> Any:
        """Data of the shapes of which an update learns."""
        need, num_envs = self.learner.data, self.world.num_envs
        if isinstance(need, Batches):
            return self._draw(state.memory, np.zeros((2,), np.uint32), 0)
        no, zero = np.zeros((num_envs,), bool), np.zeros((num_envs,), np.float32)
        observation = state.world.observation
        valid = no if self.world.declared.idle_steps else None
        blank = Transition(observation, zero, no, no, observation, no, {}, valid)
        records = _stack_on_host([_record(observation, jax.device_get(drawn), blank)] * need.steps)
        return dataclasses.replace(records, memory=self._no_memory())

    def _no_memory(self) -> Any:
        """What is remembered of environments whose episodes begin, on the host."""
        return jax.tree.map(np.array, self.learner.acting_memory(self.world.num_envs))

    @property
    def _stops_here(self) -> bool:
        """Whether to end a block early. Seeds are trained one after the other, and all must have as many iterations."""
        return len(self.worlds) == 1 and self.supervision.stop_requested()

    def _rates(self, index: int, seeds: int) -> Rates:
        return jax.tree.map(lambda leaf: leaf[index], rates_of(self.learner, self.rates, seeds))

    def _draw(self, replay: Replay, words: np.ndarray, gradient_steps: int) -> Batch:
        """Batches for the gradient steps of one control step, stacked along a new first axis."""
        need, batches = self.learner.data, []
        assert isinstance(need, Batches)
        for step in range(gradient_steps, gradient_steps + need.updates_per_step):
            uniform = _random(words, _BATCH, step).random(need.batch_size + 1, dtype=np.float32)
            batches.append(replay.gather(uniform, **need.sampling))
        return _stack_on_host(batches)

    def _nothing(self, leaves: list, data: Any, state: RunState) -> Metrics:
        """The metrics of an update, with nothing measured."""
        if not self._metrics:
            learned = jax.tree.unflatten(self._structure, leaves)
            rates = self._rates(0, len(self.worlds))
            self._metrics = jax.eval_shape(self._learned_from, learned, data, state.key, Clock.start(), rates)[1]
        return nothing(self._metrics)


def _by_name(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """``(K,)`` of each metric; NaN where a seed has none, because its environments have not told it yet."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _clock(update: int, env_steps: int, gradient_steps: int) -> Any:
    """A clock on the host: nothing is sent to a device for it."""
    return jax.tree.unflatten(
        jax.tree.structure(Clock.start()), [np.int32(n) for n in (update, env_steps, gradient_steps)]
    )


def _record(observation: Any, drawn: tuple[Any, Any], transition: Transition) -> Records:
    """One control step, on the host, with what was drawn in it: actions and records."""
    happened: Any = np.ones(transition.reward.shape, bool) if transition.valid is None else transition.valid
    return Records(
        observation,
        *drawn,
        transition.reward,
        transition.terminated,
        transition.truncated,
        transition.final_observation,
        happened,
    )


def _random(words: np.ndarray, purpose: int, count: int) -> np.random.Generator:
    """Random numbers that follow from the run's key, a purpose and a count, and from nothing else."""
    key = int(words[0]) | int(words[1]) << 32 | purpose << 64
    return np.random.Generator(np.random.Philox(key=key, counter=[0, count, 0, 0]))


def _copies(leaves: list) -> list:
    return [jnp.array(leaf, copy=True) for leaf in leaves]


def _stack_on_host(trees: list[PyTree]) -> PyTree:
    """Stacks trees of host arrays along a new first axis; a single tree is not copied."""
    if len(trees) == 1:
        return jax.tree.map(lambda leaf: leaf[None], trees[0])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
