"""Which checkpoints stay, and what of them: the last few, the best, and one for each power of two."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from penstock._errors import Report, warn
from penstock.storage._checkpoint import checkpoint_name, link, list_checkpoints, rename_into_place
from penstock.storage._durable import (
    TEMPORARY,
    clean_leftovers,
    discard,
    make_directory,
    phase,
    sync_directory,
    unique,
    write_synced,
)
from penstock.storage._manifest import MANIFEST_NAME, encode_manifest, read_manifest
from penstock.storage._reading import put_aside, verify_checkpoint
from penstock.storage._tensor_file import CheckpointError
from penstock.storage.run_folder import BEST

KEPT_LAST = 3
"""How many of the newest checkpoints stay."""

KEPT_WHOLE = 2
"""How many of them keep all of their parts: the one that a run continues from, and the one that takes its place where
it is damaged."""


def prune_checkpoints(directory: Path, report: Report = warn, lasting: Sequence[str] = ()) -> list[int]:
    """Deletes what is no longer needed. Call it after `save_checkpoint`, and when a run resumes, under the run's lock.

    What stays are the newest few, and the first checkpoint at or after each power of two of the step, so that a fault
    noticed late still finds an old state, at the price of log2(steps) checkpoints. Nothing is deleted until the newest
    checkpoint has been read back and verified. Files that several checkpoints share stay until none has them.

    Args:
        directory: where checkpoints live. Its ``best/`` is left alone.
        report: gets a sentence where the newest checkpoint does not verify.
        lasting: parts that checkpoints keep which are no longer the newest two; none where all parts stay.

    Returns:
        The steps that were deleted.
    """
    checkpoints = list_checkpoints(directory)
    first_in_bucket: dict[int, int] = {}
    for step, _ in checkpoints:
        first_in_bucket.setdefault(step.bit_length(), step)
    kept = {*first_in_bucket.values(), *(step for step, _ in checkpoints[-KEPT_LAST:])}
    surplus = [(step, path) for step, path in checkpoints if step not in kept]
    too_large = [path for step, path in checkpoints[:-KEPT_WHOLE] if step in kept and _is_too_large(path, lasting)]
    if not surplus and not too_large:
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
    for path in too_large:
        try:
            _copy(path, path, lasting, "made-smaller")
        except OSError as error:
            clean_leftovers(directory)
            report(f"Checkpoint {path} could not be made smaller: {error.strerror or error}. Training continues.")
    return deleted


def _is_too_large(checkpoint: Path, lasting: Sequence[str]) -> bool:
    try:
        manifest = read_manifest(checkpoint)
    except CheckpointError:
        return False  # whoever looks for a checkpoint will say so
    return bool(lasting) and manifest.keeping(lasting) is not manifest


def set_all_aside(directory: Path) -> int:
    """Renames all checkpoints to ``.bad-...``: a run begins anew here. ``best/`` stays. Returns how many there were."""
    return sum(put_aside(path) is not None for _, path in list_checkpoints(directory))


def keep_best(checkpoint: Path, report: Report = warn, lasting: Sequence[str] = ()) -> bool:
    """Keeps a copy of ``checkpoint`` in ``best/`` beside it if no score is better. Of equal scores the later step wins.

    The copy is a checkpoint of its own; its files are hard links where the file system has them, so that it takes no
    space while both exist. The older best one is deleted only after the new one verifies. Call it also when a run
    resumes, with the checkpoint it resumes from: the kill may have come just before the first call.

    Args:
        checkpoint: a committed checkpoint, saved with a ``score``.
        report: gets a sentence for each damaged checkpoint found in ``best/``.
        lasting: parts that the copy has; none where it has all.

    Returns:
        Whether it is the best and is kept. A disk that refuses is reported and counts as no.
    """
    manifest = read_manifest(checkpoint)
    if manifest.score is None:
        return False
    directory = checkpoint.parent / BEST
    own = (manifest.score, manifest.step)
    others = [entry for entry in _ranked(directory, report) if entry[1] != manifest.step]
    # Only a sound checkpoint may keep another one out.
    if any(other > own and _is_sound(directory / checkpoint_name(other[1]), report) for other in others):
        return False
    try:
        copy = _copy(checkpoint, directory / checkpoint_name(manifest.step), lasting, "best-copied")
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


def best_checkpoint(directory: Path, report: Report = warn, part: str | None = None) -> Path | None:
    """The verified checkpoint with the highest score in ``directory / "best"``, or None.

    Args:
        directory: where the run's checkpoints live.
        report: gets a sentence for each one that does not verify.
        part: the part that is needed; None needs the whole state. See `latest_checkpoint`.
    """
    best = directory / BEST
    for _, step in _ranked(best, report):
        path = best / checkpoint_name(step)
        try:
            manifest = verify_checkpoint(path, part)
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. Trying the next best.")
        else:
            if manifest.whole or part is not None:
                return path
    return None


def _ranked(directory: Path, report: Report) -> list[tuple[float, int]]:
    """Scores and steps, the best first."""
    scores: list[tuple[float, int]] = []
    for step, path in list_checkpoints(directory):
        try:
            score = read_manifest(path).score
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. It is left where it is and not counted.")
            continue
        if score is not None:
            scores.append((score, step))
    return sorted(scores, reverse=True)


def _is_sound(path: Path, report: Report) -> bool:
    try:
        verify_checkpoint(path)
    except CheckpointError as error:
        report(f"Checkpoint {path} is damaged: {error}. It is left where it is and not counted.")
        return False
    return True


def _copy(checkpoint: Path, final: Path, lasting: Sequence[str], moment: str) -> Path:
    """A checkpoint with these parts of another, or with all, under a name of its own or in the place of the other.

    Args:
        checkpoint: the other one.
        final: what it will be called.
        lasting: the parts; none for all.
        moment: of a kill before it has that name. See `phase`.
    """
    manifest = read_manifest(checkpoint)
    kept = manifest.keeping(lasting) if lasting else manifest
    smaller = kept is not manifest
    content = encode_manifest(kept) if smaller else (checkpoint / MANIFEST_NAME).read_bytes()
    if final.is_dir() and (final / MANIFEST_NAME).read_bytes() == content:
        return final
    make_directory(final.parent)
    temporary = final.with_name(f"{TEMPORARY}{final.name}-{unique()}")
    temporary.mkdir()
    for name in kept.files if smaller else [*kept.files, MANIFEST_NAME]:
        if not link(checkpoint / name, temporary / name):
            shutil.copyfile(checkpoint / name, temporary / name)
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
    if smaller:
        write_synced(temporary / MANIFEST_NAME, content)
    sync_directory(temporary)
    phase(moment)
    rename_into_place(temporary, final)
    return final
