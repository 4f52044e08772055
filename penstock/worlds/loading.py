"""Finds a world by name, or in a user's module or file."""

import contextlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
from typing import Any

from penstock._errors import ConfigurationError, require, suggest
from penstock.worlds.hosted.own import is_environment, own_world, split_options
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
