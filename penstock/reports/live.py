"""What the training loop tells the person who watches: a live display in a terminal, plain lines elsewhere."""

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, SupportsFloat, SupportsInt, TextIO, cast

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from penstock._errors import require
from penstock.reports.tables import format_value, quantity

_BAR_COLUMNS = 32


class Progress:
    """Progress of one training run.

    In a terminal: a bar with steps, speed, return, time left and the latest evaluation, redrawn in place; it adapts to
    the width of the window and uses no colour under ``NO_COLOR``. Elsewhere (files, pipes, batch systems): one aligned
    line every few seconds, without control characters. Can be used as a context manager, which closes it.

    Example:
        with Progress() as progress:
            progress.start(3_000_000, "RFO · soft/jumper-mini · seed 0")
            progress.compiling("training step")
            progress.compiled(14.2)
            progress.update(65_536, 51_000.0, reward=12.5)
    """

    def __init__(
        self,
        stream: TextIO | io.TextIOBase | None = None,
        *,
        interval: float | int = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepares the display; nothing is printed before `start`.

        Args:
            stream: where to print; standard error by default, so that results on standard output stay clean.
            interval: seconds between two plain lines. The first and the last update are always printed.
            clock: seconds that only rise; tests put their own.
        """
        self._console = Console(file=cast("IO[str]", stream or sys.stderr), highlight=False, soft_wrap=False)
        self._interval = interval
        self._clock = clock
        self._display = _Display(clock)
        self._live: Live | None = None
        self._printed_at = -math.inf
        self._pending = False
        self._evaluated = False

    @property
    def animated(self) -> bool:
        """Whether the display is redrawn in place."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def start(self, total_env_steps: SupportsInt, describe: str, env_steps: SupportsInt = 0) -> None:
        """Opens the display.

        Args:
            total_env_steps: environment steps of the whole run.
            describe: what runs, for example ``RFO · soft/jumper-mini · seed 0``.
            env_steps: steps already done by an earlier session of the same run.

        Raises:
            ConfigurationError: the total is not positive.
        """
        total_env_steps, env_steps = int(total_env_steps), int(env_steps)
        require(total_env_steps > 0, "total_env_steps", total_env_steps, "must be positive")
        self._display.total, self._display.done, self._display.title = total_env_steps, env_steps, describe
        if self.animated:
            self._live = Live(self._display, console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
            return
        self._line(f"{describe}: {quantity(total_env_steps)} environment steps")
        if env_steps:
            self._line(f"continues at step {env_steps:,}")

    def compiling(self, what: str) -> None:
        """Says that a compilation has begun; it can take a while without any other sign of life."""
        self._display.compiling = (what, self._clock())
        if self._live is None:
            self._line(f"compiling {what} ...")

    def compiled(self, seconds: SupportsFloat) -> None:
        """Says that the compilation is over."""
        what = self._display.compiling[0] if self._display.compiling else ""
        self._display.compiling = None
        self.message(" ".join(part for part in ("compiled", what, f"in {float(seconds):.1f} s") if part))

    def evaluating(self, share: SupportsFloat) -> None:
        """Says that an evaluation is under way.

        Args:
            share: of its steps that is done, at most; plain lines tell the first evaluation and those that last.
        """
        display, now = self._display, self._clock()
        begun = float(share) == 0.0
        display.evaluating = float(share)
        if self._live is not None:
            return
        if begun and not self._evaluated:
            self._line("evaluating ...")
        if begun:
            self._printed_at, self._evaluated = now, True
        elif now - self._printed_at >= self._interval:
            self._line(f"evaluating ... {float(share):.0%}")
            self._printed_at = now

    def update(
        self,
        env_steps: SupportsInt,
        steps_per_second: SupportsFloat,
        evaluation: SupportsFloat | None = None,
        *,
        learning: bool = True,
        **details: SupportsFloat,
    ) -> None:
        """Reports the state of training.

        Args:
            env_steps: environment steps done so far, of all sessions.
            steps_per_second: environment steps per second lately.
            evaluation: return of the latest evaluation, where there is a new one; it stays on display.
            learning: whether anything was learned yet: before, the speed says nothing of the time that is left.
            **details: further numbers, shown by their names (underscores become spaces).
        """
        display = self._display
        display.done, display.rate, display.learning = int(env_steps), float(steps_per_second), learning
        display.evaluating = None
        if evaluation is not None:
            display.evaluation = (float(evaluation), display.done)
        display.details = {name.replace("_", " "): float(value) for name, value in details.items()}
        self._pending = True
        if self._live is None and (evaluation is not None or self._clock() - self._printed_at >= self._interval):
            self._print_state()

    def message(self, text: str) -> None:
        """Prints one line above the display (it stays in the scroll-back)."""
        if self._live is None:
            self._line(text)
        else:
            self._console.print(Text(text))

    def close(self) -> None:
        """Ends the display and leaves its last state on the screen. Closing twice is harmless."""
        self._display.compiling = None
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._pending and not self.animated:
            self._print_state()
        self._pending = False

    def __enter__(self) -> "Progress":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the display, also after an error."""
        self.close()

    def _print_state(self) -> None:
        self._line(self._display.plain())
        self._printed_at = self._clock()
        self._pending = False

    def _line(self, text: str) -> None:
        # Not through rich: it would wrap at 80 columns where the output has no width.
        self._console.file.write(text + "\n")
        self._console.file.flush()


class _Display:
    """State of the display, and how it looks at a given width."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.title = ""
        self.total, self.done = 1, 0
        self.rate = math.nan
        self.evaluation: tuple[float, int] | None = None
        self.details: dict[str, float] = {}
        self.compiling: tuple[str, float] | None = None
        self.evaluating: float | None = None
        self.learning = True

    @property
    def fraction(self) -> float:
        return min(max(self.done / self.total, 0.0), 1.0)

    @property
    def left(self) -> str:
        if self.done >= self.total:
            return "done"
        if not self.learning:
            return "warming up"
        if not self.rate > 0 or math.isinf(self.rate):
            return ""
        return f"{duration((self.total - self.done) / self.rate)} left"

    def plain(self) -> str:
        """One line without control characters, in columns of fixed width."""
        steps = f"{quantity(self.done, digits=3):>6} / {quantity(self.total)}"
        columns = [
            f"{steps}  {self.fraction:>4.0%}",
            f"{_speed(self.rate):>7} steps/s",
            f"{self.left:>12}",
        ]
        if self.evaluation is not None:
            columns.append(f"evaluation {format_value(self.evaluation[0]):>9}")
        columns += [f"{name} {format_value(value):>9}" for name, value in self.details.items()]
        return "  ".join(columns).rstrip()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | Table]:
        if self.title:
            yield _line((self.title, "bold"))
        if self.compiling is not None:
            what, since = self.compiling
            yield _line((f"compiling {what} ... {self.clock() - since:.0f} s", "yellow"))
            return
        bar = ProgressBar(total=1.0, completed=self.fraction, complete_style="cyan", finished_style="green")
        row = Table.grid(padding=(0, 1))
        row.add_column(max_width=_BAR_COLUMNS)
        row.add_column(no_wrap=True)
        state = self.left if self.evaluating is None else f"evaluating {self.evaluating:.0%}"
        row.add_row(bar, _line(f"{self.fraction:>4.0%}", (f"  {state}" if state else "", "dim")))
        yield row
        yield from self._fields(options.max_width)

    def _fields(self, width: int) -> Iterator[Text]:
        """The numbers, in as many lines as the width asks for, three at most."""
        fields = [
            ("", f"{quantity(self.done, digits=3)} / {quantity(self.total)}", " steps"),
            ("", _speed(self.rate), " steps/s"),
        ]
        if self.evaluation is not None:
            value, at = self.evaluation
            fields.append(("evaluation ", format_value(value), f" at {quantity(at, digits=3)}"))
        fields += [(f"{name} ", format_value(value), "") for name, value in self.details.items()]
        lines = [_line()]
        for before, value, after in fields:
            field = _line((before, "dim"), (value, "bold cyan"), (after, "dim"))
            if lines[-1] and lines[-1].cell_len + 3 + field.cell_len > width:
                lines.append(_line())
            lines[-1].append("   " if lines[-1] else "").append_text(field)
        yield from lines[:3]


def duration(seconds: float | int) -> str:
    """``45 s``, ``2 min 05 s``, ``3 h 20 min`` or ``2 d 04 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _speed(rate: float) -> str:
    return quantity(rate, digits=3) if math.isfinite(rate) else "-"


def _line(*parts: str | tuple[str, str]) -> Text:
    """One line of styled parts, cut where the window is too narrow for it."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
