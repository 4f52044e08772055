"""``manifest.json``: what a checkpoint holds, and the proof that it holds it."""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import penstock
from penstock._provenance import source_commit
from penstock.storage._durable import strict_json
from penstock.storage._state_tree import STATE, LeafRecord
from penstock.storage._tensor_file import CheckpointDamagedError, CheckpointError, open_regular

FORMAT_NAME = "penstock-checkpoint"
FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"

_MANIFEST_LIMIT = 64 * 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The last line of the file is the SHA-256 of everything before it. It stays this line in every format version, so
# that damage can be told from novelty.
_SEAL_KEY = b',\n "manifest_sha256": "'
_SEAL_END = b'"\n}\n'
_SEAL_LENGTH = len(_SEAL_KEY) + 64 + len(_SEAL_END)


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """All of the state was in one file, of the part that is the default now."""
    return {**content, "format_version": 2, "whole": True, "segmented": {}}


migrations: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_format_1}
"""``migrations[n]`` turns the JSON content of a manifest of format ``n`` into format ``n + 1``."""


class CheckpointTooNewError(CheckpointError):
    """A checkpoint was written by a newer Penstock."""


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """One file.

    Attributes:
        size: in bytes.
        sha256: of all of them.
        part: the part of the state that it holds.
        rows: from which row of the part, and up to which, where the part is cut into segments; else None.
    """

    size: int
    sha256: str
    part: str = STATE
    rows: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in ``manifest.json``."""
        rows = {} if self.rows is None else {"rows": list(self.rows)}
        return {"size": self.size, "sha256": self.sha256, "part": self.part, **rows}

    @staticmethod
    def from_json(name: str, record: dict[str, Any]) -> "FileRecord":
        """Reads what `to_json` wrote. Raises `ValueError` or the like for anything else."""
        size, sha256, part, rows = record["size"], record["sha256"], record.get("part", STATE), record.get("rows")
        sound = type(size) is int and size >= 0 and isinstance(sha256, str) and isinstance(part, str)
        if rows is not None:
            first, end = rows
            sound = sound and type(first) is int and type(end) is int and 0 <= first < end
            rows = (first, end)
        if not sound:
            raise ValueError(f"the record of {name!r} is wrong")
        return FileRecord(size, sha256, part, rows)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        format_version: version of the format, after migration.
        step: position of the run; orders checkpoints.
        config_hash: hash of the configuration that the run had.
        score: how good the policy was, larger is better; None where nobody asked.
        versions: of Penstock and JAX, when written; and the commit of Penstock, where it ran from a checkout.
        x64: whether JAX had 64-bit numbers enabled.
        devices: platform, kind and numbers of devices and processes, when written.
        wall_time: seconds since 1970, for people. Nothing is ever ordered by it.
        whole: whether all of the state is in it, or only the parts that last (`Layout.lasting`).
        segmented: parts that are cut into segments, with the axis of their rows.
        files: every file beside the manifest.
        extra: what the caller wanted to keep with the state.
        leaves: every leaf of the state.
    """

    format_version: int
    step: int
    config_hash: str
    score: float | None
    versions: dict[str, str]
    x64: bool
    devices: dict[str, Any]
    wall_time: float
    whole: bool
    segmented: dict[str, int]
    files: dict[str, FileRecord]
    extra: dict[str, Any]
    leaves: list[LeafRecord]

    def leaves_of(self, part: str) -> list[LeafRecord]:
        """The arrays of a part."""
        return [leaf for leaf in self.leaves if leaf.part == part and leaf.constant is None]

    def keeping(self, parts: Collection[str]) -> "Manifest":
        """The manifest of a checkpoint that keeps these parts only; the same where that is all, or nothing."""
        kept = {name: record for name, record in self.files.items() if record.part in parts}
        if not kept or len(kept) == len(self.files):
            return self
        leaves = [leaf for leaf in self.leaves if leaf.constant is not None or leaf.part in parts]
        segmented = {part: axis for part, axis in self.segmented.items() if part in parts}
        return dataclasses.replace(self, whole=False, segmented=segmented, files=kept, leaves=leaves)


