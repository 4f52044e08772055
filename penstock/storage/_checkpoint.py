"""One checkpoint: its name, and how it is saved. See `penstock.storage.store`."""

import contextlib
import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from penstock._errors import ConfigurationError, require
from penstock.storage._durable import (
    REPLACED,
    TEMPORARY,
    discard,
    make_directory,
    phase,
    sync_directory,
    unique,
    write_synced,
)
from penstock.storage._layout import FileContent, Layout, spread
from penstock.storage._manifest import MANIFEST_NAME, FileRecord, encode_manifest, new_manifest, read_manifest
from penstock.storage._state_tree import NonFiniteStateError, leaf_records, non_finite_arrays, to_host
from penstock.storage._tensor_file import CheckpointError, holds, tensors_size, write_tensors

_NAME = re.compile(r"step-(\d{12})")


class CheckpointNotWrittenError(CheckpointError):
    """The disk refused a checkpoint. Earlier checkpoints are as they were."""


def checkpoint_name(step: int) -> str:
    """``step-000000012345``: names sort like steps."""
    require(0 <= step < 10**12, "step", step, "must lie in [0, 10^12)")
    return f"step-{step:012d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a directory of this name is a checkpoint."""
    return _NAME.fullmatch(name) is not None


def list_checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """All committed checkpoints of a directory, oldest step first, unverified."""
    if not directory.is_dir():
        return []
    matches = [(_NAME.fullmatch(entry.name), entry) for entry in directory.iterdir()]
    return sorted((int(match[1]), entry) for match, entry in matches if match is not None)


def save_checkpoint(
    directory: Path,
    step: int,
    state: PyTree,
    *,
    config_hash: str,
    extra: dict[str, Any] | None = None,
    score: float | None = None,
    layout: Layout | None = None,
) -> Path:
    """Saves a training state. When this returns, the checkpoint survives a power cut.

    A kill at any moment leaves either the whole checkpoint or none under its name, and never touches another one. Files
    that the newest checkpoint has already, byte for byte, become hard links to these, where the file system has them.

    Args:
        directory: where checkpoints live; created if missing.
        step: position of the run. A checkpoint of the same step is replaced.
        state: one pytree. Arrays and random keys are saved; functions are not; Python numbers and texts are recorded
            and must be the same at loading.
        config_hash: see `penstock.storage.run_folder.config_hash`.
        extra: JSON values to keep with the state (metrics offset, seconds, evaluation).
        score: how good the policy is, larger is better; used by `keep_best`. A score that is not finite counts as
            none.
        layout: how the state is spread over files; all in one by default.

    Returns:
        The directory of the checkpoint.

    Raises:
        NonFiniteStateError: the state holds a NaN or an infinity. Save it with `save_crash_dump` instead.
        CheckpointNotWrittenError: disk full, read-only, and the like.
        CheckpointError: a leaf that cannot be stored.
    """
    arrays = to_host(state)
    bad = non_finite_arrays(arrays)
    if bad:
        raise NonFiniteStateError(
            f"The training state at step {step} holds NaN or infinity in {', '.join(bad[:6])}"
            f"{f' and {len(bad) - 6} more' if len(bad) > 6 else ''}; it is not saved as a checkpoint. "
            "Earlier checkpoints are untouched."
        )
    return commit(directory, step, state, arrays, config_hash, extra or {}, score, layout or Layout())


def commit(
    directory: Path,
    step: int,
    state: PyTree,
    arrays: dict[str, np.ndarray],
    config_hash: str,
    extra: dict[str, Any],
    score: float | None,
    layout: Layout,
) -> Path:
    """Writes a checkpoint without judging its numbers. `save_checkpoint` and `save_crash_dump` are made of it."""
    final = directory / checkpoint_name(step)
    temporary = directory / f"{TEMPORARY}{final.name}-{unique()}"
    score = None if score is None or not np.isfinite(score) else float(score)
    leaves = layout.assign(leaf_records(state))
    contents = spread(leaves, arrays, layout.segmented)
    # Before anything is written: an `extra` that is not JSON is a mistake of the caller, not of the disk.
    manifest = new_manifest(step, config_hash, score, leaves, layout.segmented, extra)
    expected = {content.name: _record(content, tensors_size(content.arrays), "0" * 64) for content in contents}
    try:
        manifest_bytes = len(encode_manifest(dataclasses.replace(manifest, files=expected)))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"extra of the checkpoint at step {step} is not JSON: {error}") from error
    needed = sum(record.size for record in expected.values()) + manifest_bytes + 200
    try:
        make_directory(directory)
        newest = next((path for _, path in reversed(list_checkpoints(directory))), None)
        temporary.mkdir()
        files = {} if newest is None else _link_unchanged(newest, temporary, contents, expected)
        needed -= sum(record.size for record in files.values())
        for content in contents:
            if content.name not in files:
                files[content.name] = _record(content, *write_tensors(temporary / content.name, content.arrays))
        sync_directory(temporary)
        phase("arrays-written")
        write_synced(temporary / MANIFEST_NAME, encode_manifest(dataclasses.replace(manifest, files=files)))
        sync_directory(temporary)
        phase("manifest-written")
        rename_into_place(temporary, final)
        phase("committed")
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        raise CheckpointNotWrittenError(
            f"The checkpoint of step {step} could not be written to {directory}: {error.strerror or error}. It needs "
            f"{needed} bytes; {_free(directory)}. Earlier checkpoints are untouched."
        ) from error
    return final


def _record(content: FileContent, size: int, sha256: str) -> FileRecord:
    return FileRecord(size, sha256, content.part, content.rows)


def _link_unchanged(
    newest: Path, directory: Path, contents: list[FileContent], expected: dict[str, FileRecord]
) -> dict[str, FileRecord]:
    """Links to the files of the newest checkpoint that are, byte for byte, what would be written.

    Their content is compared, not their hashes: what has been damaged on the disk meanwhile is written again.
    """
    try:
        saved = read_manifest(newest).files
    except CheckpointError:
        return {}
    linked: dict[str, FileRecord] = {}
    for content in contents:
        old = saved.get(content.name)
        if old is None or dataclasses.replace(expected[content.name], sha256=old.sha256) != old:
            continue
        if holds(newest / content.name, content.arrays) and link(newest / content.name, directory / content.name):
            linked[content.name] = old
            phase("file-linked")
    return linked


def link(source: Path, target: Path) -> bool:
    """Gives a file a second name; False where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def rename_into_place(temporary: Path, final: Path) -> None:
    """Commits a finished directory under its name, replacing what is there."""
    replaced = None
    if final.is_dir():
        # A directory cannot be swapped in one step. `clean_leftovers` puts the old one back if a kill falls between.
        replaced = final.with_name(f"{REPLACED}{final.name}")
        if replaced.exists():
            shutil.rmtree(replaced)
        final.rename(replaced)
        phase("old-set-aside")
    try:
        temporary.rename(final)
    except OSError:
        if replaced is not None:
            replaced.rename(final)
        raise
    sync_directory(final.parent)
    if replaced is not None:
        phase("old-replaced")
        discard(replaced)


def _free(directory: Path) -> str:
    try:
        return f"{shutil.disk_usage(directory).free} bytes are free"
    except OSError:
        return "free space unknown"
