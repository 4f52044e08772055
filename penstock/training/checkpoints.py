"""The checkpoints of a run that trains: which one it goes on from, how it saves, what it keeps."""

import shutil
from pathlib import Path
from typing import Any

from penstock._errors import Report
from penstock.algorithms.learner import Learner
from penstock.storage.run_folder import RunFolder
from penstock.storage.store import (
    best_checkpoint,
    choose_best,
    keep_best,
    latest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    save_crash_dump,
    set_all_aside,
)
from penstock.training.best import Criterion
from penstock.training.drivers.state import RunState
from penstock.training.parts import layout_of


class Checkpoints:
    """What a run knows of its checkpoints. Only the process that holds the run's lock may use it.

    Args:
        folder: the run's.
        learner: the algorithm.
        config_hash: of the run's settings.
        report: gets sentences on what is damaged, or refused by the disk.
        criterion: what makes one the best.
    """

    def __init__(self, folder: RunFolder, learner: Learner, config_hash: str, report: Report, criterion: Criterion):
        self.folder = folder
        self.learner = learner
        self.config_hash = config_hash
        self.report = report
        self.criterion = criterion
        self.layout = layout_of(learner)

    def newest(self) -> Path | None:
        """The newest one that verifies and from which a run can go on; None where there is none."""
        directory = self.folder.checkpoints
        return latest_checkpoint(directory, self.report) or best_checkpoint(
            directory, self.report, score_of=self.criterion.score_of
        )

    def begin_anew(self) -> None:
        """Sets aside what is left of a run that cannot go on, and says so; nothing where there was no run."""
        set_all_aside(self.folder.checkpoints)  # such as keep the agent only
        if any(self.folder.checkpoints.glob(".bad-*")):
            kept = self.folder.path / "metrics.bad.jsonl"
            shutil.copyfile(self.folder.metrics_path, kept)
            self.report(
                f"No checkpoint is left that this run could go on from: it starts anew from step 0. Its metrics so far "
                f"are kept in {kept}."
            )

    def save(self, step: int, state: RunState, extra: dict[str, Any]) -> None:
        """Saves a state; keeps it apart if it is the best, and deletes what is no longer needed. See `save_checkpoint`.

        The score comes from the ``last_rows`` of what is kept beside the state.
        """
        directory, settings = self.folder.checkpoints, self.config_hash
        score = self.criterion.score(extra["last_rows"], step)
        path = save_checkpoint(
            directory, step, state, config_hash=settings, extra=extra, score=score, layout=self.layout
        )
        keep_best(path, self.report, self.layout.lasting, self.criterion.score_of)
        prune_checkpoints(directory, self.report, self.layout.lasting)

    def tidy(self) -> None:
        """Finishes what a kill may have left undone, and chooses the best anew where another metric counts now."""
        directory, lasting = self.folder.checkpoints, self.layout.lasting
        choose_best(directory, self.report, lasting, self.criterion.score_of)
        prune_checkpoints(directory, self.report, lasting)

    def dump(self, step: int, state: RunState, seed: int) -> str:
        """Keeps a state that is not finite. Returns a sentence; see `save_crash_dump`."""
        axes, settings = state.axes(self.learner.world), self.config_hash
        crash = self.folder.crash
        return save_crash_dump(crash, step, state, seed=seed, config_hash=settings, axes=axes, layout=self.layout)[1]
