"""Whether the run in a folder is the one that a plan describes, so that it may go on."""

from pathlib import Path
from typing import Any

from penstock.storage.run_folder import (
    Change,
    compare_configs,
    read_config,
    refuse_lasting_changes,
    refuse_unsafe_changes,
)
from penstock.training.migrations import completed
from penstock.training.plan import KEPT_FOR_LIFE, SAFE_TO_CHANGE, RunPlan
from penstock.training.sources import sources_of, with_names_of
from penstock.worlds import World


def recorded_config(plan: RunPlan, world: World) -> dict[str, Any]:
    """What ``config.json`` records of a run: its plan, the files it is made of, and the constants of its world."""
    return {**plan.to_config(), **sources_of(plan), "world_constants": world.describe()}


def accepted_changes(run_dir: Path, config: dict[str, Any], allow_config_change: bool = False) -> list[Change]:
    """What differs from the run in a folder.

    Args:
        run_dir: a folder that holds a run.
        config: of the run that shall go on there, from `recorded_config`.
        allow_config_change: accept all differences that do not break the state of the run.

    Raises:
        ConfigurationError: listing the differences with which the run must not go on.
    """
    before = with_names_of(completed(read_config(run_dir)), config)
    changes = compare_configs(before, config, SAFE_TO_CHANGE)
    refuse_lasting_changes(changes, run_dir, KEPT_FOR_LIFE)
    if not allow_config_change:
        refuse_unsafe_changes(changes, run_dir, "--allow-config-change")
    return changes
