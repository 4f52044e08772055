"""FlowRL (arXiv 2506.12811): maximise Q through the flow, held near the best behaviour in the replay memory.

    Q:    r + gamma (1 - terminated) min_i Q'_i(s', a'),  a' ~ pi(s')           the current policy's value
    Q_b:  r + gamma (1 - terminated) V_b(s')                                     the best stored behaviour's value
    V_b:  expectile kappa of  min_i Q_b'_i(s, a) - V_b(s)
    pi:   minimise  -min_i Q_i(s, pi(s)) + w(s, a) e(s, a)                       every ``policy_delay`` steps
    e(s, a) = mean_j [ v(x_tau, tau, s) - (y - x_0) ]_j^2,  x_tau = tau y + (1 - tau) x_0,  y = a
    w = min( lambda 1(D > 0) exp(D - mean D), w_max ),  D = Q_b(s, a) - Q(s, pi(s))

The flow-matching term bounds the squared Wasserstein-2 distance to the best stored behaviour. Paper and released code
(bytedance/FlowRL at e26279b) differ; this is the paper, and the released code is an algorithm of its own, beside the
benchmarks. The name is also that of an unrelated package and of an unrelated method for language models.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from penstock._errors import require
from penstock._types import Key
from penstock.algorithms.learner import Metrics, counts, means, where_due
from penstock.algorithms.off_policy import OffPolicyLearner, polyak
from penstock.algorithms.off_policy_config import FollowedCritic, OffPolicyConfig, refuse_idle
from penstock.critics.action_value import ActionCritic, NormedHead
from penstock.critics.expectile import expectile_loss
from penstock.data import Batch
from penstock.networks import Normalizer, Trunk, make_encoder
from penstock.networks.optimization import guarded_step, make_constant_optimizer
from penstock.policies import (
    Actor,
    DeterministicAction,
    FlowSettings,
    Need,
    PolicySettings,
    make_actor,
)
from penstock.policies.deterministic_action import ZERO_NOISE
from penstock.worlds import World


@dataclasses.dataclass(frozen=True)
class ValueSettings(FollowedCritic):
    """FlowRL's value networks."""

    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers of the value networks. The first and the last have no activation."""
    target_rate: float = 0.95
    """rho: ``target <- (1 - rho) target + rho online``: hardly a target network; LayerNorm carries the stability."""

    def __post_init__(self):
        super().__post_init__()
        require(
            len(self.critic_hidden) >= 3,
            "critic_hidden",
            self.critic_hidden,
            "needs at least 3 layers: the first and the last have no activation, and only those between have one",
        )


@dataclasses.dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Settings of FlowRL. Where the paper is silent, defaults are the released code's."""

    value_activation: ClassVar[Literal["mish", "gelu"]] = "mish"
    """Activation of the value networks; a subclass may have another. Released code: gelu."""
    layer_norm: ClassVar[bool] = True
    """LayerNorm in all networks, which carries the stability of fast targets; a subclass may do without."""
    constraint_coefficient: float = 0.1
    """lambda, multiplier of the flow-matching constraint; 0 removes it."""
    switches: ClassVar[Mapping[str, str]] = {"behaviour_values": "expectile"}
    """See `Settings.switches`."""
    expectile: float | None = 0.9
    """kappa of V_b; the released code advises 0.8 for HumanoidBench. None, or --no-behaviour-values: no Q_b and V_b,
    but weights from the policy's own critic, D = Q(s, a) - Q(s, pi(s)), which saves both networks."""
    weight_ceiling: float = 1.0
    """Largest weight of a sample. A cap c on the paper's exponent alone is a ceiling of lambda e^c."""
    recent_fraction: float = 0.2
    """Share of the batch that comes from the newest transitions."""
    newest: int = 2048
    """How many transitions count as newest."""
    policy_delay: int = 2
    """Gradient steps of the critics per gradient step of actor and targets."""
    actor_hidden: tuple[int, ...] = (512, 512)
    """Widths of the actor's hidden layers."""
    activation: str = "elu"
    """Activation of the actor."""
    policy: PolicySettings = FlowSettings(flow_steps=1, stepper="midpoint", velocity="mlp")
    """The policy; its class first. FlowRL: one step of the midpoint rule, two network calls."""
    critic: ValueSettings = ValueSettings()
    """The value networks."""

    def __post_init__(self):
        super().__post_init__()
        value = self.constraint_coefficient
        require(0.0 <= value < math.inf, "constraint_coefficient", value, "must be finite and at least 0")
        kappa = self.expectile
        require(kappa is None or 0.0 < kappa < 1.0, "expectile", kappa, "must lie between 0 and 1, or be None")
        require(
            0.0 < self.weight_ceiling < math.inf,
            "weight_ceiling",
            self.weight_ceiling,
            "must be finite and greater than 0",
        )
        require(0.0 <= self.recent_fraction <= 1.0, "recent_fraction", self.recent_fraction, "must lie in [0, 1]")
        require(1 <= self.newest < 2**31, "newest", self.newest, "must lie between 1 and 2147483647")
        if self.recent_fraction == 0.0:
            refuse_idle(self, "recent_fraction = 0.0", "newest")

    @property
    def behaviour_values(self) -> bool:
        """Whether Q_b and V_b are fitted."""
        return self.expectile is not None

    def deterministic(self) -> DeterministicAction:
        """See `AlgorithmSettings.deterministic`: zero noise."""
        return ZERO_NOISE

    def actor_trunk(self) -> Trunk:
        """Shape of the velocity network."""
        return Trunk(self.actor_hidden, self.activation, self.layer_norm, initializer="xavier", output_gain=1.0)


