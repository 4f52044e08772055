"""What policies act in. `make_world` builds one by name."""

from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Ball, Scene, Segment, Shape, Solid, Surface
from penstock.worlds import classic, hosted, jax_packages, soft  # noqa: F401  (registers the built-in worlds)
from penstock.worlds.registry import (
    WorldEntry,
    WorldFamily,
    make_functional_world,
    make_world,
    register_family,
    register_world,
    world_entries,
    world_families,
)
from penstock.worlds.task import Outcome, SingleTask, Task, Vmapped
from penstock.worlds.world import FunctionalWorld, Transition, World, WorldState

__all__ = [
    "Ball",
    "FunctionalWorld",
    "Observation",
    "ObservationSpec",
    "Outcome",
    "Scene",
    "Segment",
    "Shape",
    "SingleTask",
    "Solid",
    "Surface",
    "Task",
    "Transition",
    "Vmapped",
    "World",
    "WorldEntry",
    "WorldFamily",
    "WorldState",
    "make_functional_world",
    "make_world",
    "register_family",
    "register_world",
    "world_entries",
    "world_families",
]
