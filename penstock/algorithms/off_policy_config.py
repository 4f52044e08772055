"""Settings that every off-policy algorithm has, and their rules."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from penstock._errors import ConfigurationError, require
from penstock._settings import Alternative, Choice, Part
from penstock.algorithms.learner import AlgorithmSettings
from penstock.algorithms.rules import require_betas, require_rate, require_widths
from penstock.networks import Trunk
from penstock.policies import GaussianSettings, PolicySettings


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
class AdamSettings(Part):
    """Adam with a constant learning rate, for the actor; critics have a rate of their own."""

    actor_learning_rate: float = 3e-4
    """Learning rate of the actor."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments, in all optimisers."""

    def __post_init__(self):
        require_rate("actor_learning_rate", self.actor_learning_rate)
        require_betas(self.adam_betas)


@dataclasses.dataclass(frozen=True)
class CriticSettings(Part):
    """What all critics have."""

    critic_learning_rate: float = 3e-4
    """Learning rate of the critics."""
    critic_hidden: tuple[int, ...] = (256, 256)
    """Widths of the critics' hidden layers."""

    def __post_init__(self):
        require_rate("critic_learning_rate", self.critic_learning_rate)
        require_widths("critic_hidden", self.critic_hidden)


@dataclasses.dataclass(frozen=True)
class FollowedCritic(CriticSettings):
    """Critics with slowly following copies."""

    target_rate: float = 0.005
    """rho: ``target <- (1 - rho) target + rho online``. 1 means no target network."""

    def __post_init__(self):
        super().__post_init__()
        require(0.0 <= self.target_rate <= 1.0, "target_rate", self.target_rate, "must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class CriticBase(CriticSettings, Choice):
    """SAC's critics: an ensemble, and how its targets are made."""

    critic: str = ""
    """Critic base: target (slowly following copies) or crossq (BatchRenorm, no target network)."""

    @classmethod
    def kinds(cls) -> Mapping[str, "CriticBase"]:
        """See `Choice.kinds`."""
        return {"target": TargetCritic(), "crossq": CrossQCritic()}


@dataclasses.dataclass(frozen=True)
class TargetCritic(CriticBase):
    """With slowly following copies."""

    critic: str = "target"
    """Critic base: target (slowly following copies) or crossq (BatchRenorm, no target network)."""
    target_rate: float = 0.005
    """rho: ``target <- (1 - rho) target + rho online``. 1 means no target network."""
    layer_norm: bool = False
    """LayerNorm in the critics' hidden layers."""

    def __post_init__(self):
        super().__post_init__()
        require(0.0 <= self.target_rate <= 1.0, "target_rate", self.target_rate, "must lie in [0, 1]")


RENORM_WARMUP = 100_000
"""Training calls of a BatchRenorm layer before its correction begins, in CrossQ's released code and here; until then it
is plain batch normalisation. CrossQ's actor has one call per actor step."""


@dataclasses.dataclass(frozen=True)
class CrossQCritic(CriticBase):
    """With BatchRenorm, without copies."""

    critic: str = "crossq"
    """Critic base: target (slowly following copies) or crossq (BatchRenorm, no target network)."""


@dataclasses.dataclass(frozen=True)
class Samples(Alternative):
    """What a sample of the replay memory spans: control steps, or one action chunk."""

    @classmethod
    def kinds(cls) -> "tuple[Samples, ...]":
        """See `Alternative.kinds`."""
        return StepSamples(), ChunkSamples()


@dataclasses.dataclass(frozen=True)
class StepSamples(Samples):
    """Single actions."""

    chunk_length: ClassVar[int] = 1
    """See `ChunkSamples`."""

    n_step: int = 1
    """Longest span of a sample in control steps; the value is bootstrapped behind it. Or, in its place,
    --chunk-length C: action chunks."""

    def __post_init__(self):
        require(self.n_step >= 1, "n_step", self.n_step, "must be at least 1")


@dataclasses.dataclass(frozen=True)
class ChunkSamples(Samples):
    """Action chunks."""

    n_step: ClassVar[int] = 1
    """See `StepSamples`."""

    chunk_length: int = 1
    """C, actions planned per policy call and run open loop; critics judge whole chunks. Must divide
    ``collect_steps``."""

    def __post_init__(self):
        require(self.chunk_length >= 1, "chunk_length", self.chunk_length, "must be at least 1")


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(AlgorithmSettings):
    """Settings that every off-policy algorithm has. Each adds its parts ``policy`` and ``critic``."""

    discount: float = 0.99
    """gamma, weight of the next step's reward."""
    batch_size: int = 256
    """Samples per gradient step."""
    replay_capacity: int = 1_000_000
    """Transitions that the replay memory holds, all environments together. No more are allocated than ``steps`` will
    fill, on functional worlds rounded up."""
    warmup_steps: int = 5_000
    """Environment steps with uniformly random actions before the first gradient step."""
    collect_steps: int = 64
    """Control steps per iteration. Does not change what is learned, only how often metrics can be written."""
    updates_per_step: int = 1
    """Gradient steps per control step of all environments together."""
    policy_delay: int = 1
    """Gradient steps of the critics per gradient step of the actor."""
    actor_hidden: tuple[int, ...] = (256, 256)
    """Widths of the actor's hidden layers. A decoded velocity takes the first as its width."""
    normalize_observations: bool = False
    """Normalise observation vectors by running statistics of the batches that are learned from; they are part of the
    state, and frozen in evaluation. For observations in unequal units. Point clouds and pixels never are."""
    activation: str = "relu"
    """Activation of networks that have none of their own: relu, silu, gelu, elu, mish or tanh. A decoded velocity and
    SAC Flow's gated one have."""
    samples: StepSamples | ChunkSamples = StepSamples()
    """What a sample of the memory spans."""
    policy: PolicySettings = GaussianSettings(initial_log_std=0.0)
    """The policy; its class first."""
    critic: CriticSettings = CriticSettings()
    """The critics, and how they are fitted."""
    optimizer: AdamSettings = AdamSettings()
    """The optimiser of all networks."""

    def __post_init__(self):
        for field in ("batch_size", "replay_capacity", "collect_steps", "updates_per_step", "policy_delay"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must be at least 0")
        require(0.0 <= self.discount <= 1.0, "discount", self.discount, "must lie in [0, 1]")
        require_widths("actor_hidden", self.actor_hidden)
        chunk_length = self.samples.chunk_length
        chunks = f" / chunk_length = {chunk_length}" if chunk_length > 1 else ""
        require(
            self.batch_size <= self.replay_capacity // chunk_length,
            "batch_size",
            self.batch_size,
            f"must not exceed replay_capacity = {self.replay_capacity}{chunks}",
        )
        require(
            self.collect_steps % chunk_length == 0,
            "chunk_length",
            chunk_length,
            f"must divide collect_steps = {self.collect_steps}, so that every iteration begins with a fresh plan",
        )
        self.actor_trunk()  # refuses an unknown activation

    @property
    def iteration_steps(self) -> int:
        """Control steps per iteration."""
        return self.collect_steps

    @property
    def widest_layer(self) -> int:
        """See `AlgorithmSettings.widest_layer`."""
        return max(*self.actor_hidden, *self.critic.critic_hidden)

    def actor_trunk(self) -> Trunk:
        """Shape of the actor's networks."""
        return Trunk(self.actor_hidden, self.activation, layer_norm=False)
