"""The program of a run on a hosted world: the host steps environments, compiled functions act and learn.

It has the methods of `Program`, for learners whose `explore` and `gradient_step` are pure. One control step is

    1. act: one compiled call, or uniform random actions during warm-up
    2. learn: ``updates_per_step`` gradient steps in one compiled call, started but not waited for
    3. the environments step, while the gradient steps are computed
    4. the replay memory, in host memory, takes the transition

so that a gradient step sees all transitions but the newest. Nothing depends on how long anything took: the same seed
gives the same run. What is drawn comes from the state's key and counters, and episodes begin with seeds of their own.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from penstock.algorithms.keys import purpose_key
from penstock.algorithms.off_policy import OffPolicyLearner, OffPolicyState, remembered, summarise
from penstock.data import Batch, Experience, Replay
from penstock.training.hosted_evaluation import HostedEvaluator
from penstock.training.post_mortem import Fault
from penstock.worlds import Transition
from penstock.worlds.hosted.hosted_world import HostedState, HostedWorld

_BATCH, _WARMUP = 0, 1
"""Purposes of the host's random numbers."""


@dataclasses.dataclass
class Clock:
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


class HostedProgram:
    """Programs over K seeds, one after the other, each with environments of its own. States carry a leading axis K.

    Attributes:
        traces: how often each compiled function was traced.
        clock: where the time went.
    """

    def __init__(self, learner: OffPolicyLearner, evaluation_world: HostedWorld):
        assert isinstance(learner.world, HostedWorld)
        self.learner = learner
        self.world = learner.world
        self.evaluator = HostedEvaluator(learner, evaluation_world)
        self.worlds: list[HostedWorld] = []
        self.seen: list[Seen] = []
        self.traces = {"init": 0, "act": 0, "learn": 0}
        self.clock = Clock()
        self._structure = jax.tree.structure(jax.eval_shape(learner.init_learned, jax.random.key(0)))
        self._learn_all = jax.jit(lambda keys: jax.lax.map(self._init_learned, keys))
        self._act = jax.jit(self._traced_act)
        self._learn = jax.jit(self._traced_learn, donate_argnums=(0, 1))
        self._metrics: dict[str, jax.ShapeDtypeStruct] = {}

    # ------------------------------------------------------------------ compiled

    def _init_learned(self, key: jax.Array) -> Any:
        self.traces["init"] += 1
        return self.learner.init_learned(key)

    def _traced_act(self, leaves, observation, key, count):
        self.traces["act"] += 1
        learned = jax.tree.unflatten(self._structure, leaves)
        return self.learner.explore(learned, observation, purpose_key(key, count, "explore"))

    def _traced_learn(self, leaves, sums, batches, key, count):
        self.traces["learn"] += 1

        def one(carry, batch):
            learned, count = carry
            learned, metrics = self.learner.learn(learned, batch, purpose_key(key, count, "gradient step"), count)
            return (learned, count + 1), metrics | {"train/gradient_steps": jnp.ones(())}

        learned = jax.tree.unflatten(self._structure, leaves)
        (learned, _), metrics = jax.lax.scan(one, (learned, count), batches)
        return jax.tree.leaves(learned), {name: sums[name] + values.sum(axis=0) for name, values in metrics.items()}

    # ------------------------------------------------------------------ what the loop calls

    def template(self, keys: Key[Array, "K"]) -> OffPolicyState:
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
        counter = jnp.zeros((seeds,), jnp.int32)
        return OffPolicyState(
            learned=jax.eval_shape(self._learn_all, keys),
            replay=jax.tree.map(on_host, jax.eval_shape(lambda: Replay.create(example, self.learner.capacity))),
            world=jax.tree.map(on_host, world),
            key=keys,
            update=counter,
            env_steps=counter,
            gradient_steps=counter,
        )

    def init(self, keys: Key[Array, "K"]) -> OffPolicyState:
        """Draws the states before the first iteration, and starts the environments."""
        split = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        seeds = keys.shape[0]
        self._open(seeds)
        rings = [Replay.create_on_host(self._example(), self.learner.capacity) for _ in range(seeds)]
        states = [world.reset(split[index, 1]) for index, world in enumerate(self.worlds)]
        counter = jnp.zeros((seeds,), jnp.int32)
        return OffPolicyState(
            learned=self._learn_all(split[:, 0]),
            replay=_stack_on_host(rings),
            world=_stack_on_host(states),
            key=split[:, 2],
            update=counter,
            env_steps=counter,
            gradient_steps=counter,
        )

    def resume(self, states: OffPolicyState) -> OffPolicyState:
        """Goes on from loaded states: memory is made writable, and every environment begins its next episode.

        The episodes that were under way count as truncated: their simulators' states were not saved.
        """
        seeds = states.update.shape[0]
        self._open(seeds)
        replay = jax.tree.map(np.array, states.replay)
        for index in range(seeds):
            _seed(replay, index).cut()
        restarted = [world.restart(_seed(states.world, index)) for index, world in enumerate(self.worlds)]
        return dataclasses.replace(states, replay=replay, world=_stack_on_host(restarted))

    def compile(self, states: OffPolicyState, iterations: Int[Array, ""], keys: Key[Array, "K"]) -> None:
        """Compiles what training and evaluation call, so that no later call does."""
        del iterations, keys
        leaves = jax.tree.leaves(jax.tree.map(lambda leaf: leaf[0], states.learned))
        key = states.key[0]
        replay = _seed(states.replay, 0)
        batches = self._draw(replay, np.zeros((2,), np.uint32), 0)
        self._act(leaves, _seed(states.world, 0).observation, key, np.int32(0))
        self._learn(_copies(leaves), self._zero_sums(leaves, replay, key), batches, key, np.int32(0))
        self.evaluator.compile(leaves)

    def train(self, states: OffPolicyState, iterations: Int[Array, ""]) -> tuple[OffPolicyState, dict[str, np.ndarray]]:
        """Runs ``iterations`` iterations of every seed. The replay memory is changed in place."""
        ran = [self._train_one(index, _seed(states, index), int(iterations)) for index in range(len(self.worlds))]
        learned = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state.learned for state, _ in ran))
        counters = {
            name: jnp.stack([getattr(state, name) for state, _ in ran])
            for name in ("update", "env_steps", "gradient_steps")
        }
        world = _stack_on_host([state.world for state, _ in ran])
        states = dataclasses.replace(states, learned=learned, world=world, **counters)
        return states, {name: np.array([metrics[name] for _, metrics in ran]) for name in ran[0][1]}

    def evaluate(self, states: OffPolicyState, keys: Key[Array, "K"]) -> dict[str, np.ndarray]:
        """Stochastic and deterministic episodes of every seed."""
        rows = [
            self.evaluator.metrics(jax.tree.leaves(_seed(states.learned, index)), keys[index])
            for index in range(keys.shape[0])
        ]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def explain(self, fault: Fault) -> str:
        """Says what went wrong in a block of iterations, from what the world and the metrics saw.

        A simulator's past cannot be played again: nothing is replayed, and no dump is written beside the checkpoints.
        """
        seen = self.worlds[fault.index].take_faults()
        cause = f": {'; '.join(seen[:3])}" if seen else ""
        return f"{fault.happened()} in seed {fault.seed}, the last {fault.iterations} iterations{cause}"

    def close(self) -> None:
        """Ends all environments."""
        for world in (*self.worlds, self.evaluator.world):
            world.close()

    # ------------------------------------------------------------------ one seed

    def _train_one(self, index: int, state: OffPolicyState, iterations: int) -> tuple[OffPolicyState, dict[str, Any]]:
        config, world, clock = self.learner.config, self.worlds[index], self.clock
        num_envs, replay, key = world.num_envs, state.replay, state.key
        words = np.asarray(jax.random.key_data(key))
        env_steps, gradient_steps = int(state.env_steps), int(state.gradient_steps)
        count = int(state.update) * config.collect_steps
        leaves = _copies(jax.tree.leaves(state.learned))  # given away at the first gradient step
        sums = self._zero_sums(leaves, replay, key)
        present, seen = world.present(), self.seen[index]
        for _ in range(iterations * config.collect_steps):
            begin = time.perf_counter()
            if env_steps < config.warmup_steps:
                box = (num_envs, world.action_size)
                action = _random(words, _WARMUP, count).uniform(-1.0, 1.0, box).astype(np.float32)
            else:
                action = np.asarray(self._act(leaves, present.observation, key, np.int32(count)))
            acted = drawn = handed = learned = time.perf_counter()
            if env_steps >= config.warmup_steps and int(replay.filled) * num_envs >= config.batch_size:
                batches = self._draw(replay, words, gradient_steps)
                drawn = time.perf_counter()
                if clock.apart:
                    batches = jax.block_until_ready(jax.device_put(batches))
                    handed = time.perf_counter()
                leaves, sums = self._learn(leaves, sums, batches, key, np.int32(gradient_steps))
                gradient_steps += config.updates_per_step
                if clock.apart:
                    jax.block_until_ready(leaves)
                learned = time.perf_counter()
                handed = handed if clock.apart else learned
            observation = present.observation
            present, transition = world.step(present, action)
            stepped = time.perf_counter()
            replay.write(remembered(observation, action, transition))
            seen.add(transition)
            env_steps += num_envs
            count += 1
            written = time.perf_counter()
            clock.acting += acted - begin
            clock.replay += drawn - acted + written - stepped
            clock.handing_over += handed - drawn
            clock.learning += learned - handed
            clock.environment += stepped - learned
        metrics = {name: float(value) for name, value in summarise(sums).items()} | seen.take()
        metrics["world/bad_starts"] = float(world.take_bad_starts())
        state = dataclasses.replace(
            state,
            learned=jax.tree.unflatten(self._structure, leaves),
            world=present,
            update=state.update + iterations,
            env_steps=jnp.asarray(env_steps, jnp.int32),
            gradient_steps=jnp.asarray(gradient_steps, jnp.int32),
        )
        return state, metrics

    def _open(self, seeds: int) -> None:
        """Makes the environments of every seed."""
        for world in self.worlds:
            world.close()
        num_envs = self.world.num_envs
        self.worlds = [self.world.with_num_envs(num_envs) for _ in range(seeds)]
        self.seen = [Seen(num_envs) for _ in range(seeds)]

    def _example(self) -> Experience:
        """Shapes of one control step's experience, on the host."""
        example = self.learner.example()
        if not self.world.declared.idle_steps:
            return example
        return dataclasses.replace(example, valid=_shape(example.terminated.shape, bool))

    def _draw(self, replay: Replay, words: np.ndarray, gradient_steps: int) -> Batch:
        """Batches for the gradient steps of one control step, stacked along a new first axis."""
        config, sampling = self.learner.config, self.learner.sampling()
        batches = []
        for step in range(gradient_steps, gradient_steps + config.updates_per_step):
            uniform = _random(words, _BATCH, step).random(config.batch_size + 1, dtype=np.float32)
            batches.append(replay.gather(uniform, config.discount, **sampling))
        return _stack_on_host(batches)

    def _zero_sums(self, leaves: list, replay: Replay, key: jax.Array) -> dict[str, jax.Array]:
        """Zeros for the sums of all metrics."""
        if not self._metrics:
            batch = jax.tree.map(lambda leaf: leaf[0], self._draw(replay, np.zeros((2,), np.uint32), 0))
            learned = jax.tree.unflatten(self._structure, leaves)
            self._metrics = jax.eval_shape(self.learner.gradient_step, learned, batch, key, np.int32(0))[1]
        sums = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in self._metrics.items()}
        return sums | {"train/gradient_steps": jnp.zeros(())}


