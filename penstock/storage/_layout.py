"""Which file of a checkpoint holds what: parts of the state in files of their own, long ones in segments of rows."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np

from penstock._errors import require
from penstock.storage._manifest import MANIFEST_NAME, FileRecord, Manifest
from penstock.storage._state_tree import LeafRecord
from penstock.storage._tensor_file import CheckpointDamagedError, Tensor

SEGMENT_BYTES = 4 * 2**20
"""Size of a segment. What changed in one row is written again with the whole segment."""

MOST_SEGMENTS = 256
"""Files into which a part is cut at most; beyond 1 GiB segments are longer instead."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a state is spread over the files of its checkpoints.

    Attributes:
        parts: beginnings of the names of arrays, by the part that they belong to; the first that fits decides. What
            none fits is of the part ``STATE``.
        segmented: parts that are cut along an axis of their arrays, which all of them have with the same length. A
            segment that has not changed since the last checkpoint is not written again, and rows behind the last one
            that is not zero are not written at all.
        lasting: parts that older checkpoints and the best one keep, once they are too old for the run to be continued
            from them; none where all parts stay.
    """

    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    segmented: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lasting: tuple[str, ...] = ()

    def assign(self, leaves: list[LeafRecord]) -> list[LeafRecord]:
        """The same leaves, with the part that each belongs to."""
        return [dataclasses.replace(leaf, part=self._part_of(leaf)) for leaf in leaves]

    def _part_of(self, leaf: LeafRecord) -> str:
        fitting = (part for part, beginnings in self.parts.items() if leaf.path.startswith(beginnings))
        return leaf.part if leaf.constant is not None else next(fitting, leaf.part)


@dataclasses.dataclass(frozen=True)
class FileContent:
    """What is to be written to one file. See `FileRecord`."""

    name: str
    part: str
    rows: tuple[int, int] | None
    arrays: dict[str, np.ndarray]


def spread(
    leaves: list[LeafRecord], arrays: Mapping[str, np.ndarray], segmented: Mapping[str, int]
) -> list[FileContent]:
    """The files of a checkpoint.

    Args:
        leaves: with the part of each.
        arrays: all of the state's, by name.
        segmented: see `Layout`.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    for leaf in leaves:
        if leaf.constant is None:
            parts.setdefault(leaf.part, {})[leaf.path] = arrays[leaf.path]
    contents = []
    for part, members in parts.items():
        if part in segmented:
            contents += _segments(part, members, segmented[part])
        else:
            contents.append(FileContent(f"{part}.safetensors", part, None, members))
    return contents


def _segments(part: str, arrays: dict[str, np.ndarray], axis: int) -> Iterator[FileContent]:
    lengths = {array.shape[axis] for array in arrays.values()}
    require(len(lengths) == 1, f"rows of the part '{part}'", sorted(lengths), "must be as many in all of its arrays")
    total = lengths.pop()
    row_bytes = sum(array.nbytes for array in arrays.values()) // max(total, 1)
    length = max(SEGMENT_BYTES // max(row_bytes, 1), math.ceil(total / MOST_SEGMENTS), 1)
    used = _rows_in_use(arrays, axis, total, length)
    for first in range(0, used, length):
        rows = (first, min(first + length, used))
        cut = {name: array[_rows(axis, rows)] for name, array in arrays.items()}
        yield FileContent(f"{part}-{first:012d}.safetensors", part, rows, cut)


def _rows_in_use(arrays: Mapping[str, np.ndarray], axis: int, total: int, length: int) -> int:
    """How many rows there are up to the last one with a bit that is not zero."""
    for first in reversed(range(0, total, length)):
        rows = (first, min(first + length, total))
        last = -1
        for array in arrays.values():
            piece = np.ascontiguousarray(np.moveaxis(array[_rows(axis, rows)], axis, 0))
            content = piece.reshape(-1).view(np.uint8)
            if content.any():
                last = max(last, int(np.flatnonzero(content.reshape(len(piece), -1).any(axis=1))[-1]))
        if last >= 0:
            return first + last + 1
    return 0


def _rows(axis: int, rows: tuple[int, int]) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(*rows))


def refuse_other_files(manifest: Manifest) -> None:
    """Refuses a manifest whose files do not hold each part exactly once.

    Raises:
        CheckpointDamagedError: a file is missing from it, or there is one too many.
    """
    parts = {leaf.part for leaf in manifest.leaves if leaf.constant is None}
    whole = sorted(f"{part}.safetensors" for part in parts - set(manifest.segmented))
    listed = sorted(name for name, record in manifest.files.items() if record.rows is None)
    if listed != whole:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} lists {listed} instead of {whole}")
    end = dict.fromkeys(manifest.segmented, 0)
    for name, record in sorted(manifest.files.items()):
        if record.rows is not None:
            if record.part not in end or record.rows[0] != end[record.part] or record.rows[1] <= record.rows[0]:
                raise CheckpointDamagedError(f"{MANIFEST_NAME} has a gap or an overlap before {name}")
            end[record.part] = record.rows[1]
    for leaf in manifest.leaves:
        if leaf.constant is None and leaf.part in end:
            axis = manifest.segmented[leaf.part]
            if axis >= len(leaf.shape) or leaf.shape[axis] < end[leaf.part]:
                raise CheckpointDamagedError(f"{MANIFEST_NAME} lists more rows of {leaf.path!r} than it has")


def refuse_other_arrays(name: str, tensors: list[Tensor], manifest: Manifest) -> None:
    """Refuses a file whose arrays are not those that the manifest says it holds.

    Raises:
        CheckpointDamagedError: naming the first difference.
    """
    record = manifest.files[name]
    stored = {tensor.name: (tensor.dtype.name, tensor.shape) for tensor in tensors}
    listed = {leaf.path: (leaf.dtype, _shape(leaf, record, manifest)) for leaf in manifest.leaves_of(record.part)}
    for array in sorted(stored.keys() | listed.keys()):
        if stored.get(array) != listed.get(array):
            raise CheckpointDamagedError(
                f"{name} holds {array!r} as {stored.get(array)}, {MANIFEST_NAME} lists it as {listed.get(array)}"
            )


def _shape(leaf: LeafRecord, record: FileRecord, manifest: Manifest) -> tuple[int, ...]:
    if record.rows is None:
        return leaf.shape
    axis = manifest.segmented[record.part]
    return (*leaf.shape[:axis], record.rows[1] - record.rows[0], *leaf.shape[axis + 1 :])


def put_together(
    found: dict[str, np.ndarray], leaf: LeafRecord, array: np.ndarray, record: FileRecord, manifest: Manifest
) -> None:
    """Adds to ``found`` what one file holds of one leaf. Rows that no file holds are zero."""
    if record.rows is None:
        found[leaf.path] = array
        return
    if leaf.path not in found:
        found[leaf.path] = np.zeros(leaf.shape, array.dtype)
    found[leaf.path][_rows(manifest.segmented[record.part], record.rows)] = array
