"""Finds a world by name, or in a user's module or file."""

import functools
import inspect
from typing import Any

from penstock._errors import ConfigurationError, PenstockError, raised, require
from penstock._field_types import convert_arguments
from penstock._own_code import load_own, make_own, resolved_spec
from penstock.worlds.hosted.headless import draw_without_display
from penstock.worlds.hosted.own import OUR_OPTIONS as HOSTED_OPTIONS
from penstock.worlds.hosted.own import is_environment, own_world, split_options
from penstock.worlds.hosted.pictures import takes_render_mode
from penstock.worlds.jax_packages import OUR_OPTIONS as JAX_OPTIONS
from penstock.worlds.jax_packages import jax_world
from penstock.worlds.jax_packages.sources import follows_convention, own_environment
from penstock.worlds.registry import make_world, own_place
from penstock.worlds.task import SingleTask, Task, Vmapped
from penstock.worlds.world import FunctionalWorld, World


def load_world(spec: str, num_envs: int, **options: Any) -> World:
    """Makes a world from a registered name, ``package.module:attribute`` or ``path/to/file.py:attribute``.

    Args:
        spec: what to load. The attribute is a world, a task, a single task, or an environment in JAX with the
            conventions of Brax or gymnax, or a class or function that makes one; a function may take ``num_envs``.
        num_envs: N, at least 1.
        **options: keyword arguments of the factory.

    Raises:
        ConfigurationError: no such name, file, module or attribute; the import fails; or what it makes is no world.
    """
    require(num_envs >= 1, "num_envs", num_envs, "must be at least 1")
    place = own_place(spec)
    if place is None:
        if spec.endswith(".py"):
            raise ConfigurationError(f"'{spec}' names a file but nothing in it. Write '{spec}:MyTask'.")
        return make_world(spec, num_envs, **options)
    draw_without_display()  # what is loaded may import MuJoCo
    if place != spec and place.rpartition(":")[0].endswith(".py"):
        raise ConfigurationError(
            f"'{spec}': a file is named by its path alone, '{place}', or './{spec}' where it lies in a "
            "folder of that name."
        )
    factory = load_own(place, "world", _may_be_world)
    ours: dict[str, Any] = {}
    if isinstance(factory, World | Task | SingleTask) or not callable(factory):
        made = factory
        if follows_convention(made) and not isinstance(made, World):
            ours, options = split_options(made, options, JAX_OPTIONS)
        if options:
            raise ConfigurationError(f"'{spec}' is already made and takes no options, but got {sorted(options)}.")
    else:
        ours, theirs = split_options(factory, options, (*HOSTED_OPTIONS, *JAX_OPTIONS))
        theirs = convert_arguments(theirs, factory, spec)
        made = _call(spec, factory, num_envs, theirs)
        if is_environment(made):
            others = {option: ours.pop(option) for option in [*ours] if option not in HOSTED_OPTIONS}
            if others:  # which the factory takes among others, or else refuses
                theirs |= others
                made = _call(spec, factory, num_envs, theirs)
            make = functools.partial(make_own, resolved_spec(place))
            arguments = _arguments(factory, num_envs, theirs)
            return own_world(spec, make, made, num_envs, arguments, ours, takes_render_mode(factory))
        in_jax = follows_convention(made) and not isinstance(made, World) and set(ours) <= set(JAX_OPTIONS)
        if ours and not in_jax:
            made = _call(spec, factory, num_envs, options)
    if isinstance(made, SingleTask):
        made = Vmapped(made)
    if isinstance(made, Task):
        return FunctionalWorld(spec, made, num_envs)
    if isinstance(made, World):
        return made if made.num_envs == num_envs else made.with_num_envs(num_envs)
    if follows_convention(made):
        return jax_world(spec, num_envs, own_environment(spec, made), ours)
    raise ConfigurationError(
        f"'{spec}' is a {type(made).__name__}, not a world. It must be, or make, a World, Task or SingleTask, "
        "or make a gymnasium.Env, or an environment in JAX with the methods of Brax (reset, step, action_size) or of "
        "gymnax (reset_env, step_env, action_space)."
    )


def _may_be_world(value: Any) -> bool:
    return callable(value) or isinstance(value, World | Task | SingleTask) or follows_convention(value)


def _call(spec: str, factory: Any, num_envs: int, options: dict[str, Any]) -> Any:
    known = World | Task | SingleTask
    if inspect.isclass(factory) and not (
        issubclass(factory, known) or is_environment(factory) or follows_convention(factory)
    ):
        raise ConfigurationError(
            f"'{spec}' is the class {factory.__name__}, which is no World, Task, SingleTask or gymnasium.Env, and has "
            "not the methods of an environment of Brax (reset, step, action_size) or gymnax (reset_env, step_env, "
            "action_space)."
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
