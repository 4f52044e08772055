"""Named arrays in a safetensors file, read with distrust.

The format (https://github.com/huggingface/safetensors, "Format"): 8 bytes little-endian header length, a JSON header
``{name: {"dtype", "shape", "data_offsets"}}``, then the bytes of all arrays without gaps.

Penstock writes and reads it itself, for three reasons: arrays of many gigabytes stream to disk without a second copy
in memory, the SHA-256 is taken in the same pass, and a full disk arrives as the `OSError` it is.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from penstock._errors import PenstockError
from penstock.storage._durable import phase, strict_json

HEADER_LIMIT = 64 * 2**20
"""Largest accepted header in bytes. A header takes about 100 bytes per array."""

_CHUNK = 4 * 2**20
_TAGS: dict[str, str] = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_EXTENSION_TYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_DTYPES: dict[str, np.dtype[Any]] = {
    tag: np.dtype(getattr(ml_dtypes, name) if name in _EXTENSION_TYPES else name) for name, tag in _TAGS.items()
}
_FOREIGN: list[tuple[bytes, str]] = [
    (b"PK\x03\x04", "a zip archive (as written by torch.save or numpy.savez)"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x1f\x8b", "a gzip file"),
    *[(bytes([0x80, protocol]), "a pickle") for protocol in range(2, 6)],
]


class CheckpointError(PenstockError):
    """A checkpoint cannot be written or read."""


class CheckpointDamagedError(CheckpointError):
    """A checkpoint is not what its manifest says, or holds what Penstock does not read."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one array lies in a file: its dtype, shape and first byte after the header."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def name_problem(name: str) -> str | None:
    """Says why ``name`` may not name an array, or returns None."""
    if not name or len(name) > 4096 or not name.isprintable():
        return "is empty, over 4096 characters, or not printable"
    if name.startswith(("/", "\\", "~")) or "../" in name or "..\\" in name or name == "__metadata__":
        return "looks like a path out of the checkpoint"
    return None


