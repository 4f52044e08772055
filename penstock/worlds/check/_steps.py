"""Checks of a `World` by playing it: randomness, purity, independence of environments, episodes, divergence."""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from penstock._types import Actions, Key
from penstock.observation import Observation
from penstock.worlds.check._findings import (
    Finding,
    Stop,
    as_numpy,
    differing_leaves,
    error,
    failure,
    is_float,
    leaf_names,
    listed,
    ok,
    plural,
    warning,
)
from penstock.worlds.check._tasks import observation_problems, outcome_problems
from penstock.worlds.world import FunctionalWorld, Transition, World, WorldState


@dataclasses.dataclass
class Played:
    """What playing a world brought, for later checks.

    Attributes:
        early: the state after the first step.
        late: the state after eight steps.
        action: an action inside the box for every environment.
    """

    early: Any
    late: Any
    action: Actions


class _Stepper:
    """`World.step`, compiled where the world is functional; counts how often it was traced."""

    def __init__(self, world: World):
        self.traces = 0
        self.world = world

        def step(state, action):
            self.traces += 1
            return world.step(state, action)

        self.call: Callable = jax.jit(step) if world.functional else step

    def __call__(self, state: Any, action: Actions) -> tuple[Any, Transition]:
        return self.call(state, action)


def _random_actions(world: World, key: Key) -> Actions:
    return jax.random.uniform(key, (world.num_envs, world.action_size), minval=-0.9, maxval=0.9)


def step_findings(world: World, key: Key, max_steps: int) -> Generator[Finding, None, Played]:
    """Plays the world and checks what comes; returns what it saw."""
    key_reset, key_other, key_action, key_run = jax.random.split(key, 4)
    reset = jax.jit(world.reset) if world.functional else world.reset
    try:
        start = reset(key_reset)
    except Exception as exception:
        yield failure("reset()", exception)
        raise Stop from None
    yield from _start_findings(world, start, reset, key_reset, key_other)

    step = _Stepper(world)
    action = _random_actions(world, key_action)
    try:
        state, first = step(start, action)
    except Exception as exception:
        yield failure("step()", exception)
        raise Stop from None
    yield from _transition_findings(world, first)
    late = state
    for index in range(7):
        late, _ = step(late, _random_actions(world, jax.random.fold_in(key_run, index)))
    if world.functional and step.traces > 1:
        yield error(
            "Compiled once",
            f"step() was traced {step.traces} times in 8 steps: the state changes its types or structure.",
            "Make step() return a state with exactly the shapes and types that reset() returns.",
        )
    elif world.functional:
        yield ok("Compiled once", "Eight steps, one trace.")
    if world.functional:
        yield from _purity_findings(world, step, start, action)
    yield from _independence_findings(world, step, start, action)
    yield from _box_findings(step, start, action)
    yield from _limit_findings(world, step, start, action)
    yield from _episode_findings(world, step, start, key_run, max_steps)
    return Played(state, late, action)


def _start_findings(world: World, start: Any, reset: Callable, key: Key, other: Key) -> Iterator[Finding]:
    if not isinstance(getattr(start, "observation", None), Observation):
        yield error(
            "Start",
            "The state that reset() returns has no `observation`, so a policy does not know what to act on.",
            "Give the state an attribute `observation` that holds penstock.worlds.Observation.",
        )
        raise Stop
    problems = observation_problems(start.observation, world.observation_spec, world.num_envs)
    if problems:
        yield error("Start", "; ".join(problems) + ".", "Correct the observation or observation_spec.")
        raise Stop
    bad = [
        name
        for name, leaf in zip(leaf_names(start), jax.tree.leaves(start), strict=True)
        if is_float(leaf) and not np.isfinite(np.asarray(leaf)).all()
    ]
    if bad:
        yield error(
            "Start is finite", f"After reset() not all numbers are finite: {listed(bad)}.", "Correct initial()."
        )
        raise Stop
    if world.functional:
        again = differing_leaves(start, reset(key))
        if again:
            yield error(
                "Reset is reproducible",
                f"reset() with the same key gave different values: {listed(again)}.",
                "Draw every random number from the key; no global generator, clock or counter.",
            )
        else:
            yield ok("Reset is reproducible", "The same key gives the same start.")
    seen = [np.asarray(leaf) for leaf in jax.tree.leaves(start.observation)]
    equal_envs = all((leaf == leaf[:1]).all() for leaf in seen)
    if equal_envs and world.num_envs > 1:
        hidden = [
            as_numpy(leaf)
            for leaf in jax.tree.leaves(getattr(start, "body", None))
            if is_float(leaf) and not _equal_along(np.asarray(leaf), world)
        ]
        yield warning(
            "Starts differ",
            "All environments start with the same observation"
            + (", though their states differ." if hidden else " and the same state."),
            "Draw the start from the key in initial(), unless this is intended."
            if not hidden
            else "Nothing, if what differs is meant to be hidden.",
        )
    elif not differing_leaves(start.observation, reset(other).observation):
        yield warning(
            "Starts differ",
            "Two different keys give the same start.",
            "Use the key in initial(); a policy that always starts in the same place learns one trajectory.",
        )
    else:
        yield ok("Starts differ", "Environments and keys start differently.")


