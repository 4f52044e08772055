"""CrossQ: SAC without target networks, with batch-normalised networks, and one actor step per three critic steps.

The equations are those of sac.py with ``critic = crossq``. Source: Bhatt et al., ICLR 2024 (arXiv 1902.05605): Adam
with beta_1 = 0.5, wide critics, BatchRenorm. Widths here are the 1024 of SAC Flow's critics; the paper's are 2048.

The actor has BatchRenorm too, as in the released code (adityab/CrossQ at a318a26, ``brn_actor``) and in SBX (9bdc9c1):
its loss normalises by the batch of observations and moves the running statistics; acting, and a' of the targets, use
these. docs/sac_flow.md has the table of differences.
"""

import dataclasses
from typing import ClassVar

from penstock.algorithms import sac
from penstock.algorithms.off_policy_config import RENORM_WARMUP, AdamSettings, CriticBase, CrossQCritic
from penstock.networks import Trunk

CRITIC = CrossQCritic(critic_hidden=(1024, 1024), critic_learning_rate=1e-3)
"""CrossQ's critics, and SAC Flow's."""


@dataclasses.dataclass(frozen=True)
class Config(sac.Config):
    """Settings of CrossQ."""

    temperature_learning_rate: float | None = 1e-3
    """Learning rate of log alpha; None (``--no-learn-temperature``) keeps it."""
    policy_delay: int = 3
    """Gradient steps of the critics per gradient step of the actor. CrossQ: 3."""
    actor_batch_renorm: bool = True
    """BatchRenorm in the actor, on its input and after every activation. CrossQ: yes."""
    critic: CriticBase = CRITIC
    """The critics; their base first."""
    optimizer: AdamSettings = AdamSettings(actor_learning_rate=1e-3, adam_betas=(0.5, 0.999))
    """The optimiser. CrossQ: 0.5 for the decay of Adam's first moment."""

    def actor_trunk(self) -> Trunk:
        """Shape of the actor's networks."""
        if not self.actor_batch_renorm:
            return super().actor_trunk()
        return dataclasses.replace(super().actor_trunk(), renorm_warmup=RENORM_WARMUP)


class Learner(sac.Learner):
    """CrossQ: see the module's text."""

    name: ClassVar[str] = "crossq"
