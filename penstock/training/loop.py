"""The training loop: blocks of compiled iterations, with evaluation, metrics and checkpoints between them.

`train` starts a run or continues the one in the folder. It does no arithmetic on the training state, so a run that was
killed and continued is, bit for bit, the run that was not.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from penstock._errors import ConfigurationError
from penstock.algorithms.learner import Batches
from penstock.storage.lock import RunLock
from penstock.storage.loggers import Logger
from penstock.storage.run_folder import RunFolder, holds_a_run
from penstock.training.continuation import accepted_changes, recorded_config
from penstock.training.drivers.functional import seed_keys
from penstock.training.drivers.state import RunState
from penstock.training.hosted_evaluation import EvaluationStopped, Supervision
from penstock.training.observer import Observer, Silent
from penstock.training.plan import RunPlan
from penstock.training.presets import has_light
from penstock.training.record import Record
from penstock.training.rows import rates_of_rows, refuse_other_programs
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
    (result,) = train_together(
        [(plan, run_dir)],
        observer=observer,
        loggers=[loggers],
        on_metrics=on_metrics,
        allow_config_change=allow_config_change,
    )
    return result


def train_together(
    runs: Sequence[tuple[RunPlan, str | Path]],
    *,
    observer: Observer | None = None,
    loggers: Sequence[Sequence[Logger]] | None = None,
    on_metrics: Callable[[list[dict[str, Any]]], bool | None] | None = None,
    allow_config_change: bool = False,
) -> list[Result]:
    """Trains runs that differ in learning rates alone, as rows of one program; each has a folder of its own.

    Each folder is that of a run like any other: it can be evaluated, drawn, and continued alone. Runs that stand at
    different steps are trained in turns, those at one step together.

    Args:
        runs: plans and run folders.
        observer: watches them.
        loggers: of each run.
        on_metrics: called with the rows of every block, once they are written: every seed's of one run after the other.
        allow_config_change: see `train`.

    Returns:
        How each ended.

    Raises:
        ConfigurationError: see `train`; or plans differ in more than learning rates.
    """
    observer = observer or Silent()
    plans = [plan for plan, _ in runs]
    plan = plans[0]
    world = plan.make_world()
    plan.refuse_unmeasurable(world)
    learners = [each.make_learner(world) for each in plans]  # refuses bad settings before anything is written
    refuse_other_programs(plans, learners)
    evaluation_world = world.for_evaluation().with_num_envs(plan.evaluation_episodes)
    first = make_driver(learners[0], evaluation_world)
    first.require_memory(plan.seeds * len(plans))
    paths = [Path(run_dir) for _, run_dir in runs]
    configs = [recorded_config(each, world) for each in plans]
    with contextlib.ExitStack() as stack:
        opened: dict[int, RunFolder] = {}
        # Those that are there first: if one is refused, no folder of another was made.
        for index in sorted(range(len(paths)), key=lambda index: not holds_a_run(paths[index])):
            opened[index] = folder = RunFolder(paths[index])
            stack.enter_context(RunLock(folder.lock_path))
            if folder.has_config:
                for change in accepted_changes(folder.path, configs[index], allow_config_change):
                    if change.field not in ("penstock", "label"):
                        observer.message(f"continuing with another setting: {change.sentence()}")
        folders = [folder for _, folder in sorted(opened.items())]
        stop = stack.enter_context(GracefulStop(observer.message))
        records: list[Record] = []
        for each, folder, learner, config, receivers in zip(
            plans, folders, learners, configs, loggers or [()] * len(plans), strict=True
        ):
            if not folder.has_config:
                folder.write_config(config)
            folder.clean_leftovers()
            keep_copies(each, folder.path)
            record = Record(each, folder, learner, config, observer.message, receivers, share=1 / len(plans))
            record.refuse_fewer_steps()
            records.append(record)
        for record in records:
            stack.callback(record.log.close)  # a service may have things to say when it ends
            record.log.begin(record.config)
        stack.callback(observer.close)
        results: dict[int, Result] = {}
        for step in sorted({record.newest_step for record in records}):
            group = [index for index, record in enumerate(records) if record.newest_step == step]
            driver = first
            if len(plans) > 1:
                rates = rates_of_rows([learners[index].rates for index in group], plan.seeds)
                driver = make_driver(learners[group[0]], evaluation_world, rates)
            try:
                ended = _Training([records[index] for index in group], driver, observer).to_the_end(
                    stop, on_metrics or (lambda rows: None)
                )
            finally:
                driver.close()
            results |= zip(group, ended, strict=True)
        return [results[index] for index in range(len(records))]


class _Training:
    """One process's part of runs that are trained together: their state, and where it stands."""

    def __init__(self, records: Sequence[Record], driver: Driver, observer: Observer):
        self.records = records
        self.plan = records[0].plan  # all have the same, but for learning rates
        self.driver = driver
        self.observer = observer
        self.keys = jnp.concatenate([seed_keys(self.plan.seed, self.plan.seeds)] * len(records))
        self.steps_per_update = records[0].steps_per_update
        self.saving = 0.0
        self.evaluation_owed = self.long_said = self.unmeasured_said = False

    def to_the_end(self, stop: GracefulStop, on_metrics: Callable[[list[dict[str, Any]]], bool | None]) -> list[Result]:
        """Trains until the budget is used or somebody asks to stop."""
        plan = self.plan
        self.driver.supervision = Supervision(lambda: stop.requested, self.observer.evaluating, self.observer.message)
        state, update = self._begin(stop)
        begun = update
        saved_at, saved_update = time.monotonic(), update if self.records[0].newest_step >= 0 else -1
        if not stop.requested and (self.evaluation_owed or (update == 0 and not self.records[0].last_rows)):
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
            for index, record in enumerate(self.records):
                record.look_for_faults(
                    self.driver.explain, self._newest, index, update - iterations, metrics, iterations
                )
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
        return [
            Result(record.folder, own, self.driver, finished, update > begun, exit_code, record.last_rows)
            for record, own in zip(self.records, self._apart(state), strict=True)
        ]

    def _apart(self, state: RunState) -> list[RunState]:
        """The state of each run."""
        seeds = self.plan.seeds
        if len(self.records) == 1:
            return [state]
        return [state.rows(slice(i * seeds, (i + 1) * seeds)) for i in range(len(self.records))]

    # ------------------------------------------------------------------ begin

    def _begin(self, stop: GracefulStop) -> tuple[RunState, int]:
        """The state to continue from and its update: the newest sound checkpoint, or a fresh start.

        Compiles, unless the runs are complete, or somebody asked to stop while others had their turn.
        """
        plan = self.plan
        evaluation_keys = self._evaluation_keys(0) if plan.evaluate_every else None
        state, update = self._joined([record.begun_state(self.driver) for record in self.records]), 0
        if state is not None:
            update = int(state.clock.update)
        for record in self.records:
            record.begin()
        self.evaluation_owed = any(record.evaluation_owed for record in self.records)
        seeds = f"seed {plan.seed}" if plan.seeds == 1 else f"seeds {plan.seed} to {plan.seed + plan.seeds - 1}"
        title = f"{plan.title.upper()} · {plan.world} · {seeds}"
        title += f" · {len(self.records)} runs" if len(self.records) > 1 else ""
        self.observer.start(plan.updates * self.steps_per_update, title, update * self.steps_per_update)
        if state is not None and (update >= plan.updates or stop.requested):
            return state, update
        for notice in self.driver.notices():
            self.observer.message(notice)
        begin = time.monotonic()
        self.observer.compiling("the training program")
        state = self.driver.init(self.keys) if state is None else self.driver.resume(state)
        self.driver.compile(state, jnp.asarray(1, jnp.int32), evaluation_keys)
        self.observer.compiled(time.monotonic() - begin)
        return state, update

    def _newest(self) -> RunState | None:
        """What the newest checkpoints hold, for a replay."""
        return self._joined([record.newest_state(self.driver) for record in self.records])

    def _joined(self, found: Sequence[RunState | None]) -> RunState | None:
        """The states of all runs as one; None where one is missing, or where they are not of one step."""
        states = [state for state in found if state is not None]
        if len(states) < len(found) or len({int(state.clock.update) for state in states}) > 1:
            return None
        return states[0] if len(states) == 1 else RunState.together(states)

    # ------------------------------------------------------------------ evaluate and log

    def _evaluation_keys(self, update: int) -> jax.Array:
        return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, EVALUATION_KEY), update))(self.keys)

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
        unmeasured = self.plan.criterion.unmeasured(metrics)
        if unmeasured and update == 0:  # nothing is lost yet
            raise ConfigurationError(unmeasured)
        if unmeasured and not self.unmeasured_said:
            self.unmeasured_said = True
            self.observer.message(unmeasured)
        return metrics

    def _show(
        self, update: int, rate: float, metrics: dict[str, np.ndarray], evaluation: dict[str, np.ndarray]
    ) -> None:
        """Tells the observer means over the rows."""
        env_steps, need = update * self.steps_per_update, self.driver.learner.data
        learning = not isinstance(need, Batches) or env_steps > need.warmup_steps + self.steps_per_update
        details = {"reward": float(np.mean(metrics["train/reward"]))} if metrics else {}
        if "train/forward_velocity" in metrics:
            details["forward_velocity"] = float(np.mean(metrics["train/forward_velocity"]))
        ended = [rate for rate in metrics.get("train/success_rate", ()) if np.isfinite(rate)]
        if ended:
            details["success_rate"] = float(np.mean(ended))
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

    def _write_rows(
        self, update: int, metrics: dict[str, np.ndarray], evaluation: dict[str, np.ndarray]
    ) -> list[dict[str, Any]]:
        written = (record.write(index, update, metrics, evaluation) for index, record in enumerate(self.records))
        return [row for rows in written for row in rows]

    def _checkpoint(self, state: RunState, update: int) -> bool:
        """Saves every run's state. A full disk is reported, and training goes on."""
        begin = time.monotonic()
        saved = [
            record.save(own, update, self.evaluation_owed)
            for record, own in zip(self.records, self._apart(state), strict=True)
        ]
        self.saving = time.monotonic() - begin if all(saved) else self.saving
        return all(saved)
