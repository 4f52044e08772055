"""One checkpoint: save, verify, load, and find the newest. See `penstock.storage.store`."""

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from penstock._errors import ConfigurationError, Report, require, warn
from penstock.storage._durable import (
    BAD,
    REPLACED,
    TEMPORARY,
    discard,
    make_directory,
    phase,
    sync_directory,
    unique,
    write_synced,
)
from penstock.storage._manifest import (
    ARRAYS_NAME,
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    encode_manifest,
    new_manifest,
    read_manifest,
    x64_enabled,
)
from penstock.storage._state_tree import (
    NonFiniteStateError,
    current_names,
    leaf_records,
    non_finite_arrays,
    refuse_mismatch,
    to_host,
    to_state,
)
from penstock.storage._tensor_file import (
    CheckpointDamagedError,
    CheckpointError,
    TensorReader,
    encoded_header,
    open_regular,
    write_tensors,
)

_NAME = re.compile(r"step-(\d{12})")


class CheckpointNotWrittenError(CheckpointError):
    """The disk refused a checkpoint. Earlier checkpoints are as they were."""


def checkpoint_name(step: int) -> str:
    """``step-000000012345``: names sort like steps."""
    require(0 <= step < 10**12, "step", step, "must lie in [0, 10^12)")
    return f"step-{step:012d}"


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
) -> Path:
    """Saves a training state. When this returns, the checkpoint survives a power cut.

    A kill at any moment leaves either the whole checkpoint or none under its name, and never touches another one.

    Args:
        directory: where checkpoints live; created if missing.
        step: position of the run. A checkpoint of the same step is replaced.
        state: one pytree. Arrays and random keys are saved; functions are not; Python numbers and texts are recorded
            and must be the same at loading.
        config_hash: see `penstock.storage.run_folder.config_hash`.
        extra: JSON values to keep with the state (metrics offset, seconds, evaluation).
        score: how good the policy is, larger is better; used by `keep_best`. A score that is not finite counts as
            none.

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
    return commit(directory, step, state, arrays, config_hash, extra or {}, score)


def commit(
    directory: Path,
    step: int,
    state: PyTree,
    arrays: dict[str, np.ndarray],
    config_hash: str,
    extra: dict[str, Any],
    score: float | None,
) -> Path:
    """Writes a checkpoint without judging its numbers. `save_checkpoint` and `save_crash_dump` are made of it."""
    final = directory / checkpoint_name(step)
    temporary = directory / f"{TEMPORARY}{final.name}-{unique()}"
    score = None if score is None or not np.isfinite(score) else float(score)
    # Before anything is written: an `extra` that is not JSON is a mistake of the caller, not of the disk.
    manifest = new_manifest(step, config_hash, score, leaf_records(state), extra)
    try:
        manifest_bytes = len(encode_manifest(manifest))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"extra of the checkpoint at step {step} is not JSON: {error}") from error
    needed = len(encoded_header(arrays)[0]) + sum(array.nbytes for array in arrays.values()) + manifest_bytes + 200
    try:
        make_directory(directory)
        temporary.mkdir()
        size, sha256 = write_tensors(temporary / ARRAYS_NAME, arrays)
        sync_directory(temporary)
        phase("arrays-written")
        manifest = dataclasses.replace(manifest, files={ARRAYS_NAME: FileRecord(size, sha256)})
        write_synced(temporary / MANIFEST_NAME, encode_manifest(manifest))
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


def verify_checkpoint(checkpoint: Path) -> Manifest:
    """Checks a checkpoint against its manifest: every byte of every file, and that nothing else is there.

    Raises:
        CheckpointDamagedError: naming the file and what is wrong with it.
        CheckpointTooNewError: the format is newer than this Penstock.
    """
    manifest = _checked_manifest(checkpoint)
    with open_regular(checkpoint / ARRAYS_NAME) as file:
        reader = _open_arrays(file, manifest)
        reader.skim()
    _check_hash(reader, manifest)
    return manifest


def _checked_manifest(checkpoint: Path) -> Manifest:
    if checkpoint.is_symlink():
        raise CheckpointDamagedError("it is a symbolic link")
    if not checkpoint.is_dir():
        raise CheckpointDamagedError("it is not a directory")
    manifest = read_manifest(checkpoint)
    if set(manifest.files) != {ARRAYS_NAME}:
        raise CheckpointDamagedError(f"{MANIFEST_NAME} lists {sorted(manifest.files)} instead of [{ARRAYS_NAME!r}]")
    extra = {entry.name for entry in checkpoint.iterdir()} - {MANIFEST_NAME, *manifest.files}
    if extra:
        raise CheckpointDamagedError(f"{sorted(extra)[0]} is in it but not in {MANIFEST_NAME}")
    if _NAME.fullmatch(checkpoint.name) and checkpoint.name != checkpoint_name(manifest.step):
        raise CheckpointDamagedError(f"{MANIFEST_NAME} is of step {manifest.step}")
    return manifest


def _open_arrays(file: Any, manifest: Manifest) -> TensorReader:
    reader = TensorReader(file, ARRAYS_NAME, manifest.files[ARRAYS_NAME].size)
    stored = {tensor.name: (tensor.dtype.name, tensor.shape) for tensor in reader.tensors}
    listed = {leaf.path: (leaf.dtype, leaf.shape) for leaf in manifest.leaves if leaf.constant is None}
    for name in sorted(stored.keys() | listed.keys()):
        if stored.get(name) != listed.get(name):
            raise CheckpointDamagedError(
                f"{ARRAYS_NAME} holds {name!r} as {stored.get(name)}, {MANIFEST_NAME} lists it as {listed.get(name)}"
            )
    return reader


def _check_hash(reader: TensorReader, manifest: Manifest) -> None:
    if reader.sha256() != manifest.files[ARRAYS_NAME].sha256:
        raise CheckpointDamagedError(f"{ARRAYS_NAME} does not have the SHA-256 that {MANIFEST_NAME} states")


def load_checkpoint(
    checkpoint: Path, template: PyTree, old_names: Sequence[tuple[str, str]] = ()
) -> tuple[PyTree, Manifest]:
    """Loads a state, bit for bit, verifying every byte in the same pass.

    Args:
        checkpoint: a directory that `save_checkpoint` returned.
        template: a state of the same structure; its arrays may be `jax.ShapeDtypeStruct`. Its static parts and the
            devices of its arrays are used; its values are not.
        old_names: parts of names as they once were, and as they are now. An array that the template does not know by
            its name is taken for the one that it has under the new name.

    Returns:
        The state, and the manifest with what else was saved.

    Raises:
        CheckpointDamagedError: the checkpoint is not what its manifest says. Nothing of it was used.
        CheckpointMismatchError: it is sound but does not fit the template; lists the first differences.
        CheckpointTooNewError: the format is newer than this Penstock.
    """
    try:
        manifest = _checked_manifest(checkpoint)
        hint = "Start a new run, or continue with the settings and the Penstock that wrote it."
        if manifest.x64 != x64_enabled():
            hint = f"It was written with jax_enable_x64 = {manifest.x64}; it is {x64_enabled()} now. {hint}"
        names = current_names(manifest.leaves, template, old_names)
        leaves = [dataclasses.replace(leaf, path=names[leaf.path]) for leaf in manifest.leaves]
        refuse_mismatch(leaves, template, checkpoint.name, hint)
        with open_regular(checkpoint / ARRAYS_NAME) as file:
            reader = _open_arrays(file, manifest)
            arrays = {names[name]: array for name, array in reader.arrays()}
            reader.skim()
        _check_hash(reader, manifest)
    except CheckpointDamagedError as error:
        raise CheckpointDamagedError(
            f"Checkpoint {checkpoint} cannot be used: {error}. Use an earlier checkpoint."
        ) from error
    return to_state(template, leaves, arrays), manifest


def latest_checkpoint(directory: Path, report: Report = warn, *, set_aside: bool = True) -> Path | None:
    """The newest checkpoint that verifies, by step; None where there is none.

    Args:
        directory: where checkpoints live.
        report: gets one sentence for each checkpoint that does not verify.
        set_aside: rename those to ``.bad-...``. Only the process that holds the run's lock may do so.

    Raises:
        CheckpointTooNewError: the newest one needs a newer Penstock. Falling back would undo progress silently.
    """
    for _, checkpoint in reversed(list_checkpoints(directory)):
        try:
            verify_checkpoint(checkpoint)
        except CheckpointDamagedError as error:
            kept = ""
            if set_aside:
                aside = checkpoint.with_name(f"{BAD}{checkpoint.name}-{unique()}")
                with contextlib.suppress(OSError):
                    checkpoint.rename(aside)
                    kept = f" It is kept as {aside.name}."
            report(f"Checkpoint {checkpoint.name} in {directory} is damaged: {error}.{kept} Trying an earlier one.")
        else:
            return checkpoint
    return None
