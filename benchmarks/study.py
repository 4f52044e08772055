"""What studies with data of their own share: ``run`` adds to a JSON file, ``report`` prints its table and draws it."""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
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


def study_of_modes(
    description: str | None,
    path: Path,
    worlds: Sequence[str],
    arms: Sequence[str],
    seeds: int,
    train_arm: Callable[[str, str, int], Any],
    table: Callable[[Data], str],
    draw: Callable[[Data], Any],
) -> None:
    """The command line of a study of arms on worlds whose best policies are known without learning.

    ``run`` trains what is not there yet with as many seeds; remove an arm from the data to train it again.

    Args:
        description: for the help.
        path: where the data is.
        worlds: all of them.
        arms: all of them.
        seeds: per arm, if nobody says otherwise.
        train_arm: trains one arm on one world with so many seeds; what it returns holds a list ``seeds``.
        table: see `study`.
        draw: see `study`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=list(worlds), choices=list(worlds))
    parser.add_argument("--arms", nargs="*", default=list(arms), choices=list(arms))
    parser.add_argument("--seeds", type=int, default=seeds)

    def run(arguments: argparse.Namespace, data: Data) -> Iterator[Data]:
        from best_policies import STUDIES

        for world, arm in itertools.product(arguments.worlds, arguments.arms):
            content = data.setdefault(world, {"known": {}, "arms": {}})
            if world in STUDIES and not content["known"]:
                content["known"] = STUDIES[world]()
            if len(content["arms"].get(arm, {}).get("seeds", [])) >= arguments.seeds:
                continue
            content["arms"][arm] = train_arm(world, arm, arguments.seeds)
            content["arms"] = {name: content["arms"][name] for name in arms if name in content["arms"]}
            yield {name: data[name] for name in worlds if name in data}

    study(parser, path, run, table, draw)
