"""What runs of earlier versions called things, so that they can be continued, evaluated and filmed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    """The content of a ``config.json``, with settings that did not exist when it was written: `ADDED_LATER`.

    So an older run can be continued. Any other setting that is missing counts as a change.
    """
    algorithm, settings = config.get("algorithm"), config.get("settings")
    if not isinstance(settings, Mapping) or algorithm not in ALGORITHMS:
        return config  # the comparison will say what is wrong
    known = {field.name for field in dataclasses.fields(ALGORITHMS[algorithm].config)}
    added = {name: value for name, value in ADDED_LATER.items() if name in known}
    return {**config, "settings": {**added, **settings}}
