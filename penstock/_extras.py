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
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"This needs '{package}', which is not installed ({error}). "
            f"Install it with `pip install 'penstock[{name}]'`."
        ) from error
