"""Ctrl-C and SIGTERM: finish the step, save, leave with a documented code. Twice: leave at once.

Exit codes of a training command:

| code | meaning |
|---|---|
| 0 | the run is complete |
| 75 | interrupted, state saved: the same command continues the run (``EX_TEMPFAIL`` of sysexits.h) |
| 130, 143 | a second SIGINT (130) or SIGTERM (143): left at once; the last checkpoint is what counts |
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from penstock._errors import Report, warn

EXIT_INTERRUPTED = 75
"""Exit code of a run that was asked to stop, saved its state, and can be continued by the same command."""

ECHO_SECONDS = 0.25
"""A second signal within this time of the first is taken for its echo: wrappers such as ``srun`` or ``timeout`` send
one to a process that the terminal or the scheduler has told already."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """Turns the first SIGINT or SIGTERM into a flag that the training loop polls; the second ends the process.

    The second signal works also while a compiled program runs for minutes: a thread waits for it, because Python runs
    signal handlers only between its own instructions.

    Outside the main thread, where Python has no signal handlers, this does nothing and `requested` stays False.
    """

    def __init__(self, report: Report = warn, *, quit_at_once: Callable[[int], Any] = os._exit):
        """Prepares; signals are handled inside the ``with`` block only.

        Args:
            report: gets one sentence when the first signal arrives. Called from another thread.
            quit_at_once: called with the exit code at the second signal.
        """
        self._report = report
        self._quit = quit_at_once
        self._requested = threading.Event()
        self._first: float | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._watcher: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop after this step."""
        return self._requested.is_set()

    def ask(self) -> None:
        """Asks to stop after this step, without a signal."""
        self._requested.set()

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._watcher = threading.Thread(target=self._watch, name="penstock-signals", daemon=True)
        self._watcher.start()
        self._previous_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, _between_instructions)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watcher is None:
            return
        for number, handler in self._previous.items():
            # None: the handler was not installed from Python and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._write_end)  # ends the watcher
        self._watcher.join()
        os.close(self._read_end)
        self._watcher = None

    def _watch(self) -> None:
        while arrived := os.read(self._read_end, 1):
            if arrived[0] in _SIGNALS:
                self._handle(arrived[0])

    def _handle(self, number: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._requested.set()
            self._report(f"{signal.Signals(number).name}: finishing this step, saving; again to quit at once.")
        elif now - self._first > ECHO_SECONDS:
            self._quit(128 + number)


def _between_instructions(number: int, frame: FrameType | None) -> None:
    """Does nothing: having a handler is what keeps Python from raising `KeyboardInterrupt`."""
    del number, frame
