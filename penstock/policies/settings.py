"""Policies by name, each with settings of its own: the part ``policy`` of every algorithm's configuration."""

import abc
import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax

from penstock._coupling import MaskScheme, ScaleBound, require_bound, usual_hidden
from penstock._errors import ConfigurationError, require
from penstock._own_code import load_own, resolved_spec
from penstock._settings import Choice
from penstock._types import Key
from penstock.networks import Trunk, make_encoder
from penstock.networks.recurrence import RecurrenceMaker
from penstock.observation import ObservationSpec
from penstock.policies.agent import Actor
from penstock.policies.coupling_flow import CouplingFlow
from penstock.policies.deterministic import Deterministic
from penstock.policies.deterministic_action import ZERO_NOISE, DeterministicAction
from penstock.policies.gaussian import LOG_STD_BOUNDS, SquashedGaussian
from penstock.policies.marginal_flow import MarginalFlow
from penstock.policies.noisy_flow import NoisyFlow, largest_step_std, path_entropy_target
from penstock.policies.policy import Policy
from penstock.policies.squash import SquashName
from penstock.policies.steppers import require_scheme
from penstock.policies.velocity_fields import VelocityName, make_velocity
from penstock.policies.velocity_flow import VelocityFlow

STEP_STD = 0.1697
"""SAC Flow's standard deviation per step: four steps then have a path of entropy 0."""

StepperName = Literal["euler", "midpoint", "heun", "rk4"]


@dataclasses.dataclass(frozen=True)
class PolicySettings(Choice):
    """What a policy is made of; builds it. A new policy is a subclass with its settings, and `register_policy`."""

    policy: str = ""
    """Policy class."""
    has_rules: ClassVar[bool] = False
    """Whether a run may choose another `deterministic` by ``deterministic_action``."""

    @abc.abstractmethod
    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> Policy:
        """Draws a policy.

        Args:
            key: key of the weights.
            feature_size: number of features.
            flat_size: numbers that a draw emits.
            trunk: hidden layers of its networks.

        Raises:
            ConfigurationError: the policy cannot be built so.
        """

    def entropy_target(self, action_size: int) -> float:
        """The entropy at which a learned temperature aims, in nats: of the action, -d (Haarnoja et al. 2018)."""
        return -float(action_size)

    def entropy_bound(self, action_size: int) -> tuple[float, str]:
        """An entropy, in nats, that no policy of these settings exceeds, and why in words."""
        most = action_size * math.log(2.0)
        return most, f"actions in [-1, 1] have at most {most:.4g} nats ({action_size} x log 2)"

    def deterministic(self) -> DeterministicAction:
        """What the policy does without noise."""
        return ZERO_NOISE

    def clipped(self) -> "PolicySettings":
        """The same, for a policy that clips its latent in the place of tanh, and has the density of the latent.

        Raises:
            ConfigurationError: the policy cannot.
        """
        raise ConfigurationError(
            f"squash = 'clip': policy = {self.policy!r} has its density behind tanh. Choose squash = 'tanh', or policy "
            "= 'gaussian' or 'coupling'."
        )

    @classmethod
    def kinds(cls) -> Mapping[str, "PolicySettings"]:
        """See `Choice.kinds`."""
        return POLICIES

    @classmethod
    def kind(cls, field: str, name: str) -> Choice:
        """See `Choice.kind`; also a policy in somebody's file."""
        return _own_policy(resolved_spec(name)) if ":" in str(name) else super().kind(field, name)


@dataclasses.dataclass(frozen=True)
class GaussianSettings(PolicySettings):
    """A squashed Gaussian."""

    squash: ClassVar[SquashName] = "tanh"
    """See `penstock.policies.squash`; a subclass may clip."""
    policy: str = "gaussian"
    """Policy class: gaussian (tanh-squashed), flow (velocity flow), noisy-flow (with the density of its path),
    marginal-flow (with that of its action), coupling (normalizing flow, NFPO's) or deterministic."""
    state_dependent_std: bool = True
    """Gaussian: standard deviation as a function of the state (SAPO) or one global vector (SHAC)."""
    initial_log_std: float = -1.0
    """Gaussian: initial log standard deviation of the latent."""

    def __post_init__(self):
        low, high = LOG_STD_BOUNDS
        fits = low <= self.initial_log_std <= high
        require(fits, "initial_log_std", self.initial_log_std, f"must lie in [{low:g}, {high:g}]")

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> SquashedGaussian:
        """See `PolicySettings.build`."""
        return SquashedGaussian(
            key,
            feature_size,
            flat_size,
            trunk,
            state_dependent_std=self.state_dependent_std,
            initial_log_std=self.initial_log_std,
            output_gain=0.01 if trunk.output_gain is None else trunk.output_gain,
            squash=self.squash,
        )

    def clipped(self) -> PolicySettings:
        """See `PolicySettings.clipped`."""
        if type(self) is not GaussianSettings:
            return super().clipped()  # what a subclass builds is its own
        return ClippedGaussianSettings(**vars(self))


