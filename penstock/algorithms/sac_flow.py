"""SAC Flow (arXiv 2509.25756): SAC whose policy is a K-step flow with noise at every step.

The density in SAC's losses is that of the whole path x_0 .. x_K, which is exact for any velocity and any K:

    y  = r + gamma (1 - terminated) [ min_i Q_i(s', a') - alpha log p(x_0 .. x_K, a' | s') ]
    pi:  minimise alpha log p(x_0 .. x_K, a | s) - min_i Q_i(s, a)
    H  = d (c (K + 1) + K log target_step_std),  c = 0.5 log(2 pi e)       so that K may change

The rollout is a residual recurrent network, whose gradients, the paper reports, explode with a plain MLP velocity;
gated (Flow-G) and decoded (Flow-T) velocities are its cure. docs/sac_flow.md has what we measured. The policy is
`penstock.policies.NoisyFlow`; everything else is sac.py, by default on CrossQ's critics (``critic = crossq``). This
file follows the paper, with an exact density. What the released code does otherwise is a policy of its own, beside the
benchmarks.
"""

import dataclasses
from typing import ClassVar

from penstock.algorithms import sac
from penstock.algorithms.crossq import CRITIC
from penstock.algorithms.off_policy_config import AdamSettings, CriticBase
from penstock.policies import NoisyFlowSettings, PolicySettings


@dataclasses.dataclass(frozen=True)
class Config(sac.Config):
    """Settings of SAC Flow."""

    initial_temperature: float = 0.2
    """alpha at the start."""
    temperature_learning_rate: float | None = 1e-3
    """Learning rate of log alpha; None (``--no-learn-temperature``) keeps it."""
    policy_delay: int = 3
    """Gradient steps of the critics per gradient step of the actor."""
    batch_size: int = 512
    """Samples per gradient step."""
    actor_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of velocity and noise networks. Paper: gated 128, decoded 64, mlp 256-256."""
    policy: PolicySettings = NoisyFlowSettings()
    """The policy; its class first."""
    critic: CriticBase = CRITIC
    """The critics; their base first."""
    optimizer: AdamSettings = AdamSettings(adam_betas=(0.5, 0.999))
    """The optimiser of all networks."""


class Learner(sac.Learner):
    """SAC with a noise-augmented flow: see the module's equations."""

    name: ClassVar[str] = "sac-flow"
