"""Checkpoints: written whole or not at all, verified before use, unable to run code.

One checkpoint is a directory ``step-000000012345`` with ``state.safetensors`` and ``manifest.json``.
``docs/run_folder.md`` states the promises. This file is the list of what is public.
"""

from penstock.training._checkpoint import (
    CheckpointNotWrittenError,
    checkpoint_name,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from penstock.training._crash import NonFiniteLeaf, find_non_finite, save_crash_dump
from penstock.training._durable import clean_leftovers
from penstock.training._manifest import CheckpointTooNewError, Manifest, read_manifest
from penstock.training._retention import best_checkpoint, keep_best, prune_checkpoints
from penstock.training._state_tree import CheckpointMismatchError, NonFiniteStateError, non_finite_leaves
from penstock.training._tensor_file import CheckpointDamagedError, CheckpointError

__all__ = [
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotWrittenError",
    "CheckpointTooNewError",
    "Manifest",
    "NonFiniteLeaf",
    "NonFiniteStateError",
    "best_checkpoint",
    "checkpoint_name",
    "clean_leftovers",
    "find_non_finite",
    "keep_best",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "non_finite_leaves",
    "prune_checkpoints",
    "read_manifest",
    "save_checkpoint",
    "save_crash_dump",
    "verify_checkpoint",
]