@dataclasses.dataclass(frozen=True)
class ClippedGaussianSettings(GaussianSettings):
    """A clipped Gaussian."""

    squash: ClassVar[SquashName] = "clip"
    """See `GaussianSettings`."""


@dataclasses.dataclass(frozen=True)
class FlowSettings(PolicySettings):
    """A velocity flow."""

    has_rules: ClassVar[bool] = True
    """See `PolicySettings`: zero noise is none of the noises on which a flow is trained."""
    policy: str = "flow"
    """Policy class: gaussian (tanh-squashed), flow (velocity flow), noisy-flow (with the density of its path),
    marginal-flow (with that of its action), coupling (normalizing flow, NFPO's) or deterministic."""
    flow_steps: int = 4
    """Flow: K, integration steps from noise to action. RFO: 4."""
    stepper: StepperName = "euler"
    """Flow: integration scheme. RFO: euler. Midpoint with half the steps costs the same and is less biased."""
    velocity: VelocityName = "affine"
    """Flow: velocity field: affine (p + q x, which shapes the noise of every entry), mlp (RFO's paper), gated (Flow-G)
    or decoded (Flow-T, whose width is the first of ``actor_hidden``)."""

    def __post_init__(self):
        require_scheme(self.flow_steps, self.stepper)

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> VelocityFlow:
        """See `PolicySettings.build`."""
        refuse_batch_renorm(self.policy, trunk)
        return VelocityFlow(
            field=_velocity(key, self.velocity, feature_size, flat_size, trunk),
            flat_size=flat_size,
            flow_steps=self.flow_steps,
            stepper=self.stepper,
        )

    def deterministic(self) -> DeterministicAction:
        """See `PolicySettings.deterministic`: the middle of one mode of a few fixed noises' actions."""
        return DeterministicAction("modal")


@dataclasses.dataclass(frozen=True)
class NoisyFlowSettings(PolicySettings):
    """A flow with noise at every step, SAC Flow's."""

    policy: str = "noisy-flow"
    """Policy class: gaussian (tanh-squashed), flow (velocity flow), noisy-flow (with the density of its path),
    marginal-flow (with that of its action), coupling (normalizing flow, NFPO's) or deterministic."""
    drift: ClassVar[bool] = True
    """Drift correction that keeps the marginals of an ideal flow under the added noise; a subclass may do without."""
    learn_noise: ClassVar[bool] = True
    """Learn the noise scale; a subclass may keep it constant."""
    velocity: VelocityName = "gated"
    """Flow: velocity field: affine, mlp, gated (Flow-G) or decoded (Flow-T, whose width is the first of
    ``actor_hidden``)."""
    flow_steps: int = 4
    """Flow: K, steps from noise to action."""
    target_step_std: float = STEP_STD
    """Standard deviation per step at which the path's target entropy is met; also where the noise starts. 0.1697 gives
    H = 0 at K = 4."""

    def __post_init__(self):
        require(self.flow_steps >= 1, "flow_steps", self.flow_steps, "must be at least 1")
        value = self.target_step_std
        require(0.0 < value < math.inf, "target_step_std", value, "must be finite and greater than 0")

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> NoisyFlow:
        """See `PolicySettings.build`."""
        refuse_batch_renorm(self.policy, trunk)
        key_field, key_noise = jax.random.split(key)
        if self.velocity == "gated":
            trunk = dataclasses.replace(trunk, activation="silu")  # as published
        return NoisyFlow(
            key_noise,
            _velocity(key_field, self.velocity, feature_size, flat_size, trunk),
            feature_size,
            flat_size,
            trunk,
            flow_steps=self.flow_steps,
            drift=self.drift,
            step_std=self.target_step_std,
            learn_noise=self.learn_noise,
        )

    def entropy_target(self, action_size: int) -> float:
        """See `PolicySettings.entropy_target`; of the path before squashing, what noise of ``target_step_std`` has."""
        return path_entropy_target(action_size, self.flow_steps, self.target_step_std)

    def entropy_bound(self, action_size: int) -> tuple[float, str]:
        """See `PolicySettings.entropy_bound`."""
        if not self.learn_noise:
            most = self.entropy_target(action_size)
            return most, (
                f"with constant noise (learn_noise = False) the path's entropy stays below {most:.4g} nats, whatever "
                "is learned"
            )
        most = path_entropy_target(action_size, self.flow_steps, largest_step_std(self.flow_steps, self.drift))
        return most, f"paths of {self.flow_steps} steps have less than {most:.4g} nats, because sigma is bounded"


