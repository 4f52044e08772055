"""Which checkpoint is the best: a metric of evaluations, and whether more or less of it is better."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from penstock._errors import ConfigurationError, suggest
from penstock.storage.store import Manifest
from penstock.training.episode_info import SUCCESS_RATES
from penstock.worlds import FunctionalWorld, World
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.infos import PREFIX

BestIs = Literal["highest", "lowest"]

DEFAULT = "eval/return_deterministic"

METRICS = ("eval/return_deterministic", "eval/return_mean", "eval/return_std", "eval/episode_length")
"""What every evaluation brings."""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """What makes a checkpoint the best.

    Attributes:
        metric: by which evaluations are compared; its mean over the seeds.
        best_is: whether the highest or the lowest value is the best.
    """

    metric: str = DEFAULT
    best_is: BestIs = "highest"

    def score(self, rows: Sequence[Mapping[str, Any]], env_steps: int) -> float | None:
        """A number that is larger for a better evaluation; None where there was none at this step.

        Args:
            rows: the last evaluation's line of metrics of each seed.
            env_steps: environment steps so far.
        """
        found = [row.get(self.metric) for row in rows if row.get("env_steps") == env_steps]
        values = [np.nan if value is None else float(value) for value in found]
        mean = float(np.mean(values)) if values else np.nan
        if not np.isfinite(mean):
            return None
        return mean if self.best_is == "highest" else -mean

    def score_of(self, manifest: Manifest) -> float | None:
        """The score of a checkpoint, from what it remembers of its evaluation, also where it was saved by another."""
        rows = manifest.extra.get("last_rows")
        return self.score(rows, manifest.step) if rows else manifest.score

    def refuse_unknown(self, world: World) -> None:
        """Refuses a metric that no evaluation on a world will bring.

        Raises:
            ConfigurationError: it suggests the nearest.
        """
        if self.metric in METRICS:
            return
        known = [*METRICS, *_metrics_of(world)]
        if self.metric in known:
            return
        rule = "no evaluation brings it."
        named = self.metric.rpartition(f"eval/{PREFIX}")[2]
        if isinstance(world, HostedWorld) and self.metric.startswith("eval/") and PREFIX in self.metric:
            rule += f" Name it: --log-info {named}."
        else:
            rule += suggest(self.metric, known)
        raise ConfigurationError(f"best_by = {self.metric!r}: {rule}")

    def unmeasured(self, measured: Collection[str]) -> str:
        """A sentence where an evaluation did not bring the metric; empty where it did."""
        if self.metric in measured:
            return ""
        what = "Environments tell it in info['is_success'] or info['success'] at each step" * ("success" in self.metric)
        return (
            f"best_by = {self.metric!r}: the evaluation did not bring it, so that no best checkpoint can be chosen."
            f"{what and f' {what}, False too.'}{suggest(self.metric, measured)}"
        )


def _metrics_of(world: World) -> list[str]:
    """What an evaluation on a world brings beside `METRICS`, as far as that can be known before."""
    if isinstance(world, HostedWorld):
        names = [*SUCCESS_RATES, *(f"{PREFIX}{name}" for name in world.log_info)]
    elif isinstance(world, FunctionalWorld):
        shapes = jax.eval_shape(world.reset, jax.random.key(0))
        action = jnp.zeros((world.num_envs, world.action_size))
        names = list(jax.eval_shape(lambda state: world.step(state, action)[1].diagnostics, shapes))
    else:
        names = []
    return [f"{kind}{name}" for kind in ("eval/", "eval/stochastic/") for name in names]
