"""Settings that every on-policy algorithm has, and their rules."""

import dataclasses
import math

from penstock._errors import ConfigurationError, require
from penstock._settings import Part
from penstock.algorithms.learner import AlgorithmSettings
from penstock.algorithms.pathwise_config import initial_gain
from penstock.algorithms.recurrent_settings import MemorylessSettings, RecurrentSettings
from penstock.algorithms.rules import require_rate, require_widths
from penstock.networks import Trunk
from penstock.policies import GaussianSettings, PolicySettings
from penstock.policies.squash import SquashName

RATE_BOUNDS = (1e-5, 1e-2)
"""Within them an adapted learning rate stays (rsl_rl)."""


@dataclasses.dataclass(frozen=True)
class AdvantageSettings(Part):
    """The critic, and the advantages that come from it."""

    gae_lambda: float = 0.95
    """lambda of the advantages: 0 trusts the next value, 1 the rewards of the whole window."""
    critic_learning_rate: float = 3e-4
    """Learning rate of the critic."""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Widths of the critic's hidden layers."""
    value_clip: float | None = None
    """Largest change of a value, against the one before the update, that the critic's loss rewards; None for no limit.
    rsl_rl: 0.2."""

    def __post_init__(self):
        require(0.0 <= self.gae_lambda <= 1.0, "gae_lambda", self.gae_lambda, "must lie in [0, 1]")
        require_rate("critic_learning_rate", self.critic_learning_rate)
        require_widths("critic_hidden", self.critic_hidden)
        above = self.value_clip is None or self.value_clip > 0.0
        require(above, "value_clip", self.value_clip, "must be greater than 0, or None")


@dataclasses.dataclass(frozen=True)
class ClippedAdamSettings(Part):
    """Adam for actor and critic, whose gradients are clipped apart: a large loss of one does not starve the other."""

    actor_learning_rate: float = 3e-4
    """Learning rate of the actor; of the first gradient step, where ``kl_target`` adapts it."""
    kl_target: float | None = None
    """KL divergence from the policy that acted, by which the actor's learning rate is adapted at every minibatch:
    divided by 1.5 above twice of it, multiplied by 1.5 below half of it, within [1e-5, 1e-2]. None keeps the rate.
    rsl_rl: 0.01."""
    gradient_clip: float = 0.5
    """Largest global norm of actor and critic gradients, each. rsl_rl: 1."""

    def __post_init__(self):
        require_rate("actor_learning_rate", self.actor_learning_rate)
        require(self.gradient_clip > 0.0, "gradient_clip", self.gradient_clip, "must be greater than 0")
        above = self.kl_target is None or self.kl_target > 0.0
        require(above, "kl_target", self.kl_target, "must be greater than 0, or None")
        low, high = RATE_BOUNDS
        within = self.kl_target is None or low <= self.actor_learning_rate <= high
        rule = f"must lie in [{low:g}, {high:g}] with kl_target = {self.kl_target}, which keeps the rate there"
        require(within, "actor_learning_rate", self.actor_learning_rate, rule)


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(AlgorithmSettings):
    """Settings of PPO and what is made of it. Defaults are those of Stable-Baselines3 unless a field says otherwise."""

    window: int = 2048
    """H, control steps of every environment per iteration."""
    discount: float = 0.99
    """gamma, weight of the next step's reward."""
    epochs: int = 10
    """Passes over the window per iteration."""
    minibatches: int = 32
    """Gradient steps per pass. Must divide ``num_envs * window``; with a recurrence ``num_envs``."""
    clip_range: float = 0.2
    """epsilon: ratios beyond 1 +- epsilon are not rewarded any more."""
    entropy_coefficient: float = 0.0
    """Weight of the policy's entropy, estimated from one draw per state, in the actor's loss."""
    actor_hidden: tuple[int, ...] = (64, 64)
    """Widths of the actor's hidden layers."""
    activation: str = "tanh"
    """Activation of all networks: silu, elu, relu or tanh; their initial weights follow. rsl_rl: elu."""
    normalize_observations: bool = True
    """Normalise observation vectors by running statistics, frozen within an iteration. Point clouds and pixels never
    are."""
    squash: SquashName = "tanh"
    """How a latent becomes an action in [-1, 1]: tanh, with the density of the action; or clip, with the density of the
    latent, as if the environment clipped (gaussian and coupling). SB3, rsl_rl: clip."""
    policy: PolicySettings = GaussianSettings(state_dependent_std=False, initial_log_std=0.0)
    """The policy; its class first."""
    recurrent: RecurrentSettings = MemorylessSettings()
    """What policy and critic remember; without a memory, what a mirror does to observations and actions."""
    critic: AdvantageSettings = AdvantageSettings()
    """The critic, and how advantages are made of it."""
    optimizer: ClippedAdamSettings = ClippedAdamSettings()
    """The optimiser of actor and critic."""

    def __post_init__(self):
        for field in ("window", "epochs", "minibatches"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        require(0.0 <= self.discount <= 1.0, "discount", self.discount, "must lie in [0, 1]")
        require(self.clip_range > 0.0, "clip_range", self.clip_range, "must be greater than 0")
        require(
            self.entropy_coefficient >= 0.0, "entropy_coefficient", self.entropy_coefficient, "must be 0 or greater"
        )
        require_widths("actor_hidden", self.actor_hidden)
        self.trunk(self.actor_hidden)  # refuses an unknown activation
        _ = self.acting_policy  # refuses one that cannot clip

    @property
    def iteration_steps(self) -> int:
        """Control steps per iteration."""
        return self.window

    @property
    def acting_policy(self) -> PolicySettings:
        """The policy, squashed as ``squash`` says."""
        return self.policy.clipped() if self.squash == "clip" else self.policy

    def trunk(self, hidden: tuple[int, ...]) -> Trunk:
        """Shape of a network with these hidden layers."""
        return Trunk(hidden, self.activation, layer_norm=False, gain=initial_gain(self.activation))

    def require_minibatches(self, num_envs: int) -> None:
        """Refuses minibatches of unequal size.

        Raises:
            ConfigurationError: ``minibatches`` does not divide what an iteration gathers: steps, or whole sequences.
        """
        if self.recurrent.remembers:
            fits = math.gcd(num_envs, self.minibatches)
            rule = (
                f"must divide num_envs = {num_envs} with recurrent = {self.recurrent.recurrent!r}, whose minibatches "
                f"are whole windows of environments. Pass --minibatches {fits}, or --num-envs {self.minibatches}"
            )
            require(num_envs % self.minibatches == 0, "minibatches", self.minibatches, rule)
            return
        steps = num_envs * self.window
        if steps % self.minibatches:
            raise ConfigurationError(
                f"minibatches = {self.minibatches}: must divide num_envs * window = {num_envs} * {self.window} = "
                f"{steps}. Change one of the three."
            )
