"""Checks of a hosted world by playing it: spaces, seeds, finite numbers, ends of episodes, speed."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from penstock._errors import PenstockError
from penstock._types import Key
from penstock.networks.pixel_encoder import SMALLEST as SMALLEST_PICTURE
from penstock.worlds.check._findings import (
    Finding,
    Stop,
    differing_leaves,
    error,
    failure,
    listed,
    ok,
    plural,
    warning,
)
from penstock.worlds.check.patience import Budget, patience_of
from penstock.worlds.hosted.hosted_world import HostedState, HostedWorld
from penstock.worlds.world import MAGNITUDE_LIMIT, Transition

REPEATED_STEPS = 250
"""Steps that are played twice, to see whether they are the same, if there is time."""
REPEATED_SHARE = 0.25
"""Share of the time after which they end."""
EPISODES = 2
"""Episodes of each environment that are played, if there is time."""


def hosted_findings(world: HostedWorld, key: Key, max_steps: int, max_seconds: float) -> Iterator[Finding]:
    """Plays a hosted world with random actions and checks what comes. Begins nothing once the time is over."""
    budget = Budget(max_seconds)
    try:
        yield from _findings(world, key, max_steps, budget)
    finally:
        world.close()
    with patience_of(max_seconds):
        findings = list(_film_findings(world, key))
    yield from findings


def _findings(world: HostedWorld, key: Key, max_steps: int, budget: Budget) -> Iterator[Finding]:
    spec, actions = world.observation_spec, world.declared.actions
    parts = [f"{spec.vector} numbers"] if spec.vector else []
    parts += [f"pictures of {' x '.join(map(str, spec.pixels))}"] if spec.pixels else []
    yield ok("Spaces", f"Observation: {' and '.join(parts)}. {plural(world.action_size, 'action')}.")
    for part in world.declared.reader.vectors:
        if len(part.shape) < 2 or sorted(part.shape)[-2] < SMALLEST_PICTURE:
            continue
        yield warning(
            "Pictures",
            f"{part.name or 'The observation'} of shape {part.shape} looks like a picture and is read as "
            f"{len(part.low):,} numbers, because it is no box of bytes.",
            "If it is one, declare Box(0, 255, shape, np.uint8), and return bytes.",
        )
    if not np.allclose(actions.low, -1.0) or not np.allclose(actions.high, 1.0):
        yield ok(
            "Action box", f"From {actions.low.min():g} to {actions.high.max():g}; policies act in [-1, 1], scaled here."
        )
    yield ok(
        "Time limit",
        f"{world.episode_length} steps of {1000 * world.control_timestep:.3g} ms; {world.num_envs} at a time.",
    )
    try:
        start = _reset(world, key, budget)
        others = [_reset(world, seed, budget) for seed in (key, jax.random.fold_in(key, 1)) if budget.used < 1]
    except Exception as exception:
        yield _fatal("Start", "reset()", exception)
        raise Stop from None
    yield from _bad_starts(world, "Finite numbers at the start")
    if len(others) == 2:
        yield from _seed_findings(start, *others)
        yield from _repetition_findings(world, key, budget)
    else:
        yield warning(
            "Reset is reproducible",
            f"There was no time to look: reset() of {plural(world.num_envs, 'environment')} took longer than "
            f"{budget.seconds:g} s.",
            "Pass --max-seconds with a larger number, or --num-envs 1.",
        )
    yield from _play_findings(world, key, max_steps, budget)


def _fatal(title: str, method: str, exception: Exception) -> Finding:
    """What ends the checks: a fault that was told already, or one that nobody expected."""
    if not isinstance(exception, PenstockError):
        return failure(method, exception)
    made = "making the environment" not in str(exception)
    return error(title, str(exception), f"Correct the environment's {method}." if made else "")


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


def _reset(world: HostedWorld, key: Key, budget: Budget) -> HostedState:
    with patience_of(budget.seconds):
        return world.reset(key)


def _play(world: HostedWorld, key: Key, steps: int, budget: Budget) -> Iterator[tuple[np.ndarray, Transition]]:
    """Ages of the environments after each step, and its transition: the corners of the action box, then random ones."""
    generator = np.random.default_rng(0)
    state = _reset(world, key, budget)
    box = (world.num_envs, world.action_size)
    for t in range(steps):
        action = np.full(box, (-1.0, 1.0)[t]) if t < 2 else generator.uniform(-1.0, 1.0, box)
        age = state.age + 1
        with patience_of(budget.seconds):
            state, transition = world.step(state, action.astype(np.float32))
        yield age, transition


def _repetition_findings(world: HostedWorld, key: Key, budget: Budget) -> Iterator[Finding]:
    """Whether episodes can be played again, with what comes after their ends."""
    first: list[Transition] = []
    try:
        begun = budget.used
        for _, transition in _play(world, key, min(REPEATED_STEPS, world.episode_length + 1), budget):
            first.append(transition)
            if budget.used > begun + 0.5 * REPEATED_SHARE:
                break
        second = [transition for _, transition in _play(world, key, len(first), budget)]
    except Exception as exception:
        yield _fatal("Step", "step()", exception)
        raise Stop from None
    world.take_faults()  # told where more is played
    world.take_bad_starts()
    for t, (one, other) in enumerate(zip(first, second, strict=True)):
        seen = [(one.final_observation, other.final_observation), (one.reward, other.reward), (one.done, other.done)]
        names = ("observation", "reward", "end of the episode")
        differing = [name for name, pair in zip(names, seen, strict=True) if differing_leaves(*pair)]
        if differing:
            yield warning(
                "Steps are reproducible",
                f"After the same seed and the same actions, the {' and the '.join(differing)} of step {t + 1} differ"
                f"{'s' if len(differing) == 1 else ''}: runs cannot be repeated.",
                "Draw every random number from self.np_random, and let reset() put back all that step() changes.",
            )
            return
    yield ok("Steps are reproducible", f"The same seed and actions give the same {plural(len(first), 'step')}.")


def _play_findings(world: HostedWorld, key: Key, max_steps: int, budget: Budget) -> Iterator[Finding]:
    rewards, truncated, diverged = [], 0, 0
    ends: list[int] = []
    low, high = world.declared.reader.low - 1e-5, world.declared.reader.high + 1e-5
    outside = np.zeros((world.observation_spec.vector,), int)
    begin = time.perf_counter()
    try:
        for age, transition in _play(world, key, min(max_steps, EPISODES * world.episode_length + 1), budget):
            rewards.append(np.asarray(transition.reward))
            seen = transition.final_observation.vector
            outside += ((seen < low) | (seen > high)).sum(axis=0)
            ends += age[transition.terminated & ~transition.diverged].tolist()
            truncated += int(transition.truncated.sum())
            diverged += int(transition.diverged.sum())
            if budget.used > 1:
                break
    except Exception as exception:
        yield _fatal("Step", "step()", exception)
        raise Stop from None
    seconds, steps = time.perf_counter() - begin, len(rewards)
    if diverged:
        yield error(
            "Finite numbers",
            f"{plural(diverged, 'step')} of {steps * world.num_envs} brought a number that is not finite or "
            f"beyond {MAGNITUDE_LIMIT:g}: {'; '.join(world.take_faults()[:3])}.",
            "Correct the environment; such steps end their episode and teach nothing.",
        )
    elif world.take_bad_starts():
        yield from _bad_starts(world, "Finite numbers")
    else:
        yield ok("Finite numbers", f"{steps * world.num_envs} steps, at the corners of the action box and in it.")
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
    if not diverged:  # what diverges ends its episode
        yield from _end_findings(world, steps, ends, truncated, budget.used > 1)
    yield _info_finding(world)
    yield ok("Speed", f"{steps * world.num_envs / seconds:,.0f} environment steps per second, {world.vectorization}.")


def _info_finding(world: HostedWorld) -> Finding:
    """What ``info`` tells."""
    told, numbers = world.told_info()
    success = f"'{told}' tells success: its rate is logged" if told else "Neither 'is_success' nor 'success' is told"
    others = f"; --log-info NAME logs any of the numbers {listed(sorted(numbers), 8)}" if numbers else ""
    return ok("Info", f"{success}{others}.")


def _film_findings(world: HostedWorld, key: Key) -> Iterator[Finding]:
    """Whether it can be filmed."""
    if world.declared.pictures == "none":
        yield ok("Films", "It cannot be filmed: its metadata['render_modes'] lacks 'rgb_array'.")
        return
    filmed = world.filmed()
    try:
        filmed.reset(key)
        if world.declared.pictures == "scene":
            filmed.scene()
            yield ok("Films", "A model of MuJoCo, drawn without OpenGL.")
        else:
            rows, columns, _ = filmed.frame().shape
            yield ok("Films", f"It renders {columns} x {rows} pixels, {world.declared.picture_rate:g} a second.")
    except Exception as exception:
        fault = failure("Rendering", exception) if not isinstance(exception, PenstockError) else None
        yield warning("Films", fault.explanation if fault else str(exception), "Training works without.")
    finally:
        filmed.close()


def _end_findings(world: HostedWorld, steps: int, ends: list[int], truncated: int, late: bool) -> Iterator[Finding]:
    """How episodes ended: ``ends`` are the ages at terminations."""
    limit = world.episode_length
    short = ""
    if steps <= limit:
        why = ", all that there was time for" if late else ""
        short = f" (played {plural(steps, 'step')}{why}, fewer than an episode)"
    if not ends and not truncated and not short:
        yield error(
            "Episodes end",
            f"No episode ended in {steps} steps, though the time limit is {limit}.",
            "Set truncated=True at the time limit, or wrap the environment in gymnasium.wrappers.TimeLimit.",
        )
        return
    told = f"{len(ends)} terminated, {truncated} truncated{short}."
    if len(ends) >= 3 and len(set(ends)) == 1:
        at = ends[0]
        here = "" if at == limit else f" max_episode_steps={at}"
        yield warning(
            "Terminations",
            f"All {len(ends)} terminations fall on step {at}{', the time limit' if at == limit else ''}: a time limit "
            "that is reported as terminated. Nothing would be expected behind it, and values come out too small.",
            "Return truncated=True there, and terminated=False. If you cannot change the environment, pass "
            f"--world-option{here} limit_as_truncation=True.",
        )
        return
    yield ok("Episodes end", told)
