"""What studies with data of their own share: ``run`` adds to a JSON file, ``report`` prints its table and draws it."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Data = dict[str, Any]


def study(
    parser: argparse.ArgumentParser,
    path: Path,
    run: Callable[[argparse.Namespace, Data], Iterator[Data]],
    table: Callable[[Data], str],
    draw: Callable[[Data], Any],
) -> None:
    """The command line of a study.

    Args:
        parser: options of ``run``.
        path: where the data is.
        run: takes the options and the data so far, and yields the data anew whenever there is more to keep.
        table: the data for people.
        draw: writes the figure and returns what it wrote.
    """
    parser.add_argument("command", choices=["run", "report"])
    arguments = parser.parse_args()
    data = json.loads(path.read_text()) if path.exists() else {}
    if arguments.command == "run":
        from penstock._jax_setup import set_up_jax

        set_up_jax()
        path.parent.mkdir(parents=True, exist_ok=True)
        for more in run(arguments, data):
            data = more
            path.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    print(table(data))
    if arguments.command == "report":
        print(*draw(data))
