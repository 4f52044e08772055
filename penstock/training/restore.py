"""Opens a finished or stopped run: its plan, its learner, and agents or a state from a checkpoint."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from penstock._errors import PenstockError, warn
from penstock._own_code import resolved_spec
from penstock.algorithms.learner import Learner
from penstock.data import Replay
from penstock.policies import Agent
from penstock.storage.run_folder import CONFIG_NAME, holds_a_run, read_config
from penstock.storage.store import (
    Manifest,
    best_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    read_manifest,
)
from penstock.training.drivers.functional import seed_keys
from penstock.training.drivers.state import RunState
from penstock.training.migrations import FORMER_RING, STATE_NAMES, FormerState, completed
from penstock.training.parts import AGENT, agent_names, agents_of
from penstock.training.plan import RunPlan, from_config
from penstock.training.running import Driver, make_driver
from penstock.training.sources import found_again


class RestoredRun(NamedTuple):
    """A run, opened for reading.

    Attributes:
        plan: what was run.
        learner: the algorithm, bound to the world.
        agents: what each seed has learned.
        manifest: manifest of the checkpoint.
    """

    plan: RunPlan
    learner: Learner
    agents: list[Agent]
    manifest: Manifest


def read_plan(run_dir: Path | str, world: str = "", use_copies: bool = False) -> RunPlan:
    """The plan of the run in a folder, with the files that it is made of where they are now.

    Args:
        run_dir: the run folder.
        world: a world in place of the run's own; "" keeps that.
        use_copies: execute the run's own copies of files that are gone, or edited.

    Raises:
        PenstockError: the folder holds no run, or a file of it is gone.
    """
    run_dir = Path(run_dir)
    if not holds_a_run(run_dir):
        raise PenstockError(f"{run_dir} holds no run: it has no {CONFIG_NAME}. Name the folder that a run wrote.")
    config = completed(read_config(run_dir))
    if world:
        config = {name: value for name, value in config.items() if name not in ("world_source", "world_files")}
        config["world"] = resolved_spec(world)
    return from_config(found_again(config, run_dir, warn, use_copies))


def restore_run(
    run_dir: Path | str, which: Literal["best", "last"] = "last", world: str = "", use_copies: bool = False
) -> RestoredRun:
    """Opens a run. Does not change its folder, so it may be called while the run trains.

    Args:
        run_dir: the run folder.
        which: the newest checkpoint or the best one.
        world: a world in place of the run's own, with the same observations and actions; "" keeps that.
        use_copies: see `read_plan`.

    Raises:
        PenstockError: no run, or no checkpoint that verifies.
    """
    run_dir = Path(run_dir)
    plan = read_plan(run_dir, world, use_copies)
    checkpoints = run_dir / "checkpoints"
    if which == "best":
        found = best_checkpoint(checkpoints, part=AGENT, score_of=plan.criterion.score_of)
    else:
        found = latest_checkpoint(checkpoints, set_aside=False, part=AGENT)
    if found is None:
        raise PenstockError(f"{run_dir} has no {which} checkpoint that verifies. Let the run reach its first one.")
    made = plan.make_world()
    learner = plan.make_learner(made)
    agents, manifest = load_agents(found, make_driver(learner, made), seed_keys(plan.seed, plan.seeds))
    return RestoredRun(plan, learner, agents, manifest)


def load_agents(checkpoint: Path, driver: Driver, keys: Key[Array, "K"]) -> tuple[list[Agent], Manifest]:
    """Loads the agent of each seed; of the checkpoint nothing else is read, where the agent has a file of its own.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    names = agent_names(driver.learner)
    state, manifest = _load(checkpoint, driver.template(keys), _shapes(checkpoint), names)
    return agents_of(driver.learner, state.learned, keys.shape[0]), manifest


def load_state(checkpoint: Path, driver: Driver, keys: Key[Array, "K"]) -> tuple[RunState, Manifest]:
    """Loads a checkpoint for a driver, bit for bit; only a replay memory of another size is moved into the new size.

    A replay memory is no larger than its run's budget, which may change from one session to the next.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    template = driver.template(keys)
    shapes = _shapes(checkpoint)
    ring = ".memory.ring.reward" if ".memory.ring.reward" in shapes else FORMER_RING
    memory = template.memory
    if not isinstance(memory, Replay) or ring not in shapes:
        return _load_today(checkpoint, template, shapes)
    saved, wanted = shapes[ring], memory.ring.reward.shape
    if len(saved) != len(wanted) or saved[1] == wanted[1]:
        return _load_today(checkpoint, template, shapes)

    def with_saved_slots(leaf):
        shape = (leaf.shape[0], saved[1], *leaf.shape[2:])
        if isinstance(leaf, np.ndarray):
            return np.broadcast_to(np.zeros((), leaf.dtype), shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    ring = jax.tree.map(with_saved_slots, memory.ring)
    enlarged = eqx.tree_at(lambda memory: memory.ring, memory, ring)
    state, manifest = _load_today(checkpoint, template.with_memory(enlarged), shapes)
    seeds = [state.seed(index).memory.resized(wanted[1]) for index in range(wanted[0])]
    xp = np if isinstance(state.memory.ring.reward, np.ndarray) else jnp
    return state.with_memory(jax.tree.map(lambda *leaves: xp.stack(leaves), *seeds)), manifest


def _shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    return {record.path: record.shape for record in read_manifest(checkpoint).leaves}


def _load_today(checkpoint: Path, template: RunState, shapes: Mapping[str, Any]) -> tuple[RunState, Manifest]:
    state, manifest = _load(checkpoint, template, shapes)
    return (state.today() if isinstance(state, FormerState) else state), manifest


def _load(
    checkpoint: Path, template: RunState, shapes: Mapping[str, Any], only: Collection[str] | None = None
) -> tuple[RunState | FormerState, Manifest]:
    """Loads a state of today's form, or of the one in which each seed had counters of its own."""
    like = FormerState.like(template, shapes) if ".update" in shapes else template
    return load_checkpoint(checkpoint, like, STATE_NAMES, only)
