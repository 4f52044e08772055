"""What a coupling flow is made of in any framework: bounds, masks, and what makes no flow."""

import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from penstock._errors import ConfigurationError, require

ScaleBound = Literal["tanh", "scaled-tanh", "clip", "none"]
MaskScheme = Literal["halves", "alternating"]

BASE_STD_BOUNDS = (0.05, 2.0)
"""A learned standard deviation of the base noise is clamped to this range: it would be a way round the bound of s."""


def kept_entries(layer: int, flat_size: int, masks: str) -> Bool[np.ndarray, "flat"]:
    """Which entries a layer leaves as they are, and reads: complementary halves in turns.

    A single entry has no other to be read beside it: every layer then changes it, by the state alone.

    Args:
        layer: number of the layer, from 0.
        flat_size: entries of the latent.
        masks: ``halves``: the first half and the rest; ``alternating``: even and odd entries.
    """
    if flat_size == 1:
        return np.zeros(1, bool)
    entries = np.arange(flat_size)
    first = entries < (flat_size + 1) // 2 if masks == "halves" else entries % 2 == 0
    return first if layer % 2 == 0 else ~first


def usual_hidden(context_size: int) -> tuple[int]:
    """Widths of the hidden layers of each coupling's network: one, half as wide as the context.

    Wider ones buy little for what they cost: ``benchmarks/coupling_widths.py``.
    """
    return (max(1, context_size // 2),)


def require_flow(layers: int, scale_bound: str, masks: str, base_std: float | None) -> None:
    """Refuses what makes no flow.

    Raises:
        ConfigurationError: no layer, an unknown name, or a base noise that is too narrow or too wide.
    """
    require(layers >= 1, "coupling_layers", layers, "must be at least 1")
    for field, value, kinds in (("scale_bound", scale_bound, ScaleBound), ("masks", masks, MaskScheme)):
        require(value in get_args(kinds), field, value, f"must be one of {', '.join(get_args(kinds))}")
    low, high = BASE_STD_BOUNDS
    fits = base_std is None or low <= base_std <= high
    require(fits, "base_std", base_std, f"must lie in [{low:g}, {high:g}], or be None")


def require_bound(bound: float, scale_bound: str, default: float) -> None:
    """Refuses a bound that is none, and one beside ``scale_bound = none``.

    Raises:
        ConfigurationError: the bound is not finite and positive, or does nothing and is not the default.
    """
    require(0.0 < bound < math.inf, "bound", bound, "must be finite and greater than 0")
    if scale_bound == "none" and bound != default:
        raise ConfigurationError(f"bound = {bound}: does nothing with scale_bound = none. Leave it out.")
