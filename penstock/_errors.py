"""Errors are sentences for humans: the field, the value, the rule, the next action."""

import difflib
import logging
import math
import pathlib
import traceback
from collections.abc import Callable, Iterable

Report = Callable[[str], None]
"""Takes one sentence for the user."""


class PenstockError(Exception):
    """An error that the user can act on. The command line prints its sentence without a traceback."""


class ConfigurationError(PenstockError, ValueError):
    """A setting has a value that it may not have, or two settings contradict each other."""


class CapabilityError(PenstockError, TypeError):
    """An algorithm needs something that the chosen policy or world does not offer."""


def raised(error: BaseException) -> str:
    """An exception of somebody's code: type, message and place in one line, then its traceback.

    Frames of Penstock at its beginning, which only called that code, are left out.
    """
    ours, place = str(pathlib.Path(__file__).parent), error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename.startswith(ours):
        place = place.tb_next
    text = "".join(traceback.format_exception(type(error), error, place)).rstrip()
    message = f": {error}" if str(error) else ""
    last = traceback.extract_tb(place)[-1:]
    where = f" ({last[0].filename}, line {last[0].lineno}: {last[0].line})" if last and not message else ""
    return f"{type(error).__name__}{message}{where}\n\n{text}\n"


def warn(sentence: str) -> None:
    """The default `Report`: a warning of the logger ``penstock``."""
    logging.getLogger("penstock").warning(sentence)


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the known name nearest to ``name``, or the list of all known names."""
    known = sorted(known)
    found = nearest(name, known)
    return f" Did you mean '{found}'?" if found is not None else f" Known names: {', '.join(known)}."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like ``name``; None where none does."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)), None)


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
