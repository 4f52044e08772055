"""NFPO: PPO whose policy is a normalizing flow with a bounded scale.

The policy is a `penstock.policies.CouplingFlow`: RealNVP, conditioned on the observation, whose log-scales are
``l tanh(.)``. Without that bound the log-determinant, and with it the ratio of PPO, explodes. All else is PPO's.

Source: Shi, Tang et al. 2026 (arXiv 2603.11470): the method, the bound, and that its settings are PPO's. The number of
layers, the bound's value and the networks are Penstock's: the paper's could not be read.
"""

import dataclasses
from typing import ClassVar

from penstock.algorithms.on_policy_config import OnPolicyConfig
from penstock.algorithms.ppo import PPOLearner
from penstock.policies import CouplingSettings, PolicySettings

COUPLING = CouplingSettings()


@dataclasses.dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Settings of NFPO."""

    policy: PolicySettings = COUPLING
    """The policy; its class first. NFPO: a coupling flow with a bounded scale."""


class Learner(PPOLearner[Config]):
    """PPO with a normalizing flow: see the module's text."""

    name: ClassVar[str] = "nfpo"
