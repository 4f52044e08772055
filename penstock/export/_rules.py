"""What becomes of each of JAX's operations: a rule by its name.

A rule takes a `Writer`, the values, what JAX says of the result (shape and dtype), and the operation's parameters.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from penstock._errors import CapabilityError
from penstock.export._writing import Value, Writer

Rule = Callable[[Writer, list[Any], Any, dict[str, Any]], Any]


def _same(operation):
    return lambda writer, inputs, out, parameters: writer.entrywise(operation, inputs, out.shape, out.dtype)


def _unchanged(writer, inputs, out, parameters):
    return inputs[0]


def _square(writer, inputs, out, parameters):
    return writer.entrywise("multiply", [inputs[0], inputs[0]], out.shape, out.dtype)


def _rsqrt(writer, inputs, out, parameters):
    root = writer.entrywise("sqrt", inputs, out.shape, out.dtype)
    return writer.entrywise("divide", [np.ones((), out.dtype), root], out.shape, out.dtype)


def _erfc(writer, inputs, out, parameters):
    erf = writer.entrywise("erf", inputs, out.shape, out.dtype)
    return writer.entrywise("subtract", [np.ones((), out.dtype), erf], out.shape, out.dtype)


def _integer_pow(writer, inputs, out, parameters):
    exponent = parameters["y"]
    power = inputs[0]
    for _ in range(abs(exponent) - 1):
        power = writer.entrywise("multiply", [power, inputs[0]], out.shape, out.dtype)
    if exponent > 0:
        return power
    one = np.ones((), out.dtype)
    return one if exponent == 0 else writer.entrywise("divide", [one, power], out.shape, out.dtype)


def _clamp(writer, inputs, out, parameters):
    low, value, high = inputs
    above = writer.entrywise("maximum", [low, value], out.shape, out.dtype)
    return writer.entrywise("minimum", [above, high], out.shape, out.dtype)


def _select(writer, inputs, out, parameters):
    which, *cases = inputs
    if len(cases) != 2 or which.dtype != bool:
        raise CapabilityError("Export has a rule for choices between two cases only (jnp.where).")
    return writer.entrywise("where", [which, cases[1], cases[0]], out.shape, out.dtype)


def _convert(writer, inputs, out, parameters):
    return writer.astype(inputs[0], out.dtype)


def _broadcast(writer, inputs, out, parameters):
    """Puts axes of size 1 in; the rest is done when it is needed."""
    (value, *_), axes = inputs, parameters["broadcast_dimensions"]
    stored = [1] * len(out.shape)
    for axis, size in zip(axes, value.stored, strict=True):
        stored[axis] = size
    if value.stored != tuple(stored):
        value = writer.emit("reshape", [value], stored, value.dtype, {"shape": stored})
    return dataclasses.replace(value, shape=tuple(out.shape))


_SAME = {
    "add": "add", "add_any": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "max": "maximum",
    "min": "minimum", "pow": "power", "neg": "negative", "abs": "absolute", "sign": "sign", "exp": "exp",
    "expm1": "expm1", "log": "log", "log1p": "log1p", "tanh": "tanh", "atanh": "arctanh", "sin": "sin", "cos": "cos",
    "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "erf": "erf", "logistic": "logistic", "lt": "less",
    "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
    "and": "logical_and", "or": "logical_or", "not": "logical_not", "is_finite": "isfinite",
}  # fmt: skip

ENTRYWISE: dict[str, Rule] = {
    **{name: _same(operation) for name, operation in _SAME.items()},
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "reduce_precision"), _unchanged),
    "square": _square,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    "integer_pow": _integer_pow,
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
}
"""Of JAX's operations on entries, and of what moves none; they take values as they are stored."""


def _reduction(operation):
    def rule(writer, inputs, out, parameters):
        axes = list(map(int, parameters["axes"]))
        if not axes:
            return inputs[0]
        return writer.emit(operation, inputs, out.shape, out.dtype, {"axis": axes})

    return rule


def _truth(operation):
    """Whether any, or all, are true: the largest, or the smallest, of zeros and ones."""

    def rule(writer, inputs, out, parameters):
        axes = list(map(int, parameters["axes"]))
        number = writer.emit(operation, [writer.astype(inputs[0], np.int32)], out.shape, np.int32, {"axis": axes})
        return writer.astype(number, bool)

    return rule


def _position(operation):
    def rule(writer, inputs, out, parameters):
        (axis,) = parameters["axes"]
        return writer.astype(writer.emit(operation, inputs, out.shape, np.int64, {"axis": int(axis)}), out.dtype)

    return rule


def _transpose(writer, inputs, out, parameters):
    return writer.transpose(inputs[0], parameters["permutation"])


def _reshape(writer, inputs, out, parameters):
    return writer.reshape(inputs[0], out.shape)


def _concatenate(writer, inputs, out, parameters):
    return writer.concatenate(inputs, int(parameters["dimension"]))


def _stack(writer, inputs, out, parameters):
    axis = int(parameters["axis"])
    rows = [writer.reshape(value, (*value.shape[:axis], 1, *value.shape[axis:])) for value in inputs]
    return writer.concatenate(rows, axis)


def _slice(writer, inputs, out, parameters):
    start, stop, step = (parameters[name] for name in ("start_indices", "limit_indices", "strides"))
    return writer.slice(inputs[0], list(map(int, start)), list(map(int, stop)), step and list(map(int, step)))


def _moving(primitive):
    """Of an operation that moves entries: where each comes from is asked of JAX, which moves their numbers."""

    def rule(writer, inputs, out, parameters):
        value, *indices = inputs
        if any(isinstance(index, Value) for index in indices):
            raise CapabilityError("Export has a rule for indexing by constants only.")
        numbers = jnp.arange(math.prod(value.shape), dtype=jnp.int32).reshape(value.shape)
        where = np.asarray(primitive.bind(numbers, *indices, **parameters))
        flat = writer.reshape(value, (math.prod(value.shape),))
        return writer.emit("take", [flat, where.astype(np.int64)], out.shape, out.dtype, {"axis": 0})

    return rule


def _sort(writer, inputs, out, parameters):
    if len(inputs) != 1:
        raise CapabilityError("Export has a rule for sorting one array only.")
    return writer.emit("sort", inputs, out.shape, out.dtype, {"axis": int(parameters["dimension"])})


def _matmul(writer, inputs, out, parameters):
    product = writer.matmul(*inputs, parameters["dimension_numbers"], out.dtype)
    return dataclasses.replace(product, shape=tuple(out.shape))


STRUCTURAL: dict[str, Rule] = {
    "dot_general": _matmul,
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "gather": _moving(jax.lax.gather_p),
    "dynamic_slice": _moving(jax.lax.dynamic_slice_p),
    "rev": _moving(jax.lax.rev_p),
    "reduce_sum": _reduction("sum"),
    "reduce_max": _reduction("max"),
    "reduce_min": _reduction("min"),
    "reduce_or": _truth("max"),
    "reduce_and": _truth("min"),
    "argmax": _position("argmax"),
    "argmin": _position("argmin"),
    "sort": _sort,
}
"""Of JAX's operations on whole arrays; they take values in their full shape."""
