"""Checks of a hosted world by playing it: spaces, seeds, finite numbers, ends of episodes, speed."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from penstock._types import Key
from penstock.worlds.check._findings import Finding, Stop, differing_leaves, error, failure, ok, plural, warning
from penstock.worlds.hosted.faults import WorldFaultError
from penstock.worlds.hosted.hosted_world import HostedWorld


def hosted_findings(world: HostedWorld, key: Key, max_steps: int) -> Iterator[Finding]:
    """Plays a hosted world with random actions and checks what comes."""
    try:
        yield from _findings(world, key, max_steps)
    finally:
        world.close()


def _findings(world: HostedWorld, key: Key, max_steps: int) -> Iterator[Finding]:
    spec, actions = world.observation_spec, world.declared.actions
    parts = [f"{spec.vector} numbers"] if spec.vector else []
    parts += [f"pictures of {' x '.join(map(str, spec.pixels))}"] if spec.pixels else []
    yield ok("Spaces", f"Observation: {' and '.join(parts)}. {plural(world.action_size, 'action')}.")
    if not np.allclose(actions.low, -1.0) or not np.allclose(actions.high, 1.0):
        yield ok(
            "Action box", f"From {actions.low.min():g} to {actions.high.max():g}; policies act in [-1, 1], scaled here."
        )
    yield ok(
        "Time limit",
        f"{world.episode_length} steps of {1000 * world.control_timestep:.3g} ms; {world.num_envs} at a time.",
    )
    try:
        start = world.reset(key)
        again = world.reset(key)
        other = world.reset(jax.random.fold_in(key, 1))
    except Exception as exception:
        yield _fatal("Start", "reset()", exception)
        raise Stop from None
    yield from _bad_starts(world, "Finite numbers at the start")
    yield from _seed_findings(start, again, other)
    yield from _play_findings(world, key, max_steps)


def _fatal(title: str, method: str, exception: Exception) -> Finding:
    """What ends the checks: a fault that was told already, or one that nobody expected."""
    if isinstance(exception, WorldFaultError):
        return error(title, str(exception), f"Correct the environment's {method}.")
    return failure(method, exception)


def _bad_starts(world: HostedWorld, title: str) -> Iterator[Finding]:
    faults = world.take_faults()
    world.take_bad_starts()
    if faults:
        told = f"{'; '.join(faults[:3])}."
        yield error(title, told, "Correct the environment's reset(); such episodes are left out.")


def _seed_findings(start, again, other) -> Iterator[Finding]:
    if differing_leaves(start.observation, again.observation):
        yield warning(
            "Reset is reproducible",
            "reset(seed=...) with the same seed gave different observations: runs cannot be repeated.",
            "Draw every random number from self.np_random, after super().reset(seed=seed).",
        )
    else:
        yield ok("Reset is reproducible", "The same seed gives the same start.")
    if not differing_leaves(start.observation, other.observation):
        yield warning(
            "Starts differ",
            "Two different seeds give the same start.",
            "Draw the start from self.np_random, unless this is intended.",
        )
    else:
        yield ok("Starts differ", "Seeds start differently.")


def _play_findings(world: HostedWorld, key: Key, max_steps: int) -> Iterator[Finding]:
    generator = np.random.default_rng(0)
    state = world.reset(key)
    steps = min(max_steps, world.episode_length + 1)
    rewards, terminated, truncated, diverged = [], 0, 0, 0
    low, high = world.declared.reader.low - 1e-5, world.declared.reader.high + 1e-5
    outside = np.zeros((world.observation_spec.vector,), int)
    begin = time.perf_counter()
    try:
        for _ in range(steps):
            action = generator.uniform(-1.0, 1.0, (world.num_envs, world.action_size)).astype(np.float32)
            state, transition = world.step(state, action)
            rewards.append(np.asarray(transition.reward))
            seen = transition.final_observation.vector
            outside += ((seen < low) | (seen > high)).sum(axis=0)
            terminated += int(transition.terminated.sum())
            truncated += int(transition.truncated.sum())
            diverged += int(transition.diverged.sum())
    except Exception as exception:
        yield _fatal("Step", "step()", exception)
        raise Stop from None
    seconds = time.perf_counter() - begin
    if diverged:
        yield error(
            "Finite numbers",
            f"{plural(diverged, 'step')} of {steps * world.num_envs} brought a number that is not finite or "
            f"beyond 1e6: {'; '.join(world.take_faults()[:3])}.",
            "Correct the environment; such steps end their episode and teach nothing.",
        )
    elif world.take_bad_starts():
        yield from _bad_starts(world, "Finite numbers")
    else:
        yield ok("Finite numbers", f"{steps * world.num_envs} random steps, all numbers finite.")
    if outside.any():
        worst = int(outside.argmax())
        yield warning(
            "Inside the space",
            f"Observation {worst} left its declared bounds [{low[worst]:.4g}, {high[worst]:.4g}] in "
            f"{outside[worst]} of {steps * world.num_envs} steps.",
            "Correct the observation_space; whoever scales by its bounds would be wrong.",
        )
    played = np.concatenate(rewards)
    if np.ptp(played) == 0.0:
        yield warning(
            "Reward varies",
            f"Every step gave the reward {played[0]:g}: random actions never met anything to learn from.",
            "Check the reward, or expect that exploration is hard.",
        )
    else:
        yield ok("Reward varies", f"Between {played.min():.4g} and {played.max():.4g} under random actions.")
    short = "" if steps > world.episode_length else f" (played {steps} steps, fewer than an episode)"
    if not terminated and not truncated and not short:
        yield error(
            "Episodes end",
            f"No episode ended in {steps} steps, though the time limit is {world.episode_length}.",
            "Set truncated=True at the time limit, or wrap the environment in gymnasium.wrappers.TimeLimit.",
        )
    else:
        yield ok("Episodes end", f"{terminated} terminated, {truncated} truncated{short}.")
    yield ok("Speed", f"{steps * world.num_envs / seconds:,.0f} environment steps per second, {world.vectorization}.")
