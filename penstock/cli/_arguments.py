"""Parsing of command lines into dataclasses."""

import dataclasses
import difflib
from typing import Any

import tyro

from penstock._errors import ConfigurationError

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff, tyro.conf.AvoidSubcommands)

LISTS = ("world-option", "log-info", "grid", "sweep", "slurm-option")
"""Options of several values, which count all where they are given several times."""


def parse(options: Any, arguments: list[str], prog: str, default: Any = None) -> Any:
    """Reads ``arguments`` into a dataclass; unknown, misspelt and ill-typed options end with a sentence and code 2.

    Args:
        options: the dataclass; may be a generic one with its parameter filled in.
        arguments: what follows the name of the command.
        prog: the command, for messages.
        default: values of options that are not given; the dataclass's own where None.
    """
    arguments = _gathered_lists(arguments)
    if default is None:
        return tyro.cli(options, args=arguments, prog=prog, config=CONFIG)
    return tyro.cli(options, args=arguments, prog=prog, default=default, config=CONFIG)


def parse_known(options: Any, arguments: list[str], prog: str) -> tuple[Any, list[str]]:
    """Reads the arguments that are options of a dataclass; returns them, and the rest.

    Raises:
        ConfigurationError: one of the rest looks like a misspelt one of these options.
    """
    arguments = _gathered_lists(arguments)
    found, rest = tyro.cli(options, args=arguments, prog=prog, return_unknown_args=True, config=CONFIG)
    flags = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(options)]
    for text in rest:
        for flag in difflib.get_close_matches(text.partition("=")[0], flags, n=1, cutoff=0.85):
            raise ConfigurationError(f"{text}: unknown option. Did you mean '{flag}'?")
    return found, rest


def _gathered_lists(arguments: list[str]) -> list[str]:
    for option in LISTS:
        arguments = gathered(arguments, option)
    return arguments


def gathered(arguments: list[str], option: str) -> list[str]:
    """The arguments with all values of an option that was given several times behind its first place.

    ``--world-option a=1 --world-option b=2`` means both, like ``--world-option a=1 b=2``; the parser would keep the
    last.
    """
    spellings = (f"--{option}", f"--{option.replace('-', '_')}")
    rest: list[str] = []
    values: list[str] = []
    place = None
    waiting = False
    for position, text in enumerate(arguments):
        name, equals, value = text.partition("=")
        if name in spellings:
            place = len(rest) if place is None else place
            waiting = not equals
            values += [value] if equals else []
        elif waiting and not text.startswith("--") and (arguments[position - 1] in spellings or "=" in text):
            values.append(text)
        else:
            waiting = False
            rest.append(text)
    return rest if place is None else [*rest[:place], spellings[0], *values, *rest[place:]]
