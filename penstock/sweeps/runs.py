"""The runs of a sweep: where each is, and how far."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError
from penstock.reports.arms import settings_that_count
from penstock.storage.run_folder import CONFIG_NAME, METRICS_NAME, compare_configs, holds_a_run
from penstock.storage.store import list_checkpoints
from penstock.training.config_files import told_of
from penstock.training.continuation import accepted_changes, recorded_config
from penstock.training.plan import RunPlan
from penstock.worlds import World


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: of the point.
        folder: its run folder.
        plan: what is run.
        beside: options of the command that trains, as in a file: ``video``, ``tensorboard``.
        flags: further options of that command.
    """

    name: str
    folder: Path
    plan: RunPlan
    beside: Mapping[str, Any]
    flags: tuple[str, ...] = ()

    @property
    def total_steps(self) -> int:
        """Environment steps per seed when it has ended."""
        return self.plan.updates * self.plan.num_envs * self.plan.settings.iteration_steps

    @property
    def ended(self) -> bool:
        """Whether its last checkpoint holds the end of the plan."""
        checkpoints = list_checkpoints(self.folder / "checkpoints")
        return bool(checkpoints) and checkpoints[-1][0] >= self.total_steps

    def progress(self) -> "RunProgress":
        """How far it is, by what it has written."""
        steps, scored_at, scores = 0, None, []
        for row in _last_rows(self.folder / METRICS_NAME):
            at = int(row.get("env_steps") or 0)
            steps = max(steps, at)
            if scored_at is not None and at != scored_at:
                break
            if row.get(self.plan.best_by) is not None:
                scored_at, scores = at, [*scores, float(row[self.plan.best_by])]
        return RunProgress(steps, sum(scores) / len(scores) if scores else None)

    def content(self) -> dict[str, Any]:
        """What a file would say of it, for the command that trains."""
        return {**{k: v for k, v in self.plan.to_config().items() if k != "penstock"}, **self.beside}


@dataclasses.dataclass(frozen=True)
class RunProgress:
    """How far a run is: environment steps per seed; and its last evaluation by ``best_by``, in the mean over seeds."""

    steps: int
    score: float | None


def checked(runs: Sequence[SweepRun], allow_config_change: bool = False) -> list[SweepRun]:
    """Refuses what would fail later, before the first run starts; writes nothing.

    Args:
        runs: of the sweep, each with the folder of its name.
        allow_config_change: whether runs may go on with other settings than they were begun with.

    Returns:
        The runs, each with the folder in which it was begun: under another name where it was begun when something else
        was varied.

    Raises:
        PenstockError: naming the run: a world or learner that cannot be made, two points that figures would not tell
            apart, a folder that holds another run.
    """
    _refuse_twins(runs)
    worlds: dict[str, World] = {}
    mine = {run.folder.name for run in runs}
    there = [path.parent for path in sorted(runs[0].folder.parent.glob(f"*/{CONFIG_NAME}"))]
    others = [folder for folder in there if folder.name not in mine]
    settled = []
    for run in runs:
        with told_of(run.name):
            of_world = ("world", "world_options", "num_envs", "history", "log_info")
            key = json.dumps([getattr(run.plan, field) for field in of_world], sort_keys=True)
            if key not in worlds:
                worlds[key] = run.plan.make_world()
            run.plan.make_learner(worlds[key])
            config = recorded_config(run.plan, worlds[key])
            if holds_a_run(run.folder):
                accepted_changes(run.folder, config, allow_config_change)
            else:
                begun = next((folder for folder in others if _holds(folder, config)), None)
                run = run if begun is None else dataclasses.replace(run, folder=begun)
        settled.append(run)
    return settled


def _holds(folder: Path, config: dict[str, Any]) -> bool:
    try:
        return all(change.field != "label" for change in accepted_changes(folder, config))
    except ConfigurationError:
        return False


def _refuse_twins(runs: Sequence[SweepRun]) -> None:
    """Refuses two runs of which a figure would make one arm, and in it one seed twice."""
    known: dict[str, list[SweepRun]] = {}
    for run in runs:
        plan, config = run.plan, run.plan.to_config()
        arm = json.dumps([plan.world, plan.label or plan.title, settings_that_count(config)], sort_keys=True)
        for other in known.setdefault(arm, []):
            if abs(plan.seed - other.plan.seed) >= min(plan, other.plan, key=lambda one: one.seed).seeds:
                continue
            fields = [change.field for change in compare_configs(other.plan.to_config(), config)]
            if not fields:
                raise ConfigurationError(
                    f"'{other.name}' and '{run.name}' are the same run: all of their settings are equal. Leave one out."
                )
            raise ConfigurationError(
                f"'{other.name}' and '{run.name}' differ in {', '.join(fields)} alone, by which no figure tells runs "
                "apart (docs/plots.md). Leave one out, or give each a `label`."
            )
        known[arm].append(run)


def _last_rows(path: Path, size: int = 1 << 16) -> Iterator[dict[str, Any]]:
    """Rows of a metrics file from its end, as far as they lie in its last bytes."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in reversed(lines[:-1] if end <= size else lines[1:-1]):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
