"""Code that users bring: something in a file or a module, named ``path/to/file.py:Name`` or ``package.module:Name``."""

import contextlib
import importlib
import importlib.util
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

from penstock._errors import ConfigurationError, require, suggest


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


@contextlib.contextmanager
def _importable_from(folder: pathlib.Path):
    """Lets a module, and what it imports, be found in a folder, as `python file.py` would."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _load_module(place: str) -> Any:
    path = pathlib.Path(place) if place.endswith(".py") else None
    if path is not None and not path.is_file():
        raise ConfigurationError(f"There is no file '{place}' (looked in {pathlib.Path.cwd()}).")
    try:
        if path is None:
            with _importable_from(pathlib.Path.cwd()):
                return importlib.import_module(place)
        name = f"penstock_own_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None and found.loader is not None, "files named .py have a loader"
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module  # where dataclasses and `inspect` look for it
        with _importable_from(path.resolve().parent):
            found.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Importing '{place}' failed: {error}. Names are imported as in Python: is the module installed or in the "
            "current folder? A file is named by its path, 'my_file.py:MyName'."
        ) from error
    except Exception as error:
        raise ConfigurationError(f"Importing '{place}' failed: {type(error).__name__}: {error}") from error
