"""``penstock completion SHELL``: prints a script that completes commands, algorithms, worlds and options."""

import argparse
import dataclasses
import importlib
import typing
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

import shtab
from tyro.conf import Positional, arg

from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse
from penstock.cli._groups import Group
from penstock.cli.main import COMMANDS


@dataclasses.dataclass(frozen=True)
class CompletionOptions:
    """Prints a script that completes commands, algorithms, worlds and options. Print it anew after an update.

    bash: penstock completion bash > ~/.local/share/bash-completion/completions/penstock

    zsh: penstock completion zsh > FOLDER/_penstock, with a FOLDER of your $fpath
    """

    shell: Annotated[Positional[Literal["bash", "zsh", "tcsh"]], arg(metavar="{bash,zsh,tcsh}")]
    """The shell."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(CompletionOptions, arguments, "penstock completion")
    set_up_jax()
    print(shtab.complete(command_parser(), options.shell))
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command line in the terms of `argparse`, for completion alone: names and choices, no rules."""
    from penstock.algorithms.registry import ALGORITHMS
    from penstock.worlds import world_entries

    worlds = tuple(entry.name for entry in world_entries())
    root = argparse.ArgumentParser("penstock")
    root.add_argument("--version", action="store_true")
    commands = root.add_subparsers()
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        module = importlib.import_module(f"penstock.cli.{name.replace('-', '_')}")
        (options,) = (
            value
            for value in vars(module).values()
            if dataclasses.is_dataclass(value) and getattr(value, "__module__", "") == module.__name__
        )
        hints = _hints(options)
        if name in ("train", "sweep"):
            command.add_argument("--config").complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
        if "settings" not in hints:
            if name == "sweep":
                command.add_argument("algorithm", choices=tuple(ALGORITHMS), nargs="?")
                command.add_argument("--world", choices=worlds)
            _add(command, {field: hint for field, hint in hints.items() if field != "config"}, worlds)
            continue
        algorithms = command.add_subparsers()
        for algorithm, entry in ALGORITHMS.items():
            one = algorithms.add_parser(algorithm, help=entry.summary)
            _add(one, {field: hint for field, hint in hints.items() if field not in ("settings", "algorithm")}, worlds)
            defaults = dict.fromkeys(entry.config.all_names()) | entry.config.of().flat()
            defaults |= dict.fromkeys(entry.config.switches, True)
            _add(one, {name: type(defaults[name]) for name in sorted(defaults)}, worlds)
    return root


def _hints(options: Any) -> dict[str, Any]:
    """Annotations of all options, those of groups in the place of the group."""
    found: dict[str, Any] = {}
    for field, hint in typing.get_type_hints(options, include_extras=True).items():
        groups = [part for part in _parts(hint) if isinstance(part, type) and issubclass(part, Group)]
        found |= _hints(groups[0]) if groups else {field: hint}
    return found


def _add(parser: argparse.ArgumentParser, hints: Mapping[str, Any], worlds: tuple[str, ...]) -> None:
    """Adds an option for each field."""
    for field, hint in hints.items():
        parts = _parts(hint)
        flag = f"--{field.replace('_', '-')}"
        if bool in parts:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
            continue
        choices = worlds if field == "world" else tuple(str(part) for part in parts if isinstance(part, str))
        if Positional in parts:
            action = parser.add_argument(field, choices=choices or None, nargs="*" if field == "runs" else None)
        else:
            action = parser.add_argument(flag, choices=choices or None)
        if Path in parts or field == "runs":
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]


def _parts(hint: Any) -> list[Any]:
    """What an annotation is made of: types, values of literals, and what Tyro is told."""
    if typing.get_origin(hint) in (Annotated, Literal, UnionType, typing.Union):
        own = getattr(hint, "__metadata__", ())
        return [*own, *(part for argument in typing.get_args(hint) for part in _parts(argument))]
    return [hint]
