"""Action chunks while data for a replay memory is gathered: who plans when, what is done, what is remembered.

Plans are made as an agent makes them (`penstock.policies.planning`): by all environments where a stretch of C steps
begins, and at once by those whose episode has just begun. Iterations are whole stretches, so nothing of this outlives
one. The memory is told the plans with which stretches began (`penstock.data.replay`), not those that a reset began.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from penstock._seeds import anywhere
from penstock._types import AnyArray
from penstock.policies.planning import advanced
from penstock.worlds import Transition


class Plans(NamedTuple):
    """Plans of N environments.

    Attributes:
        followed: the plan that each environment follows.
        begun: the plan with which the present stretch began.
        cursor: place in ``followed``.
        fresh: whether the environment's episode has just begun.
    """

    followed: Float[AnyArray, "N C d"]
    begun: Float[AnyArray, "N C d"]
    cursor: Int[AnyArray, "N"]
    fresh: Bool[AnyArray, "N"]


def no_plans(num_envs: int, chunk_length: int, action_size: int, *, host: bool = False) -> Plans | None:
    """Before the first step of an iteration; None without chunks.

    Args:
        num_envs: N.
        chunk_length: C.
        action_size: d.
        host: as NumPy arrays.
    """
    if chunk_length == 1:
        return None
    xp = np if host else jnp
    empty = xp.zeros((num_envs, chunk_length, action_size), xp.float32)
    return Plans(empty, empty, xp.zeros((num_envs,), xp.int32), xp.zeros((num_envs,), bool))


def next_actions(plans: Plans | None, step: Any, consult: Callable[[], Any]) -> tuple[Plans | None, Any, Any]:
    """The actions of this step.

    Args:
        plans: so far; None without chunks.
        step: steps since the iteration began.
        consult: asks for a plan per environment, ``(N, C * d)``. Not evaluated at steps where nobody needs one.

    Returns:
        The plans, the actions ``(N, d)`` that are done, and those that are remembered.
    """
    if plans is None:
        action = consult()
        return None, action, action
    host, shape = isinstance(plans.cursor, np.ndarray), plans.followed.shape
    xp, where_needed = (np, _on_host) if host else (jnp, _on_device)
    phase = step % shape[1]
    decision = plans.fresh | (phase == 0)
    drawn = where_needed(decision, lambda: consult().reshape(shape), plans.followed)
    followed = xp.where(decision[:, None, None], drawn, plans.followed)
    begun = xp.where(phase == 0, followed, plans.begun)
    cursor, action = advanced(xp, followed, plans.cursor, decision)
    return Plans(followed, begun, cursor, plans.fresh), action, begun[:, phase]


def after(plans: Plans | None, transition: Transition) -> Plans | None:
    """The plans after the world has moved on.

    An environment needs a new one where its episode ended, and where it only reset itself: what was planned before that
    was planned at the last observation of the episode before.
    """
    if plans is None:
        return None
    fresh = transition.done if transition.valid is None else transition.done | ~transition.valid
    return plans._replace(fresh=fresh)


def _on_device(needed, draw, otherwise):
    return jax.lax.cond(anywhere(needed), draw, lambda: otherwise)


def _on_host(needed, draw, otherwise):
    return draw() if needed.any() else otherwise
