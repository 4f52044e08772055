"""What all off-policy algorithms share: they learn from batches of a replay memory.

SAC, TD3, CrossQ, FlowRL and SAC Flow each state in their own file what they learn (``init``) and one gradient step on a
batch (``gradient_step``). Acting, remembering and sampling are the drivers' part (``penstock/training/drivers``).

With ``chunk_length`` C what they call an action is a plan of C actions, which runs open loop. A reward is then the
discounted sum of those of its k steps, C or those until the episode ended, and their gamma is ``gamma^k``. So none of
them knows of chunks, but for the size of an action (`OffPolicyLearner.flat_size`).
"""

import abc
import dataclasses
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Int, PyTree

from penstock._errors import ConfigurationError, require
from penstock._types import Key
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import Batches, Clock, Learner, Metrics, Updated
from penstock.algorithms.off_policy_config import OffPolicyConfig
from penstock.data import Batch
from penstock.networks import Normalizer
from penstock.policies import Actor, Agent
from penstock.worlds import World

ConfigT = TypeVar("ConfigT", bound=OffPolicyConfig)


class OffPolicyLearner(Learner[ConfigT]):
    """One off-policy algorithm, bound to a world and a plan. What it learns has an ``actor``."""

    def __init__(self, config: ConfigT, world: World, planned_updates: int):
        super().__init__(config, world, planned_updates)
        self.require_policy(self.shapes().actor.policy)
        planned = planned_updates * world.num_envs * config.collect_steps
        for field, most in (("warmup_steps", planned - 1), ("batch_size", planned // config.samples.chunk_length)):
            if getattr(config, field) > most:
                chunks = (
                    f" in chunks of chunk_length = {config.samples.chunk_length}"
                    if config.samples.chunk_length > 1
                    else ""
                )
                raise ConfigurationError(
                    f"{field} = {getattr(config, field)}: the whole run has {planned} environment steps{chunks}, so "
                    f"nothing would be learned. Pass more --steps, or a smaller --{field.replace('_', '-')}."
                )
        require(
            config.samples.n_step <= min(self.capacity, planned) // world.num_envs,
            "n_step",
            config.samples.n_step,
            f"must not exceed the {min(self.capacity, planned) // world.num_envs} control steps that the replay memory "
            "holds",
        )

    # ------------------------------------------------------------------ what an algorithm states

    @abc.abstractmethod
    def gradient_step(self, learned: Any, batch: Batch, key: Key, count: Int[Array, ""]) -> tuple[Any, Metrics]:
        """One gradient step on a batch.

        Args:
            learned: as ``init`` returns it.
            batch: samples from the replay memory.
            key: fresh key of this step.
            count: gradient steps before this one.

        Returns:
            What is learned now, and metrics.
        """

    def sampling(self) -> dict[str, int]:
        """How batches are drawn: keyword arguments of `Replay.gather`."""
        return {"n_step": self.config.samples.n_step}

    # ------------------------------------------------------------------ what follows

    def update(self, learned: Any, data: Batch, key: Key, clock: Clock) -> Updated:
        """See `learner.Learner.update`: a `gradient_step`, on observations as the agent's networks see them."""
        count, normalizer = clock.gradient_steps, getattr(learned, "normalizer", None)
        if normalizer is not None:
            normalizer = normalizer.merge(data.observation)
            learned = dataclasses.replace(learned, normalizer=normalizer)
            seen, next_seen = normalizer(data.observation), normalizer(data.next_observation)
            data = dataclasses.replace(data, observation=seen, next_observation=next_seen)
        return Updated(*self.gradient_step(learned, data, purpose_key(key, count, "gradient step"), count))

    @property
    def data(self) -> Batches:
        """See `learner.Learner.data`."""
        config = self.config
        return Batches(
            steps=config.collect_steps,
            batch_size=config.batch_size,
            capacity=self.capacity,
            warmup_steps=config.warmup_steps,
            updates_per_step=config.updates_per_step,
            sampling={"discount": config.discount, "chunk_length": config.samples.chunk_length, **self.sampling()},
        )

    @property
    def capacity(self) -> int:
        """Transitions that the memory holds, in whole control steps; a batch at least.

        With chunks in whole stretches of them, and one stretch more than a batch: one is being written.
        """
        stretch = self.world.num_envs * self.config.samples.chunk_length
        batch = -(-self.config.batch_size // self.world.num_envs) + (self.config.samples.chunk_length > 1)
        return stretch * max(self.config.replay_capacity // stretch, batch)

    @property
    def flat_size(self) -> int:
        """Numbers of one decision, C * d: what a draw of the policy emits, and what critics judge."""
        return self.config.samples.chunk_length * self.world.action_size

    def initial_normalizer(self) -> Normalizer | None:
        """Statistics of no observation yet; None where observations are not normalised."""
        return Normalizer.create(self.world.observation_spec.vector) if self.config.normalize_observations else None

    def agent(self, learned: Any) -> Agent:
        """See `learner.Learner.agent`."""
        normalizer = getattr(learned, "normalizer", None)
        agent = self.agent_in_batches(learned.actor)
        return agent if normalizer is None else dataclasses.replace(agent, normalizer=normalizer)

    def agent_in_batches(self, actor: Actor) -> Agent:
        """An agent on the observations of batches, which are normalised already."""
        unchanged = Normalizer.create(self.world.observation_spec.vector, enabled=False)
        return Agent(actor, unchanged, self.config.deterministic(), self.config.samples.chunk_length)


def polyak(target: PyTree, online: PyTree, rate: float) -> PyTree:
    """``(1 - rate) target + rate online``."""
    return jax.tree.map(lambda old, new: (1.0 - rate) * old + rate * new, target, online)
