"""Evaluation: whole episodes with a frozen agent. Never touches the training state or its random keys."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from penstock._types import AnyArray, Key, Scalar
from penstock.policies import Agent
from penstock.worlds import FunctionalWorld


class Evaluation(eqx.Module):
    """Results of E episodes.

    Attributes:
        episode_return: ``(E,)`` undiscounted sum of rewards up to the end of the episode.
        episode_length: ``(E,)`` control steps.
        diagnostics: ``(E,)`` each: the world's diagnostics, averaged over the steps of the episode; NaN where one told
            nothing (hosted worlds).
    """

    episode_return: Float[AnyArray, "E"]
    episode_length: Float[AnyArray, "E"]
    diagnostics: dict[str, Float[AnyArray, "E"]]


def run_episodes(
    agent: Agent, world: FunctionalWorld, key: Key, *, deterministic: bool, replan_every_step: bool = False
) -> tuple[Evaluation, Any]:
    """Runs one episode in each environment of ``world``.

    Args:
        agent: who acts.
        world: one environment per episode.
        key: key of resets and policy noise.
        deterministic: act by `Agent.mode` (a Gaussian's mean).
        replan_every_step: for chunked policies: use the first action of a new chunk at every step, in place of running
            chunks open loop.

    Returns:
        The evaluation and the states of the task, one per step, stacked along a new first axis (for videos; unused
        parts cost nothing inside `jax.jit`).
    """
    key_world, key_policy = jax.random.split(key)

    def body(carry, now):
        state, memory, alive = carry
        index, key_step = now
        key_step = None if deterministic else key_step
        memory, action, _ = agent.act(memory, index, state.observation, key_step, replan=replan_every_step)
        before = state.body
        state, transition = world.step(state, action)
        weight = alive.astype(jnp.float32)
        seen = {name: weight * value for name, value in transition.diagnostics.items()}
        record = (weight * transition.reward, weight, seen, before)
        return (state, memory.after(transition.done), alive & ~transition.done), record

    start = (world.reset(key_world), agent.initial_memory(world.num_envs), jnp.ones((world.num_envs,), bool))
    steps = world.episode_length
    _, (rewards, weights, seen, bodies) = jax.lax.scan(
        body, start, (jnp.arange(steps), jax.random.split(key_policy, steps))
    )
    length = weights.sum(axis=0)
    return Evaluation(
        episode_return=rewards.sum(axis=0),
        episode_length=length,
        diagnostics={name: value.sum(axis=0) / length for name, value in seen.items()},
    ), bodies


def evaluation_metrics(
    agent: Agent, world: FunctionalWorld, key: Key, *, replan_every_step: bool = False
) -> dict[str, Scalar]:
    """Stochastic and deterministic evaluation, as they are logged."""
    key_stochastic, key_deterministic = jax.random.split(key)
    stochastic, _ = run_episodes(agent, world, key_stochastic, deterministic=False, replan_every_step=replan_every_step)
    deterministic, _ = run_episodes(
        agent, world, key_deterministic, deterministic=True, replan_every_step=replan_every_step
    )
    return as_logged(stochastic, deterministic)


def as_logged(stochastic: Evaluation, deterministic: Evaluation) -> dict[str, Any]:
    """The metrics of both ways of acting; lengths, and diagnostics unless they say so, are of the deterministic one."""
    metrics = {
        "eval/return_mean": stochastic.episode_return.mean(),
        "eval/return_std": stochastic.episode_return.std(),
        "eval/return_deterministic": deterministic.episode_return.mean(),
        "eval/episode_length": deterministic.episode_length.mean(),
    }
    for name, value in deterministic.diagnostics.items():
        metrics[f"eval/{name}"] = jnp.nanmean(value)
    for name, value in stochastic.diagnostics.items():
        metrics[f"eval/stochastic/{name}"] = jnp.nanmean(value)
    return metrics
