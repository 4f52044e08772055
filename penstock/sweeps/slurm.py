"""Runs of a sweep as jobs of a cluster with SLURM, through the package submitit."""

import contextlib
import json
import math
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError
from penstock._extras import extra
from penstock._files import write_text
from penstock.storage.run_folder import OUTPUT_NAME, encode_config
from penstock.sweeps.launchers import Job, Launcher, training_command
from penstock.sweeps.runs import SweepRun
from penstock.training.signals import EXIT_INTERRUPTED

JOBS = ".slurm"
"""Folder of a sweep with what submitit keeps of its jobs. Only submitit reads it, on the nodes."""

MOST_REQUEUES = 1000
"""A job that meets its time limit saves, is put back into the queue, and goes on; so often at most."""

ASK_SECONDS = 15.0
"""Time between two questions to SLURM about its queue."""

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals by which SLURM says that the time is nearly over."""

SAVE_SECONDS = 80
"""So long a run may take to save after it was told that its time is over. SLURM tells it 90 seconds before."""


class SlurmJobs(Launcher):
    """Each run is a job. Jobs do not end with the sweep: the same command finds them again."""

    outlived = True

    def __init__(
        self,
        folder: Path,
        *,
        jobs: int | None = None,
        partition: str = "",
        minutes: int = 1440,
        options: Mapping[str, str] | None = None,
        cluster: str = "slurm",
    ):
        """Prepares.

        Args:
            folder: of the sweep, on a file system that the nodes share.
            jobs: how many may be queued or under way at a time; None for all.
            partition: where jobs run; empty for the cluster's own choice.
            minutes: time limit of a job. A run that takes longer is saved, queued again, and goes on.
            options: further options of ``sbatch`` by their long names: ``gres``, ``mem``, ``account``.
            cluster: submitit's executor; ``local`` runs the jobs here.

        Raises:
            MissingExtraError: submitit is not installed.
            ConfigurationError: there is no SLURM here, or it does not take the options.
        """
        submitit = extra("submitit", "slurm")
        self.slots = 10**9 if jobs is None else jobs
        self._folder = folder / JOBS
        self._ids: dict[str, str] = _read_ids(self._folder)
        self._own: list[_SlurmJob] = []
        self._queue, self._cluster = _Queue(), cluster
        queue: dict[str, Any] = {"slurm_partition": partition} if partition else {}
        limits = {"slurm_max_num_timeout": MOST_REQUEUES, "local_max_num_timeout": MOST_REQUEUES}
        try:
            self._executor = submitit.AutoExecutor(folder=self._folder / "%j", cluster=cluster, **limits)
            self._executor.update_parameters(
                timeout_min=minutes,
                name=folder.name,
                stderr_to_stdout=True,
                slurm_additional_parameters={name.replace("_", "-"): value for name, value in (options or {}).items()},
                **queue,
            )
        except (RuntimeError, ValueError, NameError) as error:
            raise ConfigurationError(f"launcher = 'slurm': {error}") from error

    def start(self, run: SweepRun) -> Job:
        """Submits a job, unless one of an earlier call is still queued or under way.

        Raises:
            ConfigurationError: the cluster refuses the job.
        """
        job = self._earlier(run)
        if job is None:
            run.folder.mkdir(parents=True, exist_ok=True)
            code = self._folder / f"{run.folder.name}.code"
            code.unlink(missing_ok=True)
            work = RunOnNode(training_command(run), encode_config(run.content()), run.folder.resolve(), code.resolve())
            try:
                submitted = self._executor.submit(work)
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                raise ConfigurationError(f"{run.name}: the cluster does not take the job: {error}") from error
            name = str(submitted.job_id)
            self._queue.add(name)
            alive = self._queue.holds if self._cluster == "slurm" else lambda name: not submitted.done()
            job = _SlurmJob(name, run, self._folder, alive)
            self._ids[run.folder.name] = name
            write_text(self._folder / "jobs.json", json.dumps(self._ids, indent=1))
        self._own.append(job)
        return job

    def stop(self) -> None:
        """Leaves the jobs alone."""

    def farewell(self) -> str:
        """What to do with jobs that are left alone."""
        left = [job.name for job in self._own if job.exit_code() is None]
        return f"the jobs go on; the same command watches them again, and `scancel {' '.join(left)}` ends them"

    def _earlier(self, run: SweepRun) -> "_SlurmJob | None":
        """The job of an earlier call, if it is still queued or under way."""
        if run.folder.name not in self._ids:
            return None
        job = _SlurmJob(self._ids[run.folder.name], run, self._folder, self._queue.holds)
        return None if job.exit_code() is not None else job


class _Queue:
    """Which jobs SLURM has, waiting or under way. Its accounting, which many clusters lack, is not asked."""

    def __init__(self):
        self._known: set[str] | None = None
        self._asked_at = -math.inf

    def holds(self, job: str) -> bool:
        """Whether a job is in the queue, as far as anybody knows."""
        if time.monotonic() - self._asked_at > ASK_SECONDS:
            self._asked_at = time.monotonic()
            asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%A"], capture_output=True, check=False)
            self._known = set(asked.stdout.decode().split()) if asked.returncode == 0 else None
        return self._known is None or job in self._known

    def add(self, job: str) -> None:
        """A job was submitted just now."""
        if self._known is not None:
            self._known.add(job)


class _SlurmJob(Job):
    def __init__(self, name: str, run: SweepRun, folder: Path, alive: Callable[[str], bool]):
        self.name, self._run, self._alive = name, run, alive
        self._code = folder / f"{run.folder.name}.code"

    @property
    def queued(self) -> bool:
        """Whether it has said nothing yet."""
        return not (self._run.folder / OUTPUT_NAME).exists()

    def exit_code(self) -> int | None:
        try:
            code = int(self._code.read_text())
        except (OSError, ValueError):
            code = None
        if code in (None, EXIT_INTERRUPTED) and self._alive(self.name):
            return None  # under way; or it has saved, and is queued again
        return 1 if code is None else code  # 1: it was ended before it could say how


class RunOnNode:
    """What a node does: ``penstock train``, which is asked to save when the job's time is over."""

    def __init__(self, command: list[str], content: str, run_dir: Path, code: Path):
        """Prepares.

        Args:
            command: starts the training; reads the plan from standard input.
            content: the plan.
            run_dir: the run folder; what the training says goes there.
            code: file for its exit code.
        """
        self.command, self.content, self.run_dir, self.code = command, content, run_dir, code
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Trains. Returns the exit code, and leaves it in its file."""
        self.code.unlink(missing_ok=True)
        with (self.run_dir / OUTPUT_NAME).open("ab") as output, _ignored(*WARNINGS):
            process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        self.process = process
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(signal.SIGTERM))
        try:
            assert process.stdin is not None
            process.stdin.write(self.content.encode())
            process.stdin.close()
            while process.poll() is None:  # not `wait`: a signal handler asks meanwhile
                time.sleep(0.2)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
        write_text(self.code, str(process.returncode))
        return process.returncode

    def checkpoint(self) -> Any:
        """Saves, for submitit to queue the job again: its time is over, or somebody else needs the node."""
        submitit = extra("submitit", "slurm")
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + SAVE_SECONDS
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(RunOnNode(self.command, self.content, self.run_dir, self.code))


@contextlib.contextmanager
def _ignored(*signals: signal.Signals) -> Iterator[None]:
    """Lets processes that are started meanwhile ignore signals, which SLURM sends to all processes of a job alike."""
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _read_ids(folder: Path) -> dict[str, str]:
    try:
        ids = json.loads((folder / "jobs.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(job) for name, job in ids.items()} if isinstance(ids, dict) else {}
