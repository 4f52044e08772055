"""Which checkpoints stay: the last few, the best, and one for each power of two."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from penstock._errors import Report, warn
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
from penstock.storage._manifest import MANIFEST_NAME, Manifest, read_manifest
from penstock.storage._tensor_file import CheckpointError
from penstock.storage.run_folder import BEST

KEPT_LAST = 3
"""How many of the newest checkpoints stay."""


def prune_checkpoints(directory: Path, report: Report = warn) -> list[int]:
    """Deletes checkpoints that are no longer needed. Call it after `save_checkpoint`, under the run's lock.

    What stays are the newest few, and the first checkpoint at or after each power of two of the step, so that a fault
    noticed late still finds an old state, at the price of log2(steps) checkpoints. Nothing is deleted until the newest
    checkpoint has been read back and verified.

    Args:
        directory: where checkpoints live. Its ``best/`` is left alone.
        report: gets a sentence where the newest checkpoint does not verify.

    Returns:
        The steps that were deleted.
    """
    checkpoints = list_checkpoints(directory)
    first_in_bucket: dict[int, int] = {}
    for step, _ in checkpoints:
        first_in_bucket.setdefault(step.bit_length(), step)
    kept = {*first_in_bucket.values(), *(step for step, _ in checkpoints[-KEPT_LAST:])}
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


ScoreOf = Callable[[Manifest], float | None]
"""How good a checkpoint is, larger is better; None where nobody knows."""


def stored_score(manifest: Manifest) -> float | None:
    """The score with which a checkpoint was saved."""
    return manifest.score


def keep_best(checkpoint: Path, report: Report = warn, score_of: ScoreOf = stored_score) -> bool:
    """Keeps a copy of ``checkpoint`` in ``best/`` beside it if no score is better. Of equal scores the later step wins.

    The copy is a checkpoint of its own; its files are hard links where the file system has them, so that it takes no
    space while both exist. The older best one is deleted only after the new one verifies. Call it also when a run
    resumes, with the checkpoint it resumes from: the kill may have come just before the first call.

    Args:
        checkpoint: a committed checkpoint.
        report: gets a sentence for each damaged checkpoint found in ``best/``.
        score_of: scores of checkpoints; they may have been saved with others.

    Returns:
        Whether it is the best and is kept. A disk that refuses is reported and counts as no.
    """
    manifest = read_manifest(checkpoint)
    score = score_of(manifest)
    if score is None:
        return False
    directory = checkpoint.parent / BEST
    own = (score, manifest.step)
    others = [entry for entry in _ranked(directory, report, score_of) if entry[1] != manifest.step]
    # Only a sound checkpoint may keep another one out.
    if any(other > own and _is_sound(directory / checkpoint_name(other[1]), report) for other in others):
        return False
    try:
        copy = _copy(checkpoint, directory / checkpoint_name(manifest.step))
    except OSError as error:
        clean_leftovers(directory)
        report(f"Checkpoint {checkpoint} could not be kept in {directory}: {error.strerror or error}.")
        return False
    verify_checkpoint(copy)
    phase("best-verified")
    for other in others:
        if other < own:
            discard(directory / checkpoint_name(other[1]))
    return True


def choose_best(directory: Path, report: Report = warn, score_of: ScoreOf = stored_score) -> None:
    """Keeps the best of all checkpoints that are there: after a kill, or where other scores count than before.

    Args:
        directory: where the run's checkpoints live.
        report: gets a sentence for each damaged checkpoint.
        score_of: scores of checkpoints.
    """
    kept = _ranked(directory / BEST, report, score_of)
    for score, step in _ranked(directory, report, score_of):
        path, copy = (place / checkpoint_name(step) for place in (directory, directory / BEST))
        if score == -math.inf or (kept and kept[0] > (score, step)) or (len(kept) == 1 and _is_copy(copy, path)):
            return
        if _is_sound(path, report):
            keep_best(path, report, score_of)
            return


def best_checkpoint(directory: Path, report: Report = warn, score_of: ScoreOf = stored_score) -> Path | None:
    """The verified checkpoint with the highest score in ``directory / "best"``, or None.

    Args:
        directory: where the run's checkpoints live.
        report: gets a sentence for each one that does not verify.
        score_of: scores of checkpoints.
    """
    best = directory / BEST
    for _, step in _ranked(best, report, score_of):
        path = best / checkpoint_name(step)
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. Trying the next best.")
        else:
            return path
    return None


def _ranked(directory: Path, report: Report, score_of: ScoreOf) -> list[tuple[float, int]]:
    """Scores and steps, the best first; what has no score comes last."""
    scores: list[tuple[float, int]] = []
    for step, path in list_checkpoints(directory):
        try:
            score = score_of(read_manifest(path))
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. It is left where it is and not counted.")
            continue
        scores.append((-math.inf if score is None else score, step))
    return sorted(scores, reverse=True)


def _is_sound(path: Path, report: Report) -> bool:
    try:
        verify_checkpoint(path)
    except CheckpointError as error:
        report(f"Checkpoint {path} is damaged: {error}. It is left where it is and not counted.")
        return False
    return True


def _is_copy(final: Path, checkpoint: Path) -> bool:
    return final.is_dir() and (final / MANIFEST_NAME).read_bytes() == (checkpoint / MANIFEST_NAME).read_bytes()


def _copy(checkpoint: Path, final: Path) -> Path:
    if _is_copy(final, checkpoint):
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
