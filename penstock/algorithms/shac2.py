"""SHAC2: SAPO's design choices without its entropy. The right Gaussian control for RFO.

    L(theta) = -E[ sum_{t<H} gamma^t r_t + gamma^H mean_i V_i(s_H) ] / H
    phi_i:     regression of V_i to TD(lambda) targets computed with min_i V_i;  no target network

Source: the ablation of SAPO, arXiv 2412.12089: squashed Gaussian with state-dependent standard deviation, two critics,
SiLU, AdamW, clip 0.5, orthogonal gain 1.
"""

import dataclasses
from typing import ClassVar

from penstock.algorithms.pathwise import PathwiseLearner
from penstock.algorithms.pathwise_config import PathwiseConfig


@dataclasses.dataclass(frozen=True)
class Config(PathwiseConfig):
    """Settings of SHAC2: those that all pathwise algorithms share."""


class Learner(PathwiseLearner[Config]):
    """SHAC with two critics and no target network: see the module's equations."""

    name: ClassVar[str] = "shac2"
    num_critics: ClassVar[int] = 2
