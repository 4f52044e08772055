"""What runs of earlier versions called things, so that they can be continued, evaluated and filmed."""

from collections.abc import Mapping
from typing import Any

from penstock._errors import ConfigurationError
from penstock.algorithms.registry import ALGORITHMS

STATE_NAMES = (
    (".policy.inner.", ".policy."),  # chunks were a policy around a policy
    (".policy.", ".policy.flow."),  # sac-flow with entropy = action was a noisy flow alone
)
"""Parts of the names of a state's arrays: as they were, and as they are. See `load_checkpoint`."""

ADDED_LATER = {
    "deterministic_action": "zero",
    "deterministic_draws": 8,
    "precision": "float32",
    "actor_batch_renorm": False,
}
"""Settings that came after the first runs, and what was done before there was a choice."""


def completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a ``config.json`` as it would be written today.

    Settings that did not exist when it was written are `ADDED_LATER`; those that nothing read, as a Gaussian's beside a
    flow, are gone. So an older run can be continued. Any other setting that is missing counts as a change.
    """
    algorithm, settings = config.get("algorithm"), config.get("settings")
    if not isinstance(settings, Mapping) or algorithm not in ALGORITHMS:
        return config  # the comparison will say what is wrong
    config_class, known = ALGORITHMS[algorithm].config, ALGORITHMS[algorithm].config.all_names()
    later = {name: value for name, value in ADDED_LATER.items() if name in known}
    try:
        return {**config, "settings": config_class.applicable({**later, **settings}, {})}
    except ConfigurationError:
        return config  # likewise
