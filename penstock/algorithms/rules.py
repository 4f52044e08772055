"""Rules that settings of several families share."""

import math

from penstock._errors import require

TEMPERATURE_SWITCH = {"learn_temperature": "temperature_learning_rate"}
"""A temperature is learned at a rate, or constant where that is None. See `Settings.switches`."""


def require_temperature(initial: float, rate: float | None) -> None:
    """Refuses temperatures that are no weight, and rates at which nothing is learned."""
    require(0 <= initial < math.inf, "initial_temperature", initial, "must be finite and at least 0")
    require(rate is None or 0 < rate < math.inf, "temperature_learning_rate", rate, "must be finite and greater than 0")


def require_rate(field: str, rate: float) -> None:
    """Refuses learning rates that are none."""
    require(0.0 < rate < math.inf, field, rate, "must be finite and greater than 0")


def require_betas(betas: tuple[float, float]) -> None:
    """Refuses decay rates of Adam's moments outside [0, 1)."""
    for beta in betas:
        require(0.0 <= beta < 1.0, "adam_betas", betas, "must lie in [0, 1)")


def require_widths(field: str, widths: tuple[int, ...]) -> None:
    """Refuses hidden layers that are none, or empty."""
    require(len(widths) >= 1 and min(widths) >= 1, field, widths, "needs at least one positive width")
