"""Who watches a run: a progress display, or nobody."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable


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
