"""Checkpoints read back: verified, loaded, and the newest one found. See `penstock.storage.store`."""

import contextlib
import dataclasses
from collections.abc import Collection, Container, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from penstock._errors import Report, warn
from penstock.storage._checkpoint import checkpoint_name, is_checkpoint_name, list_checkpoints
from penstock.storage._durable import BAD, unique
from penstock.storage._layout import put_together, refuse_other_arrays, refuse_other_files
from penstock.storage._manifest import MANIFEST_NAME, Manifest, read_manifest, x64_enabled
from penstock.storage._state_tree import CheckpointMismatchError, current_names, refuse_mismatch, to_state
from penstock.storage._tensor_file import CheckpointDamagedError, TensorReader, open_regular


def verify_checkpoint(checkpoint: Path, part: str | None = None) -> Manifest:
    """Checks a checkpoint against its manifest: every byte of every file, and that nothing else is there.

    Args:
        checkpoint: a directory that `save_checkpoint` returned.
        part: look only into the files of this part, where the checkpoint has it.

    Raises:
        CheckpointDamagedError: naming the file and what is wrong with it.
        CheckpointTooNewError: the format is newer than this Penstock.
    """
    manifest = _checked_manifest(checkpoint)
    names = [name for name, record in manifest.files.items() if record.part == part] or manifest.files
    for name in names:
        with _verified(checkpoint, name, manifest):
            pass
    return manifest


def _checked_manifest(checkpoint: Path) -> Manifest:
    if checkpoint.is_symlink():
        raise CheckpointDamagedError("it is a symbolic link")
    if not checkpoint.is_dir():
        raise CheckpointDamagedError("it is not a directory")
    manifest = read_manifest(checkpoint)
    refuse_other_files(manifest)
    extra = {entry.name for entry in checkpoint.iterdir()} - {MANIFEST_NAME, *manifest.files}
    if extra:
        raise CheckpointDamagedError(f"{sorted(extra)[0]} is in it but not in {MANIFEST_NAME}")
    if is_checkpoint_name(checkpoint.name) and checkpoint.name != checkpoint_name(manifest.step):
        raise CheckpointDamagedError(f"{MANIFEST_NAME} is of step {manifest.step}")
    return manifest


@contextlib.contextmanager
def _verified(checkpoint: Path, name: str, manifest: Manifest) -> Iterator[TensorReader]:
    """Opens a file of a checkpoint for reading, and checks at the end that all of it is what the manifest says."""
    record = manifest.files[name]
    with open_regular(checkpoint / name) as file:
        reader = TensorReader(file, name, record.size)
        refuse_other_arrays(name, reader.tensors, manifest)
        yield reader
        reader.skim()
    if reader.sha256() != record.sha256:
        raise CheckpointDamagedError(f"{name} does not have the SHA-256 that {MANIFEST_NAME} states")


def load_checkpoint(
    checkpoint: Path,
    template: PyTree,
    old_names: Sequence[tuple[str, str]] = (),
    only: Collection[str] | None = None,
) -> tuple[PyTree, Manifest]:
    """Loads a state, bit for bit, verifying every byte in the same pass.

    Args:
        checkpoint: a directory that `save_checkpoint` returned.
        template: a state of the same structure; its arrays may be `jax.ShapeDtypeStruct`. Its static parts and the
            devices of its arrays are used; its values are not.
        old_names: parts of names as they once were, and as they are now. An array that the template does not know by
            its name is taken for the one that it has under the new name.
        only: names of the arrays to load; the others stay what they are in the template. Files that hold none of them
            are not read. None loads everything, which a checkpoint that keeps some parts only does not have.

    Returns:
        The state, and the manifest with what else was saved.

    Raises:
        CheckpointDamagedError: the checkpoint is not what its manifest says. Nothing of it was used.
        CheckpointMismatchError: it is sound but does not fit the template; lists the first differences.
        CheckpointTooNewError: the format is newer than this Penstock.
    """
    try:
        manifest = _checked_manifest(checkpoint)
        if only is None and not manifest.whole:
            raise CheckpointMismatchError(
                f"Checkpoint {checkpoint.name} is one of those that keep a part of the state: "
                f"{', '.join(sorted(manifest.files))}. It can be evaluated; continue from the newest checkpoint."
            )
        hint = "Start a new run, or continue with the settings and the Penstock that wrote it."
        if manifest.x64 != x64_enabled():
            hint = f"It was written with jax_enable_x64 = {manifest.x64}; it is {x64_enabled()} now. {hint}"
        names = current_names(manifest.leaves, template, old_names)
        leaves = [dataclasses.replace(leaf, path=names[leaf.path]) for leaf in manifest.leaves]
        refuse_mismatch(leaves, template, checkpoint.name, hint, only)
        wanted = {old for old, name in names.items() if only is None or name in only}
        arrays = {names[name]: array for name, array in _arrays(checkpoint, manifest, wanted).items()}
    except CheckpointDamagedError as error:
        raise CheckpointDamagedError(
            f"Checkpoint {checkpoint} cannot be used: {error}. Use an earlier checkpoint."
        ) from error
    return to_state(template, leaves, arrays), manifest


def _arrays(checkpoint: Path, manifest: Manifest, wanted: Container[str]) -> dict[str, np.ndarray]:
    """Those arrays of a checkpoint, by the names that they have in it."""
    found: dict[str, np.ndarray] = {}
    for name, record in manifest.files.items():
        leaves = {leaf.path: leaf for leaf in manifest.leaves_of(record.part) if leaf.path in wanted}
        if leaves:
            with _verified(checkpoint, name, manifest) as reader:
                for path, array in reader.arrays(leaves):
                    put_together(found, leaves[path], array, record, manifest)
    for leaf in manifest.leaves:
        if leaf.constant is None and leaf.path in wanted and leaf.path not in found:
            found[leaf.path] = np.zeros(leaf.shape, leaf.dtype)  # of a segmented part without a row that is not zero
    return found


def latest_checkpoint(
    directory: Path, report: Report = warn, *, set_aside: bool = True, part: str | None = None
) -> Path | None:
    """The newest checkpoint that verifies, by step; None where there is none.

    Args:
        directory: where checkpoints live.
        report: gets one sentence for each checkpoint that does not verify.
        set_aside: rename those to ``.bad-...``. Only the process that holds the run's lock may do so.
        part: the part that is needed; nothing else is read. None needs the whole state: checkpoints that keep some
            parts only are passed over.

    Raises:
        CheckpointTooNewError: the newest one needs a newer Penstock. Falling back would undo progress silently.
    """
    for _, checkpoint in reversed(list_checkpoints(directory)):
        try:
            manifest = verify_checkpoint(checkpoint, part)
        except CheckpointDamagedError as error:
            kept = ""
            if set_aside:
                aside = put_aside(checkpoint)
                kept = f" It is kept as {aside.name}." if aside is not None else ""
            report(f"Checkpoint {checkpoint.name} in {directory} is damaged: {error}.{kept} Trying an earlier one.")
        else:
            if manifest.whole or part is not None:
                return checkpoint
    return None


def put_aside(checkpoint: Path) -> Path | None:
    """Renames a checkpoint to ``.bad-...``, where no run looks for it. Returns where it is; None where it cannot be."""
    aside = checkpoint.with_name(f"{BAD}{checkpoint.name}-{unique()}")
    try:
        checkpoint.rename(aside)
    except OSError:
        return None
    return aside
