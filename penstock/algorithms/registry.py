"""Algorithms by name."""

import dataclasses
from typing import Any, Literal

from penstock._errors import ConfigurationError, suggest
from penstock.algorithms import apg, crossq, flowrl, rfo, sac, sac_flow, sapo, shac, shac2, td3


@dataclasses.dataclass(frozen=True)
class AlgorithmEntry:
    """One registered algorithm.

    Attributes:
        name: the name on the command line.
        summary: one line for ``penstock algorithms``.
        config: its configuration class.
        learner: its learner class.
        family: pathwise (differentiates through the world) or off-policy (learns from a replay memory).
        policy: default policy class, in words.
    """

    name: str
    summary: str
    config: type[Any]
    learner: type[Any]
    family: Literal["pathwise", "off-policy"] = "pathwise"
    policy: str = "gaussian"


ALGORITHMS = {
    entry.name: entry
    for entry in (
        AlgorithmEntry("apg", "gradient of the window return alone, no critic", apg.Config, apg.Learner),
        AlgorithmEntry("shac", "window return plus terminal value, target critic", shac.Config, shac.Learner),
        AlgorithmEntry("shac2", "SHAC with two critics and SAPO's design choices", shac2.Config, shac2.Learner),
        AlgorithmEntry("sapo", "SHAC2 with entropy in the return", sapo.Config, sapo.Learner),
        AlgorithmEntry(
            "rfo",
            "flow policy, with regularizers for stability and exploration",
            rfo.Config,
            rfo.Learner,
            "pathwise",
            "flow",
        ),
        AlgorithmEntry("sac", "maximum entropy with a Gaussian", sac.Config, sac.Learner, "off-policy"),
        AlgorithmEntry(
            "td3", "deterministic policy, smoothed targets", td3.Config, td3.Learner, "off-policy", "deterministic"
        ),
        AlgorithmEntry("crossq", "SAC with BatchRenorm, no targets", crossq.Config, crossq.Learner, "off-policy"),
        AlgorithmEntry(
            "flowrl", "flow near the best stored behaviour", flowrl.Config, flowrl.Learner, "off-policy", "flow"
        ),
        AlgorithmEntry(
            "sac-flow", "SAC with a noisy flow", sac_flow.Config, sac_flow.Learner, "off-policy", "noisy flow"
        ),
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


def family(name: str) -> dict[str, AlgorithmEntry]:
    """The algorithms of one family."""
    return {entry.name: entry for entry in ALGORITHMS.values() if entry.family == name}
