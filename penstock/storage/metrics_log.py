"""``metrics.jsonl``: one JSON object per line, complete after any crash; loggers get the same rows."""

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import ConfigurationError, PenstockError, Report, warn
from penstock.storage._durable import sync_directory
from penstock.storage.loggers import Logger


class MetricsLog:
    """Appends rows to ``metrics.jsonl``.

    Each row is handed to the operating system at once, so a killed process loses none; `sync` makes them survive a
    power cut. A full disk does not stop training: rows wait in memory, one warning says how many bytes are missing,
    and they are written, in order, when there is room again.
    """

    def __init__(self, path: Path, loggers: Sequence[Logger] = (), report: Report = warn):
        """Opens the file for appending; creates it if missing.

        Args:
            path: the file; its directory must exist.
            loggers: also get each row. One that raises is reported once and not asked again.
            report: gets warnings.

        Raises:
            ConfigurationError: the file cannot be opened.
        """
        self.path = path
        self._loggers = list(loggers)
        self._report = report
        self._waiting: list[bytes] = []
        self._warned = False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigurationError(f"metrics file {path}: {error.strerror}. Choose another run folder.") from error
        self._offset = os.fstat(self._file).st_size

    def begin(self, config: Mapping[str, Any]) -> None:
        """Tells the loggers that the run begins, or goes on.

        Args:
            config: the content of ``config.json``.

        Raises:
            PenstockError: a logger asks for something that the user can mend at once.
        """
        for logger in list(self._loggers):
            try:
                logger.begin(self.path.parent, config)
            except PenstockError:
                raise
            except Exception as error:
                self._drop(logger, error)

    def offset(self) -> int:
        """Bytes that are in the file. Save it with a checkpoint and give it to `truncate` when resuming."""
        return self._offset

    def truncate(self, offset: int) -> None:
        """Cuts the file to what a checkpoint knows, so that the resumed run writes no row twice.

        A file that is shorter than the checkpoint remembers, because somebody edited it, is reported and continued.

        Args:
            offset: from `offset`, at the time of the checkpoint; 0 for a new run.
        """
        self._waiting.clear()
        size = os.fstat(self._file).st_size
        end = self._end_of_line(min(offset, size))
        if end != offset:
            self._report(
                f"{self.path} has {size} bytes and no line ends at byte {offset}, where the checkpoint left it: rows "
                f"are missing or were edited. Logging continues after byte {end}."
            )
        os.ftruncate(self._file, end)
        self._offset = end

    def _end_of_line(self, offset: int) -> int:
        while offset > 0:
            start = max(0, offset - 65536)
            newline = os.pread(self._file, offset - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            offset = start
        return 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row and hands it to the loggers.

        Args:
            row: names to numbers, texts, flags or None; also NumPy and JAX scalars, and lists of these. A number
                that is not finite becomes ``null``, because JSON has no word for it.
        """
        plain = {name: _plain(value) for name, value in row.items()}
        encoded = json.dumps(plain, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        self._waiting.append(encoded)
        self._write_waiting()
        for logger in list(self._loggers):
            try:
                logger.write(row)
            except Exception as error:
                self._drop(logger, error)

    def _write_waiting(self) -> bool:
        content = memoryview(b"".join(self._waiting))
        written = 0
        try:
            while written < len(content):
                written += os.pwrite(self._file, content[written:], self._offset + written)
        except OSError as error:
            # Half a row must not stay: the next one would continue its line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._offset)
            if not self._warned:
                self._warned = True
                self._report(
                    f"{self.path}: {error.strerror or error}. {len(content)} bytes are needed. Training continues; "
                    "rows wait in memory until there is room."
                )
            return False
        self._offset += written
        self._waiting.clear()
        if self._warned:
            self._warned = False
            self._report(f"{self.path}: there is room again; all waiting rows are written.")
        return True

    def sync(self) -> bool:
        """Makes every row survive a power cut. Call it before saving a checkpoint.

        Returns:
            False where rows still wait for room on the disk: a checkpoint saved now would not know them.
        """
        if not self._write_waiting():
            return False
        try:
            os.fsync(self._file)
            sync_directory(self.path.parent)
        except OSError as error:
            self._report(f"{self.path}: {error.strerror or error}. Rows may be lost in a power cut.")
            return False
        return True

    def close(self) -> None:
        """Writes what waits, syncs, and closes file and loggers."""
        if self._file < 0:
            return
        self.sync()
        os.close(self._file)
        self._file = -1
        for logger in list(self._loggers):
            try:
                logger.close()
            except Exception as error:
                self._drop(logger, error)

    def _drop(self, logger: Logger, error: Exception) -> None:
        self._loggers.remove(logger)
        self._report(
            f"{type(logger).__name__} failed and gets no more rows: {type(error).__name__}: {error}. "
            f"Training continues; {self.path} is complete."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    array = np.asarray(value)
    # ml_dtypes (bfloat16) give NumPy scalars whose `tolist` stays in their own type.
    return _plain((array if array.dtype.kind in "biufU" else array.astype(np.float64)).tolist())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl``, also while a run writes it.

    A last line that is not complete is ignored. ``null`` is read as NaN, which is what was written.

    Args:
        path: the file.

    Raises:
        ConfigurationError: the file is missing, or a line before the last is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigurationError(f"metrics file {path}: {error.strerror}. Is this the folder of a run?") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is empty or torn
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigurationError(f"{path}, line {number}: {error}. Restore or delete the line.") from error
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path}, line {number}: not a JSON object. Restore or delete the line.")
        rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows
