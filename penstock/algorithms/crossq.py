"""CrossQ: SAC without target networks, with batch-normalised networks, and one actor step per three critic steps.

The equations are those of sac.py with ``critic = crossq``. Source: Bhatt et al., ICLR 2024 (arXiv 1902.05605): Adam
with beta_1 = 0.5, wide critics, BatchRenorm. Widths here are the 1024 of SAC Flow's critics; the paper's are 2048.

The actor has BatchRenorm too, as in the released code (adityab/CrossQ at a318a26, ``brn_actor``) and in SBX (9bdc9c1):
its loss normalises by the batch of observations and moves the running statistics; acting, and a' of the targets, use
these. docs/sac_flow.md has the table of differences.
"""

import dataclasses
from typing import ClassVar, Literal

from penstock.algorithms import sac


@dataclasses.dataclass(frozen=True)
class Config(sac.Config):
    """Settings of CrossQ."""

    critic: Literal["target", "crossq"] = "crossq"
    """Critic base: target (slowly following copies) or crossq (BatchRenorm, no target network)."""
    critic_hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the critics' hidden layers."""
    actor_learning_rate: float = 1e-3
    """Learning rate of the actor."""
    critic_learning_rate: float = 1e-3
    """Learning rate of the critics."""
    temperature_learning_rate: float = 1e-3
    """Learning rate of log alpha."""
    adam_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two moments. CrossQ: 0.5 for the first."""
    policy_delay: int = 3
    """Gradient steps of the critics per gradient step of the actor. CrossQ: 3."""
    actor_batch_renorm: bool = True
    """BatchRenorm in the actor, on its input and after every activation. CrossQ: yes."""

    @property
    def actor_has_batch_renorm(self) -> bool:
        """See `sac.Config.actor_has_batch_renorm`."""
        return self.actor_batch_renorm


class Learner(sac.Learner):
    """CrossQ: see the module's text."""

    name: ClassVar[str] = "crossq"