@dataclasses.dataclass(frozen=True)
class MarginalFlowSettings(PolicySettings):
    """The same, where the density and the entropy of the action count, and not those of the path."""

    policy: str = "marginal-flow"
    """Policy class: gaussian (tanh-squashed), flow (velocity flow), noisy-flow (with the density of its path),
    marginal-flow (with that of its action), coupling (normalizing flow, NFPO's) or deterministic."""
    velocity: VelocityName = "gated"
    """Flow: velocity field: affine, mlp, gated (Flow-G) or decoded (Flow-T, whose width is the first of
    ``actor_hidden``)."""
    flow_steps: int = 4
    """Flow: K, steps from noise to action. The noise starts with that of a noisy-flow."""
    other_paths: int = 8
    """M: the action's density is estimated as a mixture over M more paths of the same state. Unlike the path's, it
    rewards a spread of modes."""

    def __post_init__(self):
        self._flow()  # refuses its settings
        require(self.other_paths >= 1, "other_paths", self.other_paths, "must be at least 1")

    def _flow(self) -> NoisyFlowSettings:
        return NoisyFlowSettings(velocity=self.velocity, flow_steps=self.flow_steps)

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> MarginalFlow:
        """See `PolicySettings.build`."""
        return MarginalFlow(self._flow().build(key, feature_size, flat_size, trunk), self.other_paths)


@dataclasses.dataclass(frozen=True)
class CouplingSettings(PolicySettings):
    """A normalizing flow with a bounded scale, NFPO's."""

    has_rules: ClassVar[bool] = True
    """See `PolicySettings`: zero noise is neither mean nor mode in general."""
    squash: ClassVar[SquashName] = "tanh"
    """See `penstock.policies.squash`; a subclass may clip."""
    masks: ClassVar[MaskScheme] = "halves"
    """Which entries a layer keeps: halves (first half, then the rest) or alternating (even, then odd); a subclass may
    choose."""
    coupling_hidden: ClassVar[tuple[int, ...] | None] = None
    """Widths of the hidden layers of each layer's network, which reads what ``actor_hidden`` made of the observation; a
    subclass may choose. None: one layer, half as wide as the last of ``actor_hidden``."""
    base_std: ClassVar[float | None] = 1.0
    """Standard deviation of the base noise at the start, learned within [0.05, 2]; a subclass may start elsewhere, or
    keep 1 by None."""
    policy: str = "coupling"
    """Policy class: gaussian (tanh-squashed), flow (velocity flow), noisy-flow (with the density of its path),
    marginal-flow (with that of its action), coupling (normalizing flow, NFPO's) or deterministic."""
    coupling_layers: int = 4
    """Coupling: K, layers of the flow; in turns they change one half of the action by the other."""
    bound: float = 0.25
    """Coupling: l, the largest log-scale of a layer. The paper does not tell its value; this one is ours."""
    scale_bound: ScaleBound = "tanh"
    """Coupling: how log-scales are bounded: tanh (l tanh(u), NFPO's), scaled-tanh (l tanh(u / l)), clip, or none, which
    is known to explode."""

    def __post_init__(self):
        require(self.coupling_layers >= 1, "coupling_layers", self.coupling_layers, "must be at least 1")
        require_bound(self.bound, self.scale_bound, type(self).bound)

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> CouplingFlow:
        """See `PolicySettings.build`."""
        refuse_batch_renorm(self.policy, trunk)
        return CouplingFlow(
            key,
            feature_size,
            flat_size,
            trunk,
            layers=self.coupling_layers,
            bound=self.bound,
            scale_bound=self.scale_bound,
            masks=self.masks,
            hidden=usual_hidden(trunk.hidden[-1]) if self.coupling_hidden is None else self.coupling_hidden,
            base_std=self.base_std,
            squash=self.squash,
        )

    def clipped(self) -> PolicySettings:
        """See `PolicySettings.clipped`."""
        if type(self) is not CouplingSettings:
            return super().clipped()  # what a subclass builds is its own
        return ClippedCouplingSettings(**vars(self))


