"""What all off-policy algorithms share: act, remember, and learn from what is remembered.

SAC, TD3, CrossQ, FlowRL and SAC Flow each state in their own file what they learn (`init_learned`) and one gradient
step on a batch (`gradient_step`). The iteration itself is `OffPolicyLearner.step`:

    collect_steps times:
        1. act in N environments (uniformly at random during warm-up), remember the transitions
        2. updates_per_step gradient steps, each on a fresh batch from the replay memory

For functional worlds all of it is one compiled program. For hosted worlds, the training program runs the same `explore`
and `gradient_step` around the host's stepping.
"""

import abc
import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array, Bool, Float, Int, PyTree

from penstock._errors import CapabilityError, ConfigurationError, require
from penstock._types import Actions, Key, Scalar
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.metric_rules import steps_of
from penstock.algorithms.off_policy_config import OffPolicyConfig
from penstock.data import Batch, Experience, Replay
from penstock.data.replay import memory_bytes
from penstock.networks import Normalizer
from penstock.networks.precision import in_precision
from penstock.observation import blank
from penstock.policies import Actor, Agent, Need, require_of_policy
from penstock.worlds import FunctionalWorld, Observation, Transition, World
from penstock.worlds.hosted.hosted_world import HostedState
from penstock.worlds.world import WorldState


class OffPolicyState(eqx.Module):
    """Everything that evolves in an off-policy run: one pytree of arrays; with a leading axis for several seeds.

    Attributes:
        learned: what the algorithm trains: actor, critics, targets, optimisers, temperature.
        replay: the replay memory; in host memory for hosted worlds.
        world: state of the N environments; for hosted worlds, what is known of it.
        key: base random key; never consumed, only folded with purpose and count.
        update: number of finished iterations.
        env_steps: environment steps so far, all environments together.
        gradient_steps: gradient steps so far.
    """

    learned: Any
    replay: Replay
    world: WorldState | HostedState
    key: jaxtyping.Key[Array, "*seeds"]
    update: Int[Array, "*seeds"]
    env_steps: Int[Array, "*seeds"]
    gradient_steps: Int[Array, "*seeds"]


class Rollout(NamedTuple):
    """What a replayed iteration shows to a post-mortem.

    Attributes:
        diagnostics: the world's, ``(H, N)`` each.
        gradient_events: ``(H, 2, N)`` zeros: nothing is differentiated through the world.
    """

    diagnostics: dict[str, Float[Array, "H N"]]
    gradient_events: Float[Array, "H 2 N"]


ConfigT = TypeVar("ConfigT", bound=OffPolicyConfig)