def _equal_along(leaf: np.ndarray, world: World) -> bool:
    axis = world.task.env_axis if isinstance(world, FunctionalWorld) else 0
    return bool((leaf == np.take(leaf, [0], axis)).all())


def _transition_findings(world: World, transition: Transition) -> Iterator[Finding]:
    problems = outcome_problems(
        transition.reward, transition.terminated, transition.diagnostics, world.num_envs
    ) + observation_problems(transition.observation, world.observation_spec, world.num_envs)
    problems += [
        "final_observation: " + sentence
        for sentence in observation_problems(transition.final_observation, world.observation_spec, world.num_envs)
    ]
    for name in ("truncated", "diverged"):
        flag = getattr(transition, name)
        if flag.shape != (world.num_envs,) or flag.dtype != jnp.bool_:
            problems.append(f"{name} is {flag.dtype}{list(flag.shape)} instead of bool[{world.num_envs}]")
    if problems:
        yield error("Transition", "; ".join(problems) + ".", "Correct what step() returns.")
        raise Stop
    number = jnp.zeros(()).dtype
    yield ok("Transition", f"Observation, reward, flags and diagnostics have the promised shapes and are {number}.")


def _purity_findings(world: World, step: _Stepper, start: Any, action: Actions) -> Iterator[Finding]:
    once, again, retraced = step(start, action), step(start, action), _Stepper(world)(start, action)
    changed = differing_leaves(once, again) or differing_leaves(once, retraced)
    if changed:
        yield error(
            "Step is pure",
            f"The same state and action gave different results: {listed(changed)}.",
            "Let advance() depend on nothing but state and action. Random numbers need a key in the state; Python "
            "attributes, global generators and clocks are frozen when JAX compiles.",
        )
    else:
        yield ok("Step is pure", "The same state and action give the same result, also when compiled afresh.")


def _per_env_difference(a: Transition, b: Transition, env: int) -> list[str]:
    """Leaves in which environment ``env`` differs between two transitions."""
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[env], tree)  # noqa: E731
    return differing_leaves(pick(a), pick(b))


def _independence_findings(world: World, step: _Stepper, start: Any, action: Actions) -> Iterator[Finding]:
    if world.num_envs < 2:
        yield warning("Independence", "One environment: nothing to compare.", "Check with at least two environments.")
        return
    if not world.functional:
        return  # a hosted world moves on when it is stepped
    base, moved = step(start, action)[1], step(start, action.at[0].set(-action[0]))[1]
    others = [name for env in range(1, world.num_envs) for name in _per_env_difference(base, moved, env)]
    if others:
        yield error(
            "Environments are independent",
            f"Changing the action of environment 0 changed other environments: {listed(sorted(set(others)))}.",
            "Look for sums, means or norms without an axis, and for reshapes that mix environments. A `SingleTask` "
            "cannot mix them.",
        )
        return
    yield ok("Environments are independent", "The action of one environment changes no other.")
    if isinstance(world, FunctionalWorld):
        order = jnp.arange(world.num_envs).at[:2].set(jnp.array([1, 0]))
        _, swapped = step(_permuted(start, order, world.task.env_axis), action[order])
        pairs = zip(
            jax.tree.leaves((swapped.reward, swapped.final_observation)),
            jax.tree.leaves((base.reward, base.final_observation)),
            strict=True,
        )
        if not all(_alike(np.asarray(x), np.asarray(y)[np.asarray(order)], 1e-3, 1e-4) for x, y in pairs):
            yield warning(
                "Environments are alike",
                "Two environments with swapped states and actions do not bring swapped results.",
                "If environments shall differ (masses, sizes), keep what differs in the state, not in their number.",
            )


def _alike(x: np.ndarray, y: np.ndarray, relative: float, absolute: float) -> bool:
    """Whether two leaves agree to rounding, which may cost a picture one level of brightness."""
    if is_float(x):
        return np.allclose(x, y, relative, absolute)
    return bool((np.abs(x.astype(int) - y.astype(int)) <= 1).all())


def _permuted(state: WorldState, order: jax.Array, env_axis: int) -> WorldState:
    take = lambda axis: lambda leaf: jnp.take(leaf, order, axis % leaf.ndim)  # noqa: E731
    return WorldState(
        jax.tree.map(take(env_axis), state.body),
        state.age[order],
        jax.tree.map(take(0), state.observation),
        state.key,
    )


def _box_findings(step: _Stepper, start: Any, action: Actions) -> Iterator[Finding]:
    if not step.world.functional:
        return
    edge = jnp.where(action > 0, jnp.ones_like(action), -1.0)
    if differing_leaves(step(start, 3.0 * edge)[1], step(start, edge)[1]):
        yield error(
            "Actions outside the box",
            "An action of 3 has another effect than an action of 1.",
            "Clip actions to [-1, 1] in step(): policies may leave the box by rounding.",
        )
    else:
        yield ok("Actions outside the box", "They are clipped to [-1, 1].")