@dataclasses.dataclass(frozen=True)
class ClippedCouplingSettings(CouplingSettings):
    """A normalizing flow whose latent is clipped."""

    squash: ClassVar[SquashName] = "clip"
    """See `CouplingSettings`."""


@dataclasses.dataclass(frozen=True)
class DeterministicSettings(PolicySettings):
    """One action per state, TD3's."""

    policy: str = "deterministic"
    """Policy class: gaussian (tanh-squashed), flow (velocity flow), noisy-flow (with the density of its path),
    marginal-flow (with that of its action), coupling (normalizing flow, NFPO's) or deterministic."""

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> Deterministic:
        """See `PolicySettings.build`."""
        refuse_batch_renorm(self.policy, trunk)
        gain = 0.01 if trunk.output_gain is None else trunk.output_gain
        return Deterministic(key, feature_size, flat_size, trunk, gain)


def refuse_batch_renorm(policy: str, trunk: Trunk) -> None:
    """Refuses BatchRenorm in a policy that has no training form of it."""
    if trunk.renorm_warmup is not None:
        raise ConfigurationError(
            f"policy = {policy!r}: has no form with BatchRenorm, which CrossQ's actor is to have. Pass "
            "--no-actor-batch-renorm, or --policy gaussian."
        )


def _velocity(key, name, feature_size, flat_size, trunk):
    gain = 0.01 if trunk.output_gain is None else trunk.output_gain
    return make_velocity(key, name, feature_size, flat_size, trunk, gain)


@functools.cache
def _own_policy(spec: str) -> PolicySettings:
    """Loaded once, so that two plans of one policy are equal."""

    def fits(value):
        return inspect.isclass(value) and issubclass(value, PolicySettings) and value is not PolicySettings

    found = load_own(spec, "policy", fits)
    if not fits(found):
        raise ConfigurationError(
            f"policy = {spec!r}: is {found!r}, no subclass of PolicySettings, which says what a policy is made of and "
            "builds it (docs/add_a_policy.md)."
        )
    return found(policy=spec)


POLICIES: dict[str, PolicySettings] = {}
"""Settings of every registered policy, with default values, by name."""


def register_policy(settings: PolicySettings) -> None:
    """Makes a policy known by the name in its field ``policy``.

    Args:
        settings: with default values.

    Raises:
        ConfigurationError: the name is taken.
    """
    name = settings.policy
    require(bool(name), "policy", name, "a policy needs a name")
    require(name not in POLICIES, "policy", name, "is taken; choose another name")
    POLICIES[name] = settings


register_policy(GaussianSettings())
register_policy(FlowSettings())
register_policy(NoisyFlowSettings())
register_policy(MarginalFlowSettings())
register_policy(CouplingSettings())
register_policy(DeterministicSettings())


def make_actor(
    key_encoder: Key,
    key_policy: Key,
    settings: PolicySettings,
    spec: ObservationSpec,
    flat_size: int,
    trunk: Trunk,
    recurrent: RecurrenceMaker | None = None,
) -> Actor:
    """Builds encoder and policy for a world.

    Args:
        key_encoder: key of the encoder's weights.
        key_policy: key of the policy's weights.
        settings: of the policy.
        spec: of the observations.
        flat_size: numbers that a draw of the policy emits.
        trunk: hidden layers.
        recurrent: draws the cell between encoder and policy; None for none.
    """
    encoder = make_encoder(key_encoder, spec, trunk)
    recurrence = None if recurrent is None else recurrent(jax.random.fold_in(key_encoder, 1), encoder.size)
    size = encoder.size if recurrence is None else recurrence.size
    return Actor(encoder, settings.build(key_policy, size, flat_size, trunk), recurrence)
