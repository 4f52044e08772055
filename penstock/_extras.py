"""Optional dependencies, imported where they are used, with a sentence where they are missing."""

import importlib
from typing import Any

from penstock._errors import PenstockError


class MissingExtraError(PenstockError, ImportError):
    """A function needs an optional dependency that is not installed."""


def extra(module: str, name: str) -> Any:
    """Imports ``module``, which the extra ``name`` of Penstock installs.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        found = importlib.import_module(module)
        spec = getattr(found, "__spec__", None)
        if spec is not None and spec.origin is None and spec.submodule_search_locations is not None:
            # A folder of results, as W&B writes one, is importable where the package is missing.
            raise ImportError(f"only a folder of that name was found, {next(iter(spec.submodule_search_locations))}")
        return found
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"This needs '{package}', which is not installed ({error}). "
            f"Install it with `pip install 'penstock[{name}]'`."
        ) from error
