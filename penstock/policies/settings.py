"""Policies by name, each with settings of its own: the part ``policy`` of every algorithm's configuration."""

import abc
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Literal

import jax

from penstock._errors import ConfigurationError, require, suggest
from penstock._own_code import load_own, resolved_spec
from penstock._settings import Choice
from penstock._types import Key
from penstock.networks import Trunk, make_encoder
from penstock.observation import ObservationSpec
from penstock.policies.agent import Actor
from penstock.policies.deterministic_action import ZERO_NOISE, DeterministicAction, DeterministicName
from penstock.policies.gaussian import LOG_STD_BOUNDS, SquashedGaussian
from penstock.policies.policy import Policy
from penstock.policies.steppers import require_scheme
from penstock.policies.velocity_fields import VelocityName, make_velocity
from penstock.policies.velocity_flow import VelocityFlow

StepperName = Literal["euler", "midpoint", "heun", "rk4"]


@dataclasses.dataclass(frozen=True)
class PolicySettings(Choice):
    """What a policy is made of; builds it. A new policy is a subclass with its settings, and `register_policy`."""

    policy: str = ""
    """Policy class."""

    @abc.abstractmethod
    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> Policy:
        """Draws a policy.

        Args:
            key: key of the weights.
            feature_size: number of features.
            flat_size: numbers that a draw emits.
            trunk: hidden layers of its networks.
        """

    def deterministic(self) -> DeterministicAction:
        """What the policy does without noise."""
        return ZERO_NOISE

    @classmethod
    def kinds(cls) -> Mapping[str, "PolicySettings"]:
        """See `Choice.kinds`."""
        return POLICIES

    @classmethod
    def kind(cls, name: str) -> "PolicySettings":
        """See `Choice.kind`."""
        if isinstance(name, str) and ":" in name:
            return _own_policy(resolved_spec(name))
        if name not in POLICIES:
            raise ConfigurationError(f"policy = {name!r}: unknown.{suggest(str(name), POLICIES)}")
        return POLICIES[name]


@dataclasses.dataclass(frozen=True)
class GaussianSettings(PolicySettings):
    """A tanh-squashed Gaussian."""

    policy: str = "gaussian"
    """Policy class: gaussian (tanh-squashed) or flow (velocity flow)."""
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
        )


@dataclasses.dataclass(frozen=True)
class FlowSettings(PolicySettings):
    """A velocity flow."""

    policy: str = "flow"
    """Policy class: gaussian (tanh-squashed) or flow (velocity flow)."""
    flow_steps: int = 4
    """Flow: K, integration steps from noise to action. RFO: 4."""
    stepper: StepperName = "euler"
    """Flow: integration scheme. RFO: euler. Midpoint with half the steps costs the same and is less biased."""
    velocity: VelocityName = "affine"
    """Flow: velocity field: affine (p + q x, which shapes the noise of every entry), mlp (RFO's paper), gated (Flow-G)
    or decoded (Flow-T, whose width is the first of ``actor_hidden``)."""
    deterministic_action: DeterministicName = "modal"
    """Flow: the action without noise, for evaluation and films: that of zero noise, of one fixed typical noise, the
    mean over a few fixed noises, or modal: the middle of one mode of those."""
    deterministic_draws: int = 8
    """Flow: fixed noises of mean and modal. An even number."""

    def __post_init__(self):
        require_scheme(self.flow_steps, self.stepper)
        self.deterministic()  # refuses an odd number

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> VelocityFlow:
        """See `PolicySettings.build`."""
        field = make_velocity(key, self.velocity, feature_size, flat_size, trunk)
        return VelocityFlow(field=field, flat_size=flat_size, flow_steps=self.flow_steps, stepper=self.stepper)

    def deterministic(self) -> DeterministicAction:
        """See `PolicySettings.deterministic`."""
        return DeterministicAction(self.deterministic_action, self.deterministic_draws)


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


def make_actor(key: Key, settings: PolicySettings, spec: ObservationSpec, flat_size: int, trunk: Trunk) -> Actor:
    """Builds encoder and policy for a world.

    Args:
        key: key of the weights.
        settings: of the policy.
        spec: of the observations.
        flat_size: numbers that a draw of the policy emits.
        trunk: hidden layers.
    """
    key_encoder, key_policy = jax.random.split(key)
    encoder = make_encoder(key_encoder, spec, trunk)
    return Actor(encoder, settings.build(key_policy, encoder.size, flat_size, trunk))
