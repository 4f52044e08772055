"""Output files appear complete or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from penstock._errors import PenstockError


class OutputError(PenstockError, OSError):
    """A report could not be written."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` (same suffix) that takes its place if the block succeeds.

    Args:
        path: the file to write; missing parent folders are made.

    Raises:
        OutputError: the disk is full or the folder cannot be written; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, PenstockError):
            raise
        raise OutputError(_sentence(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Writes ``text`` to ``path`` in one piece."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _sentence(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Could not write {path}: the disk is full. Free some space and repeat; nothing else was lost."
    reason = (error.strerror or str(error)).lower()
    return f"Could not write {path}: {reason}. Check that the folder exists and may be written."
