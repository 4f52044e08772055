"""The differentiable window: H steps of N environments under one agent, in a single scan."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from penstock._seeds import anywhere
from penstock._types import Key, PerEnv
from penstock.policies import Agent
from penstock.worlds import FunctionalWorld, Observation

Bonus = Callable[[Agent, Observation, Key], tuple[PerEnv, PerEnv]]
"""Maps agent, raw observations and a key to (bonus added to the reward, number to record), each ``(N,)``."""

ValueFunction = Callable[[Observation, Int[Array, ""]], PerEnv]
"""Maps N raw observations, and the phase in which they are met (`phase_of`), to N values."""


def phase_of(step: Int[Array, "*H"], chunk_length: int) -> Int[Array, "*H"]:
    """How many steps of the present stretch of C lie behind this step of a window: the same for all environments.

    At phase 0 everybody decides; windows begin and end there. At phase p the next common decision is C - p steps away.
    A value is a function of state *and* phase: where an episode is truncated inside a chunk, the bootstrap is what the
    rest of the plan and later decisions would have brought, and the critic is trained at the states of all phases,
    hence where it is asked. An environment that was reset inside a stretch is at the same phase with a fresh plan: one
    value stands for both kinds of state, which matters only where starts look like states of the middle of an episode.
    """
    return step % chunk_length


class Window(eqx.Module):
    """What a window recorded, time first. Only ``reward``, ``bonus`` and ``next_value`` carry gradient.

    Also made for a single step, without the leading H, before `jax.lax.scan` stacks the steps.

    Attributes:
        observation: ``(H, N, ...)`` raw observations that the policy acted on.
        latent: ``(H, N, C * d)`` chunk that the policy had planned at that step (fresh where ``decision``).
        decision: ``(H, N)`` whether the policy was consulted at that step.
        reward: ``(H, N)``.
        bonus: ``(H, N)`` what an algorithm adds to the reward (SAPO's entropy), else 0.
        bonus_record: ``(H, N)`` a number about the bonus (SAPO's raw entropy), else 0.
        terminated: ``(H, N)``.
        truncated: ``(H, N)``.
        final_observation: ``(H, N, ...)`` next observation before any reset.
        next_value: ``(H, N)`` value of ``final_observation`` where an episode was truncated and at the last step;
            0 elsewhere.
        diverged: ``(H, N)``.
        saturation: ``(H, N)`` fraction of action entries with ``|a| > 0.99``.
        diagnostics: named ``(H, N)`` numbers of the world.
        gradient_events: ``(H, 2, N)`` gradients cut and lost at each step; zeros until the window is differentiated.
    """

    observation: Observation
    latent: Float[Array, "*H N flat"]
    decision: Bool[Array, "*H N"]
    reward: Float[Array, "*H N"]
    bonus: Float[Array, "*H N"]
    bonus_record: Float[Array, "*H N"]
    terminated: Bool[Array, "*H N"]
    truncated: Bool[Array, "*H N"]
    final_observation: Observation
    next_value: Float[Array, "*H N"]
    diverged: Bool[Array, "*H N"]
    saturation: Float[Array, "*H N"]
    diagnostics: dict[str, Float[Array, "*H N"]]
    gradient_events: Float[Array, "*H 2 N"]


def rollout_window(
    agent: Agent,
    world: FunctionalWorld,
    world_state: Any,
    steps: int,
    key_policy: Key,
    *,
    value: ValueFunction | None = None,
    bonus: Bonus | None = None,
    key_bonus: Key | None = None,
    probe: Float[Array, "H 2 N"] | None = None,
) -> tuple[Window, Any]:
    """Acts for ``steps`` steps from ``world_state``; differentiable in the agent.

    Fresh, independent noise for every environment and decision. A chunked policy plans every C steps, counted from
    the start of the window, and anew in environments whose episode has just begun; that shorter plan ends with the
    chunk of the others, so all stay in step.

    Args:
        agent: policy with frozen observation statistics.
        world: N environments.
        world_state: where the window begins. No gradient flows into it.
        steps: H, a multiple of the agent's chunk length.
        key_policy: key of the policy's noise.
        value: state value for the bootstrap, differentiable; None for no bootstrap (APG).
        bonus: added to the reward at decisions; None for none.
        key_bonus: key for ``bonus``.
        probe: one per step; see `FunctionalWorld.step`. None where nobody counts.

    Returns:
        The window and the world's state after it, with gradient stopped.
    """
    zeros = jnp.zeros((world.num_envs,))

    def body(carry, now):
        state, memory = carry
        index, key, key_extra, step_probe = now
        observation = state.observation
        memory, action, decision = agent.act(memory, index, observation, key)
        extra, record = zeros, zeros
        if bonus is not None:
            extra, record = (jnp.where(decision, x, 0.0) for x in bonus(agent, observation, key_extra))
        state, transition = world.step(state, action, step_probe)
        next_value = zeros
        if value is not None:
            wanted = (transition.truncated | (index == steps - 1)) & ~transition.terminated
            next_value = _value_where(
                wanted, value, transition.final_observation, phase_of(index + 1, agent.chunk_length)
            )
        recorded = Window(
            observation=jax.lax.stop_gradient(observation),
            latent=jax.lax.stop_gradient(memory.plan.latent),
            decision=decision,
            reward=transition.reward,
            bonus=extra,
            bonus_record=jax.lax.stop_gradient(record),
            terminated=transition.terminated,
            truncated=transition.truncated,
            final_observation=jax.lax.stop_gradient(transition.final_observation),
            next_value=next_value,
            diverged=transition.diverged,
            saturation=jax.lax.stop_gradient((jnp.abs(action) > 0.99).mean(axis=-1)),
            diagnostics=jax.lax.stop_gradient(transition.diagnostics),
            gradient_events=jnp.zeros((2, world.num_envs)),
        )
        return (state, memory.after(transition.done)), recorded

    start = (jax.lax.stop_gradient(world_state), agent.initial_memory(world.num_envs))
    keys = jax.random.split(key_policy, steps)
    keys_bonus = keys if key_bonus is None else jax.random.split(key_bonus, steps)
    probe = jnp.zeros((steps, 2, world.num_envs)) if probe is None else probe
    (world_state, _), window = jax.lax.scan(body, start, (jnp.arange(steps), keys, keys_bonus, probe))
    return window, jax.lax.stop_gradient(world_state)


def _value_where(wanted, value, observation, phase):
    """Evaluates the critic only at steps where at least one environment needs it.

    Checkpointed, or every step would keep a copy of the critic's weights for the backward pass, wanted or not.
    """

    def where_wanted(wanted, observation, phase):
        return jax.lax.cond(
            anywhere(wanted),
            lambda o: jnp.where(wanted, value(o, phase), 0.0),
            lambda o: jnp.zeros(wanted.shape, jax.eval_shape(value, o, phase).dtype),
            observation,
        )

    return jax.checkpoint(where_wanted, prevent_cse=False)(wanted, observation, phase)
