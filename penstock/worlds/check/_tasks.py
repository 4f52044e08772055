"""Checks of a `Task` by abstract evaluation: declarations, shapes, types, the environment axis."""

import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from penstock.observation import Observation, ObservationSpec
from penstock.worlds.check._findings import Finding, Stop, error, failure, is_float, leaf_names, listed, ok, warning
from penstock.worlds.task import Outcome, Task
from penstock.worlds.world import World

SIZES = (3, 5)
"""Numbers of environments with which shapes are evaluated; the axis that changes is the environment axis."""


def declaration_findings(world: World | Task) -> Iterator[Finding]:
    """Sizes, episode length and time step, of a task or a world."""
    wrong = []
    spec = world.observation_spec
    for field, value, least in (
        ("action_size", world.action_size, 1),
        ("episode_length", world.episode_length, 1),
        ("observation_spec.vector", spec.vector, 0 if spec.pixels is not None and not spec.points else 1),
        ("observation_spec.points", spec.points, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            wrong.append(f"{field} = {value!r} must be a whole number of at least {least}")
    if spec.pixels is not None and not _is_picture_size(spec.pixels):
        wrong.append(f"observation_spec.pixels = {spec.pixels!r} must be None or (height, width, channels)")
    step = world.control_timestep
    if not isinstance(step, int | float) or not (math.isfinite(step) and step > 0):
        wrong.append(f"control_timestep = {step!r} must be a positive number of seconds")
    if wrong:
        yield error("Declaration", "; ".join(wrong) + ".", "Correct the class attributes.")
        raise Stop
    yield ok(
        "Declaration",
        f"{world.action_size} actions, {spec.vector} observed numbers, {spec.points} points, "
        + (f"{' x '.join(map(str, spec.pixels))} pixels, " if spec.pixels else "")
        + f"episodes of {world.episode_length} steps of {step} s.",
    )


def _is_picture_size(pixels: Any) -> bool:
    whole = isinstance(pixels, tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in pixels)
    return whole and len(pixels) == 3 and min(pixels) >= 1


def task_findings(task: Task) -> Iterator[Finding]:
    """Everything about shapes and types."""
    states = []
    for num_envs in SIZES:
        try:
            states.append(jax.eval_shape(lambda key, n=num_envs: task.initial(key, n), jax.random.key(0)))
        except Exception as exception:
            yield failure("initial()", exception)
            raise Stop from None
    yield from _axis_findings(task, states)
    small = states[0]
    yield from _type_findings(small)
    yield from _observation_findings(task, small)
    yield from _advance_findings(task, small)
    yield from _describe_findings(task)


def _axis_findings(task: Task, states: list[PyTree]) -> Iterator[Finding]:
    axis = task.env_axis
    if axis not in (0, -1):
        yield error("Environment axis", f"env_axis = {axis!r} is neither 0 nor -1.", "Choose one of the two layouts.")
        raise Stop
    wrong = []
    pairs = zip(leaf_names(states[0]), *(jax.tree.leaves(state) for state in states), strict=True)
    for name, few, many in pairs:
        changing = [a for a, (x, y) in enumerate(zip(few.shape, many.shape, strict=False)) if x != y]
        if len(few.shape) == 0 or changing != [axis % len(few.shape)] or few.shape[axis] != SIZES[0]:
            wrong.append(f"{name} has shape {few.shape} for {SIZES[0]} environments")
    if wrong:
        yield error(
            "Environment axis",
            f"With env_axis = {axis} the {'first' if axis == 0 else 'last'} axis of every state leaf must count "
            f"environments, but {listed(wrong)}.",
            "Give each leaf one entry per environment on that axis, or set env_axis to the axis that is used. "
            "Constants belong into the task, not into the state.",
        )
        raise Stop
    yield ok("Environment axis", f"All {len(leaf_names(states[0]))} state leaves count environments on axis {axis}.")


def _type_findings(state: PyTree) -> Iterator[Finding]:
    if not any(is_float(leaf) for leaf in jax.tree.leaves(state)):
        return
    expected = jnp.zeros(()).dtype
    odd = [
        f"{name} is {leaf.dtype}"
        for name, leaf in zip(leaf_names(state), jax.tree.leaves(state), strict=True)
        if is_float(leaf) and leaf.dtype != expected
    ]
    if odd:
        yield warning(
            "Number types",
            f"The state should hold {expected} numbers, but {listed(odd)}.",
            f"Create it with dtype {expected}; other types lose accuracy or speed without a word.",
        )


def _observation_findings(task: Task, state: PyTree) -> Iterator[Finding]:
    try:
        seen = jax.eval_shape(task.observe, state)
    except Exception as exception:
        yield failure("observe()", exception)
        raise Stop from None
    if not isinstance(seen, Observation):
        yield error(
            "Observation", f"observe() returned {type(seen).__name__}.", "Return penstock.worlds.Observation(vector)."
        )
        raise Stop
    problems = observation_problems(seen, task.observation_spec, SIZES[0])
    if problems:
        yield error(
            "Observation",
            "; ".join(problems) + ".",
            "Correct observe(), or the observation_spec that declares its sizes.",
        )
        raise Stop
    yield ok("Observation", "Shape and type agree with observation_spec.")


def observation_problems(seen: Observation, spec: ObservationSpec, num_envs: int) -> list[str]:
    """Sentences about an observation (or its abstract value) that disagrees with its specification."""
    number = jnp.zeros(()).dtype
    parts = (
        ("vector", (spec.vector,), number),
        ("points", (spec.points, 3) if spec.points else None, number),
        ("pixels", spec.pixels, jnp.dtype(jnp.uint8)),
    )
    problems = []
    for name, size, dtype in parts:
        part, stated = getattr(seen, name), f"observation_spec.{name} = {getattr(spec, name)}"
        if part is None or size is None:
            if part is not size:
                have = f"no {name}" if part is None else f"{name} of shape {part.shape}"
                problems.append(f"the observation has {have}, but {stated}")
            continue
        promised = (num_envs, *size)
        if part.shape != promised:
            problems.append(
                f"observation.{name} has shape {part.shape} for {num_envs} environments, but {stated} promises "
                f"{promised}"
            )
        if part.dtype != dtype:
            problems.append(f"observation.{name} is {part.dtype} and must be {dtype}")
    return problems


def _advance_findings(task: Task, state: PyTree) -> Iterator[Finding]:
    num_envs = SIZES[0]
    action = jax.ShapeDtypeStruct((num_envs, task.action_size), jnp.zeros(()).dtype)
    try:
        after, outcome = jax.eval_shape(task.advance, state, action)
    except Exception as exception:
        yield failure("advance()", exception)
        raise Stop from None
    if not isinstance(outcome, Outcome):
        yield error("Outcome", f"advance() returned a {type(outcome).__name__}.", "Return (state, Outcome(...)).")
        raise Stop
    problems = outcome_problems(outcome.reward, outcome.terminated, outcome.diagnostics, num_envs)
    if problems:
        yield error(
            "Outcome",
            "; ".join(problems) + ".",
            "Each environment has one reward, one terminated flag and one number per diagnostic. The time limit is no "
            "concern of the task.",
        )
        raise Stop
    yield ok("Outcome", "Reward, terminated and diagnostics have one entry per environment.")
    changed = _changed_types(state, after)
    if changed:
        yield error(
            "State keeps its shape",
            f"advance() changes the state's structure, shapes or types: {listed(changed)}.",
            "Return a state like the one that initial() makes; a changing one breaks `jax.lax.scan` and is compiled "
            "again at every step.",
        )
        raise Stop
    yield ok("State keeps its shape", "advance() returns a state of the same structure, shapes and types.")


def outcome_problems(reward: Any, terminated: Any, diagnostics: Any, num_envs: int) -> list[str]:
    """Sentences about a reward, a flag or diagnostics that have the wrong shape or type."""
    number = jnp.zeros(()).dtype
    expected = [
        ("reward", reward, number, number),
        ("terminated", terminated, jnp.bool_, "bool (write a comparison, not a number)"),
    ]
    if isinstance(diagnostics, dict):
        kind = jnp.inexact, "a floating point number"
        expected += [(f"diagnostic '{name}'", value, *kind) for name, value in diagnostics.items()]
    problems = []
    for name, value, kind, wanted in expected:
        shape = getattr(value, "shape", ())
        if shape != (num_envs,):
            problems.append(f"{name} has shape {shape} instead of ({num_envs},)")
        elif not jnp.issubdtype(value.dtype, kind):
            problems.append(f"{name} is {value.dtype} and must be {wanted}")
    if not isinstance(diagnostics, dict):
        problems.append(f"diagnostics is a {type(diagnostics).__name__} instead of a dict")
    return problems


def _changed_types(before: PyTree, after: PyTree) -> list[str]:
    if jax.tree.structure(before) != jax.tree.structure(after):
        return [f"{jax.tree.structure(before)} became {jax.tree.structure(after)}"]
    pairs = zip(leaf_names(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return [
        f"{name} was {x.dtype}{list(x.shape)} and became {y.dtype}{list(y.shape)}"
        for name, x, y in pairs
        if x.shape != y.shape or x.dtype != y.dtype
    ]


def _describe_findings(task: Task) -> Iterator[Finding]:
    try:
        told = task.describe()
        json.dumps(told)
    except Exception as exception:
        yield warning(
            "Description",
            f"describe() cannot be written into a run's config.json: {exception}",
            "Return a dict of numbers, strings, lists and dicts.",
        )
        return
    if told:
        yield ok("Description", f"{listed([f'{name} = {_short(value)}' for name, value in told.items()], 8)}.")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
