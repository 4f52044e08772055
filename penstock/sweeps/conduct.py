"""Carries a sweep out: starts its runs, so many side by side, watches them, and passes a request to stop on."""

import dataclasses
import enum
import signal
import time
from collections.abc import Callable, Sequence

from penstock.storage.run_folder import OUTPUT_NAME
from penstock.sweeps.launchers import Job, Launcher
from penstock.sweeps.runs import SweepRun
from penstock.training.signals import EXIT_INTERRUPTED, GracefulStop


class Status(enum.Enum):
    """Where a run of a sweep stands."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    STOPPED = "stopped"
    FAILED = "failed"


STOPPED = (EXIT_INTERRUPTED, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of runs that were asked to stop: saved, too early for that, or asked twice."""


@dataclasses.dataclass
class Tracked:
    """A run, and where it stands.

    Attributes:
        run: the run.
        status: where it stands.
        job: it, under way or ended, where it was started here.
        code: with which it ended.
    """

    run: SweepRun
    status: Status
    job: Job | None = None
    code: int | None = None


def carry_out(
    runs: Sequence[SweepRun],
    launcher: Launcher,
    stop: GracefulStop,
    show: Callable[[Sequence[Tracked]], None],
    *,
    poll_seconds: float = 0.2,
) -> list[Tracked]:
    """Runs what has not ended yet.

    A run that fails does not keep the others from running. Once somebody asks to stop, all that are under way are
    asked to save, and none is started any more; those that go on without the sweep are left.

    Args:
        runs: all of the sweep.
        launcher: starts them.
        stop: who may ask to stop.
        show: is told where all stand, again and again.
        poll_seconds: time between two looks.

    Returns:
        Where all stand in the end.
    """
    tracked = [Tracked(run, Status.ENDED if run.ended else Status.WAITING) for run in runs]
    told = False
    try:
        while True:
            for one in tracked:
                _look(one)
            under_way = [one for one in tracked if one.status is Status.RUNNING]
            waiting = [one for one in tracked if one.status is Status.WAITING]
            if stop.requested and launcher.outlived:
                return tracked
            if stop.requested and not told:
                told = True
                launcher.stop()
            if not stop.requested:
                for one in waiting[: launcher.slots - len(under_way)]:
                    one.job, one.status = launcher.start(one.run), Status.RUNNING
                    under_way.append(one)
            show(tracked)
            if not under_way:
                return tracked
            time.sleep(poll_seconds)
    except BaseException:
        launcher.stop()
        raise


def _look(one: Tracked) -> None:
    one.code = one.job.exit_code() if one.job is not None and one.status is Status.RUNNING else one.code
    if one.code is not None:
        one.status = Status.STOPPED if one.code in STOPPED else Status.ENDED if one.code == 0 else Status.FAILED


def exit_code(tracked: Sequence[Tracked]) -> int:
    """Of the command: 0 where all runs have ended; 1 where one failed; `EXIT_INTERRUPTED` where the rest may go on."""
    statuses = {one.status for one in tracked}
    if statuses & {Status.WAITING, Status.RUNNING, Status.STOPPED}:
        return EXIT_INTERRUPTED
    return 1 if Status.FAILED in statuses else 0


def last_words(one: Tracked) -> str:
    """What a run that failed has to say for itself: by which signal it was ended, or its last line."""
    if one.code is not None and one.code < 0:
        hint = ", as happens where memory runs out" if one.code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-one.code).name}{hint}"
    try:
        lines = (one.run.folder / OUTPUT_NAME).read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
