"""PPO: a policy gradient whose steps are limited by clipping the ratio of new to old density.

With delta = log pi(a | s) - log pi_old(a | s) and the advantage A of GAE(lambda), normalised over the iteration,

    L_actor  = -E[ min(e^delta A, clip(e^delta, 1 - epsilon, 1 + epsilon) A) ] - c_H H
    A_t      = sum_l (gamma lambda)^l (r_{t+l} + gamma V(s_{t+l+1}) - V(s_{t+l}))
    L_critic = E[ (V(s) - (A + V_old(s)))^2 ] / 2
    KL       ~ E[ e^delta - 1 - delta ]                      non-negative sample by sample, for any policy

An episode that met its time limit is bootstrapped with the value of its final observation, one that terminated is not.
The density is that of the action, or of the path that led to it, whichever the policy has: of a Gaussian, a coupling
flow (NFPO), a noisy flow. Before the first gradient step of an iteration all ratios are 1, because observation
statistics are frozen from the first step of the window to the last gradient step on it. Where a mirror is given
(`penstock.algorithms.symmetry`), every step counts once more as the mirror shows it, against the density of the step.

With a recurrence h_t = cell(h_{t-1}, s_t), zeros where an episode begins, the policy is pi(a | h_t), and the critic has
a cell of its own, V(g_t), as in rsl_rl and Stable-Baselines3's RecurrentPPO. A gradient step unrolls whole windows of
environments from the memories with which the window began; gradients stop there.

Sources: Schulman et al. 2017 (arXiv 1707.06347), GAE 2016 (arXiv 1506.02438); the adaptive rate, and gradients that are
clipped apart, as in rsl_rl 5 (github.com/leggedrobotics/rsl_rl); the estimator of the KL divergence: Schulman 2020.
"""

import dataclasses
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from penstock._types import Key, Scalar
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import Clock, Updated, WindowOfRecords, counts, means
from penstock.algorithms.learner import Learner as AnyLearner
from penstock.algorithms.on_policy_config import RATE_BOUNDS, OnPolicyConfig
from penstock.algorithms.sequences import Remembered, Sequence, by_step, exchanged, over, sequence_of
from penstock.algorithms.symmetry import Mirror
from penstock.critics import Critic, td_lambda_targets
from penstock.data import Records
from penstock.networks import Normalizer
from penstock.networks.optimization import LearningRate, Optimizer, guarded_step, make_optimizer
from penstock.observation import Observation
from penstock.policies import Actor, Agent, Draw, Need, make_actor
from penstock.worlds import World

LARGEST_DELTA = 20.0
"""Log-ratios are cut there before they are exponentiated."""


