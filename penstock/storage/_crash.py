"""What is kept when a number stops being finite: a state that replays the fault, and where it was first seen."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from penstock._types import AxisNames
from penstock.storage._checkpoint import commit, list_checkpoints
from penstock.storage._durable import discard
from penstock.storage._layout import Layout
from penstock.storage._state_tree import non_finite_arrays, to_host

_LISTED = 16
_KEPT = 3


@dataclasses.dataclass(frozen=True)
class NonFiniteLeaf:
    """One array that holds NaN or infinity.

    Attributes:
        path: position in the tree.
        shape: shape of the array.
        nan: how many entries are NaN.
        infinite: how many entries are infinite.
        first: index of the first such entry.
        environments: the first few environments it happened in; empty where the array has no environment axis.
    """

    path: str
    shape: tuple[int, ...]
    nan: int
    infinite: int
    first: tuple[int, ...]
    environments: tuple[int, ...]

    def sentence(self) -> str:
        """``.world.body.qvel (64, 9): 2 NaN, 0 infinite, first at (3, 1), environments 3, 17``."""
        where = f", environments {', '.join(map(str, self.environments))}" if self.environments else ""
        return f"{self.path} {self.shape}: {self.nan} NaN, {self.infinite} infinite, first at {self.first}{where}"


def find_non_finite(tree: PyTree, axes: PyTree | None = None) -> list[NonFiniteLeaf]:
    """Finds arrays with NaN or infinity, in tree order.

    Args:
        tree: any pytree: a training state, a batch of transitions, a gradient.
        axes: in the place of every array the names of its axes, `AxisNames`; None where nobody knows them, and no
            environments are told.
    """
    found: list[NonFiniteLeaf] = []
    flat = jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, AxisNames))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    named = dict(zip(paths, flat, strict=True)) if flat else {}
    arrays = to_host(tree)
    for path in non_finite_arrays(arrays):
        array = arrays[path]
        bad = ~np.isfinite(array)
        nan = int(np.isnan(array).sum())
        environments: tuple[int, ...] = ()
        names = named[path].names if path in named else ()
        if "environment" in names:
            axis = names.index("environment")
            per_env = bad.any(axis=tuple(a for a in range(bad.ndim) if a != axis))
            environments = tuple(int(env) for env in np.flatnonzero(per_env)[:_LISTED])
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        found.append(NonFiniteLeaf(path, array.shape, nan, int(bad.sum()) - nan, first, environments))
    return found


def save_crash_dump(
    directory: Path,
    step: int,
    state: PyTree,
    *,
    seed: int,
    config_hash: str,
    axes: PyTree | None = None,
    extra: dict[str, Any] | None = None,
    layout: Layout | None = None,
) -> tuple[Path, str]:
    """Saves a state for a post-mortem, whatever its numbers are.

    The dump is written and verified like a checkpoint and loads with `load_checkpoint`. The three newest stay.

    Args:
        directory: the run's ``crash/``.
        step: position of the run.
        state: what to save: best the state *before* the bad update, because replaying one update from it shows
            the fault. Where it holds NaN or infinity itself, the sentence tells.
        seed: seed of the run, for the report.
        config_hash: hash of the run's configuration.
        axes: of the state's arrays, to name the environments. See `find_non_finite`.
        extra: JSON values to keep as well.
        layout: see `save_checkpoint`.

    Returns:
        The dump, and a sentence that names the first bad array, environments, step and seed.
    """
    found = find_non_finite(state, axes)
    if found:
        more = f" ({len(found) - 1} more arrays are affected)" if len(found) > 1 else ""
        what = f"Non-finite numbers at step {step}, seed {seed}: {found[0].sentence()}{more}."
    else:
        what = f"Crash dump at step {step}, seed {seed}; every number in it is finite."
    report = {
        "seed": seed,
        "sentence": what,
        "non_finite": [dataclasses.asdict(leaf) for leaf in found[:_LISTED]],
    }
    kept = {**(extra or {}), "crash": report}
    path = commit(directory, step, state, to_host(state), config_hash, kept, None, layout or Layout())
    for _, old in list_checkpoints(directory)[:-_KEPT]:
        if old != path:
            discard(old)
    return path, f"{what} The state is kept in {path}."
