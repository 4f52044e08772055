"""``penstock algorithms``: lists the algorithms."""

import dataclasses

from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse


@dataclasses.dataclass(frozen=True)
class AlgorithmsOptions:
    """Lists the algorithms, and what they need of a policy."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    parse(AlgorithmsOptions, arguments, "penstock algorithms")
    set_up_jax()
    from penstock.algorithms.registry import ALGORITHMS
    from penstock.reports.tables import terminal_width, text_table

    rows = [
        {
            "algorithm": name,
            "family": entry.family,
            "policy": entry.policy,
            "needs": ", ".join(c.name.lower() for c in entry.learner.needs),
            "what it is": entry.summary,
        }
        for name, entry in ALGORITHMS.items()
    ]
    print(text_table(rows, width=terminal_width()))
    return 0
