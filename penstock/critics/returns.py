"""Returns and value targets of one window of experience (one environment; callers vmap over environments).

An episode may end inside the window: *terminated* ends are worth nothing afterwards, *truncated* ends (time limit)
bootstrap from the value of the observation before the reset. If both hold, termination wins. The last step of the
window always bootstraps. Index t runs over the H steps; ``next_value[t]`` is ``V(s_{t+1})`` before any reset.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from penstock._types import Scalar


def segment_discounts(done: Bool[Array, "H"], discount: float) -> Float[Array, "H"]:
    """Weight ``gamma^i`` of each step, where i counts from the start of the window or of the step's episode."""

    def body(weight, done_t):
        return jnp.where(done_t, 1.0, weight * discount), weight

    _, weights = jax.lax.scan(body, jnp.asarray(1.0), done)
    return weights


def segment_return(
    reward: Float[Array, "H"],
    terminated: Bool[Array, "H"],
    truncated: Bool[Array, "H"],
    next_value: Float[Array, "H"],
    discount: float,
) -> Scalar:
    """Window return of the SHAC family: discounted rewards plus a bootstrap where a segment closes.

    ``sum_t w_t (r_t + gamma b_t V(s_{t+1}))`` with ``w`` from `segment_discounts`, ``b_t = 1`` at truncations and at
    the last step, 0 at terminations and elsewhere. Several episodes in one window add up.
    Source: SHAC, arXiv 2204.07137; RFO, arXiv 2602.03501. Differentiable in ``reward`` and ``next_value``.
    """
    done = terminated | truncated
    last = jnp.arange(reward.shape[0]) == reward.shape[0] - 1
    bootstrap = (done | last) & ~terminated
    weights = segment_discounts(done, discount)
    return jnp.sum(weights * (reward + discount * jnp.where(bootstrap, next_value, 0.0)))


def td_lambda_targets(
    reward: Float[Array, "H"],
    terminated: Bool[Array, "H"],
    truncated: Bool[Array, "H"],
    next_value: Float[Array, "H"],
    discount: float,
    mixing: float,
    next_decision: Bool[Array, "H"] | None = None,
) -> Float[Array, "H"]:
    """TD(lambda) targets by backward recursion.

        G_t = r_t + gamma [(1 - lambda_t) V(s_{t+1}) + lambda_t G_{t+1}]     the episode goes on
        G_t = r_t + gamma b_t V(s_{t+1})                                     it ends, or t is the last step

    ``lambda_t = lambda`` where s_{t+1} is a decision point of the policy, else 1: values are not consulted in the
    middle of an action chunk, whose future is partly committed. With chunks of C steps this equals TD(lambda) over
    macro steps with reward ``sum_i gamma^i r_i`` and discount ``gamma^C``, at the decision points.

    Args:
        reward: ``(H,)``.
        terminated: ``(H,)``.
        truncated: ``(H,)``.
        next_value: ``(H,)``, value of the observation before any reset.
        discount: gamma in [0, 1].
        mixing: lambda in [0, 1].
        next_decision: ``(H,)``, whether s_{t+1} is a decision point; None if all are.

    Returns:
        ``(H,)`` targets. No gradient is stopped here; callers do.
    """
    steps = reward.shape[0]
    done = terminated | truncated
    last = jnp.arange(steps) == steps - 1
    ends = done | last
    bootstrap = jnp.where(terminated, 0.0, next_value)
    lambdas = jnp.full((steps,), mixing) if next_decision is None else jnp.where(next_decision, mixing, 1.0)

    def body(following, now):
        r, end, boot, value, lam = now
        target = r + discount * jnp.where(end, boot, (1.0 - lam) * value + lam * following)
        return target, target

    _, targets = jax.lax.scan(
        body, jnp.zeros((), reward.dtype), (reward, ends, bootstrap, next_value, lambdas), reverse=True
    )
    return targets
