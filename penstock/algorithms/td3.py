"""TD3 (twin delayed deterministic policy gradient): maximise Q through the action; smooth targets, delayed actor.

    y   = r + gamma (1 - terminated) min_i Q'_i(s', clip(a' + clip(n, -c, c), -1, 1)),   a' ~ pi'(s'),  n ~ N(0, s^2)
    Q_i:  minimise (Q_i(s, a) - y)^2 / 2
    pi:   maximise Q_1(s, a),  a ~ pi(s) reparameterised             every ``policy_delay`` steps, then the targets

Source: Fujimoto et al. 2018 (arXiv 1802.09477). Any policy runs here. That of a flow is not deterministic: its base
noise explores too (SAC Flow, arXiv 2509.25756, runs Flow-G and Flow-T under TD3).
"""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Int, PyTree

from penstock._errors import require
from penstock._types import Key
from penstock.algorithms.learner import Metrics, counts, means, where_due
from penstock.algorithms.off_policy import OffPolicyLearner, polyak
from penstock.algorithms.off_policy_config import FollowedCritic, OffPolicyConfig, refuse_idle
from penstock.critics.action_value import ActionCritic, make_action_critic
from penstock.data import Batch
from penstock.networks import Normalizer, Trunk
from penstock.networks.optimization import guarded_step, make_constant_optimizer
from penstock.policies import Actor, DeterministicSettings, Draw, Need, PolicySettings, make_actor
from penstock.worlds import Observation, World


@dataclasses.dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Settings of TD3."""

    policy_delay: int = 2
    """Gradient steps of the critics per gradient step of actor and targets."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise added to actions while collecting data."""
    target_noise: float = 0.2
    """Standard deviation of the noise added to target actions."""
    target_noise_clip: float = 0.5
    """Largest absolute value of that noise."""
    layer_norm: bool = False
    """LayerNorm in the critics' hidden layers."""
    policy: PolicySettings = DeterministicSettings()
    """The policy; its class first."""
    critic: FollowedCritic = FollowedCritic()
    """The critics, and how they are fitted."""

    def __post_init__(self):
        super().__post_init__()
        for field in ("exploration_noise", "target_noise", "target_noise_clip"):
            require(0.0 <= getattr(self, field) <= 2.0, field, getattr(self, field), "must lie in [0, 2]")
        if self.target_noise == 0.0:
            refuse_idle(self, "target_noise = 0.0", "target_noise_clip")


class Learned(eqx.Module):
    """What TD3 trains."""

    actor: Actor
    target_actor: Actor
    critic: ActionCritic
    target: ActionCritic
    actor_optimizer: PyTree
    critic_optimizer: PyTree
    normalizer: Normalizer | None = None


class Learner(OffPolicyLearner[Config]):
    """Twin delayed deterministic policy gradient: see the module's equations."""

    name: ClassVar[str] = "td3"
    needs: ClassVar[tuple[Need, ...]] = (Need.ACTION_GRADIENT,)

    def __init__(self, config: Config, world: World, planned_updates: int):
        optimizer, critic = config.optimizer, config.critic
        self.actor_optimizer = make_constant_optimizer(optimizer.actor_learning_rate, optimizer.adam_betas)
        self.critic_optimizer = make_constant_optimizer(critic.critic_learning_rate, optimizer.adam_betas)
        super().__init__(config, world, planned_updates)

    def init(self, key: Key) -> Learned:
        """See `learner.Learner.init`."""
        config, spec, d = self.config, self.world.observation_spec, self.flat_size
        key_encoder, key_policy, key_critic = jax.random.split(key, 3)
        actor = make_actor(key_encoder, key_policy, config.policy, spec, d, config.actor_trunk())
        trunk = Trunk(config.critic.critic_hidden, config.activation, config.layer_norm)
        critic = make_action_critic(key_critic, spec, d, trunk, 2)
        return Learned(
            actor=actor,
            target_actor=actor,
            critic=critic,
            target=critic,
            actor_optimizer=self.actor_optimizer.init(eqx.filter(actor, eqx.is_array)),
            critic_optimizer=self.critic_optimizer.init(eqx.filter(critic, eqx.is_array)),
            normalizer=self.initial_normalizer(),
        )

    def explore(self, learned: Learned, observation: Observation, key: Key) -> Draw:
        """The policy's action plus Gaussian noise, clipped to the box."""
        key_policy, key_noise = jax.random.split(key)
        drawn = super().explore(learned, observation, key_policy)
        noise = self.config.exploration_noise * jax.random.normal(key_noise, drawn.action.shape)
        return drawn._replace(action=jnp.clip(drawn.action + noise, -1.0, 1.0))

    def gradient_step(
        self, learned: Learned, batch: Batch, key: Key, count: Int[jax.Array, ""]
    ) -> tuple[Learned, Metrics]:
        """See `OffPolicyLearner.gradient_step`."""
        config = self.config
        key_next, key_noise, key_actor = jax.random.split(key, 3)
        next_action = self.agent_in_batches(learned.target_actor).sample(batch.next_observation, key_next).action
        noise = config.target_noise * jax.random.normal(key_noise, next_action.shape)
        noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
        next_action = jnp.clip(next_action + noise, -1.0, 1.0)
        y = batch.reward + batch.bootstrap * learned.target.values(batch.next_observation, next_action).min(axis=0)
        y = jax.lax.stop_gradient(y)

        def critic_loss(critic):
            values = critic.values(batch.observation, batch.action)
            return 0.5 * jnp.square(values - y).mean(axis=1).sum(), values

        (loss, values), gradient = eqx.filter_value_and_grad(critic_loss, has_aux=True)(learned.critic)
        critic, critic_optimizer, health = guarded_step(
            self.critic_optimizer, gradient, learned.critic_optimizer, learned.critic
        )
        learned = dataclasses.replace(learned, critic=critic, critic_optimizer=critic_optimizer)
        measured = {
            "critic/loss": loss,
            "critic/value_mean": values.mean(),
            "critic/target_mean": y.mean(),
            "critic/gradient_norm": health.norm,
        }
        metrics = means(measured) | counts({"critic/skipped": health.skipped})

        def actor_and_targets(learned):
            def actor_loss(actor):
                action = self.agent_in_batches(actor).sample(batch.observation, key_actor).action
                return -learned.critic.values(batch.observation, action)[0].mean(), action

            (loss, action), gradient = eqx.filter_value_and_grad(actor_loss, has_aux=True)(learned.actor)
            actor, optimizer, health = guarded_step(
                self.actor_optimizer, gradient, learned.actor_optimizer, learned.actor
            )
            learned = dataclasses.replace(
                learned,
                actor=actor,
                actor_optimizer=optimizer,
                target_actor=polyak(learned.target_actor, actor, config.critic.target_rate),
                target=polyak(learned.target, learned.critic, config.critic.target_rate),
            )
            measured = {
                "actor/loss": loss,
                "actor/gradient_norm": health.norm,
                "policy/saturation": (jnp.abs(action) > 0.99).mean(),
            }
            return learned, means(measured) | counts({"actor/steps": 1, "actor/skipped": health.skipped})

        learned, delayed = where_due(count % config.policy_delay == 0, actor_and_targets, learned)
        return learned, metrics | delayed
