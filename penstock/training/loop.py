"""The training loop: blocks of compiled iterations, with evaluation, metrics and checkpoints between them.

`train` starts a run or continues the one in the folder. It does no arithmetic on the training state, so a run that was
killed and continued is, bit for bit, the run that was not.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from penstock._errors import PenstockError, require
from penstock.algorithms.learner import Batches
from penstock.storage.lock import RunLock
from penstock.storage.loggers import Logger
from penstock.storage.metrics_log import MetricsLog
from penstock.storage.run_folder import RunFolder, config_hash
from penstock.storage.store import (
    CheckpointNotWrittenError,
    NonFiniteStateError,
    latest_checkpoint,
)
from penstock.training.checkpoints import Checkpoints
from penstock.training.continuation import accepted_changes, recorded_config
from penstock.training.drivers.functional import seed_keys
from penstock.training.drivers.state import RunState
from penstock.training.hosted_evaluation import EvaluationStopped, Supervision
from penstock.training.plan import SAFE_TO_CHANGE, RunPlan
from penstock.training.post_mortem import FAULTS, Fault
from penstock.training.presets import has_light
from penstock.training.restore import load_state
from penstock.training.running import Driver, make_driver
from penstock.training.signals import EXIT_INTERRUPTED, GracefulStop
from penstock.training.sources import keep_copies

EVALUATION_KEY = 0x5EED
"""Folded into a seed's key for evaluation, so that evaluating never shifts what training draws."""

CHECKPOINT_SECONDS = 30.0
"""Longest time between checkpoints where evaluations are further apart."""

CHECKPOINT_SHARE = 20.0
"""The time between checkpoints is at least this many times the time that the last one took (large replay memories)."""

LONG_SECONDS = 12 * 3600.0
"""A run that takes longer is told so once its speed is known."""

SCORE = "eval/return_deterministic"
"""The metric by which the best checkpoint is kept."""

EXPLAINED_FAULTS = 3
"""Faults per process that are explained and dumped; further ones are counted in the metrics."""


class TrainingFailedError(PenstockError):
    """The training state itself is no longer finite. A dump of it is kept; earlier checkpoints are sound."""


@runtime_checkable
class Observer(Protocol):
    """Who watches a run: a progress display, or nobody."""

    def start(self, total_env_steps: int, describe: str, env_steps: int = 0) -> None:
        """The run begins, or goes on from ``env_steps``."""

    def compiling(self, what: str) -> None:
        """A program is being compiled."""

    def compiled(self, seconds: float) -> None:
        """It is compiled."""

    def evaluating(self, share: float) -> None:
        """An evaluation is under way; ``share`` of its steps, at most, is done."""

    def update(
        self,
        env_steps: int,
        steps_per_second: float,
        evaluation: float | None = None,
        *,
        learning: bool = True,
        **details: float,
    ) -> None:
        """A block of iterations is done.

        ``evaluation`` is the deterministic return, where there is a new one; ``learning`` is False while nothing has
        been learned yet, so that the speed says nothing of the time that is left.
        """

    def message(self, text: str) -> None:
        """Something to tell the user."""

    def close(self) -> None:
        """The run ends."""


