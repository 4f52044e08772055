"""Settings that every off-policy algorithm has, and their rules."""

import dataclasses
import math
from typing import Any

from penstock._errors import ConfigurationError, require
from penstock._settings import Settings
from penstock.networks import Trunk
from penstock.networks.precision import SHORTEST_SIDE, Precision


def refuse_idle(config: Any, because: str, *fields: str) -> None:
    """Refuses settings that were changed although nothing reads them: no setting is silently ignored.

    Args:
        config: the configuration.
        because: why they do not apply, as ``field = value`` of the setting that decides.
        fields: their names; each must have a default.

    Raises:
        ConfigurationError: one of them differs from its default.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in fields and value != field.default:
            raise ConfigurationError(
                f"{field.name} = {value!r}: does nothing with {because}. Leave it out, or change {because.split()[0]}."
            )


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(Settings):
    """Settings that every off-policy algorithm has."""

    discount: float = 0.99
    """gamma, weight of the next step's reward."""
    batch_size: int = 256
    """Samples per gradient step."""
    replay_capacity: int = 1_000_000
    """Transitions that the replay memory holds, all environments together; no more than ``steps`` are allocated."""
    n_step: int = 1
    """Longest span of a sample in control steps; the value is bootstrapped behind it."""
    warmup_steps: int = 5_000
    """Environment steps with uniformly random actions before the first gradient step."""
    collect_steps: int = 64
    """Control steps per iteration. Does not change what is learned, only how often metrics can be written."""
    updates_per_step: int = 1
    """Gradient steps per control step of all environments together."""
    actor_learning_rate: float = 3e-4
    """Learning rate of the actor."""
    critic_learning_rate: float = 3e-4
    """Learning rate of the critics."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    target_rate: float = 0.005
    """rho: ``target <- (1 - rho) target + rho online``. 1 means no target network."""
    policy_delay: int = 1
    """Gradient steps of the critics per gradient step of the actor."""
    actor_hidden: tuple[int, ...] = (256, 256)
    """Widths of the actor's hidden layers. A decoded velocity takes the first as its width."""
    critic_hidden: tuple[int, ...] = (256, 256)
    """Widths of the critics' hidden layers."""
    activation: str = "relu"
    """Activation of networks that have none of their own: relu, silu, gelu, elu, mish or tanh. A decoded velocity and
    SAC Flow's gated one have."""
    layer_norm: bool = False
    """LayerNorm in the critics' hidden layers."""
    precision: Precision = "float32"
    """Factors of the large matrix products of gradient steps: float32, or bfloat16, quicker on accelerators and CPUs
    that multiply bfloat16 matrices in hardware. All else is float32: convolutions, acting, evaluation."""

    def __post_init__(self):
        for field in ("batch_size", "replay_capacity", "n_step", "collect_steps", "updates_per_step", "policy_delay"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must be at least 0")
        for field in ("discount", "target_rate"):
            require(0.0 <= getattr(self, field) <= 1.0, field, getattr(self, field), "must lie in [0, 1]")
        for field in ("actor_learning_rate", "critic_learning_rate"):
            value = getattr(self, field)
            require(0.0 < value < math.inf, field, value, "must be finite and greater than 0")
        for beta in self.adam_betas:
            require(0.0 <= beta < 1.0, "adam_betas", self.adam_betas, "must lie in [0, 1)")
        for field in ("actor_hidden", "critic_hidden"):
            widths = getattr(self, field)
            require(len(widths) >= 1 and min(widths) >= 1, field, widths, "needs at least one positive width")
        require(
            self.batch_size <= self.replay_capacity,
            "batch_size",
            self.batch_size,
            f"must not exceed replay_capacity = {self.replay_capacity}",
        )
        widest = max(*self.actor_hidden, *self.critic_hidden)
        for field, value in (("batch_size", self.batch_size), ("the widest hidden layer", widest)):
            require(
                self.precision == "float32" or value >= SHORTEST_SIDE,
                field,
                value,
                f"must be at least {SHORTEST_SIDE} with precision = 'bfloat16': smaller products stay float32",
            )
        self.critic_trunk()  # refuses an unknown activation

    @property
    def iteration_steps(self) -> int:
        """Control steps per iteration."""
        return self.collect_steps

    def actor_trunk(self) -> Trunk:
        """Shape of the actor's networks."""
        return Trunk(self.actor_hidden, self.activation, layer_norm=False)

    def critic_trunk(self) -> Trunk:
        """Shape of the critics' networks."""
        return Trunk(self.critic_hidden, self.activation, self.layer_norm)
