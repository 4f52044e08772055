"""Ends checks by time: between steps by looking at the clock, and in the middle of a call that does not return."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator


class Budget:
    """The seconds that a check may take.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._begin = time.monotonic()

    @property
    def used(self) -> float:
        """The share of the time that is over: 1 or more where there is none left."""
        return (time.monotonic() - self._begin) / self.seconds


class TookTooLongError(Exception):
    """Raised in the middle of a call that did not return in time."""


@contextlib.contextmanager
def patience_of(max_seconds: float) -> Iterator[None]:
    """Raises `TookTooLongError` in a call that is made inside, if it lasts twice as long as all checks may take.

    Only the main thread of a process can be interrupted; elsewhere nothing happens.
    """
    seconds = 2 * max_seconds
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number, frame):
        raise TookTooLongError(f"it did not return within {seconds:g} s, twice max_seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    begin, others = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # A timer of whoever called goes on where it was.
        left = max(others[0] - (time.monotonic() - begin), 1e-3) if others[0] else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, others[1])
