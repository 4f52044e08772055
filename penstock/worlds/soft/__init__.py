"""Soft bodies that learn to move."""

from penstock.worlds.registry import register_world
from penstock.worlds.soft.jumper import Jumper
from penstock.worlds.soft.jumper_mini import JumperMini

register_world(
    "soft/jumper-mini",
    "Elastic quadruped of 80 elements that learns to bound; made for CPUs (80 actions, 128 steps of 16 ms).",
    JumperMini,
)
register_world(
    "soft/jumper",
    "Soft quadruped of 550 elements at the size of the published comparisons (220 actions, 300 steps of 1/60 s).",
    Jumper,
)

__all__ = ["Jumper", "JumperMini"]
