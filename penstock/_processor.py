"""What a process does for its processor. Chosen once, when a command sets JAX up; layers only ask.

A script that does not choose gets the plain forms, so that one model traces to one program on every machine.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_chosen = {"padded rows": False}


def padded_rows() -> bool:
    """Whether layers keep the rows of their products from being whole pages of memory apart."""
    return _chosen["padded rows"]


def suit(*, pad_rows: bool) -> None:
    """Chooses for this process. Programs that are compiled already stay as they are."""
    _chosen["padded rows"] = pad_rows


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Within it, whatever is traced has the forms that are the same on every machine."""
    before = padded_rows()
    suit(pad_rows=False)
    try:
        yield
    finally:
        suit(pad_rows=before)


def rows_compete(processor: str, backend: str) -> bool:
    """Whether products run faster with `padded_rows`: on AMD's processors without AVX-512.

    As measured; on an EPYC with AVX-512 and on a Xeon, padded rows cost 6 to 15 % of a gradient step, and accelerators
    have no use for them.

    Args:
        processor: what the system says of it.
        backend: JAX's.
    """
    return backend == "cpu" and "AuthenticAMD" in processor and "avx512f" not in processor


def description() -> str:
    """What the system says of its processor; nothing where it is not Linux."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