class Seen:
    """What N environments showed since the last line of metrics, and the returns of the episodes under way."""

    def __init__(self, num_envs: int):
        self.returns = np.zeros((num_envs,))
        self.lengths = np.zeros((num_envs,))
        self._forget()

    def _forget(self) -> None:
        self.steps, self.reward, self.diverged = 0, 0.0, 0
        self.finished: list[float] = []
        self.finished_lengths: list[float] = []

    def add(self, transition: Transition) -> None:
        """Takes in one control step."""
        happened = np.ones(self.returns.shape, bool) if transition.valid is None else np.asarray(transition.valid)
        self.steps += int(happened.sum())
        self.reward += float(np.sum(transition.reward, where=happened))
        self.diverged += int(transition.diverged.sum())
        self.returns += np.where(happened, transition.reward, 0.0)
        self.lengths += happened
        done = np.asarray(transition.done)
        if done.any():
            self.finished += self.returns[done].tolist()
            self.finished_lengths += self.lengths[done].tolist()
            self.returns[done] = self.lengths[done] = 0.0

    def take(self) -> dict[str, float]:
        """Metrics of what came since the last call; the mean over episodes is NaN where none ended."""
        metrics = {
            "train/reward": self.reward / max(self.steps, 1),
            "train/episode_return": float(np.mean(self.finished)) if self.finished else float("nan"),
            "train/episode_length": float(np.mean(self.finished_lengths)) if self.finished else float("nan"),
            "world/diverged": float(self.diverged),
        }
        self._forget()
        return metrics


def _random(words: np.ndarray, purpose: int, count: int) -> np.random.Generator:
    """Random numbers that follow from the run's key, a purpose and a count, and from nothing else."""
    key = int(words[0]) | int(words[1]) << 32 | purpose << 64
    return np.random.Generator(np.random.Philox(key=key, counter=[0, count, 0, 0]))


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def _copies(leaves: list) -> list:
    return [jnp.array(leaf, copy=True) for leaf in leaves]


def _seed(states: PyTree, index: int) -> PyTree:
    """One seed's part of stacked states. What lives on the host stays a view, so that writing to it writes there."""
    return jax.tree.map(lambda leaf: leaf[index, ...], states)


def _stack_on_host(trees: list[PyTree]) -> PyTree:
    """Stacks trees of host arrays along a new first axis; a single tree is not copied."""
    if len(trees) == 1:
        return jax.tree.map(lambda leaf: leaf[None], trees[0])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
