"""SAC (soft actor-critic): maximise return plus entropy, off-policy, with a learned temperature.

    y      = r + gamma (1 - terminated) [ min_i Q'_i(s', a') - alpha log pi(a' | s') ],   a' ~ pi(. | s')
    Q_i:     minimise (Q_i(s, a) - y)^2 / 2                               Q' follows Q slowly (critic = target)
    pi:      minimise alpha log pi(a | s) - min_i Q_i(s, a),              a ~ pi(. | s) reparameterised
    alpha:   minimise alpha (-log pi - H) over log alpha                  rises while the entropy is below H

Source: Haarnoja et al. 2018 (arXiv 1812.05905), H = -d. With ``critic = crossq`` there is no target network; (s, a) and
(s', a') pass through BatchRenorm critics as one batch (CrossQ, ICLR 2024). Any policy that offers an exact density runs
here, of its actions or of the paths that lead to them; with a noisy flow it is SAC Flow (sac_flow.py).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from penstock._errors import ConfigurationError, require
from penstock._types import Key, Scalar
from penstock.algorithms.learner import Metrics, counts, means, where_due
from penstock.algorithms.off_policy import OffPolicyLearner, polyak
from penstock.algorithms.off_policy_config import (
    RENORM_WARMUP,
    CriticBase,
    CrossQCritic,
    OffPolicyConfig,
    TargetCritic,
    refuse_idle,
)
from penstock.algorithms.rules import TEMPERATURE_SWITCH, require_temperature
from penstock.critics.action_value import ActionCritic, RenormCritic, make_action_critic
from penstock.data import Batch
from penstock.networks import Normalizer, Trunk
from penstock.networks.batch_renorm import with_statistics
from penstock.networks.optimization import guarded_step, make_constant_optimizer
from penstock.policies import Actor, Need, make_actor
from penstock.worlds import World


@dataclasses.dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Settings of SAC."""

    switches: ClassVar[Mapping[str, str]] = TEMPERATURE_SWITCH
    """See `Settings.switches`."""
    initial_temperature: float = 1.0
    """alpha at the start."""
    temperature_learning_rate: float | None = 3e-4
    """Learning rate of log alpha, so that the entropy approaches the target; None (``--no-learn-temperature``) keeps
    alpha."""
    target_entropy: float | None = None
    """H in nats; None asks the policy: -d of the action; of a path, what its noise has at ``target_step_std``."""
    critic: CriticBase = TargetCritic()
    """The critics; their base first."""

    def __post_init__(self):
        super().__post_init__()
        value, rate = self.initial_temperature, self.temperature_learning_rate
        require_temperature(value, rate)
        if rate is not None and value < jnp.finfo(jnp.float32).tiny:
            raise ConfigurationError(
                f"initial_temperature = {value:g}: cannot be learned from 0; pass --no-learn-temperature or a larger "
                "value."
            )
        require(
            self.target_entropy is None or math.isfinite(self.target_entropy),
            "target_entropy",
            self.target_entropy,
            "must be finite",
        )
        if rate is None:
            refuse_idle(self, "learn_temperature = False", "target_entropy")


LOG_OF_ZERO = -200.0
"""log alpha of a temperature of 0: finite, as a checkpoint must be, and e to its power is 0 in float32."""


class Learned(eqx.Module):
    """What SAC trains. ``target`` is None with CrossQ critics; ``log_alpha`` stays where it is not learned."""

    actor: Actor
    critic: ActionCritic | RenormCritic
    target: ActionCritic | None
    log_alpha: Scalar
    actor_optimizer: PyTree
    critic_optimizer: PyTree
    alpha_optimizer: PyTree
    normalizer: Normalizer | None = None


