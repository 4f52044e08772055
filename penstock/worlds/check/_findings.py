"""What the world checker reports, and the small tools that its parts share."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

Severity = Literal["error", "warning", "ok"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that the checker looked at.

    Attributes:
        severity: ``error``: learning will fail or be wrong; ``warning``: look at it; ``ok``: checked and right.
        title: a few words.
        explanation: one or two sentences: what was found.
        next_action: what to do next; empty where nothing needs doing.
    """

    severity: Severity
    title: str
    explanation: str
    next_action: str = ""


class Stop(Exception):  # noqa: N818  (not an error: later checks would make no sense)
    """Raised by a check after an error that makes the remaining checks meaningless."""


def ok(title: str, explanation: str) -> Finding:
    """A check that passed."""
    return Finding("ok", title, explanation)


def error(title: str, explanation: str, action: str) -> Finding:
    """A fault."""
    return Finding("error", title, explanation, action)


def warning(title: str, explanation: str, action: str) -> Finding:
    """Something to look at."""
    return Finding("warning", title, explanation, action)


def failure(what: str, exception: BaseException) -> Finding:
    """Turns an exception of the checked world into a finding, with advice where the cause is a well-known one."""
    first = next((line.strip() for line in str(exception).splitlines() if line.strip()), "no message")
    action = f"Call {what} by hand to see the full traceback."
    if isinstance(exception, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
        action = (
            "The rules need a concrete number where JAX has only a tracer. Replace `if` on arrays by `jnp.where`, "
            "`float(...)` and NumPy functions by `jax.numpy`, and loops that depend on values by `jax.lax`."
        )
    elif "while_loop" in first and "everse-mode" in first:
        action = (
            "A loop that ends when it has converged has no gradient in reverse mode. Give it a fixed number of rounds "
            "(jax.lax.scan, or fori_loop with constant bounds), give the solver a derivative of its own "
            "(jax.lax.custom_root, jax.custom_vjp), or override `differentiable` with False."
        )
    elif isinstance(exception, NotImplementedError):
        action = f"Write {what}."
    return error(f"{what} fails", f"{what} raised {type(exception).__name__}: {first[:300]}", action)


def leaf_names(tree: PyTree) -> list[str]:
    """A readable path for each leaf, in the order of `jax.tree.leaves`."""
    return [jax.tree_util.keystr(path) or "the state" for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys of the new style."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_float(leaf: Any) -> bool:
    """Whether a leaf holds floating point numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def as_numpy(leaf: Any) -> np.ndarray:
    """The numbers of a leaf, of random keys too."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def differing_leaves(a: PyTree, b: PyTree) -> list[str]:
    """Names of the leaves in which two trees of one structure differ (NaN equals NaN)."""
    pairs = zip(leaf_names(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return [name for name, x, y in pairs if not _same(as_numpy(x), as_numpy(y))]


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.inexact)))


def listed(names: list[str], most: int = 3) -> str:
    """``a, b, c and 2 more``."""
    head = ", ".join(names[:most])
    return head if len(names) <= most else f"{head} and {len(names) - most} more"


def plural(count: int, noun: str) -> str:
    """``1 environment``, ``2 environments``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