class Silent(Observer):
    """Watches nothing; messages go to ``report`` if given."""

    def __init__(self, report: Callable[[str], None] | None = None):
        self._report = report

    def message(self, text: str) -> None:
        """See `Observer`."""
        if self._report is not None:
            self._report(text)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        folder: the run folder.
        state: training state, leaves ``(K, ...)``.
        driver: who trained it.
        finished: whether the whole budget is used and its result saved.
        worked: whether this call trained at all; False if the run was complete before.
        exit_code: 0, or 75 where the same command will continue the run: it was asked to stop, or the disk refused the
            last checkpoint.
        last_rows: the last evaluation's line of metrics per seed.
    """

    folder: RunFolder
    state: RunState
    driver: Driver
    finished: bool
    worked: bool
    exit_code: int
    last_rows: list[dict[str, Any]]


def train(
    plan: RunPlan,
    run_dir: str | Path,
    *,
    observer: Observer | None = None,
    loggers: Sequence[Logger] = (),
    on_metrics: Callable[[list[dict[str, Any]]], bool | None] | None = None,
    allow_config_change: bool = False,
) -> Result:
    """Trains, or continues the run in ``run_dir``.

    Args:
        plan: what to run.
        run_dir: the run folder; created if missing.
        observer: watches the run.
        loggers: get the rows of metrics, too, for example for TensorBoard.
        on_metrics: called with the rows of every block, one per seed, once they are written; True asks the run to stop.
        allow_config_change: continue although settings differ from those of the run so far.

    Returns:
        How the run ended.

    Raises:
        ConfigurationError: settings that contradict each other, or differ from those of the run in the folder.
        CapabilityError: world or policy lack what the algorithm needs.
        RunLockedError: another process writes to the folder.
        TrainingFailedError: parameters or optimiser became NaN or infinite in spite of the guards.
    """
    observer = observer or Silent()
    world = plan.make_world()
    learner = plan.make_learner(world)  # refuses bad settings before anything is written
    driver = make_driver(learner, world.with_num_envs(plan.evaluation_episodes))
    driver.require_memory(plan.seeds)
    folder = RunFolder(Path(run_dir))
    config = recorded_config(plan, world)
    with RunLock(folder.lock_path), GracefulStop(observer.message) as stop:
        if folder.has_config:
            for change in accepted_changes(folder.path, config, allow_config_change):
                if change.field not in ("penstock", "label"):
                    observer.message(f"continuing with another setting: {change.sentence()}")
        else:
            folder.write_config(config)
        folder.clean_leftovers()
        keep_copies(plan, folder.path)
        run = _Run(plan, folder, driver, config_hash(config, ignore=SAFE_TO_CHANGE), observer, loggers)
        try:
            run.log.begin(config)
            # What cannot be continued with these settings must not replace the settings that it can be continued with.
            return run.to_the_end(stop, lambda: folder.write_config(config), on_metrics or (lambda rows: None))
        finally:
            driver.close()
            observer.close()
            run.log.close()  # a service may have things to say when it ends


class _Run:
    """One process's part of a run: the state, and where it stands."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        driver: Driver,
        settings_hash: str,
        observer: Observer,
        loggers: Sequence[Logger],
    ):
        self.plan = plan
        self.folder = folder
        self.driver = driver
        self.hash = settings_hash
        self.checkpoints = Checkpoints(folder, driver.learner, settings_hash, observer.message)
        self.observer = observer
        self.log = MetricsLog(folder.metrics_path, loggers, observer.message)
        self.seeds = range(plan.seed, plan.seed + plan.seeds)
        self.steps_per_update = plan.num_envs * plan.settings.iteration_steps
        self.wall_before = self.cpu_before = 0.0
        self.wall_start, self.cpu_start = time.monotonic(), time.process_time()
        self.last_rows: list[dict[str, Any]] = []
        self.faults_explained = 0
        self.saving = 0.0
        self.evaluation_owed = False
        self.long_said = False

    def to_the_end(
        self,
        stop: GracefulStop,
        accepted: Callable[[], None],
        on_metrics: Callable[[list[dict[str, Any]]], bool | None],
    ) -> Result:
        """Trains until the budget is used or somebody asks to stop. Calls ``accepted`` once the run can go on."""
        plan = self.plan
        self.driver.supervision = Supervision(lambda: stop.requested, self.observer.evaluating)
        state, update = self._begin(accepted)
        begun = update
        saved_at, saved_update = time.monotonic(), update
        if self.evaluation_owed or (update == 0 and not self.last_rows):
            evaluation = self._evaluate(state, update) if plan.evaluate_every else {}
            if evaluation:
                self._write_rows(update, {}, evaluation)
                self._show(update, math.nan, {}, evaluation)
            saved_update = update if self._checkpoint(state, update) else -1
        while update < plan.updates and not stop.requested:
            iterations = min(plan.log_every - update % plan.log_every, plan.updates - update)
            block_start = time.monotonic()
            state, metrics = self.driver.train(state, jnp.asarray(iterations, jnp.int32))
            metrics = jax.device_get(metrics)
            seconds = time.monotonic() - block_start
            iterations = int(state.clock.update) - update  # a driver that was asked to stop may have done fewer
            update += iterations
            self._look_for_faults(update - iterations, metrics, iterations)
            evaluation = self._evaluate(state, update) if self._evaluation_due(update, iterations) else {}
            rows = self._write_rows(update, metrics, evaluation)
            if on_metrics(rows):
                stop.ask()
            rate = iterations * self.steps_per_update / max(seconds, 1e-9)  # per seed, as the steps are counted
            self._show(update, rate, metrics, evaluation)
            waited = time.monotonic() - saved_at
            if evaluation or waited > max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * self.saving) or stop.requested:
                saved_update = update if self._checkpoint(state, update) else saved_update
                saved_at = time.monotonic()
        saved = saved_update == update or self._checkpoint(state, update)
        finished = saved and update >= plan.updates
        if not finished:
            outcome = "saved" if saved else "NOT saved: what came after the last checkpoint will be computed again"
            self.observer.message(
                f"stopped at {update * self.steps_per_update:,} environment steps, {outcome}; "
                "the same command continues the run"
            )
        exit_code = 0 if finished else EXIT_INTERRUPTED
        return Result(self.folder, state, self.driver, finished, update > begun, exit_code, self.last_rows)

    # ------------------------------------------------------------------ begin

    def _begin(self, accepted: Callable[[], None]) -> tuple[RunState, int]:
        """The state to continue from and its update: the newest sound checkpoint, or a fresh start. Compiles."""
        plan = self.plan
        keys = seed_keys(plan.seed, plan.seeds)
        evaluation_keys = self._evaluation_keys(0) if plan.evaluate_every else None
        found = self.checkpoints.newest()
        state, update = None, 0
        if found is None:
            self.checkpoints.begin_anew()
            self.log.truncate(0)
        else:
            state, manifest = load_state(found, self.driver, keys)
            # The kill may have come after the checkpoint was saved, and before this.
            self.checkpoints.tidy(found)
            extra = manifest.extra
            self.log.truncate(extra["metrics_offset"])
            self.wall_before, self.cpu_before = extra["wall_seconds"], extra["cpu_seconds"]
            self.last_rows = extra["last_rows"]
            self.evaluation_owed = extra.get("evaluation_owed", False)
            update = int(state.clock.update)
            require(
                update <= plan.updates,
                "steps",
                plan.steps,
                f"the run is already at {update * self.steps_per_update:,} environment steps; ask for at least as many",
            )
        accepted()
        seeds = f"seed {plan.seed}" if plan.seeds == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        title = f"{plan.title.upper()} · {plan.world} · {seeds}"
        self.observer.start(plan.updates * self.steps_per_update, title, update * self.steps_per_update)
        if update >= plan.updates and state is not None:
            return state, update
        for notice in self.driver.notices():
            self.observer.message(notice)
        begin = time.monotonic()
        self.observer.compiling("the training program")
        state = self.driver.init(keys) if state is None else self.driver.resume(state)
        self.driver.compile(state, jnp.asarray(1, jnp.int32), evaluation_keys)
        self.observer.compiled(time.monotonic() - begin)
        return state, update

    # ------------------------------------------------------------------ evaluate and log

    def _evaluation_keys(self, update: int) -> jax.Array:
        keys = seed_keys(self.plan.seed, self.plan.seeds)
        return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, EVALUATION_KEY), update))(keys)

    def _evaluation_due(self, update: int, iterations: int) -> bool:
        """Whether a multiple of ``evaluate_every`` was crossed by the last iterations, or the run is complete."""
        now, before = update * self.steps_per_update, (update - iterations) * self.steps_per_update
        every = self.plan.evaluate_every
        if not every or not iterations:
            return False
        return now // every > before // every or update >= self.plan.updates

    def _evaluate(self, state: RunState, update: int) -> dict[str, np.ndarray]:
        """What an evaluation brought; nothing, if somebody asked to stop meanwhile, and then it is owed."""
        self.observer.evaluating(0.0)
        try:
            metrics = jax.device_get(self.driver.evaluate(state, self._evaluation_keys(update)))
        except EvaluationStopped:
            self.evaluation_owed = True
            return {}
        self.evaluation_owed = False
        return metrics

    def _show(
        self, update: int, rate: float, metrics: dict[str, np.ndarray], evaluation: dict[str, np.ndarray]
    ) -> None:
        """Tells the observer means over the seeds."""
        env_steps, need = update * self.steps_per_update, self.driver.learner.data
        learning = not isinstance(need, Batches) or env_steps > need.warmup_steps + self.steps_per_update
        details = {"reward": float(np.mean(metrics["train/reward"]))} if metrics else {}
        if "train/forward_velocity" in metrics:
            details["forward_velocity"] = float(np.mean(metrics["train/forward_velocity"]))
        deterministic = evaluation.get("eval/return_deterministic")
        self.observer.update(
            env_steps,
            rate,
            evaluation=None if deterministic is None else float(np.mean(deterministic)),
            learning=learning,
            **details,
        )
        left = (self.plan.updates * self.steps_per_update - env_steps) / rate if rate > 0 else 0.0
        if learning and left > LONG_SECONDS and not self.long_said:
            self.long_said = True
            light = " --preset light is small and fast;" if has_light(self.plan.algorithm) else ""
            self.observer.message(
                f"At this speed the run takes {left / 3600:.0f} more hours on this machine.{light} --steps shortens it."
            )

    def _clocks(self) -> tuple[float, float]:
        wall = self.wall_before + time.monotonic() - self.wall_start
        cpu = self.cpu_before + time.process_time() - self.cpu_start
        return round(wall, 3), round(cpu, 3)

    def _write_rows(
        self, update: int, metrics: dict[str, np.ndarray], evaluation: dict[str, np.ndarray]
    ) -> list[dict[str, Any]]:
        wall, cpu = self._clocks()
        rows = []
        for index, seed in enumerate(self.seeds):
            row: dict[str, Any] = {
                "env_steps": update * self.steps_per_update,
                "update": update,
                "seed": seed,
                "wall_seconds": wall,
                "cpu_seconds": cpu,
            }
            row |= {name: float(value[index]) for name, value in {**metrics, **evaluation}.items()}
            self.log.write(row)
            rows.append(row)
        if evaluation or not self.last_rows:
            self.last_rows = rows
        return rows

    # ------------------------------------------------------------------ checkpoints and faults

    def _checkpoint(self, state: RunState, update: int) -> bool:
        """Saves the state with the position in the metrics file. A full disk is reported, and training goes on."""
        if not self.log.sync():
            return False
        wall, cpu = self._clocks()
        extra = {
            "metrics_offset": self.log.offset(),
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "last_rows": [_finite_row(row) for row in self.last_rows],
            "evaluation_owed": self.evaluation_owed,
        }
        score = None
        if self.last_rows and self.last_rows[0].get("update") == update and SCORE in self.last_rows[0]:
            score = float(np.mean([row[SCORE] for row in self.last_rows]))
        step = update * self.steps_per_update
        begin = time.monotonic()
        try:
            self.checkpoints.save(step, state, extra, score)
        except CheckpointNotWrittenError as error:
            self.observer.message(f"{error} Training continues; the previous checkpoint is intact.")
            return False
        except NonFiniteStateError as error:
            sentence = self.checkpoints.dump(step, state, self.plan.seed)
            raise TrainingFailedError(
                f"{error} {sentence} The same command goes back to the newest checkpoint and meets the fault again; "
                "try a smaller actor_learning_rate or critic_learning_rate in a new run folder."
            ) from error
        self.saving = time.monotonic() - begin
        return True

    def _newest_state(self) -> RunState | None:
        """What the newest checkpoint holds, for a replay."""
        found = latest_checkpoint(self.folder.checkpoints, self.observer.message)
        if found is None:
            return None
        return load_state(found, self.driver, seed_keys(self.plan.seed, self.plan.seeds))[0]

    def _look_for_faults(self, begin: int, metrics: dict[str, np.ndarray], iterations: int) -> None:
        """Reports skipped updates and diverged environments; explains the first of a run, with a dump that replays."""
        for index, seed in enumerate(self.seeds):
            counts = {
                name: int(metrics[name][index]) for name in FAULTS if name in metrics and metrics[name][index] > 0
            }
            if not counts or self.faults_explained >= EXPLAINED_FAULTS:
                continue
            self.faults_explained += 1
            try:
                fault = Fault(
                    restore=self._newest_state,
                    begin=begin,
                    iterations=iterations,
                    index=index,
                    counts=counts,
                    seed=seed,
                    steps_per_update=self.steps_per_update,
                    crash=self.folder.crash,
                    config_hash=self.hash,
                )
                sentence = self.driver.explain(fault)
            except CheckpointNotWrittenError as error:
                sentence = f"{counts} in seed {seed} (handled; training goes on). {error}"
            if self.faults_explained == EXPLAINED_FAULTS:
                sentence += " Further faults are only counted, in metrics.jsonl."
            self.observer.message(sentence)
            if counts.get("world/diverged", 0) >= iterations * self.steps_per_update > 0:
                raise TrainingFailedError(
                    f"Every one of the last {iterations * self.steps_per_update:,} environment steps diverged, so that "
                    f"nothing can be learned: {sentence}. Correct the world (`penstock check-world` shows more); the "
                    "same command goes on from the newest checkpoint."
                )


def _finite_row(row: dict[str, Any]) -> dict[str, Any]:
    return {k: (None if isinstance(v, float) and not np.isfinite(v) else v) for k, v in row.items()}
