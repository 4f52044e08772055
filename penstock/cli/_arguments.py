"""Parsing of command lines into dataclasses."""

from typing import Any

import tyro


def parse(options: Any, arguments: list[str], prog: str, default: Any = None) -> Any:
    """Reads ``arguments`` into a dataclass; unknown, misspelt and ill-typed options end with a sentence and code 2.

    Args:
        options: the dataclass; may be a generic one with its parameter filled in.
        arguments: what follows the name of the command.
        prog: the command, for messages.
        default: values of options that are not given; the dataclass's own where None.
    """
    arguments = gathered(gathered(arguments, "world-option"), "log-info")
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    if default is None:
        return tyro.cli(options, args=arguments, prog=prog, config=config)
    return tyro.cli(options, args=arguments, prog=prog, default=default, config=config)


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
