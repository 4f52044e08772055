"""Opens a finished or stopped run: its plan, its learner, and a state from a checkpoint."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxtyping import PyTree

from penstock._errors import PenstockError
from penstock.training.plan import RunPlan, from_config
from penstock.training.program import seed_keys
from penstock.training.programs import make_program
from penstock.training.run_folder import CONFIG_NAME, read_config
from penstock.training.store import Manifest, best_checkpoint, latest_checkpoint, load_checkpoint


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
    return from_config(read_config(run_dir))


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
    template = make_program(learner, world).template(seed_keys(plan.seed, plan.seeds))
    state, manifest = load_checkpoint(found, template)
    return RestoredRun(plan, learner, state, manifest)
