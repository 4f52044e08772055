"""Runs that are rows of one program: they differ in learning rates, and in nothing that is compiled."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from penstock._errors import ConfigurationError
from penstock.algorithms.learner import Learner
from penstock.training.drivers.rates import Rates
from penstock.training.plan import RunPlan


def refuse_other_programs(plans: Sequence[RunPlan], learners: Sequence[Learner]) -> None:
    """Refuses runs that one program cannot train side by side.

    Args:
        plans: of the runs.
        learners: of the runs, in the same order.

    Raises:
        ConfigurationError: naming what differs beside learning rates.
    """
    first, rates = plans[0], _numbers(learners[0])
    for plan, learner in zip(plans[1:], learners[1:], strict=True):
        for field in dataclasses.fields(RunPlan):
            if field.name not in ("settings", "label") and getattr(plan, field.name) != getattr(first, field.name):
                _refuse(field.name, getattr(first, field.name), getattr(plan, field.name))
        one, other = first.settings.flat(), plan.settings.flat()
        varied = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        for name in varied:
            if not name.endswith("learning_rate") or None in (one.get(name), other.get(name)):
                _refuse(name, one.get(name), other.get(name))
        if varied and _numbers(learner) == rates:
            raise ConfigurationError(
                f"{', '.join(varied)}: {plan.title} holds it as a constant, so that another value is another program. "
                "Train one run after the other with `penstock sweep`; or make its optimiser in __init__ and keep it in "
                "an attribute (docs/add_an_algorithm.md)."
            )


def rates_of_rows(rates: Sequence[Rates], seeds: int) -> Rates:
    """The learning rates of runs, each repeated for its seeds: leaves ``(runs * seeds,)``."""
    return jax.tree.map(lambda *each: np.repeat(np.stack(each), seeds), *rates)


def _numbers(learner: Learner) -> list[float]:
    return [float(leaf) for leaf in jax.tree.leaves(learner.rates)]


def _refuse(name: str, one: object, other: object) -> None:
    raise ConfigurationError(
        f"{name} = {one!r} and {other!r}: rows of one program differ in learning rates alone, and each has one. "
        "`penstock sweep` varies everything, in a program for each run."
    )
