"""What a sweep tells the person who watches: a row for each run in a terminal, plain lines elsewhere."""

import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock.reports.tables import format_value, quantity
from penstock.sweeps.conduct import Status, Tracked

STYLES = {Status.RUNNING: "cyan", Status.ENDED: "green", Status.FAILED: "bold red", Status.STOPPED: "yellow"}


class SweepDisplay:
    """Progress of several runs.

    In a terminal: one row for each run, redrawn in place; where they are more than fit, those that have ended or wait
    are counted. Elsewhere: a line when a run begins or ends, and now and then one for each that is under way.
    """

    def __init__(
        self,
        stream: TextIO | io.TextIOBase | None = None,
        *,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepares; nothing is printed before the first `show`.

        Args:
            stream: where to print; standard error by default.
            interval: seconds between plain lines about a run that is under way; a terminal is redrawn every second.
            clock: seconds that only rise; tests put their own.
        """
        self._console = Console(file=cast("IO[str]", stream or sys.stderr), highlight=False, soft_wrap=False)
        self._live: Live | None = None
        self._interval = 1.0 if self.animated else interval
        self._clock = clock
        self._looked_at = -math.inf
        self._told: dict[str, Status] = {}

    @property
    def animated(self) -> bool:
        """Whether the display is redrawn in place."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def show(self, tracked: Sequence[Tracked]) -> None:
        """Shows where all runs stand. Reads what they have written once in an interval, and when one begins or ends."""
        changed = [one for one in tracked if self._told.get(one.run.name, Status.WAITING) is not one.status]
        first = not self._told
        due = self._clock() - self._looked_at >= self._interval
        if not (changed or due):
            return
        self._told = {one.run.name: one.status for one in tracked}
        self._looked_at = self._clock() if due or first else self._looked_at
        if self.animated:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=False)
                self._live.start()
            self._live.update(self._rows(tracked), refresh=True)
            return
        for one in tracked if due and not first else changed:
            if one in changed or one.status is Status.RUNNING:
                self.message(state_line(one))

    def message(self, text: str) -> None:
        """Prints one line above the display."""
        if self._live is not None:
            self._console.print(Text(text))
            return
        self._console.file.write(text + "\n")
        self._console.file.flush()

    def close(self) -> None:
        """Ends the display and leaves its last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _rows(self, tracked: Sequence[Tracked]) -> Table:
        room = max(3, self._console.height - 3)
        shown = list(tracked)
        for status in (Status.ENDED, Status.WAITING):
            while len(shown) > room and any(one.status is status for one in shown):
                shown.remove(next(one for one in shown if one.status is status))
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        for one in shown:
            state, progress = Text(state_text(one), style=STYLES.get(one.status, "dim")), Text(progress_text(one))
            table.add_row(state, progress, Text(one.run.name, overflow="ellipsis"))
        if len(shown) < len(tracked):
            table.add_row(Text(""), Text(""), Text(counts(tracked), style="dim"))
        return table


def state_line(one: Tracked) -> str:
    """``running   12.3k / 100k  12%  evaluation   -812.3  NAME``: where a run stands, in columns of fixed width."""
    return f"{state_text(one):<8}  {progress_text(one)}  {one.run.name}"


def state_text(one: Tracked) -> str:
    """Where a run stands, in one word."""
    waits = one.status is Status.RUNNING and one.job is not None and one.job.queued
    return "queued" if waits else one.status.value


def progress_text(one: Tracked) -> str:
    """How far a run is, and its last evaluation."""
    progress, total = one.run.progress(), one.run.total_steps
    steps = f"{quantity(progress.steps, digits=3):>6} / {quantity(total, digits=3):<6}"
    score = "" if progress.score is None else f"evaluation {format_value(progress.score):>9}"
    return f"{steps} {min(progress.steps / total, 1.0):>4.0%}  {score:<20}"


def counts(tracked: Sequence[Tracked]) -> str:
    """``12 runs: 3 running, 9 waiting``."""
    numbers = {status: sum(one.status is status for one in tracked) for status in Status}
    each = ", ".join(f"{number} {status.value}" for status, number in numbers.items() if number)
    return f"{len(tracked)} run{'s' if len(tracked) != 1 else ''}: {each}"
