"""``manifest.json``: what a checkpoint holds, and the proof that it holds it."""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import penstock
from penstock.storage._durable import strict_json
from penstock.storage._state_tree import LeafRecord
from penstock.storage._tensor_file import CheckpointDamagedError, CheckpointError, open_regular

FORMAT_NAME = "penstock-checkpoint"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
ARRAYS_NAME = "state.safetensors"

_MANIFEST_LIMIT = 64 * 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The last line of the file is the SHA-256 of everything before it. It stays this line in every format version, so
# that damage can be told from novelty.
_SEAL_KEY = b',\n "manifest_sha256": "'
_SEAL_END = b'"\n}\n'
_SEAL_LENGTH = len(_SEAL_KEY) + 64 + len(_SEAL_END)

migrations: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""``migrations[n]`` turns the JSON content of a manifest of format ``n`` into format ``n + 1``."""


class CheckpointTooNewError(CheckpointError):
    """A checkpoint was written by a newer Penstock."""


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        format_version: version of the format.
        step: position of the run; orders checkpoints.
        config_hash: hash of the configuration that the run had.
        score: how good the policy was, larger is better; None where nobody asked.
        versions: of Penstock and JAX, when written.
        x64: whether JAX had 64-bit numbers enabled.
        devices: platform, kind and numbers of devices and processes, when written.
        wall_time: seconds since 1970, for people. Nothing is ever ordered by it.
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
    files: dict[str, FileRecord]
    extra: dict[str, Any]
    leaves: list[LeafRecord]


def x64_enabled() -> bool:
    """Whether JAX has 64-bit numbers enabled, here and now."""
    return jnp.result_type(float).itemsize == 8


def new_manifest(
    step: int, config_hash: str, score: float | None, leaves: list[LeafRecord], extra: dict[str, Any]
) -> Manifest:
    """A manifest of this process, now, without files."""
    return Manifest(
        format_version=FORMAT_VERSION,
        step=step,
        config_hash=config_hash,
        score=score,
        versions={"penstock": penstock.__version__, "jax": jax.__version__},
        x64=x64_enabled(),
        devices={
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
        },
        wall_time=time.time(),
        files={},
        extra=extra,
        leaves=leaves,
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``, sealed. Raises `ValueError` or `TypeError` where ``extra`` is not JSON."""
    content = {"format": FORMAT_NAME, **vars(manifest)}
    content["files"] = {name: dataclasses.asdict(record) for name, record in manifest.files.items()}
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
        size, sha256 = record["size"], record["sha256"]
        if type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise ValueError(f"the record of {name!r} is wrong")
        files[name] = FileRecord(size, sha256)
    if type(content["step"]) is not int or not isinstance(content["extra"], dict):
        raise ValueError("step or extra has the wrong type")
    leaves = [LeafRecord.from_json(record) for record in content["leaves"]]
    known = {field.name: content[field.name] for field in dataclasses.fields(Manifest)}
    return Manifest(**{**known, "files": files, "leaves": leaves})
