"""Following a plan of C actions: when the policy is consulted, and which action comes next.

Time is cut into stretches of C steps, the same for all environments. At the start of a stretch every environment gets
a new plan. One whose episode has just begun gets a new plan at once, which ends with the stretch, so that all stay in
step. With C = 1 the policy is consulted at every step.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from penstock._seeds import anywhere
from penstock._types import AnyArray, PerEnvFlag
from penstock.policies.policy import Draw


class Plan(NamedTuple):
    """Plans of N environments: what an agent remembers between two steps.

    Attributes:
        action: chunks ``(N, C * d)``.
        latent: the same before squashing.
        cursor: position in the chunk.
        fresh: whether the environment's episode has just begun.
    """

    action: Float[Array, "N flat"]
    latent: Float[Array, "N flat"]
    cursor: Int[Array, "N"]
    fresh: Bool[Array, "N"]

    def after(self, done: PerEnvFlag) -> "Plan":
        """The plan after the world has moved on: environments that were reset need a new one."""
        return self._replace(fresh=done)


def no_plan(num_envs: int, flat_size: int) -> Plan:
    """Before the first step."""
    empty = jnp.zeros((num_envs, flat_size))
    return Plan(empty, empty, jnp.zeros((num_envs,), jnp.int32), jnp.zeros((num_envs,), bool))


def next_action(
    plan: Plan, step: Int[Array, ""], chunk_length: int, consult: Callable[[], Draw], *, always: bool = False
) -> tuple[Plan, Float[Array, "N d"], PerEnvFlag]:
    """The action of this step.

    Args:
        plan: plan so far.
        step: steps since the rollout began.
        chunk_length: C.
        consult: asks the policy for a chunk per environment. Not evaluated at steps where nobody needs one.
        always: consult at every step, and use the first action of each chunk.

    Returns:
        The plan, actions ``(N, d)``, and which environments decided anew.
    """
    due = (step % chunk_length == 0) | always
    decision = plan.fresh | due
    if chunk_length == 1:
        drawn = consult()
        return plan._replace(action=drawn.action, latent=drawn.latent), drawn.action, jnp.ones_like(decision)

    def replan():
        drawn = consult()
        old = (plan.action, plan.latent)
        return jax.tree.map(lambda new, old: jnp.where(decision[:, None], new, old), (drawn.action, drawn.latent), old)

    action, latent = jax.lax.cond(anywhere(decision), replan, lambda: (plan.action, plan.latent))
    cursor, now = advanced(jnp, action.reshape(action.shape[0], chunk_length, -1), plan.cursor, decision)
    return Plan(action, latent, cursor, plan.fresh), now, decision


def advanced(
    xp: ModuleType, chunks: Float[AnyArray, "N C d"], cursor: Int[AnyArray, "N"], decision: Bool[AnyArray, "N"]
) -> tuple[Int[AnyArray, "N"], Float[AnyArray, "N d"]]:
    """The next place in each plan, the first of those just made, and the actions there.

    Args:
        xp: ``jax.numpy``, or ``numpy`` for plans on the host.
        chunks: plan of each environment.
        cursor: place of the action before.
        decision: whose plan is new.
    """
    cursor = xp.where(decision, 0, cursor + 1)
    return cursor, xp.take_along_axis(chunks, cursor[:, None, None], axis=1)[:, 0]