@dataclasses.dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Settings of PPO."""


class Learned(eqx.Module):
    """What PPO learns.

    Attributes:
        actor: encoder and policy.
        actor_optimizer: optimiser state.
        critic: state-value network.
        critic_optimizer: optimiser state.
        normalizer: observation statistics.
        rate: the actor's learning rate, as a multiple of the one that was set.
    """

    actor: Actor
    actor_optimizer: PyTree
    critic: Critic
    critic_optimizer: PyTree
    normalizer: Normalizer
    rate: Scalar


class Samples(eqx.Module):
    """What the gradient steps of an iteration learn from, H * N of everything.

    Attributes:
        observation: normalised.
        record: of the draw.
        log_prob: of the draw, under the policy that acted.
        advantage: normalised.
        value: of the critic before the update.
        target: what the critic is to learn.
        weight: 1; 0 for steps at which nothing happened.
        drawn: the same, but 0 for copies in a mirror: the policy did not draw them.
        sequence: of whom remembers; all else is then of ``(N, H)``.
    """

    observation: Observation
    record: Any
    log_prob: Float[Array, "*B"]
    advantage: Float[Array, "*B"]
    value: Float[Array, "*B"]
    target: Float[Array, "*B"]
    weight: Float[Array, "*B"]
    drawn: Float[Array, "*B"]
    sequence: Sequence | None = None


ConfigT = TypeVar("ConfigT", bound=OnPolicyConfig)


class PPOLearner(AnyLearner[ConfigT]):
    """Proximal policy optimisation under any policy with a density: see the module's equations."""

    needs: ClassVar[tuple[Need, ...]] = (Need.DENSITY,)
    policy_hint: ClassVar[str] = "Use --policy gaussian, coupling, noisy-flow or marginal-flow."

    def __init__(self, config: ConfigT, world: World, planned_updates: int):
        super().__init__(config, world, planned_updates)
        config.require_minibatches(world.num_envs)
        self.mirror = config.recurrent.mirror(world.observation_spec, world.action_size)
        self.actor_optimizer = self._optimizer(config.optimizer.actor_learning_rate)
        self.critic_optimizer = self._optimizer(config.critic.critic_learning_rate)
        actor = jax.eval_shape(self._make_actor, jax.random.key(0))
        self.require_policy(actor.policy)
        self.memory_size = actor.memory_size

    @property
    def data(self) -> WindowOfRecords:
        """See `learner.Learner.data`."""
        return WindowOfRecords(self.config.window)

    def _optimizer(self, learning_rate: float) -> Optimizer:
        settings = self.config.optimizer
        return make_optimizer(
            learning_rate, learning_rate, 1, clip=settings.gradient_clip, betas=(0.9, 0.999), weight_decay=0.0
        )

    def _make_actor(self, key: Key) -> Actor:
        config, world = self.config, self.world
        key_encoder, key_policy = jax.random.split(key)
        trunk = config.trunk(config.actor_hidden)
        spec, size = world.observation_spec, world.action_size
        return make_actor(key_encoder, key_policy, config.acting_policy, spec, size, trunk, config.recurrent.build)

    def init(self, key: Key) -> Learned:
        """See `learner.Learner.init`."""
        key_actor, key_critic = jax.random.split(key)
        config, spec = self.config, self.world.observation_spec
        actor = self._make_actor(key_actor)
        critic = Critic(
            key_critic, spec, config.trunk(config.critic.critic_hidden), 1, recurrent=config.recurrent.build
        )
        return Learned(
            actor=actor,
            actor_optimizer=self.actor_optimizer.init(eqx.filter(actor, eqx.is_array)),
            critic=critic,
            critic_optimizer=self.critic_optimizer.init(eqx.filter(critic, eqx.is_array)),
            normalizer=Normalizer.create(spec.vector, config.normalize_observations),
            rate=jnp.ones(()),
        )

    def agent(self, learned: Learned) -> Agent:
        """See `learner.Learner.agent`."""
        return Agent(learned.actor, learned.normalizer, self.config.deterministic())

    # ------------------------------------------------------------------ memory

    def acting_memory(self, num_envs: int) -> Remembered | None:
        """See `learner.Learner.acting_memory`: of a recurrence, that of the actor and that of the critic."""
        if not self.config.recurrent.remembers:
            return None
        nothing = jnp.zeros((num_envs, self.memory_size))
        return Remembered(nothing, nothing)

    def explore_remembering(
        self, learned: Learned, memory: Remembered | None, observation: Observation, key: Key
    ) -> tuple[Remembered | None, Draw]:
        """See `learner.Learner.explore_remembering`."""
        if memory is None:
            return None, self.explore(learned, observation, key)
        agent = self.agent(learned)
        actor, features = agent.recall(memory.actor, observation)
        critic = learned.critic.recall(memory.critic, learned.normalizer(observation))
        return Remembered(actor, critic), agent.draw(features, key)

    # ------------------------------------------------------------------ the iteration

    def update(self, learned: Learned, data: Records, key: Key, clock: Clock) -> Updated:
        """One iteration: several passes over a window, in shuffled minibatches."""
        config = self.config
        samples = self.samples(learned, data)
        size = samples.weight.shape[0]

        def shuffled(key):
            return jax.random.permutation(key, size).reshape(config.minibatches, -1)

        keys = jax.random.split(purpose_key(key, clock.update, "minibatches"), config.epochs)
        batches = jax.lax.collapse(jax.vmap(shuffled)(keys), 0, 2)
        noises = jax.random.split(purpose_key(key, clock.update, "entropy"), len(batches))

        def step(learned, now):
            indices, key = now
            return self.gradient_step(learned, jax.tree.map(lambda leaf: leaf[indices], samples), key)

        learned, (measured, skipped) = jax.lax.scan(step, learned, (batches, noises))
        metrics = {name: value.mean() for name, value in measured.items()}
        metrics["actor/largest_log_ratio"] = measured["actor/largest_log_ratio"].max()
        metrics["actor/learning_rate"] = self.actor_optimizer.rate.initial * learned.rate
        happened = jnp.maximum(samples.drawn.sum(), 1.0)
        metrics["train/reward"] = (jnp.where(data.valid, data.reward, 0.0)).sum() / happened
        metrics["policy/saturation"] = learned.actor.policy.squashing.saturated(data.action).mean()
        metrics["critic/target_mean"] = (samples.target * samples.drawn).sum() / happened
        learned = dataclasses.replace(learned, normalizer=learned.normalizer.merge(data.observation))
        return Updated(learned, means(metrics) | counts({name: value.sum() for name, value in skipped.items()}))

    def samples(self, learned: Learned, data: Records) -> Samples:
        """Advantages and targets of a window, and the densities with which it was drawn."""
        config, sequence = self.config, sequence_of(data)
        flat, unflat = (by_step, lambda leaf: leaf.reshape(data.reward.shape))
        if sequence is not None:
            flat = unflat = exchanged
        raw, final = (jax.tree.map(flat, part) for part in (data.observation, data.final_observation))
        observation, final = learned.normalizer(raw), learned.normalizer(final)
        if sequence is None:
            value, next_value = (learned.critic.normalized_values(part)[0] for part in (observation, final))
        else:
            memories, (value,) = learned.critic.unrolled(observation, sequence.start.critic, sequence.begins)
            (next_value,) = learned.critic.values_after(memories, final)
        returns = jax.vmap(td_lambda_targets, in_axes=(1, 1, 1, 1, None, None), out_axes=1)
        # GAE is the lambda-return less the value: both telescope to the same sum.
        ends = (data.terminated, data.truncated)
        target = flat(returns(data.reward, *ends, unflat(next_value), config.discount, config.critic.gae_lambda))
        weight = flat(data.valid).astype(target.dtype)
        record = jax.tree.map(flat, data.record)
        log_prob = self._log_prob(learned.actor, observation, record, sequence)
        advantage = normalized(target - value, weight)
        made = Samples(observation, record, log_prob, advantage, value, target, weight, weight, sequence)
        if self.mirror is None:
            return made
        copies = self._in_the_mirror(self.mirror, learned, raw, made)
        return jax.tree.map(lambda one, other: jnp.concatenate([one, other]), made, copies)

    def _in_the_mirror(self, mirror: Mirror, learned: Learned, observation: Observation, made: Samples) -> Samples:
        """Mirrored copies, with the densities, advantages and targets of what they are copies of."""
        seen = learned.normalizer(mirror.observation(observation))
        return dataclasses.replace(
            made,
            observation=seen,
            record=mirror.record(made.record),
            value=learned.critic.normalized_values(seen)[0],
            drawn=jnp.zeros_like(made.drawn),
        )

    def _log_prob(self, actor, observation, record, sequence=None):
        return over(actor.policy.log_prob, sequence)(self._features(actor, observation, sequence), record)

    def _features(self, actor, observation, sequence):
        if sequence is None:
            return jax.vmap(actor.encoder)(observation)
        return actor.unrolled(observation, sequence.start.actor, sequence.begins)

    def gradient_step(
        self, learned: Learned, batch: Samples, key: Key
    ) -> tuple[Learned, tuple[dict[str, Scalar], dict[str, Bool[Array, ""]]]]:
        """One step on the actor and one on the critic; what was measured, and events."""
        (_, seen), gradient = eqx.filter_value_and_grad(self._actor_loss, has_aux=True)(learned.actor, batch, key)
        rate = self._adapted(learned.rate, seen["actor/kl"])
        optimizer = dataclasses.replace(self.actor_optimizer, rate=_times(self.actor_optimizer.rate, rate))
        actor, actor_optimizer, actor_health = guarded_step(optimizer, gradient, learned.actor_optimizer, learned.actor)
        critic_loss, gradient = eqx.filter_value_and_grad(self._critic_loss)(learned.critic, batch)
        critic, critic_optimizer, critic_health = guarded_step(
            self.critic_optimizer, gradient, learned.critic_optimizer, learned.critic
        )
        after = Learned(actor, actor_optimizer, critic, critic_optimizer, learned.normalizer, rate)
        norms = {"actor/gradient_norm": actor_health.norm, "critic/gradient_norm": critic_health.norm}
        skipped = {"actor/skipped": actor_health.skipped, "critic/skipped": critic_health.skipped}
        return after, (seen | norms | {"critic/loss": critic_loss}, skipped)

    def _actor_loss(self, actor, batch, key):
        config = self.config
        log_prob = self._log_prob(actor, batch.observation, batch.record, batch.sequence)
        delta = log_prob - batch.log_prob
        ratio = jnp.exp(jnp.clip(delta, -LARGEST_DELTA, LARGEST_DELTA))
        clipped = jnp.clip(ratio, 1.0 - config.clip_range, 1.0 + config.clip_range)
        total = jnp.maximum(batch.weight.sum(), 1.0)

        def mean(values):
            return (values * batch.weight).sum() / total

        loss = -mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage))
        drawn = jnp.maximum(batch.drawn.sum(), 1.0)
        beyond = (jnp.abs(ratio - 1.0) > config.clip_range).astype(ratio.dtype)
        seen = {
            "actor/kl": ((ratio - 1.0 - delta) * batch.drawn).sum() / drawn,
            "actor/clipped": (beyond * batch.drawn).sum() / drawn,
            "actor/largest_log_ratio": (jnp.abs(delta) * batch.drawn).max(),
        }
        if config.entropy_coefficient > 0.0:
            entropy = mean(self._entropy(actor, batch, key))
            seen["policy/entropy"] = entropy
            loss -= config.entropy_coefficient * entropy
        return loss, jax.lax.stop_gradient(seen)

    def _entropy(self, actor, batch, key):
        """From one reparameterised draw per state."""
        features = self._features(actor, batch.observation, batch.sequence)
        noise = over(actor.policy.noise, batch.sequence)(jax.random.split(key, features.shape[:-1]))
        return -over(actor.policy.draw_with_log_prob, batch.sequence)(features, noise)[1]

    def _critic_loss(self, critic, batch):
        if batch.sequence is None:
            value = critic.normalized_values(batch.observation)[0]
        else:
            (value,) = critic.unrolled(batch.observation, batch.sequence.start.critic, batch.sequence.begins)[1]
        error = jnp.square(value - batch.target)
        limit = self.config.critic.value_clip
        if limit is not None:
            near = batch.value + jnp.clip(value - batch.value, -limit, limit)
            error = jnp.maximum(error, jnp.square(near - batch.target))
        return 0.5 * (error * batch.weight).sum() / jnp.maximum(batch.weight.sum(), 1.0)

    def _adapted(self, rate: Scalar, kl: Scalar) -> Scalar:
        """The rate's multiple after a look at the KL divergence; the same where that is not finite."""
        target = self.config.optimizer.kl_target
        if target is None:
            return rate
        lower, upper = (bound / self.actor_optimizer.rate.initial for bound in RATE_BOUNDS)
        slower, faster = jnp.maximum(rate / 1.5, lower), jnp.minimum(rate * 1.5, upper)
        adapted = jnp.where(kl > 2.0 * target, slower, jnp.where((kl < 0.5 * target) & (kl > 0.0), faster, rate))
        return jnp.where(jnp.isfinite(kl), adapted, rate)

    def measure(self, learned: Learned, observation: Observation, key: Key) -> dict[str, Scalar]:
        """See `learner.Learner.measure`: the policy's noise where the environments are, and what it says of itself."""
        return self._measured(learned, None, observation, key)

    def measure_remembering(
        self, learned: Learned, memory: Remembered | None, observation: Observation, key: Key
    ) -> dict[str, Scalar]:
        """See `measure`."""
        if memory is None:
            return self.measure(learned, observation, key)
        return self._measured(learned, memory.actor, observation, key)

    def _measured(self, learned, hidden, observation, key):
        agent = self.agent(learned)
        std = agent.latent_std(observation, key, hidden=hidden)
        spread = {"std": std.mean(), "std_min": std.min(), "std_max": std.max()}
        features = agent.features(observation, hidden)
        diagnosed = jax.vmap(learned.actor.policy.diagnose)(features, agent.noise(key, features.shape[0]))
        # The worst state of each, but for a share, which one state of many does not tell.
        return {f"policy/latent_{name}": value for name, value in spread.items()} | {
            f"policy/{name}": value.mean() if name == "scale_share" else value.max()
            for name, value in diagnosed.items()
        }


class Learner(PPOLearner[Config]):
    """PPO: see the module's equations."""

    name: ClassVar[str] = "ppo"


def normalized(advantage: Float[Array, "*B"], weight: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Advantages of mean 0 and standard deviation 1, over those that count."""
    total = jnp.maximum(weight.sum(), 1.0)
    centred = advantage - (advantage * weight).sum() / total
    return centred / (jnp.sqrt((jnp.square(centred) * weight).sum() / total) + 1e-8)


def _times(rate: LearningRate, factor: Scalar) -> LearningRate:
    return LearningRate(rate.initial * factor, rate.final * factor, rate.steps)
