"""Policies: distributions over actions, described by what they can do."""

from penstock.policies.agent import Actor, Agent
from penstock.policies.coupling_flow import CouplingFlow
from penstock.policies.deterministic_action import DeterministicAction
from penstock.policies.gaussian import SquashedGaussian
from penstock.policies.marginal_flow import MarginalFlow
from penstock.policies.noisy_flow import NoisyFlow
from penstock.policies.policy import Density, Draw, Need, Policy, require_of_policy
from penstock.policies.settings import (
    CouplingSettings,
    DeterministicSettings,
    FlowSettings,
    GaussianSettings,
    NoisyFlowSettings,
    PolicySettings,
    make_actor,
    register_policy,
)
from penstock.policies.velocity_fields import (
    AffineVelocity,
    DecodedVelocity,
    GatedVelocity,
    MLPVelocity,
    VelocityField,
)
from penstock.policies.velocity_flow import VelocityFlow

__all__ = [
    "Actor",
    "AffineVelocity",
    "Agent",
    "CouplingFlow",
    "CouplingSettings",
    "DecodedVelocity",
    "Density",
    "DeterministicAction",
    "DeterministicSettings",
    "Draw",
    "FlowSettings",
    "GatedVelocity",
    "GaussianSettings",
    "MLPVelocity",
    "MarginalFlow",
    "Need",
    "NoisyFlow",
    "NoisyFlowSettings",
    "Policy",
    "PolicySettings",
    "SquashedGaussian",
    "VelocityField",
    "VelocityFlow",
    "make_actor",
    "register_policy",
    "require_of_policy",
]
