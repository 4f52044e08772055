"""Finds a world by name, or in a user's module or file."""

import functools
import inspect
from typing import Any

from penstock._errors import ConfigurationError, PenstockError, raised, require
from penstock._field_types import convert_arguments
from penstock._own_code import load_own, make_own, resolved_spec
from penstock.worlds.hosted.headless import draw_without_display
from penstock.worlds.hosted.own import is_environment, own_world, split_options
from penstock.worlds.hosted.pictures import takes_render_mode
from penstock.worlds.registry import is_own, make_world
from penstock.worlds.task import SingleTask, Task, Vmapped
from penstock.worlds.world import FunctionalWorld, World


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
    draw_without_display()  # what is loaded may import MuJoCo
    factory = load_own(spec, "world", _may_be_world)
    ours, theirs = split_options(factory, options)
    theirs = convert_arguments(theirs, factory, spec)
    made = factory
    if callable(factory) and not isinstance(factory, World | Task | SingleTask):
        made = _call(spec, factory, num_envs, theirs)
        if is_environment(made):
            make = functools.partial(make_own, resolved_spec(spec))
            arguments = _arguments(factory, num_envs, theirs)
            return own_world(spec, make, made, num_envs, arguments, ours, takes_render_mode(factory))
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
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"Making '{spec}' failed: {raised(error)}") from error


def _arguments(factory: Any, num_envs: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with ``num_envs`` where the factory takes it."""
    takes = "num_envs" in inspect.signature(factory).parameters
    return {"num_envs": num_envs, **options} if takes else options
