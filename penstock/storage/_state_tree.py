"""The training state, a pytree, as named NumPy arrays and back, bit for bit."""

import dataclasses
from collections.abc import Container, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from penstock._errors import PenstockError
from penstock.storage._tensor_file import CheckpointError, is_storable, name_problem

STATE = "state"
"""The part to which arrays belong that no other part takes. See `Layout`."""

_SHOWN = 6


class CheckpointMismatchError(CheckpointError):
    """A checkpoint is sound but holds the state of another run: other names, shapes or dtypes."""


@dataclasses.dataclass(frozen=True)
class LeafRecord:
    """What a manifest says about one leaf of the state.

    Attributes:
        path: position in the tree, as `jax.tree_util.keystr` writes it, for example ``.actor.layers[0].weight``.
        shape: shape of the stored array. Random keys are stored as their words, which add one axis at the end.
        dtype: NumPy name of the stored dtype.
        prng: name of the generator where the leaf holds random keys, else None.
        weak: whether JAX treats the dtype as weak in promotion; restoring it avoids a recompilation.
        constant: the value, in Python notation, of a leaf that is no array and cannot evolve; else None.
        part: the part of the state to which it belongs, and so the file that holds it.
    """

    path: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    prng: str | None = None
    weak: bool = False
    constant: str | None = None
    part: str = STATE

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in ``manifest.json``: only what applies."""
        if self.constant is not None:
            return {"path": self.path, "constant": self.constant}
        record: dict[str, Any] = {"path": self.path, "shape": list(self.shape), "dtype": self.dtype}
        if self.prng is not None:
            record["prng"] = self.prng
        if self.weak:
            record["weak"] = True
        if self.part != STATE:
            record["part"] = self.part
        return record

    @staticmethod
    def from_json(record: Any) -> "LeafRecord":
        """Reads what `to_json` wrote. Raises `ValueError` for anything else."""
        if not isinstance(record, dict) or not isinstance(record.get("path"), str):
            raise ValueError("a leaf has no path")
        known = {field.name for field in dataclasses.fields(LeafRecord)}
        shape = record.get("shape", [])
        sound = isinstance(shape, list) and all(type(size) is int for size in shape)
        if not set(record) <= known or not sound or not isinstance(record.get("part", STATE), str):
            raise ValueError(f"the leaf {record['path']!r} is described wrongly")
        return LeafRecord(**{**record, "shape": tuple(shape)})

    def describe(self) -> str:
        """``float32(3, 4)``, or the value of a constant."""
        if self.constant is not None:
            return f"constant {self.constant}"
        kind = f"{self.prng} key as {self.dtype}" if self.prng else self.dtype
        return f"{kind}({', '.join(map(str, self.shape))})" + (" weak" if self.weak else "")


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _is_saved(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct | np.ndarray)


def _named_leaves(state: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [(jax.tree_util.keystr(path) or "state", leaf) for path, leaf in leaves]


def _record(path: str, leaf: Any) -> LeafRecord | None:
    if not _is_saved(leaf):
        # Functions are the program, not the state. Numbers and texts are recorded: the loader compares them, so that
        # a counter which somebody keeps as a Python number is never lost in silence.
        if isinstance(leaf, bool | int | float | complex | str | np.generic):
            return LeafRecord(path, constant=repr(leaf.item() if isinstance(leaf, np.generic) else leaf))
        return None
    if _is_key(leaf):
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        return LeafRecord(path, tuple(words.shape), np.dtype(words.dtype).name, _prng_name(leaf))
    weak = bool(getattr(leaf, "weak_type", False))
    return LeafRecord(path, tuple(leaf.shape), np.dtype(leaf.dtype).name, weak=weak)


def _prng_name(leaf: Any) -> str:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        # A key without values does not tell its generator's name, so compare its dtype with the known ones.
        for name in ("threefry2x32", "rbg", "unsafe_rbg"):
            if jax.eval_shape(lambda n=name: jax.random.key(0, impl=n)).dtype == leaf.dtype:
                return name
        return str(leaf.dtype)
    return str(jax.random.key_impl(leaf))


def leaf_records(state: PyTree) -> list[LeafRecord]:
    """Describes every leaf of a state or of a template (`jax.ShapeDtypeStruct` leaves are welcome)."""
    records = [_record(path, leaf) for path, leaf in _named_leaves(state)]
    return [record for record in records if record is not None]


def to_host(state: PyTree) -> dict[str, np.ndarray]:
    """Copies every array of the state to the host, under the name of its path.

    Raises:
        CheckpointError: an array is spread over several processes, has a dtype that cannot be stored, or a name that
            cannot be a name.
    """
    named: dict[str, Any] = {}
    for path, leaf in _named_leaves(state):
        if not _is_saved(leaf):
            continue
        problem = name_problem(path)
        if problem is not None or path in named:
            raise CheckpointError(
                f"The state has a leaf {path[:80]!r}: its name {problem or 'occurs twice'}; rename it."
            )
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            raise CheckpointError(f"{path} is spread over several processes; gather it before saving.")
        named[path] = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    arrays = {path: np.asarray(leaf) for path, leaf in jax.device_get(named).items()}
    for path, array in arrays.items():
        if not is_storable(array.dtype):
            raise CheckpointError(f"{path} has dtype {array.dtype.name}, which cannot be stored; convert it first.")
    return arrays


def _same(expected: LeafRecord, found: LeafRecord) -> bool:
    # Weakness may change between the initial state and the first update; the saved one is restored.
    return dataclasses.replace(expected, weak=found.weak, part=found.part) == found


_MOST_NAMES = 64
"""How many names are tried for one array; each change of a part makes a few."""


def current_names(saved: list[LeafRecord], template: PyTree, old_names: Sequence[tuple[str, str]]) -> dict[str, str]:
    """From the names of saved leaves to those in a template, where parts of names have changed since."""
    known = {record.path for record in leaf_records(template)}

    def current(name):
        # Several parts of one name may have changed.
        tried, candidates = set(), [name]
        while candidates and len(tried) < _MOST_NAMES:
            candidate = candidates.pop(0)
            if candidate in known:
                return candidate
            tried.add(candidate)
            changed = [candidate.replace(old, new, 1) for old, new in old_names if old in candidate]
            candidates += [other for other in changed if other not in tried]
        return name

    return {record.path: current(record.path) for record in saved}


def refuse_mismatch(
    saved: list[LeafRecord], template: PyTree, name: str, hint: str, only: Container[str] | None = None
) -> None:
    """Raises `CheckpointMismatchError`, listing the first differences, unless the template fits.

    Args:
        saved: what the checkpoint has, under today's names.
        template: see `load_checkpoint`.
        name: of the checkpoint.
        hint: what to do.
        only: names of the leaves that matter; None for all.
    """
    expected = {record.path: record for record in leaf_records(template) if only is None or record.path in only}
    found = {record.path: record for record in saved if only is None or record.path in only}
    differences = [f"{path} is missing from the checkpoint" for path in expected if path not in found]
    differences += [f"{path} has no place in this run" for path in found if path not in expected]
    for path in expected:
        if path in found and not _same(expected[path], found[path]):
            differences.append(
                f"{path} is {found[path].describe()} in the checkpoint and {expected[path].describe()} in this run"
            )
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointMismatchError(
            f"Checkpoint {name} does not fit this run: {'; '.join(differences[:_SHOWN])}{more}. {hint}"
        )


def to_state(template: PyTree, saved: list[LeafRecord], arrays: dict[str, np.ndarray]) -> PyTree:
    """Puts arrays back where they came from, on the devices of the template's arrays.

    Where ``arrays`` has none for a leaf, the template's stays.
    """
    records = {record.path: record for record in saved}
    leaves = [
        _restore(leaf, records[path], arrays[path]) if path in arrays else leaf
        for path, leaf in _named_leaves(template)
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)


def _restore(leaf: Any, record: LeafRecord, array: np.ndarray) -> Any:
    if isinstance(leaf, np.ndarray):
        return array
    if _is_key(leaf):
        value = jax.random.wrap_key_data(jnp.array(array), impl=record.prng)
    elif record.weak:
        # Assigning into a weak array is the public way to make one with given values.
        value = jnp.full(array.shape, array.dtype.type(0).item()).at[...].set(array)
    else:
        value = jnp.array(array)
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None and getattr(leaf, "committed", False):
        value = jax.device_put(value, sharding)
    return value


class NonFiniteStateError(PenstockError):
    """A state with NaN or infinity was about to become the newest checkpoint."""


def non_finite_arrays(arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of the floating-point arrays with a NaN or an infinity, in tree order."""
    return [
        path
        for path, array in arrays.items()
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all()
    ]
