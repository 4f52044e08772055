"""Settings that every pathwise algorithm has, and their rules."""

import dataclasses
import math

from penstock._errors import require
from penstock._settings import Part
from penstock.algorithms.learner import AlgorithmSettings
from penstock.algorithms.rules import require_betas, require_rate, require_widths
from penstock.networks import Trunk
from penstock.policies import GaussianSettings, PolicySettings

INITIAL_GAINS = {"elu": math.sqrt(2.0), "relu": math.sqrt(2.0), "tanh": 5.0 / 3.0}
"""Gains of the orthogonal initialisation of hidden layers that keep a signal's scale: elu as SHAC and APG published
it, relu by He et al. 2015 (arXiv 1502.01852), tanh as PyTorch's ``calculate_gain``."""


def initial_gain(activation: str) -> float:
    """Gain of the orthogonal initialisation of hidden layers with this activation; silu, as SAPO published it: 1."""
    return INITIAL_GAINS.get(activation, 1.0)


def require_decay(final: float, field: str, rate: float) -> None:
    """Refuses rates that grow."""
    require(final <= rate, "final_learning_rate", final, f"must not exceed {field} = {rate}: rates decay")


@dataclasses.dataclass(frozen=True)
class ValueSettings(Part):
    """The critic, and how it is fitted. Defaults are SAPO's published ones."""

    td_lambda: float = 0.95
    """lambda of the critic's targets: 0 trusts the next value, 1 the rewards of the whole window."""
    critic_learning_rate: float = 5e-4
    """Initial learning rate of the critic; decays linearly over the planned updates."""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Widths of the critic's hidden layers."""
    critic_passes: int = 16
    """Passes over the window when fitting the critic."""
    critic_minibatches: int = 4
    """Contiguous minibatches per pass. Must divide ``num_envs * window``."""

    def __post_init__(self):
        for field in ("critic_passes", "critic_minibatches"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        require(0.0 <= self.td_lambda <= 1.0, "td_lambda", self.td_lambda, "must lie in [0, 1]")
        require_rate("critic_learning_rate", self.critic_learning_rate)
        require_widths("critic_hidden", self.critic_hidden)


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(Part):
    """AdamW with a linear decay of the learning rate. Defaults are SAPO's published ones."""

    actor_learning_rate: float = 2e-3
    """Initial learning rate of the actor; decays linearly over the planned updates."""
    final_learning_rate: float = 1e-5
    """Learning rate at the end of the plan."""
    adam_betas: tuple[float, float] = (0.7, 0.95)
    """Decay rates of Adam's two moments."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (AdamW); 0 is plain Adam. SHAC, APG: 0."""
    gradient_clip: float = 0.5
    """Largest global norm of actor and critic gradients. SHAC, APG: 1.0."""

    def __post_init__(self):
        require_rate("actor_learning_rate", self.actor_learning_rate)
        require(self.gradient_clip > 0.0, "gradient_clip", self.gradient_clip, "must be greater than 0")
        for field in ("final_learning_rate", "weight_decay"):
            require(0.0 <= getattr(self, field) < math.inf, field, getattr(self, field), "must be 0 or greater")
        require_decay(self.final_learning_rate, "actor_learning_rate", self.actor_learning_rate)
        require_betas(self.adam_betas)


ADAM = OptimizerSettings(weight_decay=0.0, gradient_clip=1.0)
"""SHAC's optimiser, and APG's."""

GLOBAL_STD = GaussianSettings(state_dependent_std=False)
"""Their policy: a Gaussian with one standard deviation for all states."""


@dataclasses.dataclass(frozen=True)
class PathwiseConfig(AlgorithmSettings):
    """Settings that every pathwise algorithm has. Defaults are SAPO's published ones unless a field says otherwise."""

    window: int = 32
    """H, environment steps per gradient window. Longer sees further and makes gradients rougher. Papers: 32."""
    discount: float = 0.99
    """gamma, weight of the next step's reward."""
    gradient_limit: float = 1e3
    """Largest gradient of one environment's own window return with respect to its state and action at any step;
    beyond it that environment is scaled down and counted."""
    actor_hidden: tuple[int, ...] = (128, 64, 32)
    """Widths of the actor's hidden layers."""
    activation: str = "silu"
    """Activation of all networks: silu, elu, relu or tanh; their initial weights follow. SHAC, APG: elu."""
    layer_norm: bool = True
    """LayerNorm in all hidden layers."""
    normalize_observations: bool = True
    """Normalise observation vectors by running statistics, frozen inside a window. Point clouds never are."""
    chunk_length: int = 1
    """C, actions planned per policy call and run open loop. Must divide ``window``."""
    policy: PolicySettings = GaussianSettings()
    """The policy; its class first."""
    critic: ValueSettings | None = ValueSettings()
    """The critic; None for none."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The optimiser of actor and critic."""

    def __post_init__(self):
        for field in ("window", "chunk_length"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        require(0.0 <= self.discount <= 1.0, "discount", self.discount, "must lie in [0, 1]")
        require(self.gradient_limit > 0.0, "gradient_limit", self.gradient_limit, "must be greater than 0")
        require_widths("actor_hidden", self.actor_hidden)
        if self.critic is not None:
            final = self.optimizer.final_learning_rate
            require_decay(final, "critic_learning_rate", self.critic.critic_learning_rate)
        require(
            self.window % self.chunk_length == 0,
            "chunk_length",
            self.chunk_length,
            f"must divide window = {self.window}, so that every window begins with a fresh plan",
        )
        self.trunk(self.actor_hidden)  # refuses an unknown activation

    @property
    def iteration_steps(self) -> int:
        """Control steps per iteration."""
        return self.window

    def trunk(self, hidden: tuple[int, ...]) -> Trunk:
        """Shape of a network with these hidden layers."""
        return Trunk(hidden, self.activation, self.layer_norm, initial_gain(self.activation))
