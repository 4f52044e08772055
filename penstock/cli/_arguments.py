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
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    if default is None:
        return tyro.cli(options, args=arguments, prog=prog, config=config)
    return tyro.cli(options, args=arguments, prog=prog, default=default, config=config)