class Learned(eqx.Module):
    """What FlowRL trains: the policy, the values of the policy and, if fitted, those of the best stored behaviour."""

    actor: Actor
    critic: ActionCritic
    target: ActionCritic
    behaviour_critic: ActionCritic | None
    behaviour_target: ActionCritic | None
    behaviour_value: ActionCritic | None
    actor_optimizer: PyTree
    critic_optimizer: PyTree
    behaviour_critic_optimizer: PyTree
    behaviour_value_optimizer: PyTree
    normalizer: Normalizer | None = None


class Learner(OffPolicyLearner[Config]):
    """Flow policy with value-guided behaviour constraint: see the module's equations."""

    name: ClassVar[str] = "flowrl"
    needs: ClassVar[tuple[Need, ...]] = (Need.VELOCITY,)

    def __init__(self, config: Config, world: World, planned_updates: int):
        optimizer, critic = config.optimizer, config.critic
        self.actor_optimizer = make_constant_optimizer(optimizer.actor_learning_rate, optimizer.adam_betas)
        self.critic_optimizer = make_constant_optimizer(critic.critic_learning_rate, optimizer.adam_betas)
        super().__init__(config, world, planned_updates)

    def init(self, key: Key) -> Learned:
        """See `learner.Learner.init`."""
        config, spec, d = self.config, self.world.observation_spec, self.flat_size
        keys = jax.random.split(key, 5)
        trunk, widths = config.actor_trunk(), config.critic.critic_hidden
        actor = self.make_actor(keys[0], keys[1])

        def values(key, action_size, size):
            key_encoder, key_networks = jax.random.split(key)
            encoder = make_encoder(key_encoder, spec.for_critics(), trunk)
            inputs = encoder.size + action_size

            def head(k):
                return NormedHead(k, inputs, widths, config.value_activation, config.layer_norm)

            return ActionCritic(key_networks, encoder, head, size)

        critic = values(keys[2], d, 2)
        behaviour_critic = critic if config.behaviour_values else None  # the released code starts it as a copy
        behaviour_value = values(keys[4], 0, 1) if config.behaviour_values else None

        def optimizer_state(optimizer, module):
            return None if module is None else optimizer.init(eqx.filter(module, eqx.is_array))

        return Learned(
            actor=actor,
            critic=critic,
            target=critic,
            behaviour_critic=behaviour_critic,
            behaviour_target=behaviour_critic,
            behaviour_value=behaviour_value,
            actor_optimizer=optimizer_state(self.actor_optimizer, actor),
            critic_optimizer=optimizer_state(self.critic_optimizer, critic),
            behaviour_critic_optimizer=optimizer_state(self.critic_optimizer, behaviour_critic),
            behaviour_value_optimizer=optimizer_state(self.critic_optimizer, behaviour_value),
            normalizer=self.initial_normalizer(),
        )

    def make_actor(self, key_encoder: Key, key_policy: Key) -> Actor:
        """Draws encoder and policy."""
        config, spec = self.config, self.world.observation_spec
        return make_actor(key_encoder, key_policy, config.policy, spec, self.flat_size, config.actor_trunk())

    def weight(self, difference: Float[Array, "B"]) -> Float[Array, "B"]:
        """Weights of the flow-matching errors from ``D = Q_b(s, a) - Q(s, pi(s))``; a subclass may have others."""
        return flow_matching_weight(self.config, difference)

    def imitated(self, action: Float[Array, "B d"]) -> Float[Array, "B d"]:
        """What flow matching leads to, y: the stored action itself, as released. Perfect imitation of a gives tanh(a).

        A subclass may imitate the latent ``atanh(a)``.
        """
        return action

    def sampling(self) -> dict[str, int]:
        """Uniform samples, and a share of the newest."""
        config = self.config
        # What is not uniform is recent, as released: 52 of 256. A product such as 0.1 * 10 may fall short of 1.
        recent = config.batch_size - math.floor((1.0 - config.recent_fraction) * config.batch_size + 1e-9)
        return {
            "n_step": config.samples.n_step,
            "recent": recent,
            "newest": config.newest,
        }

    def gradient_step(self, learned: Learned, batch: Batch, key: Key, count: Int[Array, ""]) -> tuple[Learned, Metrics]:
        """See `OffPolicyLearner.gradient_step`."""
        config = self.config
        key_next, key_actor = jax.random.split(key)
        next_action = self.agent_in_batches(learned.actor).sample(batch.next_observation, key_next).action
        y = batch.reward + batch.bootstrap * learned.target.values(batch.next_observation, next_action).min(axis=0)
        critic, critic_optimizer, critic_loss, own, health = self._regress(
            learned.critic, learned.critic_optimizer, batch, y
        )
        learned = dataclasses.replace(learned, critic=critic, critic_optimizer=critic_optimizer)
        measured = {"critic/loss": critic_loss, "critic/target_mean": y.mean(), "critic/gradient_norm": health.norm}
        metrics = means(measured) | counts({"critic/skipped": health.skipped})
        if config.behaviour_values:
            learned, stored, behaviour_metrics = self._behaviour_step(learned, batch)
            metrics |= behaviour_metrics
        else:
            stored = own.min(axis=0)

        def actor_and_targets(learned):
            learned, actor_metrics = self._actor_step(learned, batch, stored, key_actor)
            learned = dataclasses.replace(
                learned, target=polyak(learned.target, learned.critic, config.critic.target_rate)
            )
            if config.behaviour_values:
                tracked = polyak(learned.behaviour_target, learned.behaviour_critic, config.critic.target_rate)
                learned = dataclasses.replace(learned, behaviour_target=tracked)
            return learned, actor_metrics

        learned, delayed = where_due(count % config.policy_delay == 0, actor_and_targets, learned)
        return learned, metrics | delayed

    def _behaviour_step(self, learned, batch):
        """One step of Q_b and V_b; also Q_b(s, a) of before the step."""
        y_b = batch.reward + batch.bootstrap * learned.behaviour_value.values(batch.next_observation)[0]
        behaviour, behaviour_optimizer, behaviour_loss, stored, _ = self._regress(
            learned.behaviour_critic, learned.behaviour_critic_optimizer, batch, y_b
        )
        best = learned.behaviour_target.values(batch.observation, batch.action).min(axis=0)

        def value_loss(value):
            error = jax.lax.stop_gradient(best) - value.values(batch.observation)[0]
            assert self.config.expectile is not None
            return expectile_loss(error, self.config.expectile).mean()

        loss_v, gradient = eqx.filter_value_and_grad(value_loss)(learned.behaviour_value)
        value, value_optimizer, _ = guarded_step(
            self.critic_optimizer, gradient, learned.behaviour_value_optimizer, learned.behaviour_value
        )
        learned = dataclasses.replace(
            learned,
            behaviour_critic=behaviour,
            behaviour_critic_optimizer=behaviour_optimizer,
            behaviour_value=value,
            behaviour_value_optimizer=value_optimizer,
        )
        measured = {
            "critic/behaviour_loss": behaviour_loss,
            "critic/behaviour_value_loss": loss_v,
            "critic/behaviour_value_mean": best.mean(),
        }
        return learned, stored.min(axis=0), means(measured)

    def _regress(self, critic, optimizer_state, batch, target):
        """One step of both heads toward ``target``; also the values of before the step."""
        target = jax.lax.stop_gradient(target)

        def loss(critic):
            values = critic.values(batch.observation, batch.action)
            return jnp.square(values - target).mean(axis=1).sum(), values

        (value, values), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(critic)
        critic, optimizer_state, health = guarded_step(self.critic_optimizer, gradient, optimizer_state, critic)
        return critic, optimizer_state, value, jax.lax.stop_gradient(values), health

    def _actor_step(self, learned, batch, stored, key):
        key_sample, key_noise, key_time = jax.random.split(key, 3)
        size = batch.reward.shape[0]
        target = self.imitated(batch.action)
        noise = learned.actor.policy.base_noise(jax.random.normal(key_noise, target.shape))
        tau = jax.random.uniform(key_time, (size,))
        point = tau[:, None] * target + (1.0 - tau[:, None]) * noise

        def loss(actor):
            agent = self.agent_in_batches(actor)
            features = agent.features(batch.observation)
            action = jax.vmap(actor.policy.draw)(features, agent.noise(key_sample, size)).action
            value = learned.critic.values(batch.observation, action).min(axis=0)
            velocity = jax.vmap(actor.policy.velocity)(features, point, tau)
            error = jnp.square(velocity - (target - noise)).mean(axis=-1)  # lambda was tuned with the mean
            weight = self.weight(jax.lax.stop_gradient(stored - value))
            return (-value + weight * error).mean(), (value, error, weight, action)

        (total, (value, error, weight, action)), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(learned.actor)
        actor, optimizer, health = guarded_step(self.actor_optimizer, gradient, learned.actor_optimizer, learned.actor)
        learned = dataclasses.replace(learned, actor=actor, actor_optimizer=optimizer)
        measured = {
            "actor/loss": total,
            "actor/value_mean": value.mean(),
            "actor/flow_matching_loss": error.mean(),
            "actor/weight_mean": weight.mean(),
            "actor/better_stored": (stored > value).mean(),
            "actor/gradient_norm": health.norm,
            "policy/saturation": (jnp.abs(action) > 0.99).mean(),
        }
        return learned, means(measured) | counts({"actor/steps": 1, "actor/skipped": health.skipped})


def flow_matching_weight(config: Config, difference: Float[Array, "B"]) -> Float[Array, "B"]:
    """The paper's weights of the flow-matching errors. See the module's equations.

    The exponent is capped before ``exp``, so that large value differences cannot overflow.
    """
    exponent = difference - difference.mean()
    weight = jnp.where(difference > 0, config.constraint_coefficient * jnp.exp(jnp.minimum(exponent, 60.0)), 0.0)
    return jnp.minimum(weight, config.weight_ceiling)
