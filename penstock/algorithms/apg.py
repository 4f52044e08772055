"""APG (analytic policy gradient, also BPTT): the window return alone, no critic and no bootstrap.

    L(theta) = -E[ sum_{t<H} gamma^t r(s_t, a_t) ] / H,      a_t = tanh(mu(s_t) + sigma eps_t)

Settings as the APG control in SAPO (arXiv 2412.12089) and SHAC (arXiv 2204.07137): global standard deviation, Adam
(0.7, 0.95), clip 1.0, ELU.
"""

import dataclasses
from typing import ClassVar

from penstock.algorithms.pathwise import PathwiseLearner
from penstock.algorithms.pathwise_config import ADAM, GLOBAL_STD, OptimizerSettings, PathwiseConfig
from penstock.policies import PolicySettings


@dataclasses.dataclass(frozen=True)
class Config(PathwiseConfig):
    """Settings of APG."""

    activation: str = "elu"
    """Activation of all networks: silu, elu, relu or tanh. APG: elu."""
    policy: PolicySettings = GLOBAL_STD
    """The policy; its class first. APG: a Gaussian with a global standard deviation."""
    critic: None = None
    """APG has no critic: nothing is bootstrapped."""
    optimizer: OptimizerSettings = ADAM
    """The optimiser. APG: Adam, clip 1."""


class Learner(PathwiseLearner[Config]):
    """Analytic policy gradient: see the module's equation."""

    name: ClassVar[str] = "apg"
    num_critics: ClassVar[int] = 0
