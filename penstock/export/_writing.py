"""Writing a `Program` down, instruction by instruction."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.export import reader
from penstock.export.program import Instruction


@dataclasses.dataclass(frozen=True)
class Value:
    """A result of the program so far.

    Attributes:
        name: its name.
        shape: as JAX has it.
        stored: as it is computed: it broadcasts to ``shape``. Elementwise operations broadcast by themselves, so that
            hardly any value is ever written out in full.
        dtype: of its entries.
    """

    name: str
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: np.dtype


class Writer:
    """Writes instructions down, and gives their results names."""

    def __init__(self):
        self.constants: dict[str, np.ndarray] = {}
        self.instructions: list[Instruction] = []
        self._known: dict[tuple, str] = {}

    # ------------------------------------------------------------------ names

    def name(self, value: Any) -> str:
        """Of a value, or of a constant, which is kept from now on."""
        if isinstance(value, Value):
            return value.name
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self.constants)}"
            self.constants[self._known[key]] = array
        return self._known[key]

    def emit(
        self,
        operation: str,
        arguments: Sequence[Any],
        shape: Sequence[int],
        dtype: Any,
        parameters: Mapping[str, Any] | None = None,
    ) -> Value:
        """Writes down an operation whose result has this shape as it is stored."""
        result = f"v{len(self.instructions)}"
        parameters = {name: _plain(value) for name, value in (parameters or {}).items()}
        self.instructions.append(Instruction(operation, tuple(map(self.name, arguments)), result, parameters))
        shape = tuple(map(int, shape))
        return Value(result, shape, shape, np.dtype(dtype))

    def entrywise(self, operation: str, arguments: Sequence[Any], shape: Sequence[int], dtype: Any) -> Value:
        """An operation on entries; its result has ``shape`` after broadcasting."""
        value = self.emit(operation, arguments, np.broadcast_shapes(*map(_stored, arguments)), dtype)
        return dataclasses.replace(value, shape=tuple(shape))

    def full(self, value: Any) -> Any:
        """The value, written out in its full shape."""
        if not isinstance(value, Value) or value.stored == value.shape:
            return value
        return self.emit("broadcast_to", [value], value.shape, value.dtype, {"shape": list(value.shape)})

    # ------------------------------------------------------------------ operations on full values

    def reshape(self, value: Any, shape: Sequence[int]) -> Any:
        """The value, or the constant, in another shape of the same size."""
        shape = tuple(map(int, shape))
        if tuple(value.shape) == shape:
            return value
        if not isinstance(value, Value):
            return value.reshape(shape)
        return self.emit("reshape", [value], shape, value.dtype, {"shape": list(shape)})

    def transpose(self, value: Any, axes: Sequence[int]) -> Any:
        """The value, or the constant, with its axes in another order."""
        axes = list(map(int, axes))
        if axes == list(range(len(axes))):
            return value
        if not isinstance(value, Value):
            return np.ascontiguousarray(np.transpose(np.asarray(value), axes))
        return self.emit("transpose", [value], [value.shape[axis] for axis in axes], value.dtype, {"axes": axes})

    def slice(self, value, start, stop, step=None):
        step = [1] * len(start) if step is None else list(step)
        if list(start) == [0] * len(start) and tuple(stop) == value.shape and step == [1] * len(start):
            return value
        shape = [len(range(*bounds)) for bounds in zip(start, stop, step, strict=True)]
        return self.emit("slice", [value], shape, value.dtype, {"start": list(start), "stop": list(stop), "step": step})

    def concatenate(self, values, axis):
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return self.emit("concatenate", values, shape, values[0].dtype, {"axis": axis})

    def matmul(self, x: Any, y: Any, dimension_numbers: Any, dtype: Any) -> Any:
        """`jax.lax.dot_general`: batches first, then rows times columns."""
        (contracted_x, contracted_y), (batch_x, batch_y) = dimension_numbers
        free_x = [axis for axis in range(len(x.shape)) if axis not in (*contracted_x, *batch_x)]
        free_y = [axis for axis in range(len(y.shape)) if axis not in (*contracted_y, *batch_y)]
        batch = [x.shape[axis] for axis in batch_x]
        rows, columns = [x.shape[axis] for axis in free_x], [y.shape[axis] for axis in free_y]
        inner = math.prod(x.shape[axis] for axis in contracted_x)
        x = self.transpose(x, (*batch_x, *free_x, *contracted_x))
        y = self.transpose(y, (*batch_y, *contracted_y, *free_y))
        # A vector stays one, which spares reshapes; products of several rows or columns are of matrices.
        flat_rows = [] if not rows and not batch else [math.prod(rows)]
        flat_columns = [] if not columns and not batch else [math.prod(columns)]
        x = self.reshape(x, (*batch, *flat_rows, inner))
        y = self.reshape(y, (*batch, inner, *flat_columns))
        product = self.emit("matmul", [x, y], (*batch, *flat_rows, *flat_columns), dtype)
        return self.reshape(product, (*batch, *rows, *columns))

    def astype(self, value: Any, dtype: Any) -> Any:
        """The value with entries of another type."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        changed = self.emit("astype", [value], value.stored, dtype, {"dtype": dtype.name})
        return dataclasses.replace(changed, shape=value.shape)


def evaluated(writer: Writer, result: Any) -> np.ndarray:
    """A value that follows from constants alone, computed by NumPy in float64."""
    if not isinstance(result, Value):
        return np.asarray(result)
    values = {name: _wide(constant) for name, constant in writer.constants.items()}
    for step in writer.instructions:
        function = reader.OPERATIONS.get(step.operation) or getattr(np, step.operation)
        parameters = {name: tuple(of) if isinstance(of, list) else of for name, of in step.parameters.items()}
        with np.errstate(all="ignore"):
            values[step.result] = _wide(function(*(values[name] for name in step.arguments), **parameters))
    return np.asarray(values[result.name])


def _wide(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _stored(value: Any) -> tuple[int, ...]:
    return value.stored if isinstance(value, Value) else tuple(np.shape(value))


def _plain(parameter: Any) -> Any:
    """A parameter as JSON has it."""
    return list(map(int, parameter)) if isinstance(parameter, list) else parameter
