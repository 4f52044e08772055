"""Policies: distributions over actions, described by what they can do."""

from penstock.policies.agent import Actor, Agent
from penstock.policies.build import PolicySettings, make_actor, make_policy
from penstock.policies.chunked import Chunked
from penstock.policies.deterministic_action import DeterministicAction
from penstock.policies.gaussian import SquashedGaussian
from penstock.policies.noisy_flow import NoisyFlow
from penstock.policies.policy import ActionSample, Capability, Policy, require_capabilities
from penstock.policies.velocity_fields import (
    AffineVelocity,
    DecodedVelocity,
    GatedVelocity,
    MLPVelocity,
    VelocityField,
)
from penstock.policies.velocity_flow import VelocityFlow

__all__ = [
    "ActionSample",
    "Actor",
    "AffineVelocity",
    "Agent",
    "Capability",
    "Chunked",
    "DecodedVelocity",
    "DeterministicAction",
    "GatedVelocity",
    "MLPVelocity",
    "NoisyFlow",
    "Policy",
    "PolicySettings",
    "SquashedGaussian",
    "VelocityField",
    "VelocityFlow",
    "make_actor",
    "make_policy",
    "require_capabilities",
]
