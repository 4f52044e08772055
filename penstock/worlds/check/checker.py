"""Checks a world that somebody wrote, and explains in sentences what is wrong and what to do.

`check_world` finds what can be found without learning. No exception of the checked world escapes it: each becomes a
`Finding`.
"""

from collections.abc import Iterator

import jax

from penstock._errors import ConfigurationError
from penstock._types import Key
from penstock.worlds.check._findings import Finding, Stop, failure, ok, warning
from penstock.worlds.check._gradients import gradient_findings, slope_findings
from penstock.worlds.check._hosted import hosted_findings
from penstock.worlds.check._steps import Played, step_findings
from penstock.worlds.check._tasks import declaration_findings, task_findings
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.task import SingleTask, Task, Vmapped
from penstock.worlds.world import FunctionalWorld, World

__all__ = ["Finding", "check_world", "iterate_checks"]

NUM_ENVS = 4


def check_world(
    world: World | Task | SingleTask, key: Key | None = None, *, max_steps: int = 1000, max_seconds: float = 60.0
) -> list[Finding]:
    """Checks a world, or a task that shall become one.

    Looks at declarations, shapes and types, the environment axis, finiteness, reproducible resets, purity of the step
    and number of compilations, independence of environments, actions outside the box, time limit, termination and final
    observation, gradients (finite, right against finite differences, not zero), pictures and descriptions. A functional
    world is checked with four environments, a hosted one with its own number.

    Args:
        world: what to check.
        key: random key; fixed where not given.
        max_steps: steps that are played at most.
        max_seconds: of a hosted world, the time for playing.

    Returns:
        Findings in the order of the checks. No ``error`` among them means that algorithms can use the world. After an
        error that makes later checks meaningless the list ends.
    """
    return list(iterate_checks(world, key, max_steps=max_steps, max_seconds=max_seconds))


def iterate_checks(
    world: World | Task | SingleTask, key: Key | None = None, max_steps: int = 1000, max_seconds: float = 60.0
) -> Iterator[Finding]:
    """The findings of `check_world`, one by one, as they are made (a compilation can take a while)."""
    try:
        yield from _all_checks(world, jax.random.key(0) if key is None else key, max_steps, max_seconds)
    except Stop:
        return
    except Exception as exception:
        yield failure("The world", exception)


def refuse_faulty(task: Task, name: str, *, differentiated: bool) -> None:
    """Refuses a task with a fault that shows without computing anything: sizes, shapes, types, rules without gradient.

    Args:
        task: what shall be played.
        name: of the world, for the message.
        differentiated: whether its rules are to be differentiated.

    Raises:
        ConfigurationError: the checker's sentence.
    """
    try:
        checks = [declaration_findings(task), task_findings(task), *([slope_findings(task)] if differentiated else [])]
        fault = next((found for check in checks for found in check if found.severity == "error"), None)
    except Stop:
        return
    if fault is not None:
        raise ConfigurationError(
            f"'{name}': {fault.title}: {fault.explanation} {fault.next_action} `penstock check-world {name}` says more."
        )


def _all_checks(world: World | Task | SingleTask, key: Key, max_steps: int, max_seconds: float) -> Iterator[Finding]:
    if isinstance(world, SingleTask):
        world = Vmapped(world)
    if isinstance(world, HostedWorld):
        count = world.at_once or world.num_envs
        yield from hosted_findings(world.with_num_envs(count), key, max_steps, max_seconds)
        return
    yield from declaration_findings(world)
    task = world if isinstance(world, Task) else world.task if isinstance(world, FunctionalWorld) else None
    if task is not None:
        yield from task_findings(task)
    playable = FunctionalWorld("checked", task, NUM_ENVS) if task is not None else world
    assert isinstance(playable, World)
    key_step, key_gradient = jax.random.split(key)
    played = yield from step_findings(playable, key_step, max_steps)
    yield from gradient_findings(playable, played, key_gradient)
    if task is not None:
        yield from _scene_findings(task, played)


def _scene_findings(task: Task, played: Played) -> Iterator[Finding]:
    try:
        scene = task.scene(played.early.body, 0)
    except Exception as exception:
        fault = failure("scene()", exception)
        yield warning("Picture", fault.explanation, fault.next_action)
        return
    if scene is None:
        yield ok("Picture", "The world cannot be drawn; write scene() to get videos.")
    else:
        yield ok("Picture", f"scene() draws {len(scene.items)} items.")