def x64_enabled() -> bool:
    """Whether JAX has 64-bit numbers enabled, here and now."""
    return jnp.result_type(float).itemsize == 8


def new_manifest(
    step: int,
    config_hash: str,
    score: float | None,
    leaves: list[LeafRecord],
    segmented: Mapping[str, int],
    extra: dict[str, Any],
) -> Manifest:
    """A manifest of this process, now, without files."""
    commit = source_commit()
    return Manifest(
        format_version=FORMAT_VERSION,
        step=step,
        config_hash=config_hash,
        score=score,
        versions={"penstock": penstock.__version__, "jax": jax.__version__} | ({"commit": commit} if commit else {}),
        x64=x64_enabled(),
        devices={
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
        },
        wall_time=time.time(),
        whole=True,
        segmented=dict(segmented),
        files={},
        extra=extra,
        leaves=leaves,
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``, sealed. Raises `ValueError` or `TypeError` where ``extra`` is not JSON."""
    content = {"format": FORMAT_NAME, **vars(manifest)}
    content["files"] = {name: record.to_json() for name, record in manifest.files.items()}
    del content["leaves"]  # one line each, at the end
    leaves = ",\n  ".join(json.dumps(leaf.to_json(), allow_nan=False) for leaf in manifest.leaves)
    body = json.dumps(content, indent=1, allow_nan=False).removesuffix("\n}") + f',\n "leaves": [\n  {leaves}\n ]'
    body = body.encode()
    return body + _SEAL_KEY + hashlib.sha256(body).hexdigest().encode() + _SEAL_END


def read_manifest(checkpoint: Path) -> Manifest:
    """Reads and checks ``manifest.json`` of a checkpoint directory, not the files that it lists.

    Raises:
        CheckpointTooNewError: the format is newer than this Penstock.
        CheckpointDamagedError: anything else is wrong with it.
    """
    with open_regular(checkpoint / MANIFEST_NAME) as file:
        raw = file.read(_MANIFEST_LIMIT + 1)
    if not raw:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} is empty")
    if len(raw) > _MANIFEST_LIMIT:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} is larger than {_MANIFEST_LIMIT} bytes")
    body = raw[:-_SEAL_LENGTH]
    if raw[len(body) :] != _SEAL_KEY + hashlib.sha256(body).hexdigest().encode() + _SEAL_END:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} does not have the SHA-256 that its last line states")
    try:
        content = strict_json(raw)
    except ValueError as error:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} does not describe a Penstock checkpoint")
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} has the format version {version!r}")
    if version > FORMAT_VERSION:
        written_by = content.get("versions")
        raise CheckpointTooNewError(
            f"{checkpoint.name} has checkpoint format {version} (written by {written_by}); this Penstock "
            f"{penstock.__version__} reads up to format {FORMAT_VERSION}. Upgrade Penstock to continue this run."
        )
    try:
        for old in range(version, FORMAT_VERSION):
            if old not in migrations:
                raise CheckpointError(
                    f"{checkpoint.name} has checkpoint format {version}, which Penstock {penstock.__version__} no "
                    f"longer reads. Continue this run with the Penstock that wrote it: {content.get('versions')}."
                )
            content = migrations[old](content)
        return _decode(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} is incomplete: {error!r}") from None


def _decode(content: dict[str, Any]) -> Manifest:
    files: dict[str, FileRecord] = {}
    for name, record in content["files"].items():
        if _FILE_NAME.fullmatch(name) is None:
            raise ValueError(f"the file name {name[:80]!r} is not allowed")
        files[name] = FileRecord.from_json(name, record)
    if type(content["step"]) is not int or not isinstance(content["extra"], dict):
        raise ValueError("step or extra has the wrong type")
    axes = content["segmented"]
    if type(content["whole"]) is not bool or not all(type(axis) is int and axis >= 0 for axis in axes.values()):
        raise ValueError("whole or segmented has the wrong type")
    leaves = [LeafRecord.from_json(record) for record in content["leaves"]]
    known = {field.name: content[field.name] for field in dataclasses.fields(Manifest)}
    return Manifest(**{**known, "files": files, "leaves": leaves})
