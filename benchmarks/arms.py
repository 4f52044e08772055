"""The arms of the learning comparisons: what differs between them.

All arms of a world share environment count, window, network sizes, critic fit, learning rates and budget (its preset).
SHAC2, SAPO and the RFO arms also share optimiser, clipping, activation and the pair of critics (SAPO's published ones).
APG and SHAC keep their own published choices for these: Adam, clip 1, ELU, gain sqrt 2, global standard deviation; SHAC
has one critic and a target network.

Off-policy arms share environment count, widths, batches, learning rates, gradient steps per control step and budget
(``--preset light``), but for Flow-T, whose width is the published 64: 128 would be four times an MLP's work.

On-policy arms differ in the policy alone.
"""

from pathlib import Path
from typing import Any

RELEASED_FLOWRL = Path(__file__).resolve().with_name("released_flowrl.py")

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "APG": ("apg", {}),
    "SHAC": ("shac", {}),
    "SHAC2": ("shac2", {}),
    "SAPO": ("sapo", {}),
    "RFO": ("rfo", {}),
    "RFO-mlp": ("rfo", {"velocity": "mlp"}),
    "RFO-gated": ("rfo", {"velocity": "gated"}),
    "RFO-decoded": ("rfo", {"velocity": "decoded"}),
    "RFO-chunk": ("rfo", {"chunk_length": 4}),
    "RFO-naive": ("rfo", {"past_coefficient": 0.0, "uniform_coefficient": 0.0}),
    "RFO-both": ("rfo", {"past_coefficient": 0.2}),
    "past-only": ("rfo", {"past_coefficient": 0.2, "uniform_coefficient": 0.0}),
    "uniform-only": ("rfo", {"past_coefficient": 0.0}),
    "SAC": ("sac", {}),
    "TD3": ("td3", {}),
    "CrossQ": ("crossq", {}),
    "FlowRL-paper": ("flowrl", {}),
    "FlowRL-code": (f"{RELEASED_FLOWRL}:CodeWeighting", {}),
    "PPO": ("ppo", {}),
    "NFPO": ("nfpo", {}),
    "SAC-Flow-MLP": ("sac-flow", {"velocity": "mlp"}),
    "SAC-Flow-G": ("sac-flow", {"velocity": "gated"}),
    "SAC-Flow-T": ("sac-flow", {"velocity": "decoded", "actor_hidden": (64,)}),
}
"""Name to (algorithm, settings beside the preset)."""