def is_storable(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this dtype can be saved."""
    return dtype.name in _TAGS


def encoded_header(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, list[str]]:
    """Length and header of the file that would hold ``arrays``, and the order of their bytes."""
    # Widest first keeps every array aligned to its item size; the order within one size stays that of the tree.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    entries: dict[str, Any] = {}
    begin = 0
    for name in order:
        array = arrays[name]
        end = begin + array.nbytes
        entries[name] = {"dtype": _TAGS[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, order


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[int, str]:
    """Writes a new file and syncs it. Returns its size in bytes and its SHA-256."""
    prefix, order = encoded_header(arrays)
    digest = hashlib.sha256(prefix)
    size = len(prefix)
    with path.open("xb") as file:
        file.write(prefix)
        phase("arrays-begun")
        for position, name in enumerate(order):
            for piece in _pieces(arrays[name]):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            if position == len(order) // 2:
                file.flush()
                phase("arrays-half-written")
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


def tensors_size(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of the file that would hold ``arrays``."""
    return len(encoded_header(arrays)[0]) + sum(array.nbytes for array in arrays.values())


def holds(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a file is, byte for byte, what `write_tensors` would write."""
    prefix, order = encoded_header(arrays)
    try:
        with open_regular(path) as file:
            same = file.read(len(prefix)) == prefix
            for name in order:
                same = same and all(file.read(len(piece)) == bytes(piece) for piece in _pieces(arrays[name]))
            return same and not file.read(1)
    except (CheckpointError, OSError):
        return False


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file of a checkpoint; refuses links, devices and pipes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise CheckpointDamagedError(f"{path.name} is missing") from None
    except OSError as error:
        reason = "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise CheckpointDamagedError(f"{path.name} {reason}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointDamagedError(f"{path.name} is not a regular file")
        yield file


class TensorReader:
    """Reads one file from start to end, once, hashing every byte on the way.

    Nothing is allocated before the header length, every dtype, shape and offset, and the size of the file agree.
    """

    def __init__(self, file: IO[bytes], name: str, expected_size: int):
        self._file = file
        self._name = name
        self._digest = hashlib.sha256()
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        self._refuse_foreign(start, size)
        if size != expected_size:
            raise CheckpointDamagedError(f"{name} has {size} bytes instead of {expected_size}")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(HEADER_LIMIT, size - 8):
            raise CheckpointDamagedError(
                f"{name} states a header of {length} bytes; its {size} bytes allow at most "
                f"{max(0, min(HEADER_LIMIT, size - 8))}"
            )
        header = file.read(length)
        self._digest.update(start + header)
        self.tensors = _parse_header(header, name, size - 8 - length)

    def _refuse_foreign(self, start: bytes, size: int) -> None:
        # Such a file would be refused anyway, for the header length that its first bytes spell. This names the reason.
        absurd = int.from_bytes(start, "little") > max(size, 2**20)
        for magic, kind in _FOREIGN:
            if absurd and start.startswith(magic):
                raise CheckpointDamagedError(
                    f"{self._name} is {kind}, which may carry code; Penstock reads safetensors only"
                )

    def arrays(self, only: Container[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Yields each array with its name, or only some. The caller must exhaust the iterator before `sha256`."""
        for tensor in self.tensors:
            if only is not None and tensor.name not in only:
                self._pass_over(tensor)
                continue
            content = np.empty(tensor.nbytes, np.uint8)
            view = content.data
            for start in range(0, tensor.nbytes, _CHUNK):
                piece = view[start : start + _CHUNK]
                if self._file.readinto(piece) != len(piece):  # pyright: ignore[reportAttributeAccessIssue]
                    raise CheckpointDamagedError(f"{self._name} ends inside {tensor.name}")
                self._digest.update(piece)
            yield tensor.name, content.view(tensor.dtype).reshape(tensor.shape)

    def _pass_over(self, tensor: Tensor) -> None:
        for start in range(0, tensor.nbytes, _CHUNK):
            self._digest.update(self._file.read(min(_CHUNK, tensor.nbytes - start)))

    def skim(self) -> None:
        """Hashes the rest of the file without keeping it."""
        while piece := self._file.read(_CHUNK):
            self._digest.update(piece)

    def sha256(self) -> str:
        """SHA-256 of what was read."""
        return self._digest.hexdigest()


def _parse_header(header: bytes, file: str, data_bytes: int) -> list[Tensor]:
    try:
        entries = strict_json(header)
    except ValueError as error:
        raise CheckpointDamagedError(f"{file} has a header that is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise CheckpointDamagedError(f"{file} has a header that is not a JSON object")
    tensors = [_parse_entry(name, entry, file) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.nbytes))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            raise CheckpointDamagedError(f"{file} has a gap or an overlap before {tensor.name!r}")
        end += tensor.nbytes
    if end != data_bytes:
        raise CheckpointDamagedError(f"{file} describes {end} bytes of arrays but holds {data_bytes}")
    return tensors


def _parse_entry(name: str, entry: Any, file: str) -> Tensor:
    problem = name_problem(name)
    if problem is not None:
        raise CheckpointDamagedError(f"{file} names an array {name[:80]!r}, which {problem}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointDamagedError(f"{file} describes {name!r} incompletely")
    tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(tag, str) or tag not in _DTYPES:
        raise CheckpointDamagedError(f"{file} gives {name!r} the dtype {str(tag)[:40]!r}, which Penstock does not read")
    if not _is_counts(shape) or len(shape) > 32 or not _is_counts(offsets) or len(offsets) != 2:
        raise CheckpointDamagedError(f"{file} gives {name!r} a shape or offsets that are not counts")
    tensor = Tensor(name, _DTYPES[tag], tuple(shape), offsets[0])
    if offsets[1] - offsets[0] != tensor.nbytes:
        raise CheckpointDamagedError(f"{file} gives {name!r} {offsets[1] - offsets[0]} bytes for {tensor.nbytes}")
    return tensor


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
