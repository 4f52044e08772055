"""Algorithms by name."""

import dataclasses
from typing import Any

from penstock._errors import ConfigurationError, suggest
from penstock.algorithms import apg, rfo, sapo, shac, shac2


@dataclasses.dataclass(frozen=True)
class AlgorithmEntry:
    """One registered algorithm.

    Attributes:
        name: the name on the command line.
        summary: one line for ``penstock algorithms``.
        config: its configuration class.
        learner: its learner class.
    """

    name: str
    summary: str
    config: type[Any]
    learner: type[Any]


ALGORITHMS = {
    entry.name: entry
    for entry in (
        AlgorithmEntry("apg", "gradient of the window return alone, no critic", apg.Config, apg.Learner),
        AlgorithmEntry("shac", "window return plus terminal value, target critic", shac.Config, shac.Learner),
        AlgorithmEntry("shac2", "SHAC with two critics and SAPO's design choices", shac2.Config, shac2.Learner),
        AlgorithmEntry("sapo", "SHAC2 with entropy in the return", sapo.Config, sapo.Learner),
        AlgorithmEntry("rfo", "flow policy, with regularizers for stability and exploration", rfo.Config, rfo.Learner),
    )
}


def algorithm_entry(name: str) -> AlgorithmEntry:
    """Finds an algorithm.

    Raises:
        ConfigurationError: unknown name.
    """
    if name not in ALGORITHMS:
        raise ConfigurationError(f"Unknown algorithm '{name}'.{suggest(name, ALGORITHMS)} See `penstock algorithms`.")
    return ALGORITHMS[name]
