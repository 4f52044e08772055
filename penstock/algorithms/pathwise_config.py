"""Settings that every pathwise algorithm has, and their rules."""

import dataclasses
import math

from penstock._errors import require
from penstock.networks import Trunk
from penstock.policies import DeterministicAction, PolicySettings
from penstock.policies.build import PolicyName, StepperName
from penstock.policies.deterministic_action import ZERO_NOISE, DeterministicName
from penstock.policies.gaussian import LOG_STD_BOUNDS
from penstock.policies.velocity_fields import VelocityName


@dataclasses.dataclass(frozen=True)
class PathwiseConfig:
    """Settings that every pathwise algorithm has. Defaults are SAPO's published ones unless a field says otherwise."""

    window: int = 32
    """H, environment steps per gradient window. Longer sees further and makes gradients rougher. Papers: 32."""
    discount: float = 0.99
    """gamma, weight of the next step's reward."""
    td_lambda: float = 0.95
    """lambda of the critic's targets: 0 trusts the next value, 1 the rewards of the whole window."""
    actor_learning_rate: float = 2e-3
    """Initial learning rate of the actor; decays linearly over the planned updates."""
    critic_learning_rate: float = 5e-4
    """Initial learning rate of the critic; decays linearly over the planned updates."""
    final_learning_rate: float = 1e-5
    """Learning rate at the end of the plan."""
    adam_betas: tuple[float, float] = (0.7, 0.95)
    """Decay rates of Adam's two moments."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (AdamW); 0 is plain Adam."""
    gradient_clip: float = 0.5
    """Largest global norm of actor and critic gradients. SHAC: 1.0."""
    return_gradient_clip: float | None = None
    """Largest norm of the return's gradient alone, before regularizers are added; None leaves it to
    ``gradient_clip``. Use it where exploding returns drown the regularizers."""
    gradient_limit: float = 1e3
    """Largest gradient of one environment's own window return with respect to its state and action at any step;
    beyond it that environment is scaled down and counted."""
    actor_hidden: tuple[int, ...] = (128, 64, 32)
    """Widths of the actor's hidden layers."""
    critic_hidden: tuple[int, ...] = (64, 64)
    """Widths of the critic's hidden layers."""
    activation: str = "silu"
    """Activation of all networks: silu, elu, relu or tanh."""
    layer_norm: bool = True
    """LayerNorm in all hidden layers."""
    initialization_gain: float = 1.0
    """Gain of the orthogonal initialisation of hidden layers."""
    normalize_observations: bool = True
    """Normalise observation vectors by running statistics, frozen inside a window. Point clouds never are."""
    critic_passes: int = 16
    """Passes over the window when fitting the critic."""
    critic_minibatches: int = 4
    """Contiguous minibatches per pass. Must divide ``num_envs * window``."""
    stagger_episodes: bool = True
    """Start environments at random ages, so that their time limits do not coincide."""
    policy: PolicyName = "gaussian"
    """Policy class: gaussian (tanh-squashed) or flow (velocity flow)."""
    state_dependent_std: bool = True
    """Gaussian: standard deviation as a function of the state (SAPO) or one global vector (SHAC)."""
    initial_log_std: float = -1.0
    """Gaussian: initial log standard deviation of the latent."""
    flow_steps: int = 4
    """Flow: K, integration steps from noise to action. RFO: 4."""
    stepper: StepperName = "euler"
    """Flow: integration scheme. RFO: euler. Midpoint with half the steps costs the same and is less biased."""
    velocity: VelocityName = "affine"
    """Flow: velocity field: affine (p + q x, which shapes the noise of every entry), mlp (RFO's paper), gated (Flow-G)
    or decoded (Flow-T, whose width is the first of ``actor_hidden``)."""
    deterministic_action: DeterministicName = "modal"
    """Flow: the action without noise, for evaluation and films: that of zero noise, of one fixed typical noise, the
    mean over a few fixed noises, or modal: the middle of one mode of those. A Gaussian's is its mean."""
    deterministic_draws: int = 8
    """Flow: fixed noises of mean and modal. An even number."""
    chunk_length: int = 1
    """C, actions planned per policy call and run open loop. Must divide ``window``."""

    def __post_init__(self):
        for field in ("window", "critic_passes", "critic_minibatches", "flow_steps", "chunk_length"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        for field in ("discount", "td_lambda"):
            require(0.0 <= getattr(self, field) <= 1.0, field, getattr(self, field), "must lie in [0, 1]")
        for field in (
            "actor_learning_rate",
            "critic_learning_rate",
            "gradient_clip",
            "gradient_limit",
            "initialization_gain",
        ):
            require(getattr(self, field) > 0.0, field, getattr(self, field), "must be greater than 0")
        clip = self.return_gradient_clip
        require(clip is None or clip > 0.0, "return_gradient_clip", clip, "must be greater than 0, or None")
        for field in ("final_learning_rate", "weight_decay"):
            require(0.0 <= getattr(self, field) < math.inf, field, getattr(self, field), "must be 0 or greater")
        for field in ("actor_learning_rate", "critic_learning_rate", "initialization_gain", "initial_log_std"):
            require(math.isfinite(getattr(self, field)), field, getattr(self, field), "must be finite")
        for field in ("actor_learning_rate", "critic_learning_rate"):
            require(
                self.final_learning_rate <= getattr(self, field),
                "final_learning_rate",
                self.final_learning_rate,
                f"must not exceed {field} = {getattr(self, field)}: rates decay",
            )
        low, high = LOG_STD_BOUNDS
        require(
            low <= self.initial_log_std <= high,
            "initial_log_std",
            self.initial_log_std,
            f"must lie in [{low:g}, {high:g}]",
        )
        for beta in self.adam_betas:
            require(0.0 <= beta < 1.0, "adam_betas", self.adam_betas, "must lie in [0, 1)")
        for field in ("actor_hidden", "critic_hidden"):
            widths = getattr(self, field)
            require(len(widths) >= 1 and min(widths) >= 1, field, widths, "needs at least one positive width")
        require(
            self.window % self.chunk_length == 0,
            "chunk_length",
            self.chunk_length,
            f"must divide window = {self.window}, so that every window begins with a fresh plan",
        )
        self.trunk(self.actor_hidden)  # refuses an unknown activation
        DeterministicAction(self.deterministic_action, self.deterministic_draws)  # refuses an odd number

    @property
    def iteration_steps(self) -> int:
        """Control steps per iteration."""
        return self.window

    def trunk(self, hidden: tuple[int, ...]) -> Trunk:
        """Shape of a network with these hidden layers."""
        return Trunk(hidden, self.activation, self.layer_norm, self.initialization_gain)

    def deterministic(self) -> DeterministicAction:
        """What the policy does without noise."""
        if self.policy == "gaussian":
            return ZERO_NOISE
        return DeterministicAction(self.deterministic_action, self.deterministic_draws)

    def policy_settings(self) -> PolicySettings:
        """The fields that describe the policy."""
        return PolicySettings(
            self.policy,
            self.trunk(self.actor_hidden),
            self.flow_steps,
            self.stepper,
            self.state_dependent_std,
            self.initial_log_std,
            self.chunk_length,
            self.velocity,
        )
