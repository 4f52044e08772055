"""Checks values against the annotations of the fields that they are meant for."""

import inspect
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from penstock._errors import ConfigurationError

_SPOKEN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def convert_fields(values: Mapping[str, Any], owner: type[Any], prefix: str = "") -> dict[str, Any]:
    """Converts each value to the type of ``owner``'s field of that name. See `convert`.

    Args:
        values: by field name.
        owner: a dataclass.
        prefix: goes before the name of the field in a message.
    """
    hints = typing.get_type_hints(owner)
    return {name: convert(value, hints.get(name, Any), f"{prefix}{name}") for name, value in values.items()}


def convert(value: Any, hint: Any, field: str) -> Any:
    """Returns ``value`` as the annotation wants it: lists become tuples, whole numbers floats; nothing else changes.

    Raises:
        ConfigurationError: it has another type, or is NaN.
    """
    converted = _convert(value, hint)
    if isinstance(converted, _Misfit):
        raise ConfigurationError(f"{field} = {value!r}: must be {spoken(hint)}.{_advice(value, hint)}")
    if isinstance(converted, float) and math.isnan(converted):
        raise ConfigurationError(f"{field} = nan: a setting must be a number.")
    return converted


def _advice(value: Any, hint: Any) -> str:
    """What to write instead, where something near was meant."""
    wanted = {hint, *typing.get_args(hint)}
    if int in wanted and isinstance(value, float) and value.is_integer():
        return f" Write it in full: {int(value)}."
    if wanted & {int, float} and isinstance(value, str) and _is_number(value):
        return " This is a text: leave the quotes out."
    if bool in wanted and isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return f" Write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}."
    if typing.get_origin(hint) is tuple and isinstance(value, int | float | str):
        return f" Write [{value}]."
    return ""


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


class _Misfit:
    pass


def _convert(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if hint is float:
        return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else _Misfit()
    if hint is int:
        return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else _Misfit()
    if origin is Literal:
        return value if any(value == choice and type(value) is type(choice) for choice in arguments) else _Misfit()
    if origin in (Union, types.UnionType):
        tried = (_convert(value, choice) for choice in arguments)
        return next((fit for fit in tried if not isinstance(fit, _Misfit)), _Misfit())
    if origin is tuple:
        return _convert_tuple(value, arguments)
    plain = origin or hint
    return value if not isinstance(plain, type) or isinstance(value, plain) else _Misfit()


def _convert_tuple(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _Misfit()
    if len(arguments) == 2 and arguments[1] is ...:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        return _Misfit()
    entries = tuple(_convert(entry, hint) for entry, hint in zip(value, arguments, strict=True))
    return _Misfit() if any(isinstance(entry, _Misfit) for entry in entries) else entries


def convert_arguments(values: Mapping[str, Any], factory: Any, where: str) -> dict[str, Any]:
    """Converts keyword arguments of somebody's class or function to what its annotations, or its defaults, say.

    Where it is not annotated, a text is refused in place of a flag or a number; so ``'False'`` never counts as true.
    What is annotated as something that no text spells stays as it is.

    Args:
        values: by name.
        factory: whose arguments they are.
        where: whose they are, for messages.

    Raises:
        ConfigurationError: a value that is not of its parameter's kind.
    """
    hints = parameter_types(factory)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return dict(values)
    converted = {}
    for name, value in values.items():
        parameter = parameters.get(name)
        hint = hints.get(name, Any)
        if parameter is not None and hint is Any and isinstance(value, str):
            hint = _kind_of(parameter.default)
        converted[name] = convert(value, hint, f"'{where}': {name}") if _is_plain(hint) else value
    return converted


def _kind_of(default: Any) -> Any:
    if isinstance(default, bool):
        return bool
    return int | float if isinstance(default, numbers.Real) else Any


def _is_plain(hint: Any) -> bool:
    """Whether an annotation speaks of flags, numbers, texts, choices and tuples of them alone."""
    if typing.get_origin(hint) is Literal or hint in (bool, int, float, str, type(None), Any, ...):
        return True
    if typing.get_origin(hint) in (Union, types.UnionType, tuple):
        return all(map(_is_plain, typing.get_args(hint)))
    return False


def spoken(hint: Any) -> str:
    """An annotation in words, for messages."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(spoken, arguments))
    if origin is dict:
        return "a mapping of names to values"
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return f"a list, each entry {spoken(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(spoken, arguments))}"
    if hint is type(None):
        return "None"
    return _SPOKEN.get(hint, getattr(hint, "__name__", str(hint)))


def parameter_types(factory: Any) -> dict[str, Any]:
    """Annotations of the parameters of a class or function; empty where they cannot be read."""
    call = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(call)
    except (NameError, TypeError, AttributeError):
        return {}
