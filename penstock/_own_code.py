"""Code that users bring: something in a file or a module, named ``path/to/file.py:Name`` or ``package.module:Name``."""

import dataclasses
import importlib
import importlib.util
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

from penstock._errors import ConfigurationError, raised, require, suggest
from penstock._own_sources import source_files, source_hash


def load_own(spec: str, field: str, fits: Callable[[Any], bool]) -> Any:
    """What a name in somebody's file or module stands for.

    Args:
        spec: ``package.module:attribute`` or ``path/to/file.py:attribute``.
        field: the setting that holds the spec, for messages.
        fits: which values are suggested where the attribute does not exist.

    Raises:
        ConfigurationError: no such file, module or attribute, or the import fails.
    """
    place, _, attribute = spec.rpartition(":")
    require(bool(place and attribute), field, spec, "write 'package.module:attribute' or 'file.py:attribute'")
    module = _load_module(place)
    if not hasattr(module, attribute):
        known = [name for name, value in vars(module).items() if not name.startswith("_") and fits(value)]
        raise ConfigurationError(f"'{place}' has no attribute '{attribute}'.{suggest(attribute, known)}")
    return getattr(module, attribute)


def resolved_spec(spec: str) -> str:
    """The same name, so that it is found from any directory: with the absolute path of its file.

    A file that is missing is refused later, under the name that was given.
    """
    place, colon, attribute = spec.rpartition(":")
    is_file = colon and place.endswith(".py") and pathlib.Path(place).is_file()
    return f"{pathlib.Path(place).resolve()}:{attribute}" if is_file else spec


def make_own(spec: str, /, **arguments: Any) -> Any:
    """Calls what a name in somebody's file or module stands for.

    Other processes are sent this with its arguments, and find the file, its neighbours and its registrations anew.
    """
    return load_own(spec, "world", callable)(**arguments)


def importable_from(folder: pathlib.Path) -> None:
    """Lets modules of a folder be found, now and later, as ``python file.py`` in that folder would find them."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _refuse_other_neighbours(path: pathlib.Path) -> None:
    """Refuses a file that needs a module beside it of whose name another is loaded already: it would get that one."""
    for needed in source_files(path):
        if needed == path or needed.suffix != ".py":
            continue
        parts = needed.relative_to(path.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        held = getattr(sys.modules.get(name), "__file__", None)
        if held is not None and pathlib.Path(held).resolve() != needed:
            raise ConfigurationError(
                f"'{path}' needs the module '{name}' beside it, but this process has loaded another of that name, "
                f"'{held}', and can hold only one. Give one of the two another name, or use them in two processes."
            )


def _load_module(place: str) -> Any:
    try:
        if not place.endswith(".py"):
            importable_from(pathlib.Path.cwd())
            return importlib.import_module(place)
        path = pathlib.Path(place).resolve()
        if not path.is_file():
            raise ConfigurationError(f"There is no file '{place}' (looked in {pathlib.Path.cwd()}).")
        importable_from(path.parent)
        _refuse_other_neighbours(path)
        return _load_file(path)
    except ConfigurationError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Importing '{place}' failed: {error}. Names are imported as in Python: is the module installed or in the "
            "current folder? A file is named by its path, 'my_file.py:MyName'."
        ) from error
    except Exception as error:
        raise ConfigurationError(f"Importing '{place}' failed: {raised(error)}") from error
    except SystemExit as error:
        raise ConfigurationError(
            f"Importing '{place}' ended the program ({error.code}): what shall run as a script alone belongs below "
            '`if __name__ == "__main__":`.'
        ) from error


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A file that was executed: what it consisted of then, and the module."""

    hash: str
    files: frozenset[str]
    module: Any


_loaded: dict[pathlib.Path, _Loaded] = {}


def _load_file(path: pathlib.Path) -> Any:
    """The module of a file, executed once, and again when it or a module beside it was edited."""
    now = source_hash(path)
    known = _loaded.get(path)
    if known is not None and known.hash == now:
        return known.module
    if known is not None:  # its neighbours too must be executed anew
        for name, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) in known.files:
                del sys.modules[name]
        importlib.invalidate_caches()
    module = _execute(path)
    _loaded[path] = _Loaded(now, frozenset(map(str, source_files(path))), module)
    return module


def _execute(path: pathlib.Path) -> Any:
    """Executes a file as the module of its name, or under another where that name means something else already."""
    name = path.stem
    held = sys.modules.get(name)
    if held is not None and getattr(held, "__file__", None) == str(path):
        return held  # somebody imported it
    if held is not None or not name.isidentifier() or _means_another(name, path):
        name = f"penstock_own_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ConfigurationError(f"Python cannot import '{path}'.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # where dataclasses, `inspect` and registrations look for it
    try:
        found.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _means_another(name: str, path: pathlib.Path) -> bool:
    """Whether an ``import`` of a file's name would find something else."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin != str(path)
