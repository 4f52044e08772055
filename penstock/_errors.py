"""Errors are sentences for humans: the field, the value, the rule, the next action."""

import difflib
import logging
import math
from collections.abc import Callable, Iterable

Report = Callable[[str], None]
"""Takes one sentence for the user."""


class PenstockError(Exception):
    """An error that the user can act on. The command line prints its sentence without a traceback."""


class ConfigurationError(PenstockError, ValueError):
    """A setting has a value that it may not have, or two settings contradict each other."""


class CapabilityError(PenstockError, TypeError):
    """An algorithm needs something that the chosen policy or world does not offer."""


def warn(sentence: str) -> None:
    """The default `Report`: a warning of the logger ``penstock``."""
    logging.getLogger("penstock").warning(sentence)


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the known name nearest to ``name``, or the list of all known names."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if nearest:
        return f" Did you mean '{nearest[0]}'?"
    return f" Known names: {', '.join(known)}."


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raises `ConfigurationError` naming field, value and rule unless ``condition`` holds."""
    if not condition:
        raise ConfigurationError(f"{field} = {value!r}: {rule}")


def require_positive(owner: object, *fields: str, zero: bool = False) -> None:
    """Raises `ConfigurationError` unless these fields of ``owner`` are finite numbers above 0 (or 0, if ``zero``)."""
    for field in fields:
        value = getattr(owner, field)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        require(
            fits and (value > 0 or (zero and value == 0)),
            field,
            value,
            f"must be a finite number, {'0 or greater' if zero else 'greater than 0'}",
        )
