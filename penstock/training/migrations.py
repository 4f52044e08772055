"""What runs of earlier versions called things, so that they can be continued, evaluated and filmed."""

import dataclasses
import math
from collections.abc import Container, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from penstock._errors import ConfigurationError
from penstock.algorithms import flowrl
from penstock.algorithms.learner import AlgorithmSettings, Clock
from penstock.algorithms.off_policy_config import RENORM_WARMUP, OffPolicyConfig
from penstock.algorithms.on_policy_config import OnPolicyConfig
from penstock.algorithms.pathwise_config import PathwiseConfig, initial_gain
from penstock.algorithms.registry import ALGORITHMS, algorithm_entry
from penstock.policies import DeterministicAction, PolicySettings
from penstock.policies.deterministic_action import OF_SEVERAL
from penstock.policies.settings import STEP_STD
from penstock.training.best import Criterion
from penstock.training.drivers.state import RunState
from penstock.training.plan import RUN_FIELDS

STATE_NAMES = (
    (".policy.inner.", ".policy."),  # chunks were a policy around a policy
    (".policy.", ".policy.flow."),  # a marginal flow was a noisy flow alone
    (".replay.", ".memory."),
    *((f".{part}", f".learned.{part}") for part in ("actor", "critic", "target_critic", "normalizer", "memory.")),
)
"""Parts of the names of a state's arrays: as they were, and as they are. See `load_checkpoint`."""

FORMER_RING = ".replay.ring.reward"
"""The name of a replay memory's rewards in states of the former form."""


class FormerState(eqx.Module):
    """A run's state when each seed had counters of its own, under the names of today."""

    learned: Any
    world: Any
    memory: Any
    key: Any
    update: Any
    env_steps: Any
    gradient_steps: Any

    @classmethod
    def like(cls, template: RunState, names: Container[str]) -> "FormerState":
        """The template of a former state, for a run whose template today is this one."""
        counter = jax.ShapeDtypeStruct((template.seeds,), jnp.int32)
        return cls(*template.parts, counter, counter, counter if ".gradient_steps" in names else None)

    def today(self) -> RunState:
        """The state as it is held today; the counters of all seeds were equal."""
        gradient_steps = jnp.zeros((1,), jnp.int32) if self.gradient_steps is None else self.gradient_steps
        clock = Clock(*(counter[0] for counter in (self.update, self.env_steps, gradient_steps)))
        return RunState(self.learned, self.world, self.memory, self.key, clock)