def _limit_findings(world: World, step: _Stepper, start: Any, action: Actions) -> Iterator[Finding]:
    """Sets the age to just before the limit, which only `FunctionalWorld` offers; see also `_episode_findings`."""
    if not isinstance(world, FunctionalWorld):
        return
    task, wrong = world.task, []
    expected_seen = jax.jit(lambda body, action: task.observe(task.advance(body, action)[0]))(start.body, action)
    for age in {max(world.episode_length - 2, 0), world.episode_length - 1}:
        aged = eqx.tree_at(lambda s: s.age, start, jnp.full_like(start.age, age))
        state, transition = step(aged, action)
        limit = age + 1 >= world.episode_length
        if not bool((transition.truncated == limit).all()):
            wrong.append(f"truncated is {not limit} at step {age + 1} of {world.episode_length}")
        keep = ~np.asarray(transition.diverged)
        for got, expected in zip(
            jax.tree.leaves(transition.final_observation), jax.tree.leaves(expected_seen), strict=True
        ):
            if not _alike(np.asarray(got)[keep], np.asarray(expected)[keep], 0.0, 1e-3):
                wrong.append("final_observation is not the observation before the reset")
        if not bool((state.age == jnp.where(transition.done, 0, age + 1)).all()):
            wrong.append("the age is not counted from the reset")
    if wrong:
        yield error("Time limit", "; ".join(sorted(set(wrong))) + ".", "Leave episodes to FunctionalWorld.")
    else:
        yield ok("Time limit", f"Truncated after {world.episode_length} steps, with the observation before the reset.")


def _episode_findings(world: World, step: _Stepper, start: Any, key: Key, max_steps: int) -> Iterator[Finding]:
    """One episode of random actions: divergence, premature limits, time limits reported as terminations."""
    length = min(world.episode_length, max_steps)
    ended, truncations, diverged, alike, kept = [], [], 0, True, True
    state = start
    for index in range(length):
        actions = _random_actions(world, jax.random.fold_in(key, index))
        state, transition = step(state, actions)
        flags = [np.asarray(getattr(transition, n)) for n in ("terminated", "truncated", "diverged")]
        diverged += int(flags[2].sum())
        ended.append(flags[0])
        truncations.append(flags[1])
        running = ~(flags[0] | flags[1])
        for final, now in zip(
            jax.tree.leaves(transition.final_observation), jax.tree.leaves(transition.observation), strict=True
        ):
            final, now = np.asarray(final), np.asarray(now)
            kept &= bool(np.array_equal(final[running], now[running]))
            alike &= bool(running.all()) or bool(np.array_equal(final[~running], now[~running]))
    steps = f"{plural(length, 'step')} of {plural(world.num_envs, 'environment')} with random actions"
    if diverged:
        yield error(
            "Stability",
            f"In {steps}, {plural(diverged, 'time')} an observation or reward was not finite or beyond 1e6.",
            "Use a smaller time step or more substeps, bound what grows, and keep rewards of the order of 1.",
        )
    else:
        yield ok("Stability", f"No divergence in {steps}.")
    if not kept:
        yield error(
            "Final observation",
            "Where no episode ended, final_observation differs from observation.",
            "Return the same observation twice there.",
        )
    if alike and any((e | t).any() for e, t in zip(ended, truncations, strict=True)):
        yield warning(
            "Final observation",
            "Where episodes ended, final_observation equals the first observation of the next episode.",
            "Check that final_observation is taken before the reset; if the observation is constant, ignore this.",
        )
    yield from _ending_findings(world, np.stack(ended), np.stack(truncations))


def _ending_findings(world: World, ended: np.ndarray, truncated: np.ndarray) -> Iterator[Finding]:
    length = len(ended)
    ages = np.zeros(ended.shape[1], int)
    early, late = False, False
    for end, cut in zip(ended, truncated, strict=True):
        ages += 1
        early |= bool((cut & (ages < world.episode_length)).any())
        late |= bool((~cut & (ages >= world.episode_length)).any())
        ages[end | cut] = 0
    if early or late:
        when = "before" if early else "after"
        yield error(
            "Truncation",
            f"truncated comes {when} the time limit of {world.episode_length} steps.",
            "Set truncated exactly when an episode is episode_length steps old.",
        )
    first = int(ended.any(1).argmax()) + 1 if ended.any() else 0
    together = first > 1 and ended[first - 1].all() and ended.shape[1] > 1
    if together:
        limit = "the time limit" if first == world.episode_length else f"step {first}"
        yield warning(
            "Termination",
            f"Under different random actions all environments terminate together at {limit}.",
            "If this is a limit on time, leave it to episode_length: a terminated future is worth nothing, a truncated "
            "one is bootstrapped.",
        )
    elif ended.any():
        rate = ended.mean()
        yield ok("Termination", f"Random actions terminate {100 * rate:.2g} % of the steps.")
    elif length == world.episode_length:
        yield ok("Termination", "No termination in an episode of random actions.")
