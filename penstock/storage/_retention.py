"""Which checkpoints stay, and what of them: the last few, the best, and one for each power of two."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
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
from penstock.storage._manifest import MANIFEST_NAME, Manifest, encode_manifest, read_manifest
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


ScoreOf = Callable[[Manifest], float | None]
"""How good a checkpoint is, larger is better; None where nobody knows."""


def stored_score(manifest: Manifest) -> float | None:
    """The score with which a checkpoint was saved."""
    return manifest.score


def keep_best(
    checkpoint: Path, report: Report = warn, lasting: Sequence[str] = (), score_of: ScoreOf = stored_score
) -> bool:
    """Keeps a copy of ``checkpoint`` in ``best/`` beside it if no score is better. Of equal scores the later step wins.

    The copy is a checkpoint of its own; its files are hard links where the file system has them, so that it takes no
    space while both exist. The older best one is deleted only after the new one verifies.

    Args:
        checkpoint: a committed checkpoint.
        report: gets a sentence for each damaged checkpoint found in ``best/``.
        lasting: parts that the copy has; none where it has all.
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


def choose_best(
    directory: Path, report: Report = warn, lasting: Sequence[str] = (), score_of: ScoreOf = stored_score
) -> None:
    """Keeps the best of all checkpoints that are there. Call it when a run resumes.

    The kill may have come before a checkpoint was compared with the best one, or other scores count than before.

    Args:
        directory: where the run's checkpoints live.
        report: gets a sentence for each damaged checkpoint.
        lasting: see `keep_best`.
        score_of: see `keep_best`.
    """
    kept = _ranked(directory / BEST, report, score_of)
    for score, step in _ranked(directory, report, score_of):
        path, copy = (place / checkpoint_name(step) for place in (directory, directory / BEST))
        if score == -math.inf or (kept and kept[0] > (score, step)):
            return
        if len(kept) == 1 and _has_content(copy, _content_of_copy(path, lasting)[1]):
            return
        if _is_sound(path, report):
            keep_best(path, report, lasting, score_of)
            return


def best_checkpoint(
    directory: Path, report: Report = warn, part: str | None = None, score_of: ScoreOf = stored_score
) -> Path | None:
    """The verified checkpoint with the highest score in ``directory / "best"``, or None.

    Args:
        directory: where the run's checkpoints live.
        report: gets a sentence for each one that does not verify.
        part: the part that is needed; None needs the whole state. See `latest_checkpoint`.
        score_of: see `keep_best`.
    """
    best = directory / BEST
    for _, step in _ranked(best, report, score_of):
        path = best / checkpoint_name(step)
        try:
            manifest = verify_checkpoint(path, part)
        except CheckpointError as error:
            report(f"Checkpoint {path} is damaged: {error}. Trying the next best.")
        else:
            if manifest.whole or part is not None:
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


def _content_of_copy(checkpoint: Path, lasting: Sequence[str]) -> tuple[Manifest, bytes]:
    """The manifest of a copy with these parts of a checkpoint, or with all, and the bytes of its file."""
    manifest = read_manifest(checkpoint)
    kept = manifest.keeping(lasting) if lasting else manifest
    content = encode_manifest(kept) if kept is not manifest else (checkpoint / MANIFEST_NAME).read_bytes()
    return kept, content


def _has_content(final: Path, content: bytes) -> bool:
    return final.is_dir() and (final / MANIFEST_NAME).read_bytes() == content


def _copy(checkpoint: Path, final: Path, lasting: Sequence[str], moment: str) -> Path:
    """A checkpoint with these parts of another, or with all, under a name of its own or in the place of the other.

    Args:
        checkpoint: the other one.
        final: what it will be called.
        lasting: the parts; none for all.
        moment: of a kill before it has that name. See `phase`.
    """
    kept, content = _content_of_copy(checkpoint, lasting)
    if _has_content(final, content):
        return final
    smaller = content != (checkpoint / MANIFEST_NAME).read_bytes()
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