ADDED_LATER: dict[str, Any] = {
    "actor_batch_renorm": False,
    "state_dependent_std": True,
    "stepper": "euler",
    "recurrent": "none",
    "squash": "tanh",
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


RULE_THEN = "zero"
"""The deterministic action before there was a choice."""


def _gain_of(settings: Mapping[str, Any]) -> float:
    return initial_gain(str(settings.get("activation")))


GONE: dict[type[AlgorithmSettings], dict[str, Any]] = {
    AlgorithmSettings: {"drift": True, "learn_noise": True},  # of a policy that every algorithm may have
    PathwiseConfig: {"stagger_episodes": True, "return_gradient_clip": None, "initialization_gain": _gain_of},
    OnPolicyConfig: {"adam_betas": [0.9, 0.999]},
    OffPolicyConfig: {"renorm_warmup": RENORM_WARMUP, "num_critics": 2},
    flowrl.Config: {
        "weighting": "paper",
        "flow_matching_reduction": "mean",
        "value_activation": "mish",
        "noise_clip": None,
        "squash_target": "raw",
        "layer_norm": True,
    },
}
"""Settings that are no more, by the configurations that had them, each with the value that all runs have now; or a
function that makes it of the other settings."""

INSTEAD = dict.fromkeys(("weighting", "value_activation", "noise_clip"), "benchmarks/released_flowrl.py")
"""Where there still is what a setting chose."""

IDLE_WITH = {"weight_floor": "weighting"}
"""Settings that did nothing where the other one had the value that all runs have now."""


def completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a ``config.json`` as it would be written today.

    Settings that did not exist when it was written are `ADDED_LATER`; those that nothing read, as a Gaussian's beside a
    flow, are gone, as are those that have one value now; some are fields of the plan. So an older run can be continued.
    Any other setting that is missing counts as a change.

    Raises:
        ConfigurationError: the run was made with what exists no more.
    """
    algorithm, settings = config.get("algorithm"), config.get("settings")
    if not isinstance(settings, Mapping) or not isinstance(algorithm, str):
        return config  # the comparison will say what is wrong
    try:
        config_class = algorithm_entry(algorithm).config
        policy = str(settings.get("policy", ""))
        own: Any = PolicySettings.kind("policy", policy) if ":" in policy else PolicySettings
    except ConfigurationError:
        return config  # likewise
    # What somebody has in a file may have settings of names that are gone elsewhere.
    known = {*config_class.all_names(), *(field.name for field in dataclasses.fields(own))}
    if algorithm == "sac-flow":
        settings = _without_released_settings(settings)
    for switch, setting in config_class.switches.items():
        if settings.get(switch) is False:
            settings = {**settings, setting: None}  # the other value did nothing
    if "entropy" not in known:
        settings = _with_marginal_flow(settings, POLICY_THEN.get(algorithm, ""))
    parts = [part for owner, part in GONE.items() if issubclass(config_class, owner)]
    gone = {name: today for part in parts for name, today in part.items() if name not in known}
    settings = _without_gone(gone, settings)
    moved = {*RUN_FIELDS, *config_class.switches} - known
    kept = {name: value for name, value in settings.items() if name not in moved}
    then = {**ADDED_LATER, "policy": POLICY_THEN[algorithm]} if algorithm in POLICY_THEN else ADDED_LATER
    later = {name: value for name, value in then.items() if name in known and algorithm in ALGORITHMS}
    try:
        kept = config_class.applicable({**later, **kept}, {})
        run = {**_run_fields(settings, config_class.of(**kept)), **config}
    except ConfigurationError:
        return config  # likewise
    return {**run, "settings": kept}


def _run_fields(settings: Mapping[str, Any], now: Any) -> dict[str, Any]:
    """What a run of former settings says of the fields that are the plan's now; None where it did as is done anyway."""
    fields = {"deterministic_action": None, "deterministic_draws": DeterministicAction.draws}
    fields |= {"log_info": [], "best_by": Criterion.metric, "best_is": Criterion.best_is, "history": 1}
    fields["precision"] = settings.get("precision", "float32") if "precision" not in now.all_names() else "float32"
    if getattr(getattr(now, "policy", None), "has_rules", False):
        rule = settings.get("deterministic_action", RULE_THEN)
        fields["deterministic_action"] = None if rule == now.deterministic().rule else rule
        if rule in OF_SEVERAL:
            fields["deterministic_draws"] = settings.get("deterministic_draws", DeterministicAction.draws)
    return fields


def _with_marginal_flow(settings: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """A noisy flow with ``entropy = action`` is a policy of its own now."""
    rest = {name: value for name, value in settings.items() if name != "entropy"}
    if settings.get("entropy") != "action" or settings.get("policy", policy) != "noisy-flow":
        return rest
    _without_gone({"target_step_std": STEP_STD}, rest)
    return {**rest, "policy": "marginal-flow"}


def _without_gone(gone: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    for name, today in gone.items():
        expected = today(settings) if callable(today) else today
        found = settings.get(name, expected)
        same = math.isclose(found, expected, rel_tol=1e-6) if isinstance(expected, float) else found == expected
        if not same:
            place = f" {INSTEAD[name]} has what it chose." if name in INSTEAD else ""
            raise ConfigurationError(
                f"{name} = {found!r}: this run was made with a setting that is gone; all runs have {expected!r} "
                f"now.{place} It can be plotted, but neither continued nor evaluated. Train anew, or use the version "
                "that made it."
            )
    idle = {name for name, other in IDLE_WITH.items() if other in gone}
    return {name: value for name, value in settings.items() if name not in gone and name not in idle}


def _without_released_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    for name, paper in RELEASED_ALONE.items():
        if settings.get(name, paper) != paper:
            raise ConfigurationError(
                f"{name} = {settings[name]!r}: this run was made with a setting that reproduced the released code of "
                "SAC Flow. That is a policy of its own now, benchmarks/released_sac_flow.py, and such runs can be "
                "plotted, but neither continued nor evaluated. Train anew, or use the version that made it."
            )
    return {name: value for name, value in settings.items() if name not in RELEASED_ALONE}
