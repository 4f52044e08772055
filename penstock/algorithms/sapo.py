"""SAPO (soft analytic policy optimisation): SHAC2 with an entropy bonus in the return and a learned temperature.

    Ent_t   = -log pi(a'_t | s_t),   a'_t one fresh reparameterised sample (not the executed one)
    Hbar    = -d / 2,                Hn_t = (Ent_t + |Hbar|) / (2 |Hbar|)
    L(theta) = -E[ sum_{t<H} gamma^t (r_t + alpha Hn_t) + gamma^H mean_i V_i(s_H) ] / H
    phi_i:    regression to TD(lambda) targets on r_t + alpha Hn_t, with min_i V_i     (a soft value)
    alpha:    minimise  alpha |Hbar| (mean_t Ent_t - Hbar)  over log alpha             (raw entropy)

Source: arXiv 2412.12089 and its published settings. With action chunks, d counts the whole chunk and the bonus falls
on the steps at which the policy is consulted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from penstock._errors import require
from penstock._types import Key, PerEnv, Scalar
from penstock.algorithms.pathwise import Now, PathwiseLearner
from penstock.algorithms.pathwise_config import PathwiseConfig
from penstock.algorithms.rules import TEMPERATURE_SWITCH, require_temperature
from penstock.networks.optimization import guarded_step, make_optimizer
from penstock.policies import Agent, Need
from penstock.worlds import Observation, World


@dataclasses.dataclass(frozen=True)
class Config(PathwiseConfig):
    """Settings of SAPO."""

    switches: ClassVar[Mapping[str, str]] = TEMPERATURE_SWITCH
    """See `Settings.switches`."""
    initial_temperature: float = 1.0
    """alpha at the start: weight of the normalised entropy in the return."""
    temperature_learning_rate: float | None = 5e-3
    """Learning rate of log alpha, so that the entropy approaches -d / 2; does not decay. None
    (``--no-learn-temperature``) keeps alpha."""

    def __post_init__(self):
        super().__post_init__()
        require_temperature(self.initial_temperature, self.temperature_learning_rate)
        require(
            self.initial_temperature > 0 or self.temperature_learning_rate is None,
            "initial_temperature",
            self.initial_temperature,
            "cannot be learned from 0; pass --no-learn-temperature or a positive value",
        )


class Temperature(eqx.Module):
    """SAPO's memory: ``log alpha`` and its optimiser's state."""

    log_alpha: Scalar
    optimizer: PyTree


class Learner(PathwiseLearner[Config]):
    """Soft analytic policy optimisation: see the module's equations."""

    name: ClassVar[str] = "sapo"
    needs: ClassVar[tuple[Need, ...]] = (Need.ACTION_DENSITY, Need.ACTION_GRADIENT)
    num_critics: ClassVar[int] = 2
    has_bonus: ClassVar[bool] = True
    policy_hint: ClassVar[str] = "Choose --policy gaussian, or marginal-flow."

    @property
    def target_entropy(self) -> float:
        """Hbar = -d / 2 (d counts the whole chunk)."""
        return -0.5 * self.world.action_size * self.config.chunk_length

    def __init__(self, config: Config, world: World, planned_updates: int):
        super().__init__(config, world, planned_updates)
        rate, settings = config.temperature_learning_rate or 0.0, config.optimizer
        self.temperature_optimizer = make_optimizer(  # no schedule
            rate,
            rate,
            1,
            clip=settings.gradient_clip,
            betas=settings.adam_betas,
            weight_decay=settings.weight_decay,
        )

    def initial_memory(self) -> Temperature:
        """See `PathwiseLearner.initial_memory`."""
        # An alpha of 0 keeps a finite logarithm, whose exponential is exactly 0: checkpoints refuse infinities.
        log_alpha = jnp.maximum(jnp.log(jnp.asarray(self.config.initial_temperature)), -1e9)
        return Temperature(log_alpha, self.temperature_optimizer.init(log_alpha))

    def bonus(self, memory: Any, agent: Agent, observation: Observation, key: Key) -> tuple[PerEnv, PerEnv]:
        """``alpha Hn_t`` and the raw entropy estimate. Gradient flows through the fresh sample, not into alpha."""
        _, log_prob = agent.sample_with_log_prob(observation, key)
        scale = abs(self.target_entropy)
        return jnp.exp(memory.log_alpha) * normalised_entropy(-log_prob, scale), -log_prob

    def remember(self, now: Now) -> Temperature:
        """One step on the temperature."""
        memory: Temperature = now.learned.memory
        entropy = now.window.bonus_record.sum() / jnp.maximum(now.window.decision.sum(), 1)
        now.metrics["policy/entropy"] = entropy
        now.metrics["policy/temperature"] = jnp.exp(memory.log_alpha)
        if self.config.temperature_learning_rate is None:
            return memory
        gradient = jax.grad(temperature_loss)(memory.log_alpha, entropy, self.target_entropy)
        log_alpha, optimizer, health = guarded_step(
            self.temperature_optimizer, gradient, memory.optimizer, memory.log_alpha
        )
        now.events["temperature/skipped"] = health.skipped
        return Temperature(log_alpha, optimizer)


def normalised_entropy(entropy: PerEnv, scale: float) -> PerEnv:
    """``Hn = (Ent + |Hbar|) / (2 |Hbar|)``: 0 at ``-|Hbar|``, 1 at ``|Hbar|``."""
    return (entropy + scale) / (2.0 * scale)


def temperature_loss(log_alpha: Scalar, entropy: Scalar, target_entropy: float) -> Scalar:
    """``alpha |Hbar| (Ent - Hbar)``: descending it lowers alpha while the entropy exceeds its target."""
    return jnp.exp(log_alpha) * abs(target_entropy) * jax.lax.stop_gradient(entropy - target_entropy)
