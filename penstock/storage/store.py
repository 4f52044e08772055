"""Checkpoints: written whole or not at all, verified before use, unable to run code.

One checkpoint is a directory ``step-000000012345`` with ``manifest.json`` and the files that it lists.
``docs/run_folder.md`` states the promises. This file is the list of what is public.
"""

from penstock.storage._checkpoint import CheckpointNotWrittenError, checkpoint_name, list_checkpoints, save_checkpoint
from penstock.storage._crash import NonFiniteLeaf, find_non_finite, save_crash_dump
from penstock.storage._durable import clean_leftovers
from penstock.storage._layout import Layout
from penstock.storage._manifest import CheckpointTooNewError, Manifest, read_manifest
from penstock.storage._reading import latest_checkpoint, load_checkpoint, verify_checkpoint
from penstock.storage._retention import best_checkpoint, choose_best, keep_best, prune_checkpoints, set_all_aside
from penstock.storage._state_tree import CheckpointMismatchError, NonFiniteStateError
from penstock.storage._tensor_file import CheckpointDamagedError, CheckpointError

__all__ = [
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotWrittenError",
    "CheckpointTooNewError",
    "Layout",
    "Manifest",
    "NonFiniteLeaf",
    "NonFiniteStateError",
    "best_checkpoint",
    "checkpoint_name",
    "choose_best",
    "clean_leftovers",
    "find_non_finite",
    "keep_best",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "prune_checkpoints",
    "read_manifest",
    "save_checkpoint",
    "save_crash_dump",
    "set_all_aside",
    "verify_checkpoint",
]
