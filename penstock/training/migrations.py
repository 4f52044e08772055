"""What runs of earlier versions called things, so that they can be continued, evaluated and filmed."""

from collections.abc import Container, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from penstock._errors import ConfigurationError
from penstock.algorithms.learner import Clock
from penstock.algorithms.registry import ALGORITHMS
from penstock.training.drivers.state import RunState

STATE_NAMES = (
    (".policy.inner.", ".policy."),  # chunks were a policy around a policy
    (".policy.", ".policy.flow."),  # sac-flow with entropy = action was a noisy flow alone
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
