"""Which checkpoints stay: the last few, the best few, and one for each power of two."""

import os
import shutil
from pathlib import Path

from penstock._errors import Report, require, warn
from penstock.storage._checkpoint import (
    checkpoint_name,
    list_checkpoints,
    rename_into_place,
    verify_checkpoint,
)
from penstock.storage._durable import (
    TEMPORARY,
    clean_leftovers,
    discard,
    make_directory,
    phase,
    sync_directory,
    unique,
)
from penstock.storage._manifest import MANIFEST_NAME, read_manifest
from penstock.storage._tensor_file import CheckpointError
from penstock.storage.run_folder import BEST


def prune_checkpoints(
    directory: Path, *, keep_last: int = 3, powers_of_two: bool = True, report: Report = warn
) -> list[int]:
    """Deletes checkpoints that are no longer needed. Call it after `save_checkpoint`, under the run's lock.

    Nothing is deleted until the newest checkpoint has been read back and verified.

    Args:
        directory: where checkpoints live. Its ``best/`` is left alone.
        keep_last: how many of the newest stay, at least 1.
        powers_of_two: also keep the first checkpoint at or after each power of two of the step, so that a fault
            noticed late still finds an old state, at the price of log2(steps) checkpoints.
        report: gets a sentence where the newest checkpoint does not verify.

    Returns:
        The steps that were deleted.
    """
    require(keep_last >= 1, "keep_last", keep_last, "must be at least 1")
    checkpoints = list_checkpoints(directory)
    kept = {step for step, _ in checkpoints[-keep_last:]}
    if powers_of_two:
        first_in_bucket: dict[int, int] = {}
        for step, _ in checkpoints:
            first_in_bucket.setdefault(step.bit_length(), step)
        kept.update(first_in_bucket.values())
    surplus = [(step, path) for step, path in checkpoints if step not in kept]
    if not surplus:
        return []
    try:
        verify_checkpoint(checkpoints[-1][1])
    except CheckpointError as error:
        report(f"Checkpoint {checkpoints[-1][1]} does not verify: {error}. No older checkpoint is deleted.")
        return []
    deleted: list[int] = []
    for step, path in surplus:
        try:
            discard(path)
        except OSError as error:
            report(f"Checkpoint {path} could not be deleted: {error.strerror or error}. Training continues.")
        else:
            deleted.append(step)
    return deleted


def keep_best(checkpoint: Path, *, keep: int = 1, report: Report = warn) -> bool:
    """Keeps a copy of ``checkpoint`` in ``best/`` beside it if its score is among the best.

    The copy is a checkpoint of its own; its files are hard links where the file system has them, so that it takes no
    space while both exist. An older best one is deleted only after the new one verifies. Call it also when a run
    resumes, with the checkpoint it resumes from: the kill may have come just before the first call.

    Args:
        checkpoint: a committed checkpoint, saved with a ``score``.
        keep: how many to keep, at least 1. Of equal scores the later step wins.
        report: gets a sentence for each damaged checkpoint found in ``best/``.

    Returns:
        Whether it was among the best and is kept. A disk that refuses is reported and counts as no.
    """
    require(keep >= 1, "keep", keep, "must be at least 1")
    manifest = read_manifest(checkpoint)
    if manifest.score is None:
        return False
    directory = checkpoint.parent / BEST
    others = [entry for entry in _ranked(directory, report) if entry[1] != manifest.step]
    while True:
        ranked = sorted([*others, (manifest.score, manifest.step)], reverse=True)
        winners = {step for _, step in ranked[:keep]}
        if manifest.step in winners:
            break
        # Only a sound checkpoint may keep another one out.
        damaged = {step for step in winners if not _is_sound(directory / checkpoint_name(step), report)}
        if not damaged:
            return False
        others = [entry for entry in others if entry[1] not in damaged]
    try:
        copy = _copy(checkpoint, directory / checkpoint_name(manifest.step))
    except OSError as error:
        clean_leftovers(directory)
        report(f"Checkpoint {checkpoint} could not be kept in {directory}: {error.strerror or error}.")
        return False
    verify_checkpoint(copy)
    phase("best-verified")
    for _, step in ranked:
        if step not in winners:
            discard(directory / checkpoint_name(step))
    return True


def best_checkpoint(directory: Path, report: Report = warn) -> Path | None:
    """The verified checkpoint with the highest score in ``directory / "best"``, or None.

    Args:
        directory: where the run's checkpoints live.
        report: gets a sentence for each one that does not verify.
    """
    best = directory / BEST
    for _, step in sorted(_ranked(best, report), reverse=True):
        path = best / checkpoint_name(step)
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. Trying the next best.")
        else:
            return path
    return None


def _ranked(directory: Path, report: Report) -> list[tuple[float, int]]:
    scores: list[tuple[float, int]] = []
    for step, path in list_checkpoints(directory):
        try:
            score = read_manifest(path).score
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. It is left where it is and not counted.")
            continue
        if score is not None:
            scores.append((score, step))
    return scores


def _is_sound(path: Path, report: Report) -> bool:
    try:
        verify_checkpoint(path)
    except CheckpointError as error:
        report(f"Checkpoint {path} is damaged: {error}. It is left where it is and not counted.")
        return False
    return True


def _copy(checkpoint: Path, final: Path) -> Path:
    if final.is_dir() and (final / MANIFEST_NAME).read_bytes() == (checkpoint / MANIFEST_NAME).read_bytes():
        return final
    make_directory(final.parent)
    temporary = final.with_name(f"{TEMPORARY}{final.name}-{unique()}")
    temporary.mkdir()
    for entry in sorted(checkpoint.iterdir()):
        try:
            os.link(entry, temporary / entry.name)
        except OSError:
            shutil.copyfile(entry, temporary / entry.name)
            with (temporary / entry.name).open("rb") as file:
                os.fsync(file.fileno())
    sync_directory(temporary)
    phase("best-copied")
    rename_into_place(temporary, final)
    return final
