"""Following a plan of C actions: when the policy is consulted, and which action comes next.

Time is cut into stretches of C steps, the same for all environments. At the start of a stretch every environment gets
a new plan. One whose episode has just begun gets a new plan at once, which ends with the stretch, so that all stay in
step. With C = 1 the policy is consulted at every step.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from penstock._types import PerEnvFlag
from penstock.policies.policy import ActionSample, Policy


class Plan(NamedTuple):
    """Plans of N environments.

    Attributes:
        sample: chunks ``(N, C * d)``.
        cursor: position in the chunk.
        fresh: whether the environment's episode has just begun.
    """

    sample: ActionSample
    cursor: Int[Array, "N"]
    fresh: Bool[Array, "N"]


def no_plan(num_envs: int, policy: Policy) -> Plan:
    """Before the first step."""
    empty = jnp.zeros((num_envs, policy.flat_size))
    return Plan(ActionSample(empty, empty), jnp.zeros((num_envs,), jnp.int32), jnp.zeros((num_envs,), bool))


def next_action(
    plan: Plan, step: Int[Array, ""], chunk_length: int, consult: Callable[[], ActionSample]
) -> tuple[Plan, Float[Array, "N d"], PerEnvFlag]:
    """The action of this step.

    Args:
        plan: plan so far.
        step: steps since the rollout began.
        chunk_length: C.
        consult: asks the policy for a chunk per environment. Not evaluated at steps where nobody needs one.

    Returns:
        The plan, actions ``(N, d)``, and which environments decided anew.
    """
    due = step % chunk_length == 0
    decision = plan.fresh | due
    if chunk_length == 1:
        sample = consult()
        return Plan(sample, plan.cursor, plan.fresh), sample.action, jnp.ones_like(decision)

    def replan():
        return jax.tree.map(lambda new, old: jnp.where(decision[:, None], new, old), consult(), plan.sample)

    sample = jax.lax.cond(decision.any(), replan, lambda: plan.sample)
    cursor = jnp.where(decision, 0, plan.cursor + 1)
    chunks = sample.action.reshape(sample.action.shape[0], chunk_length, -1)
    action = jnp.take_along_axis(chunks, cursor[:, None, None], axis=1)[:, 0]
    return Plan(sample, cursor, plan.fresh), action, decision


def after_step(plan: Plan, done: PerEnvFlag) -> Plan:
    """The plan after the world has moved on: environments that were reset need a new one."""
    return plan._replace(fresh=done)
