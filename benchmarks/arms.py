"""The arms of the learning comparisons: what differs between them.

All arms of a world share environment count, window, network sizes, critic fit, learning rates and budget (its preset).
SHAC2, SAPO and the RFO arms also share optimiser, clipping, activation and the pair of critics (SAPO's published ones).
APG and SHAC keep their own published choices for these: Adam, clip 1, ELU, gain sqrt 2, global standard deviation; SHAC
has one critic and a target network.
"""

from typing import Any

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "APG": ("apg", {}),
    "SHAC": ("shac", {}),
    "SHAC2": ("shac2", {}),
    "SAPO": ("sapo", {}),
    "RFO": ("rfo", {}),
    "RFO-chunk": ("rfo", {"chunk_length": 4}),
    "RFO-naive": ("rfo", {"past_coefficient": 0.0, "uniform_coefficient": 0.0}),
    "past-only": ("rfo", {"uniform_coefficient": 0.0}),
    "uniform-only": ("rfo", {"past_coefficient": 0.0}),
}
"""Name to (algorithm, settings beside the preset)."""
