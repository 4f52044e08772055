"""The runs of a sweep: where each is, and how far."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError
from penstock.storage.run_folder import CONFIG_NAME, METRICS_NAME
from penstock.storage.store import list_checkpoints
from penstock.training.config_files import told_of
from penstock.training.continuation import accepted_changes, recorded_config
from penstock.training.plan import RunPlan
from penstock.worlds import World

SCORE = "eval/return_deterministic"
"""What is shown of a run."""


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: of the point.
        folder: its run folder.
        plan: what is run.
        beside: options of the command that trains, as in a file: ``video``, ``tensorboard``.
    """

    name: str
    folder: Path
    plan: RunPlan
    beside: Mapping[str, Any]

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
            if row.get(SCORE) is not None:
                scored_at, scores = at, [*scores, float(row[SCORE])]
        return RunProgress(steps, sum(scores) / len(scores) if scores else None)

    def content(self) -> dict[str, Any]:
        """What a file would say of it, for the command that trains."""
        return {**{k: v for k, v in self.plan.to_config().items() if k != "penstock"}, **self.beside}


@dataclasses.dataclass(frozen=True)
class RunProgress:
    """How far a run is: environment steps per seed; and its last evaluation, in the mean over seeds."""

    steps: int
    score: float | None


def check(runs: Sequence[SweepRun]) -> None:
    """Refuses what would fail later, before the first run starts; writes nothing.

    Raises:
        PenstockError: naming the run: a world or learner that cannot be made, two points that are the same run, a
            folder that holds another run.
    """
    worlds: dict[str, World] = {}
    known: dict[str, SweepRun] = {}
    for run in runs:
        config = {key: value for key, value in run.plan.to_config().items() if key != "label"}
        twin = known.setdefault(json.dumps(config, sort_keys=True), run)
        if twin is not run:
            raise ConfigurationError(
                f"'{twin.name}' and '{run.name}' are the same run: all of their settings are equal. Leave one out."
            )
        with told_of(run.name):
            key = json.dumps([run.plan.world, run.plan.world_options, run.plan.num_envs], sort_keys=True)
            if key not in worlds:
                worlds[key] = run.plan.make_world()
            run.plan.make_learner(worlds[key])
            if (run.folder / CONFIG_NAME).is_file():
                accepted_changes(run.folder, recorded_config(run.plan, worlds[key]))


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
