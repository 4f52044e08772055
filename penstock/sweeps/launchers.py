"""Who starts the runs of a sweep: processes of this machine. See `slurm` for a cluster."""

import abc
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from penstock.storage.run_folder import OUTPUT_NAME, encode_config
from penstock.sweeps.runs import SweepRun


class Job(abc.ABC):
    """A run that was started."""

    @abc.abstractmethod
    def exit_code(self) -> int | None:
        """How it ended; None while it has not."""

    @property
    def queued(self) -> bool:
        """Whether it waits for a machine."""
        return False


class Launcher(abc.ABC):
    """Starts runs, so many side by side."""

    slots: int
    """How many may be under way at a time."""
    outlived: bool = False
    """Whether runs go on when the sweep ends, so that nobody waits for them to stop."""

    def farewell(self) -> str:
        """What to do with runs that go on without the sweep."""
        return ""

    @abc.abstractmethod
    def start(self, run: SweepRun) -> Job:
        """Starts a run, or lets it go on."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Asks all that are under way to save and end; asked a second time, they end at once."""


class LocalProcesses(Launcher):
    """Each run is a process of this machine, with its share of the threads; on accelerators, of the memory."""

    def __init__(self, processes: int, environment: Mapping[str, str] | None = None):
        """Prepares.

        Args:
            processes: how many run side by side.
            environment: of the processes; by default this one's.
        """
        self.slots = processes
        self._started: list[subprocess.Popen[bytes]] = []
        self._environment = dict(os.environ if environment is None else environment)

    def start(self, run: SweepRun) -> Job:
        """Starts ``penstock train``; what it says goes into the run folder."""
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = {**shares(self.slots, usable_cores()), **self._environment}
        with (run.folder / OUTPUT_NAME).open("ab") as output:
            process = subprocess.Popen(
                training_command(run),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the sweep, which passes it on
            )
        assert process.stdin is not None
        process.stdin.write(encode_config(run.content()).encode())
        process.stdin.close()
        self._started.append(process)
        return _Process(process)

    def stop(self) -> None:
        """Sends SIGTERM to all that are under way."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


class _Process(Job):
    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process

    def exit_code(self) -> int | None:
        return self._process.poll()


def training_command(run: SweepRun) -> list[str]:
    """The command that trains a run, whose plan it reads from standard input."""
    return [sys.executable, "-P", "-m", "penstock", "train", "--config", "-", "--run-dir", str(run.folder), *run.flags]


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(processes: int, cores: int) -> dict[str, str]:
    """Environment variables that leave each process its share of the threads, and of an accelerator's memory."""
    threads = str(max(1, cores // processes))
    libraries = ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    memory = {} if processes == 1 else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / processes:.3f}"}
    return {**dict.fromkeys(libraries, threads), **memory}
