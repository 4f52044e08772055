"""Checks a world that somebody wrote, and explains in sentences what is wrong and what to do.

`check_world` finds what can be found without learning. No exception of the checked world escapes it: each becomes a
`Finding`. `load_world` makes a world from a registered name, a module or a file.
"""

import contextlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax

from penstock._errors import ConfigurationError, require, suggest
from penstock._types import Key
from penstock.worlds._findings import Finding, Stop, failure, ok, warning
from penstock.worlds._gradient_checks import gradient_findings
from penstock.worlds._hosted_checks import hosted_findings
from penstock.worlds._step_checks import Played, step_findings
from penstock.worlds._task_checks import declaration_findings, task_findings
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.own import is_environment, own_world, split_options
from penstock.worlds.registry import is_own, make_world
from penstock.worlds.task import SingleTask, Task, Vmapped
from penstock.worlds.world import FunctionalWorld, World

__all__ = ["Finding", "check_world", "iterate_checks", "load_world"]

NUM_ENVS = 4


def check_world(world: World | Task | SingleTask, key: Key | None = None, *, max_steps: int = 1000) -> list[Finding]:
    """Checks a world, or a task that shall become one.

    Looks at declarations, shapes and types, the environment axis, finiteness, reproducible resets, purity of the step
    and number of compilations, independence of environments, actions outside the box, time limit, termination and final
    observation, gradients (finite, right against finite differences, not zero), pictures and descriptions. A functional
    world is checked with four environments, a hosted one with its own number.

    Args:
        world: what to check.
        key: random key; fixed where not given.
        max_steps: longest episode that is played.

    Returns:
        Findings in the order of the checks. No ``error`` among them means that algorithms can use the world. After an
        error that makes later checks meaningless the list ends.
    """
    return list(iterate_checks(world, jax.random.key(0) if key is None else key, max_steps))


def iterate_checks(world: World | Task | SingleTask, key: Key, max_steps: int = 1000) -> Iterator[Finding]:
    """The findings of `check_world`, one by one, as they are made (a compilation can take a while)."""
    try:
        yield from _all_checks(world, key, max_steps)
    except Stop:
        return
    except Exception as exception:
        yield failure("The world", exception)


def _all_checks(world: World | Task | SingleTask, key: Key, max_steps: int) -> Iterator[Finding]:
    if isinstance(world, SingleTask):
        world = Vmapped(world)
    if isinstance(world, HostedWorld):
        yield from hosted_findings(world.with_num_envs(world.num_envs), key, max_steps)
        return
    yield from declaration_findings(world)
    task = world if isinstance(world, Task) else world.task if isinstance(world, FunctionalWorld) else None
    if task is not None:
        yield from task_findings(task)
    playable = FunctionalWorld("checked", task, NUM_ENVS) if task is not None else world
    assert isinstance(playable, World)
    played: list[Played] = []
    key_step, key_gradient = jax.random.split(key)
    yield from step_findings(playable, key_step, max_steps, played)
    yield from gradient_findings(playable, played[0], key_gradient)
    if task is not None:
        yield from _scene_findings(task, played[0])


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


