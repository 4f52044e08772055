"""What the terminal shows while a film is made."""

import math
import sys

from penstock._errors import require


class Filming:
    """Says on standard error that a film is made; in a terminal, how much of it is drawn. A context."""

    def __init__(self, quiet: bool = False) -> None:
        """Begins.

        Args:
            quiet: say nothing where nobody looks.
        """
        self._live = sys.stderr.isatty()
        self._shown = -1
        if self._live or not quiet:
            print("filming one episode ...", end="" if self._live else "\n", file=sys.stderr, flush=True)

    def __enter__(self) -> "Filming":
        return self

    def __call__(self, share: float) -> None:
        """A share of the film is drawn."""
        percent = math.floor(100 * share)
        if self._live and percent > self._shown:
            self._shown = percent
            print(f"\rfilming one episode ... {percent:>3} %", end="", file=sys.stderr, flush=True)

    def __exit__(self, *raised: object) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def require_film_seconds(seconds: float | None) -> None:
    """Refuses lengths that are none.

    Raises:
        ConfigurationError: not positive, or not a number.
    """
    fits = seconds is None or (math.isfinite(seconds) and seconds > 0)
    require(fits, "film_seconds", seconds, "must be a positive number of seconds")
