"""SHAC (short-horizon actor-critic): the window return plus a terminal value from a target network.

    L(theta) = -E[ sum_{t<H} gamma^t r_t + gamma^H V'(s_H) ] / H
    phi:       regression of V to TD(lambda) targets computed with V'
    V' <- alpha V' + (1 - alpha) V            alpha is the weight of the OLD target

Source: arXiv 2204.07137 and its published settings: one critic, global standard deviation, Adam (0.7, 0.95), clip 1.0,
LayerNorm and ELU, orthogonal gain sqrt(2).
"""

import dataclasses
from typing import ClassVar

from penstock._errors import require
from penstock.algorithms.pathwise import PathwiseLearner
from penstock.algorithms.pathwise_config import ADAM, GLOBAL_STD, OptimizerSettings, PathwiseConfig
from penstock.policies import PolicySettings


@dataclasses.dataclass(frozen=True)
class Config(PathwiseConfig):
    """Settings of SHAC."""

    target_mixing: float = 0.2
    """alpha, weight of the old target critic per iteration: 0.2 (fast; Ant, Hopper, Cheetah) or 0.995 (slow;
    humanoids, hands, soft bodies)."""
    activation: str = "elu"
    """Activation of all networks: silu, elu, relu or tanh. SHAC: elu."""
    policy: PolicySettings = GLOBAL_STD
    """The policy; its class first. SHAC: a Gaussian with a global standard deviation."""
    optimizer: OptimizerSettings = ADAM
    """The optimiser. SHAC: Adam, clip 1."""

    def __post_init__(self):
        super().__post_init__()
        require(0.0 <= self.target_mixing <= 1.0, "target_mixing", self.target_mixing, "must lie in [0, 1]")


class Learner(PathwiseLearner[Config]):
    """Short-horizon actor-critic: see the module's equations."""

    name: ClassVar[str] = "shac"
    num_critics: ClassVar[int] = 1

    @property
    def target_mixing(self) -> float:
        """Weight of the old target critic."""
        return self.config.target_mixing