def load_world(spec: str, num_envs: int, **options: Any) -> World:
    """Makes a world from a registered name, ``package.module:attribute`` or ``path/to/file.py:attribute``.

    Args:
        spec: what to load. The attribute is a world, a task or a single task, or a class or function that makes one;
            a function may take ``num_envs``.
        num_envs: N, at least 1.
        **options: keyword arguments of the factory.

    Raises:
        ConfigurationError: no such name, file, module or attribute; the import fails; or what it makes is no world.
    """
    require(num_envs >= 1, "num_envs", num_envs, "must be at least 1")
    if not is_own(spec):
        if spec.endswith(".py"):
            raise ConfigurationError(f"'{spec}' names a file but nothing in it. Write '{spec}:MyTask'.")
        return make_world(spec, num_envs, **options)
    place, _, attribute = spec.rpartition(":")
    require(bool(place and attribute), "world", spec, "write 'package.module:attribute' or 'file.py:attribute'")
    module = _load_module(place)
    if not hasattr(module, attribute):
        known = [name for name, value in vars(module).items() if not name.startswith("_") and _may_be_world(value)]
        raise ConfigurationError(f"'{place}' has no attribute '{attribute}'.{suggest(attribute, known)}")
    factory = getattr(module, attribute)
    ours, theirs = split_options(factory, options)
    made = factory
    if callable(factory) and not isinstance(factory, World | Task | SingleTask):
        made = _call(spec, factory, num_envs, theirs)
        if is_environment(made):
            return own_world(spec, factory, made, num_envs, _arguments(factory, num_envs, theirs), ours)
        made = made if not ours else _call(spec, factory, num_envs, options)
    elif options:
        raise ConfigurationError(f"'{spec}' is already made and takes no options, but got {sorted(options)}.")
    if isinstance(made, SingleTask):
        made = Vmapped(made)
    if isinstance(made, Task):
        return FunctionalWorld(spec, made, num_envs)
    if isinstance(made, World):
        return made if made.num_envs == num_envs else made.with_num_envs(num_envs)
    raise ConfigurationError(
        f"'{spec}' is a {type(made).__name__}, not a world. It must be, or make, a World, Task or SingleTask, "
        "or make a gymnasium.Env."
    )


def _may_be_world(value: Any) -> bool:
    return callable(value) or isinstance(value, World | Task | SingleTask)


def resolved_spec(spec: str) -> str:
    """The same world, named so that it is found from any directory: with the absolute path of its file.

    A file that is missing is refused later, under the name that was given.
    """
    place, colon, attribute = spec.rpartition(":")
    is_file = colon and place.endswith(".py") and pathlib.Path(place).is_file()
    return f"{pathlib.Path(place).resolve()}:{attribute}" if is_file else spec


def _call(spec: str, factory: Any, num_envs: int, options: dict[str, Any]) -> Any:
    if inspect.isclass(factory) and not (issubclass(factory, World | Task | SingleTask) or is_environment(factory)):
        raise ConfigurationError(
            f"'{spec}' is the class {factory.__name__}, which is no World, Task, SingleTask or gymnasium.Env."
        )
    try:
        options = _arguments(factory, num_envs, options)
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ConfigurationError(f"'{spec}' cannot be called with the options {sorted(options)}: {error}.") from error
    try:
        return factory(**options)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"Making '{spec}' failed: {type(error).__name__}: {error}") from error


def _arguments(factory: Any, num_envs: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with ``num_envs`` where the factory takes it."""
    takes = "num_envs" in inspect.signature(factory).parameters
    return {"num_envs": num_envs, **options} if takes else options


@contextlib.contextmanager
def _importable_from(folder: pathlib.Path):
    """Lets a world's module, and what it imports, be found in a folder, as `python file.py` would."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _load_module(place: str) -> Any:
    if place.endswith(".py"):
        path = pathlib.Path(place)
        if not path.is_file():
            raise ConfigurationError(f"There is no file '{place}' (looked in {pathlib.Path.cwd()}).")
        found = importlib.util.spec_from_file_location(f"penstock_world_{path.stem}", path)
        if found is None or found.loader is None:
            raise ConfigurationError(f"Python cannot import '{place}'.")
        module, loader = importlib.util.module_from_spec(found), found.loader
    else:
        module, loader = None, None
    try:
        if module is None or loader is None:
            with _importable_from(pathlib.Path.cwd()):
                return importlib.import_module(place)
        with _importable_from(pathlib.Path(place).resolve().parent):
            loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Importing '{place}' failed: {error}. Names are imported as in Python: is the module installed or in the "
            "current folder? A file is named by its path, 'my_world.py:MyTask'."
        ) from error
    except Exception as error:
        raise ConfigurationError(f"Importing '{place}' failed: {type(error).__name__}: {error}") from error
