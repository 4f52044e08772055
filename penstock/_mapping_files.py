"""Reads files that map names to values, YAML or JSON. What is wrong with one is said in a sentence with its line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from penstock._errors import ConfigurationError

FORMATS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}
"""Endings of files, and what they are written in."""


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a file: names to texts, numbers, flags, None, lists and further mappings.

    YAML is read by the rules of YAML 1.2, so that it means what the same text means in JSON: ``1e-4`` is a number, and
    ``yes``, ``no``, ``on`` and ``off`` are texts. Thousands may be set apart, as in ``200_000``.

    Args:
        path: of the file; its ending says what it is written in.

    Raises:
        ConfigurationError: there is no such file, it cannot be read, is no mapping, or a name is there twice.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigurationError(f"{path}: must end in .yaml, .yml or .json, so that it is clear how to read it.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"There is no file {path} (looked in {Path.cwd()}).") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8 ({error}). Save it as UTF-8.") from error
    return parse_mapping(text, str(path), FORMATS[path.suffix.lower()])


def parse_mapping(text: str, where: str, format: str) -> dict[str, Any]:
    """Reads a text. See `read_mapping`.

    Args:
        text: what the file holds.
        where: its name, for messages.
        format: ``YAML`` or ``JSON``.
    """
    try:
        content = _read_json(text, where) if format == "JSON" else _read_yaml(text, where)
    except RecursionError:
        raise ConfigurationError(f"{where}: lists and mappings lie too deep in each other.") from None
    if content is None:
        raise ConfigurationError(f"{where} is empty. Write names and values, for example {_example(format)}.")
    if not isinstance(content, dict):
        what = f"is the text {content!r}" if isinstance(content, str) else f"holds a {type(content).__name__}"
        raise ConfigurationError(f"{where} {what}. It must map names to values, for example {_example(format)}.")
    return content


def _example(format: str) -> str:
    return '{"steps": 100000}' if format == "JSON" else "steps: 100000 (a colon, then a space)"


def _read_json(text: str, where: str) -> Any:
    def no_nan(word: str) -> Any:
        if word == "NaN":
            raise ConfigurationError(f"{where}: holds NaN, and a setting must be a number.")
        return float(word.replace("Infinity", "inf"))

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigurationError(f"{where}: '{twice}' is there twice. Leave one out.")
        return content

    if not text.strip():
        return None
    try:
        return json.loads(text, object_pairs_hook=each_once, parse_constant=no_nan)
    except json.JSONDecodeError as error:
        message = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise ConfigurationError(
            f"{where}, line {error.lineno}, column {error.colno}: no JSON: {message}. Correct the line."
        ) from error


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"{where}{line}: {_yaml_fault(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{where}: no YAML: {' '.join(str(error).split())}. Correct the file.") from error


def _yaml_fault(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error)
    if isinstance(error, _NameError):
        return problem
    if "'\\t'" in problem:
        return "a tab. YAML is indented by spaces: replace it."
    if "could not determine a constructor" in problem:
        return f"{problem}. Values are texts, numbers, true, false, null, lists and mappings; leave the tag out."
    if problem.startswith("but found another document"):
        return "a second document ('---') begins. Write one file for each."
    return f"no YAML: {problem}. Correct the line: `name: value`, indented like its neighbours; quote texts with ': '."


class _NameError(yaml.constructor.ConstructorError):
    """A name is there twice, or is no text."""


_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2; names are texts, and none may be there twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as the base class has it
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("str", "seq", "map", "null", "bool")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[str, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _NameError(None, None, "a name must be a text.", key.start_mark)
            if key.tag == f"{_TAG}merge":
                continue
            key.tag = f"{_TAG}str"
            first = found.setdefault(key.value, key)
            if first is not key:
                line = first.start_mark.line + 1
                raise _NameError(
                    None, None, f"'{key.value}' is there already, in line {line}. Leave one out.", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _scalars(name: str, pattern: str, first: str, construct: Callable[[str], Any] | None = None) -> None:
    """Lets unquoted scalars that fit be of a kind; ``first``: the characters that they may begin with."""
    _Loader.add_implicit_resolver(f"{_TAG}{name}", re.compile(rf"^(?:{pattern})$"), [*first])
    if construct is not None:
        _Loader.add_constructor(f"{_TAG}{name}", lambda loader, node: construct(node.value))


_scalars("null", "~|null|Null|NULL", "~nN")
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile("^$"), [""])
_scalars("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_scalars("int", "[-+]?[0-9]+(?:_[0-9]{3})*", "-+0123456789", lambda text: int(text.replace("_", "")))
_scalars(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
    lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
)
_scalars("merge", "<<", "<")