class Learner(OffPolicyLearner[Config]):
    """Soft actor-critic: see the module's equations."""

    name: ClassVar[str] = "sac"
    num_critics: ClassVar[int] = 2
    """Size of the ensemble, of which targets and the actor use the minimum; a subclass may have another."""
    needs: ClassVar[tuple[Need, ...]] = (Need.DENSITY, Need.ACTION_GRADIENT)
    policy_hint: ClassVar[str] = "Choose another with --policy, for example gaussian or noisy-flow."

    def __init__(self, config: Config, world: World, planned_updates: int):
        betas = config.optimizer.adam_betas
        self.actor_optimizer = make_constant_optimizer(config.optimizer.actor_learning_rate, betas)
        self.critic_optimizer = make_constant_optimizer(config.critic.critic_learning_rate, betas)
        self.alpha_optimizer = make_constant_optimizer(config.temperature_learning_rate or 0.0, betas)
        super().__init__(config, world, planned_updates)
        most, because = config.policy.entropy_bound(self.flat_size)
        if config.temperature_learning_rate is not None and self.entropy_target >= most:
            default = " (the default)" if config.target_entropy is None else ""
            raise ConfigurationError(
                f"target_entropy = {self.entropy_target:.4g}{default}: {because}, so the temperature would grow "
                "without bound. Choose a smaller --target-entropy, or --no-learn-temperature."
            )

    @property
    def entropy_target(self) -> float:
        """H, in nats."""
        target = self.config.target_entropy
        return self.config.policy.entropy_target(self.flat_size) if target is None else target

    def init(self, key: Key) -> Learned:
        """See `learner.Learner.init`."""
        config, spec, d = self.config, self.world.observation_spec, self.flat_size
        key_encoder, key_policy, key_critic = jax.random.split(key, 3)
        actor = make_actor(key_encoder, key_policy, config.policy, spec, d, config.actor_trunk())
        critic, size = config.critic, self.num_critics
        if isinstance(critic, CrossQCritic):
            trunk = Trunk(critic.critic_hidden, config.activation, layer_norm=False)
            critic = RenormCritic(key_critic, spec, d, trunk, size, warmup=RENORM_WARMUP)
        else:
            assert isinstance(critic, TargetCritic)
            trunk = Trunk(critic.critic_hidden, config.activation, critic.layer_norm)
            critic = make_action_critic(key_critic, spec, d, trunk, size)
        log_alpha = jnp.maximum(jnp.log(jnp.asarray(config.initial_temperature)), LOG_OF_ZERO)
        return Learned(
            actor=actor,
            critic=critic,
            target=critic if isinstance(critic, ActionCritic) else None,
            log_alpha=log_alpha,
            actor_optimizer=self.actor_optimizer.init(eqx.filter(actor, eqx.is_array)),
            critic_optimizer=self.critic_optimizer.init(eqx.filter(critic, eqx.is_array)),
            alpha_optimizer=self.alpha_optimizer.init(log_alpha),
            normalizer=self.initial_normalizer(),
        )

    def gradient_step(self, learned: Learned, batch: Batch, key: Key, count: Int[Array, ""]) -> tuple[Learned, Metrics]:
        """See `OffPolicyLearner.gradient_step`."""
        key_critic, key_actor = jax.random.split(key)
        learned, metrics = self._critic_step(learned, batch, key_critic)

        def actor_and_temperature(learned):
            learned, log_prob, actor_metrics = self._actor_step(learned, batch, key_actor)
            learned, alpha_metrics = self._temperature_step(learned, -log_prob.mean())
            return learned, actor_metrics | alpha_metrics

        learned, delayed = where_due(count % self.config.policy_delay == 0, actor_and_temperature, learned)
        return learned, metrics | delayed

    def _critic_step(self, learned, batch, key):
        alpha = jnp.exp(learned.log_alpha)
        agent = self.agent_in_batches(learned.actor)
        next_draw, next_log_prob = agent.sample_with_log_prob(batch.next_observation, key)
        next_action = next_draw.action

        def target(next_values):
            soft = next_values.min(axis=0) - alpha * next_log_prob
            return jax.lax.stop_gradient(batch.reward + batch.bootstrap * soft)

        def loss(critic):
            if isinstance(critic, ActionCritic):
                values, statistics = critic.values(batch.observation, batch.action), None
                y = target(learned.target.values(batch.next_observation, next_action))
            else:
                both, statistics = critic.train_values(
                    jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch.observation, batch.next_observation),
                    jnp.concatenate([batch.action, next_action]),
                )
                values, next_values = jnp.split(both, 2, axis=1)
                y = target(next_values)
            return 0.5 * jnp.square(values - y).mean(axis=1).sum(), (values, y, statistics)

        (value, (values, y, statistics)), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(learned.critic)
        critic, optimizer, health = guarded_step(
            self.critic_optimizer, gradient, learned.critic_optimizer, learned.critic
        )
        if isinstance(critic, RenormCritic):
            assert statistics is not None
            norms = with_statistics(critic.norms, statistics, unless=health.skipped)
            critic = eqx.tree_at(lambda c: c.norms, critic, norms)
        tracked = learned.target
        if tracked is not None:
            assert isinstance(self.config.critic, TargetCritic)
            tracked = polyak(tracked, critic, self.config.critic.target_rate)
        learned = dataclasses.replace(learned, critic=critic, target=tracked, critic_optimizer=optimizer)
        measured = {
            "critic/loss": value,
            "critic/value_mean": values.mean(),
            "critic/target_mean": y.mean(),
            "critic/gradient_norm": health.norm,
        }
        return learned, means(measured) | counts({"critic/skipped": health.skipped})

    def _actor_step(self, learned, batch, key):
        alpha = jnp.exp(learned.log_alpha)

        def loss(actor):
            agent = self.agent_in_batches(actor)
            features = agent.features(batch.observation)
            drawn, log_prob, seen = actor.policy.train(features, agent.noise(key, features.shape[0]))
            value = learned.critic.values(batch.observation, drawn.action).min(axis=0)
            return (alpha * log_prob - value).mean(), (log_prob, drawn.action, seen)

        (value, (log_prob, action, seen)), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(learned.actor)
        actor, optimizer, health = guarded_step(self.actor_optimizer, gradient, learned.actor_optimizer, learned.actor)
        policy = with_statistics(actor.policy, seen, unless=health.skipped)
        actor = dataclasses.replace(actor, policy=policy)
        learned = dataclasses.replace(learned, actor=actor, actor_optimizer=optimizer)
        measured = {
            "actor/loss": value,
            "actor/gradient_norm": health.norm,
            "policy/entropy": -log_prob.mean(),
            "policy/saturation": (jnp.abs(action) > 0.99).mean(),
        }
        return learned, log_prob, means(measured) | counts({"actor/steps": 1, "actor/skipped": health.skipped})

    def _temperature_step(self, learned, entropy):
        gap = jax.lax.stop_gradient(entropy - self.entropy_target)
        alpha = jnp.exp(learned.log_alpha)
        if self.config.temperature_learning_rate is not None:
            gradient = jax.grad(lambda log_alpha: jnp.exp(log_alpha) * gap)(learned.log_alpha)
            log_alpha, optimizer, health = guarded_step(
                self.alpha_optimizer, gradient, learned.alpha_optimizer, learned.log_alpha
            )
            learned = dataclasses.replace(learned, log_alpha=log_alpha, alpha_optimizer=optimizer)
            skipped = health.skipped
        else:
            skipped = False
        return learned, means({"policy/temperature": alpha}) | counts({"temperature/skipped": skipped})
