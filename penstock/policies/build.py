"""Policies by name, from settings that every algorithm shares."""

import dataclasses
from typing import Literal, get_args

import jax

from penstock._errors import ConfigurationError, suggest
from penstock._types import Key
from penstock.networks import Trunk, make_encoder
from penstock.observation import ObservationSpec
from penstock.policies.agent import Actor
from penstock.policies.gaussian import SquashedGaussian
from penstock.policies.policy import Policy
from penstock.policies.velocity_fields import VelocityName, make_velocity
from penstock.policies.velocity_flow import VelocityFlow

PolicyName = Literal["gaussian", "flow"]
StepperName = Literal["euler", "midpoint", "heun", "rk4"]


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a policy is made of. See the fields of the same names in the algorithms' configurations."""

    policy: PolicyName
    trunk: Trunk
    flow_steps: int
    stepper: StepperName
    state_dependent_std: bool
    initial_log_std: float
    chunk_length: int
    velocity: VelocityName = "mlp"


def make_policy(key: Key, settings: PolicySettings, feature_size: int, action_size: int) -> Policy:
    """Builds a policy on ``feature_size`` features for chunks of actions of ``action_size`` entries.

    Raises:
        ConfigurationError: unknown policy or stepper.
    """
    flat_size = settings.chunk_length * action_size
    if settings.policy == "gaussian":
        return SquashedGaussian(
            key,
            feature_size,
            flat_size,
            settings.trunk,
            state_dependent_std=settings.state_dependent_std,
            initial_log_std=settings.initial_log_std,
        )
    if settings.policy == "flow":
        field = make_velocity(key, settings.velocity, feature_size, flat_size, settings.trunk)
        return VelocityFlow(field=field, flat_size=flat_size, flow_steps=settings.flow_steps, stepper=settings.stepper)
    raise ConfigurationError(f"policy = {settings.policy!r}: unknown.{suggest(settings.policy, get_args(PolicyName))}")


def make_actor(key: Key, settings: PolicySettings, spec: ObservationSpec, action_size: int) -> Actor:
    """Builds encoder and policy for a world."""
    key_encoder, key_policy = jax.random.split(key)
    encoder = make_encoder(key_encoder, spec, settings.trunk)
    return Actor(encoder, make_policy(key_policy, settings, encoder.size, action_size))
