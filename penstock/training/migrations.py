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

ADDED_LATER: dict[str, Any] = {
    "deterministic_action": "zero",
    "deterministic_draws": 8,
    "precision": "float32",
    "actor_batch_renorm": False,
    "state_dependent_std": True,
    "stepper": "euler",
}
"""Settings that came after the first runs, and what was done before there was a choice."""

POLICY_THEN = {"sac": "gaussian", "crossq": "gaussian", "flowrl": "flow", "sac-flow": "noisy-flow"}
"""The one policy of algorithms that had no choice."""

RELEASED_ALONE = {
    "networks": "paper",
    "noise_enters": "diffusion",
    "noise_depends_on": "state",
    "density": "exact",
    "squash_log_det": "exact",
    "candidate_bound": 50.0,
    "decoder": "pre-norm",
}
"""Settings of sac-flow that reproduced the released code, each with the paper's value, which is the only one now."""


def completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a ``config.json`` as it would be written today.

    Settings that did not exist when it was written are `ADDED_LATER`; those that nothing read, as a Gaussian's beside a
    flow, are gone. So an older run can be continued. Any other setting that is missing counts as a change.

    Raises:
        ConfigurationError: the run was made with what exists no more.
    """
    algorithm, settings = config.get("algorithm"), config.get("settings")
    if not isinstance(settings, Mapping) or algorithm not in ALGORITHMS:
        return config  # the comparison will say what is wrong
    config_class, known = ALGORITHMS[algorithm].config, ALGORITHMS[algorithm].config.all_names()
    if algorithm == "sac-flow":
        settings = _without_released_settings(settings)
    then = {**ADDED_LATER, "policy": POLICY_THEN[algorithm]} if algorithm in POLICY_THEN else ADDED_LATER
    later = {name: value for name, value in then.items() if name in known}
    try:
        return {**config, "settings": config_class.applicable({**later, **settings}, {})}
    except ConfigurationError:
        return config  # likewise


def _without_released_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    for name, paper in RELEASED_ALONE.items():
        if settings.get(name, paper) != paper:
            raise ConfigurationError(
                f"{name} = {settings[name]!r}: this run was made with a setting that reproduced the released code of "
                "SAC Flow. That is a policy of its own now, benchmarks/released_sac_flow.py, and such runs can be "
                "plotted, but neither continued nor evaluated. Train anew, or use the version that made it."
            )
    return {name: value for name, value in settings.items() if name not in RELEASED_ALONE}