class OffPolicyLearner(abc.ABC, Generic[ConfigT]):
    """One off-policy algorithm, bound to a world and a plan. `init` and `step` are pure.

    Attributes:
        config: settings.
        world: N environments.
        planned_updates: iterations of the plan.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()
    """What the policy must offer beside draws."""
    policy_hint: ClassVar[str] = "Choose another policy with --policy."
    notices: tuple[str, ...] = ()
    """Sentences that whoever starts a run should read."""

    def __init__(self, config: ConfigT, world: World, planned_updates: int):
        self.config = config
        self.world = world
        self.planned_updates = planned_updates
        abstract = jax.eval_shape(self.init_learned, jax.random.key(0))
        require_of_policy(self.actor(abstract).policy, self.needs, self.name, self.policy_hint)
        planned = planned_updates * self.steps_per_update
        for field, most in (("warmup_steps", planned - 1), ("batch_size", planned)):
            if getattr(config, field) > most:
                raise ConfigurationError(
                    f"{field} = {getattr(config, field)}: the whole run has {planned} environment steps, so nothing "
                    f"would be learned. Pass more --steps, or a smaller --{field.replace('_', '-')}."
                )
        require(
            config.n_step <= self.capacity // world.num_envs,
            "n_step",
            config.n_step,
            f"must not exceed the {self.capacity // world.num_envs} control steps that the replay memory holds",
        )

    def require_memory(self, seeds: int) -> None:
        """Refuses a replay memory that this machine cannot hold once for each seed."""
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # On functional worlds, a step holds the memory before and after it, and a checkpoint a copy.
        copies = 3 if self.world.functional else 1
        if self.world.functional and jax.default_backend() != "cpu":
            return
        if seeds * copies * self.replay_bytes > 0.8 * available:
            times = f" for each of {seeds} seeds" if seeds > 1 else ""
            times += ", training holds them up to three times" if copies == 3 else ""
            raise ConfigurationError(
                f"replay_capacity = {self.config.replay_capacity}: {self.capacity:,} transitions of this world take "
                f"{self.replay_bytes / 2**30:.1f} GiB{times}, and this machine has "
                f"{available / 2**30:.1f} GiB. Choose a smaller --replay-capacity{' or fewer --seeds' * (seeds > 1)}."
            )

    def opening_notices(self) -> list[str]:
        """What a user should know before the first step, in sentences."""
        size = self.replay_bytes
        text = f"{size / 2**30:.2f} GiB" if size > 2**28 else f"{size / 2**20:.1f} MiB"
        where = "on the device" if self.world.functional else "in host memory"
        return [f"replay memory: {self.capacity:,} transitions, {text} {where}, for each seed", *self.notices]

    # ------------------------------------------------------------------ what an algorithm states

    @abc.abstractmethod
    def init_learned(self, key: Key) -> Any:
        """Draws what the algorithm trains."""

    @abc.abstractmethod
    def actor(self, learned: Any) -> Actor:
        """The acting part of what is learned."""

    @abc.abstractmethod
    def gradient_step(
        self, learned: Any, batch: Batch, key: Key, count: Int[Array, ""]
    ) -> tuple[Any, dict[str, Scalar]]:
        """One gradient step on a batch.

        Args:
            learned: as `init_learned` returns it.
            batch: samples from the replay memory.
            key: fresh key of this step.
            count: gradient steps before this one.

        Returns:
            What is learned now, and metrics. Those of a delayed part are 0 where it did not run, and its name with
            ``/steps`` counts how often it did.
        """

    def measure(self, state: Any) -> dict[str, Scalar]:
        """Metrics of a state, measured once per log row: none."""
        del state
        return {}

    def learn(self, learned: Any, batch: Batch, key: Key, count: Int[Array, ""]) -> tuple[Any, dict[str, Scalar]]:
        """`gradient_step` in the configured precision."""
        return in_precision(self.config.precision, self.gradient_step)(learned, batch, key, count)

    def explore(self, learned: Any, observation: Observation, key: Key) -> Actions:
        """Actions for collecting data, inside [-1, 1]."""
        return self.agent_of(learned).sample(observation, key).action

    def sampling(self) -> dict[str, int]:
        """How batches are drawn: keyword arguments of `Replay.gather`."""
        return {"n_step": self.config.n_step}

    # ------------------------------------------------------------------ the iteration

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one iteration: N * collect_steps."""
        return self.world.num_envs * self.config.collect_steps

    @property
    def capacity(self) -> int:
        """Transitions to allocate, in whole control steps: the plan's length where that is less than configured."""
        planned, num_envs = self.planned_updates * self.steps_per_update, self.world.num_envs
        control_steps = min(self.config.replay_capacity, planned) // num_envs
        return num_envs * max(control_steps, -(-self.config.batch_size // num_envs))

    def normalizer(self) -> Normalizer:
        """Observations are not normalised."""
        return Normalizer.create(self.world.observation_spec.vector, enabled=False)

    def agent_of(self, learned: Any) -> Agent:
        """The acting part of what is learned."""
        return Agent(self.actor(learned), self.normalizer(), self.config.deterministic())

    def agent(self, state: OffPolicyState) -> Agent:
        """The acting part of a state, for evaluation and export."""
        return self.agent_of(state.learned)

    def example(self) -> Experience:
        """Shapes of one control step's experience."""
        num_envs, action_size = self.world.num_envs, self.world.action_size

        def zeros():
            observation = blank(self.world.observation_spec, num_envs)
            numbers, flags = jnp.zeros((num_envs,)), jnp.zeros((num_envs,), bool)
            return Experience(observation, jnp.zeros((num_envs, action_size)), numbers, flags, flags, observation)

        return jax.eval_shape(zeros)

    @property
    def replay_bytes(self) -> int:
        """Bytes of the replay memory."""
        return memory_bytes(self.example(), self.capacity)

    def init(self, key: Key) -> OffPolicyState:
        """Draws the state before the first iteration, on a functional world."""
        key_learned, key_world, key_base = jax.random.split(key, 3)
        world = self._functional_world().reset(key_world)
        count = jnp.asarray(0, jnp.int32)
        return OffPolicyState(
            learned=self.init_learned(key_learned),
            replay=Replay.create(self.example(), self.capacity),
            world=world,
            key=key_base,
            update=count,
            env_steps=count,
            gradient_steps=count,
        )

    def step(self, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, Scalar]]:
        """One iteration: ``N * collect_steps`` environment steps and their gradient steps."""
        state, metrics, _ = self._iterate(state)
        return state, metrics

    def return_gradient(self, state: OffPolicyState) -> tuple[PyTree, Rollout, Any, dict[str, Scalar]]:
        """Replays an iteration for a post-mortem: nothing of a gradient, and what the world showed."""
        after, metrics, diagnostics = self._iterate(state)
        events = jnp.zeros((self.config.collect_steps, 2, self.world.num_envs))
        return {}, Rollout(diagnostics, events), after.world, metrics

    def _iterate(self, state):
        world = self._functional_world()

        def control_step(carry, index):
            state, sums = carry
            count = state.update * self.config.collect_steps + index
            observation = state.world.observation
            random = state.env_steps < self.config.warmup_steps
            action = jax.lax.cond(
                random,
                lambda key: jax.random.uniform(key, (world.num_envs, world.action_size), minval=-1.0, maxval=1.0),
                lambda key: self.explore(state.learned, observation, key),
                purpose_key(state.key, count, "explore"),
            )
            world_state, transition = world.step(state.world, action)
            experience = remembered(observation, action, transition)
            state = dataclasses.replace(
                state,
                replay=state.replay.add(jax.lax.stop_gradient(experience)),
                world=world_state,
                env_steps=state.env_steps + world.num_envs,
            )
            ready = (state.env_steps >= self.config.warmup_steps) & (
                state.replay.filled * world.num_envs >= self.config.batch_size
            )
            state, learned = where_due(ready, self._gradient_steps, state)
            sums = {name: sums[name] + learned[name] for name in sums}
            shown = {**transition.diagnostics, "reward": transition.reward}
            return (state, sums), (shown, transition.diverged)

        (state, sums), (shown, diverged) = jax.lax.scan(
            control_step, (state, no_metrics(self._gradient_steps, state)), jnp.arange(self.config.collect_steps)
        )
        state = dataclasses.replace(state, update=state.update + 1)
        metrics = summarise(sums) | {f"train/{name}": value.mean() for name, value in shown.items()}
        metrics["world/diverged"] = diverged.sum().astype(jnp.float32)
        return state, metrics, {name: value for name, value in shown.items() if name != "reward"}

    def _gradient_steps(self, state: OffPolicyState) -> tuple[OffPolicyState, dict[str, Scalar]]:
        """``updates_per_step`` gradient steps; metrics are summed over them."""

        def one(carry, _):
            learned, count = carry
            key = purpose_key(state.key, count, "batch")
            batch = state.replay.sample(key, self.config.batch_size, self.config.discount, **self.sampling())
            learned, metrics = self.learn(learned, batch, purpose_key(state.key, count, "gradient step"), count)
            return (learned, count + 1), metrics | {"train/gradient_steps": jnp.ones(())}

        (learned, count), metrics = jax.lax.scan(
            one, (state.learned, state.gradient_steps), None, length=self.config.updates_per_step
        )
        state = dataclasses.replace(state, learned=learned, gradient_steps=count)
        return state, {name: values.sum(axis=0) for name, values in metrics.items()}

    def _functional_world(self) -> FunctionalWorld:
        if not isinstance(self.world, FunctionalWorld):
            raise CapabilityError(f"'{self.world.name}' does not live inside jit; it is trained by the hosted program.")
        return self.world


def remembered(observation: Observation, action: Actions, transition: Transition) -> Experience:
    """What the replay memory keeps of a control step."""
    return Experience(
        observation,
        action,
        transition.reward,
        transition.terminated,
        transition.truncated,
        transition.final_observation,
        transition.valid,
    )


def summarise(sums: dict[str, Scalar]) -> dict[str, Scalar]:
    """Means over gradient steps from sums; counters stay sums."""

    def mean(name):
        counter = steps_of(name, sums)
        return sums[name] / jnp.maximum(sums[counter], 1.0) if counter else sums[name]

    return {name: mean(name) for name in sums}


def no_metrics(part: Callable[[Any], tuple[Any, dict[str, Scalar]]], state: Any) -> dict[str, Scalar]:
    """The metrics of a part of an iteration, all 0."""
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(part, state)[1])


def where_due(
    due: Bool[Array, ""], part: Callable[[Any], tuple[Any, dict[str, Scalar]]], state: Any
) -> tuple[Any, dict[str, Scalar]]:
    """What a part of an iteration makes of a state, and its metrics; where it is not due, the state and zeros."""
    nothing = no_metrics(part, state)
    return jax.lax.cond(due, part, lambda state: (state, nothing), state)


def polyak(target: PyTree, online: PyTree, rate: float) -> PyTree:
    """``(1 - rate) target + rate online``."""
    return jax.tree.map(lambda old, new: (1.0 - rate) * old + rate * new, target, online)
