"""Opens a finished or stopped run: its plan, its learner, and a state from a checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from penstock._errors import PenstockError
from penstock.algorithms.off_policy import OffPolicyState
from penstock.storage.run_folder import CONFIG_NAME, read_config
from penstock.storage.store import (
    Manifest,
    best_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    read_manifest,
)
from penstock.training.migrations import STATE_NAMES, completed
from penstock.training.plan import RunPlan, from_config
from penstock.training.program import seed_keys
from penstock.training.programs import RunProgram, make_program


class RestoredRun(NamedTuple):
    """A run, opened for reading.

    Attributes:
        plan: what was run.
        learner: the algorithm, bound to the world.
        state: training state, leaves ``(K, ...)``.
        manifest: manifest of the checkpoint.
    """

    plan: RunPlan
    learner: Any
    state: PyTree
    manifest: Manifest


def read_plan(run_dir: Path | str) -> RunPlan:
    """The plan of the run in a folder.

    Raises:
        PenstockError: the folder holds no run.
    """
    run_dir = Path(run_dir)
    if not (run_dir / CONFIG_NAME).is_file():
        raise PenstockError(f"{run_dir} holds no run: it has no {CONFIG_NAME}. Name the folder that a run wrote.")
    return from_config(completed(read_config(run_dir)))


def restore_run(run_dir: Path | str, which: Literal["best", "last"] = "last") -> RestoredRun:
    """Opens a run. Does not change its folder, so it may be called while the run trains.

    Args:
        run_dir: the run folder.
        which: the newest checkpoint or the best one.

    Raises:
        PenstockError: no run, or no checkpoint that verifies.
    """
    run_dir = Path(run_dir)
    plan = read_plan(run_dir)
    checkpoints = run_dir / "checkpoints"
    found = best_checkpoint(checkpoints) if which == "best" else latest_checkpoint(checkpoints, set_aside=False)
    if found is None:
        raise PenstockError(f"{run_dir} has no {which} checkpoint that verifies. Let the run reach its first one.")
    world = plan.make_world()
    learner = plan.make_learner(world)
    state, manifest = load_state(found, make_program(learner, world), seed_keys(plan.seed, plan.seeds))
    return RestoredRun(plan, learner, state, manifest)


def load_state(checkpoint: Path, program: RunProgram, keys: Key[Array, "K"]) -> tuple[PyTree, Manifest]:
    """Loads a checkpoint for a program, bit for bit; only a replay memory of another size is moved into the new size.

    A replay memory is no larger than its run's budget, which may change from one session to the next.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    template = program.template(keys)
    if not isinstance(template, OffPolicyState):
        return load_checkpoint(checkpoint, template, STATE_NAMES)
    shapes = {record.path: record.shape for record in read_manifest(checkpoint).leaves}
    saved, wanted = shapes.get(".replay.ring.reward", ()), template.replay.ring.reward.shape
    if len(saved) != len(wanted) or saved[1] == wanted[1]:
        return load_checkpoint(checkpoint, template, STATE_NAMES)

    def with_saved_slots(leaf):
        shape = (leaf.shape[0], saved[1], *leaf.shape[2:])
        if isinstance(leaf, np.ndarray):
            return np.broadcast_to(np.zeros((), leaf.dtype), shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    ring = jax.tree.map(with_saved_slots, template.replay.ring)
    template = eqx.tree_at(lambda state: state.replay.ring, template, ring)
    state, manifest = load_checkpoint(checkpoint, template, STATE_NAMES)
    seeds = [jax.tree.map(lambda leaf, i=i: leaf[i, ...], state.replay).resized(wanted[1]) for i in range(wanted[0])]
    xp = np if isinstance(state.replay.ring.reward, np.ndarray) else jnp
    replay = jax.tree.map(lambda *leaves: xp.stack(leaves), *seeds)
    return dataclasses.replace(state, replay=replay), manifest
