"""What one run writes while it is trained: lines of metrics, checkpoints, and what went wrong."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import PenstockError, Report, require
from penstock.algorithms.learner import Learner
from penstock.storage.loggers import Logger
from penstock.storage.metrics_log import MetricsLog
from penstock.storage.run_folder import RunFolder, config_hash
from penstock.storage.store import CheckpointNotWrittenError, Manifest, NonFiniteStateError, read_manifest
from penstock.training.checkpoints import Checkpoints
from penstock.training.drivers.functional import seed_keys
from penstock.training.drivers.state import RunState
from penstock.training.plan import SAFE_TO_CHANGE, RunPlan
from penstock.training.post_mortem import FAULTS, Fault
from penstock.training.restore import load_state
from penstock.training.running import Driver

EXPLAINED_FAULTS = 3
"""Faults per process that are explained and dumped; further ones are counted in the metrics."""


class TrainingFailedError(PenstockError):
    """The training state itself is no longer finite. A dump of it is kept; earlier checkpoints are sound."""


class Record:
    """One run's folder while it is trained. Only the process that holds the run's lock may use it.

    Attributes:
        newest_step: of the newest checkpoint from which the run can go on; -1 where there is none.
        last_rows: the last evaluation's line of metrics per seed.
        evaluation_owed: whether an evaluation was due at the newest checkpoint, and did not come to its end.
    """

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        learner: Learner,
        config: dict[str, Any],
        report: Report,
        loggers: Sequence[Logger],
        share: float = 1.0,
    ):
        """Looks for the newest checkpoint.

        Args:
            plan: what is run.
            folder: where.
            learner: the algorithm.
            config: what ``config.json`` is to hold.
            report: gets sentences for the user.
            loggers: get the rows of metrics, too.
            share: of the process's CPU seconds that belong to this run.
        """
        self.plan, self.folder, self.config, self.report, self.share = plan, folder, config, report, share
        self.hash = config_hash(config, ignore=SAFE_TO_CHANGE)
        self.checkpoints = Checkpoints(folder, learner, self.hash, report, plan.criterion)
        self.log = MetricsLog(folder.metrics_path, loggers, report)
        self.seeds = range(plan.seed, plan.seed + plan.seeds)
        self.steps_per_update = plan.num_envs * plan.settings.iteration_steps
        self.wall_before = self.cpu_before = 0.0
        self.wall_start, self.cpu_start = time.monotonic(), time.process_time()
        self.last_rows: list[dict[str, Any]] = []
        self.faults_explained = 0
        self.evaluation_owed = False
        self._found = self.checkpoints.newest()
        self._manifest: Manifest | None = None if self._found is None else read_manifest(self._found)
        self.newest_step = -1 if self._manifest is None else self._manifest.step

    def refuse_fewer_steps(self) -> None:
        """Refuses a plan that ends before the newest checkpoint.

        Raises:
            ConfigurationError: naming how far the run is.
        """
        require(
            self.newest_step <= self.plan.updates * self.steps_per_update,
            "steps",
            self.plan.steps,
            f"the run is already at {self.newest_step:,} environment steps; ask for at least as many",
        )

    def begun_state(self, driver: Driver) -> RunState | None:
        """The state to go on from; None for a fresh start."""
        return None if self._found is None else self._load(self._found, driver)

    def newest_state(self, driver: Driver) -> RunState | None:
        """What the newest checkpoint holds by now; None where there is none."""
        found = self.checkpoints.newest()
        return None if found is None else self._load(found, driver)

    def _load(self, checkpoint: Path, driver: Driver) -> RunState:
        return load_state(checkpoint, driver, seed_keys(self.plan.seed, self.plan.seeds))[0]

    def begin(self) -> None:
        """Goes on behind the newest checkpoint, or begins anew. The settings of this run are now those of the folder.

        What cannot be continued with these settings must not replace the settings that it can be continued with: call
        this once the state is loaded.
        """
        if self._found is None or self._manifest is None:
            self.checkpoints.begin_anew()
            self.log.truncate(0)
        else:
            # The kill may have come after the checkpoint was saved, and before this; or another metric counts now.
            self.checkpoints.tidy()
            extra = self._manifest.extra
            self.log.truncate(extra["metrics_offset"])
            self.wall_before, self.cpu_before = extra["wall_seconds"], extra["cpu_seconds"]
            self.last_rows = extra["last_rows"]
            self.evaluation_owed = extra.get("evaluation_owed", False)
        self.folder.write_config(self.config)

    def _clocks(self) -> tuple[float, float]:
        wall = self.wall_before + time.monotonic() - self.wall_start
        cpu = self.cpu_before + self.share * (time.process_time() - self.cpu_start)
        return round(wall, 3), round(cpu, 3)

    def _rows_of(self, index: int) -> range:
        return range(index * len(self.seeds), (index + 1) * len(self.seeds))

    def write(
        self, index: int, update: int, metrics: Mapping[str, np.ndarray], evaluation: Mapping[str, np.ndarray]
    ) -> list[dict[str, Any]]:
        """Writes a line of metrics for each seed.

        Args:
            index: which of the runs that are trained together this is.
            update: finished iterations.
            metrics: of training, over the rows of all runs.
            evaluation: of an evaluation, likewise; empty where there was none.
        """
        wall, cpu = self._clocks()
        rows = []
        for row_index, seed in zip(self._rows_of(index), self.seeds, strict=True):
            row: dict[str, Any] = {
                "env_steps": update * self.steps_per_update,
                "update": update,
                "seed": seed,
                "wall_seconds": wall,
                "cpu_seconds": cpu,
            }
            row |= {name: float(value[row_index]) for name, value in {**metrics, **evaluation}.items()}
            self.log.write(row)
            rows.append(row)
        if evaluation or not self.last_rows:
            self.last_rows = rows
        return rows

    def save(self, state: RunState, update: int, evaluation_owed: bool) -> bool:
        """Saves the state with the position in the metrics file. A full disk is reported, and training goes on."""
        if not self.log.sync():
            return False
        wall, cpu = self._clocks()
        extra = {
            "metrics_offset": self.log.offset(),
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "last_rows": [_finite_row(row) for row in self.last_rows],
            "evaluation_owed": evaluation_owed,
        }
        step = update * self.steps_per_update
        try:
            self.checkpoints.save(step, state, extra)
        except CheckpointNotWrittenError as error:
            self.report(f"{error} Training continues; the previous checkpoint is intact.")
            return False
        except NonFiniteStateError as error:
            sentence = self.checkpoints.dump(step, state, self.plan.seed)
            raise TrainingFailedError(
                f"{error} {sentence} The same command goes back to the newest checkpoint and meets the fault again; "
                "try a smaller actor_learning_rate or critic_learning_rate in a new run folder."
            ) from error
        return True

    def look_for_faults(
        self,
        explain: Callable[[Fault], str],
        restore: Callable[[], RunState | None],
        index: int,
        begin: int,
        metrics: Mapping[str, np.ndarray],
        iterations: int,
    ) -> None:
        """Reports skipped updates and diverged environments; explains the first of a run, with a dump that replays.

        Args:
            explain: says what went wrong; the driver's.
            restore: loads the newest states that were saved, of all runs that are trained together.
            index: which of these this is.
            begin: iteration at which the block began.
            metrics: of the block, over the rows of all runs.
            iterations: length of the block.
        """
        for row, seed in zip(self._rows_of(index), self.seeds, strict=True):
            counts = {name: int(metrics[name][row]) for name in FAULTS if name in metrics and metrics[name][row] > 0}
            if not counts or self.faults_explained >= EXPLAINED_FAULTS:
                continue
            self.faults_explained += 1
            try:
                fault = Fault(
                    restore=restore,
                    begin=begin,
                    iterations=iterations,
                    index=row,
                    counts=counts,
                    seed=seed,
                    steps_per_update=self.steps_per_update,
                    crash=self.folder.crash,
                    config_hash=self.hash,
                )
                sentence = explain(fault)
            except CheckpointNotWrittenError as error:
                sentence = f"{counts} in seed {seed} (handled; training goes on). {error}"
            if self.faults_explained == EXPLAINED_FAULTS:
                sentence += " Further faults are only counted, in metrics.jsonl."
            self.report(sentence)
            if counts.get("world/diverged", 0) >= iterations * self.steps_per_update > 0:
                raise TrainingFailedError(
                    f"Every one of the last {iterations * self.steps_per_update:,} environment steps diverged, so that "
                    f"nothing can be learned: {sentence}. Correct the world (`penstock check-world` shows more); the "
                    "same command goes on from the newest checkpoint."
                )


def _finite_row(row: dict[str, Any]) -> dict[str, Any]:
    return {k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in row.items()}
