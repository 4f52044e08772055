"""What N environments went through under one policy, in the order of time."""

from typing import Any

from jaxtyping import Bool, Float

from penstock._records import pytree_record
from penstock._types import AnyArray
from penstock.observation import Observation


@pytree_record
class Records:
    """H control steps of N environments, time first.

    Attributes:
        observation: what the policy acted on, raw.
        action: inside the box [-1, 1].
        record: what `penstock.policies.Policy.log_prob` needs to know of each draw.
        reward: of the step.
        terminated: the episode ended inside the task: nothing to bootstrap from.
        truncated: the episode met its time limit: bootstrap from ``final_observation``.
        final_observation: the next observation, before any reset.
        memory: ``(N, ...)`` each, what the learner remembered when the window began (`Learner.acting_memory`); None for
            learners that remember nothing.
        valid: False where nothing happened, because a hosted environment only reset itself: not to be learned from.
    """

    observation: Observation
    action: Float[AnyArray, "*H N d"]
    record: Any
    reward: Float[AnyArray, "*H N"]
    terminated: Bool[AnyArray, "*H N"]
    truncated: Bool[AnyArray, "*H N"]
    final_observation: Observation
    valid: Bool[AnyArray, "*H N"]
    memory: Any = None
