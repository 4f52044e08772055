"""Algorithms by name."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from penstock._errors import ConfigurationError, suggest
from penstock._own_code import load_own, resolved_spec
from penstock.algorithms import apg, crossq, flowrl, nfpo, ppo, rfo, sac, sac_flow, sapo, shac, shac2, td3
from penstock.algorithms.learner import AlgorithmSettings, Learner


@dataclasses.dataclass(frozen=True)
class AlgorithmEntry:
    """One registered algorithm.

    Attributes:
        name: the name on the command line; of an algorithm in a file, ``path/to/file.py:Name``.
        summary: one line for ``penstock algorithms``.
        config: its configuration class.
        learner: its learner class.
        family: pathwise (differentiates through the world), off-policy (learns from a replay memory) or on-policy (from
            what the present policy did); others may come.
    """

    name: str
    summary: str
    config: type[AlgorithmSettings]
    learner: type[Learner]
    family: str = "pathwise"

    @property
    def policy(self) -> str:
        """Its policy where nobody chooses another; empty where it has none to choose."""
        return str(self.config().flat().get("policy", ""))

    @property
    def title(self) -> str:
        """How people call it."""
        return self.name.rpartition(":")[2]


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
        ),
        AlgorithmEntry("sac", "maximum entropy with a Gaussian", sac.Config, sac.Learner, "off-policy"),
        AlgorithmEntry("td3", "deterministic policy, smoothed targets", td3.Config, td3.Learner, "off-policy"),
        AlgorithmEntry("crossq", "SAC with BatchRenorm, no targets", crossq.Config, crossq.Learner, "off-policy"),
        AlgorithmEntry("flowrl", "flow near the best stored behaviour", flowrl.Config, flowrl.Learner, "off-policy"),
        AlgorithmEntry("sac-flow", "SAC with a noisy flow", sac_flow.Config, sac_flow.Learner, "off-policy"),
        AlgorithmEntry("ppo", "clipped ratios, any policy with a density", ppo.Config, ppo.Learner, "on-policy"),
        AlgorithmEntry("nfpo", "PPO with a bounded normalizing flow", nfpo.Config, nfpo.Learner, "on-policy"),
    )
}


def algorithm_entry(name: str) -> AlgorithmEntry:
    """Finds an algorithm.

    Args:
        name: of a registered algorithm, or of somebody's own, ``path/to/file.py:Name`` or ``package.module:Name``.

    Raises:
        ConfigurationError: unknown name, or what it stands for is no algorithm.
    """
    if ":" in name:
        return _own_algorithm(resolved_spec(name))
    if name not in ALGORITHMS:
        raise ConfigurationError(f"Unknown algorithm '{name}'.{suggest(name, ALGORITHMS)} See `penstock algorithms`.")
    return ALGORITHMS[name]


def owners_of(setting: str) -> list[str]:
    """Names of the algorithms that have a setting of this name, or a switch."""
    return [
        entry.name for entry in ALGORITHMS.values() if setting in {*entry.config.all_names(), *entry.config.switches}
    ]


def refuse_settings_of_others(entry: AlgorithmEntry, settings: Mapping[str, Any]) -> None:
    """Says whose a setting is that other algorithms have and this one has not.

    Args:
        entry: the algorithm.
        settings: as somebody gave them, by flat names. With a part in somebody's own file nothing is said: what that
            part has, only the file says.

    Raises:
        ConfigurationError: one of them belongs to other algorithms alone.
    """
    if any(":" in str(settings.get(part, "")) for part in entry.config.choices()):
        return
    here = {*entry.config.all_names(), *entry.config.switches, *entry.config.former}
    for name in settings:
        if name not in here and (owners := owners_of(name)):
            raise ConfigurationError(
                f"{name}: {entry.name} has no such setting; it belongs to {', '.join(owners)}. Leave it out."
            )


def family(name: str) -> dict[str, AlgorithmEntry]:
    """The algorithms of one family."""
    return {entry.name: entry for entry in ALGORITHMS.values() if entry.family == name}


@functools.cache
def _own_algorithm(spec: str) -> AlgorithmEntry:
    """Loaded once, so that two plans of one algorithm are equal."""

    def fits(value):
        return inspect.isclass(value) and issubclass(value, Learner) and not inspect.isabstract(value)

    found = load_own(spec, "algorithm", fits)
    if not fits(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        what = f"lacks {missing}" if missing else "is no subclass of Learner"
        raise ConfigurationError(f"algorithm = {spec!r}: {found!r} {what} (docs/add_an_algorithm.md).")
    config = getattr(found, "settings", None)
    if not (inspect.isclass(config) and issubclass(config, AlgorithmSettings) and dataclasses.is_dataclass(config)):
        raise ConfigurationError(
            f"algorithm = {spec!r}: its `settings` must be a frozen dataclass that derives from AlgorithmSettings, and "
            f"is {config!r} (docs/add_an_algorithm.md)."
        )
    summary = (inspect.getdoc(found) or "").partition("\n")[0]
    return AlgorithmEntry(spec, summary, config, found, "own")
