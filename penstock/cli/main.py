"""The command ``penstock``: finds the subcommand, and turns errors into sentences."""

import importlib
import os
import sys
from collections.abc import Sequence

from penstock._errors import PenstockError, suggest

COMMANDS = {
    "train": "train an algorithm on a world, or continue the run in the folder",
    "resume": "continue the run in a folder",
    "sweep": "train a grid or a list of settings, several runs side by side",
    "evaluate": "run episodes with a trained policy",
    "plot": "draw learning curves of one or several runs",
    "video": "film a trained policy",
    "export": "write a trained policy to a file that runs without Penstock",
    "play": "play an exported policy",
    "worlds": "list the worlds",
    "algorithms": "list the algorithms",
    "check-world": "check a world, and explain what is wrong with it",
    "completion": "print a script that completes commands in your shell",
}
"""Subcommands; each lives in the file of its name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line.

    Exits with 0; 75 (stopped and saved: the same command continues); 2 (an error, explained in a sentence); 1
    (`check-world` found errors, or a fault of Penstock itself, with a traceback); 130 (Ctrl-C, nothing to save).
    """
    sys.exit(dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def dispatch(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        import penstock

        print(f"penstock {penstock.__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"penstock: unknown command '{name}'.{suggest(name, COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"penstock.cli.{name.replace('-', '_')}").run(rest)
    except PenstockError as error:
        print(f"penstock {name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Who read the output has left, for example `head`: nothing to complain about, and nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"penstock {name}: interrupted", file=sys.stderr)
        return 130


def usage() -> str:
    """The text of ``penstock --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Penstock: flow policies in reinforcement learning, with their Gaussian controls, in one harness.",
            "",
            "usage: penstock COMMAND ...",
            "",
            *lines,
            "",
            "Example: penstock train rfo --world soft/jumper-mini --run-dir runs/first",
            "`penstock COMMAND --help` explains a command.",
        ]
    )
