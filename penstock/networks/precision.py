"""Matrix products in bfloat16, the precision of FlowRL's released code on accelerators.

Parameters, activations, sums, losses, optimisers and targets stay float32. Only the two factors of a large product are
rounded to bfloat16 (8 significant bits); the product is summed in float32. PyTorch's ``autocast`` rounds results too.
Accelerators, and CPUs that multiply matrices in hardware (AMX), are several times as fast at such products.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, primitives
from jax.extend.core import Literal as Constant

from penstock._jaxprs import INNER_PROGRAM, counts_of_scan

Precision = Literal["float32", "bfloat16"]
"""In which the factors of large matrix products are."""

SHORTEST_SIDE = 16
"""A product with a shorter side gains nothing and stays float32: a value from its last features, few inputs."""


def in_precision(precision: Precision, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its large float32 matrix products in this precision, also within `scan`, `cond` and `jit`.

    The products of gradients that ``function`` takes inside are included. Convolutions, and products within
    `while_loop` or `checkpoint`, stay float32. Do not differentiate the result: rules of `custom_vjp` are gone.

    Args:
        precision: ``float32`` returns ``function`` itself.
        function: from pytrees of arrays to a pytree of arrays, without side effects.
    """
    if precision == "float32":
        return function

    @functools.wraps(function)
    def rounded(*arguments):
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = _run(program, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return rounded


def _run(program: ClosedJaxpr, arguments: Sequence) -> list:
    """Runs a program with its large products rounded."""
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))
    transposed: dict[Any, tuple[Any, tuple[int, ...]]] = {}
    factors = _Factors()

    def read(variable):
        return variable.val if isinstance(variable, Constant) else values[variable]

    def source(variable):
        value = read(variable)
        unturned = (value, tuple(range(jnp.ndim(value))))
        return unturned if isinstance(variable, Constant) else transposed.get(variable, unturned)

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        primitive, parameters = equation.primitive, equation.params
        inner = parameters.get(INNER_PROGRAM.get(primitive.name))
        if primitive is primitives.dot_general_p and _is_large(inputs, parameters):
            x, y = (source(variable) for variable in equation.invars)
            outputs = [factors.product(x, y, parameters["dimension_numbers"])]
        elif isinstance(inner, ClosedJaxpr | Jaxpr):
            outputs = _run(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), inputs)
        elif primitive is primitives.scan_p:
            outputs = _scan(inputs, parameters)
        elif primitive is primitives.cond_p:
            outputs = _cond(inputs, parameters)
        else:
            outputs = primitive.bind(*inputs, **parameters)
            outputs = outputs if primitive.multiple_results else [outputs]
        if primitive is primitives.transpose_p:
            value, order = source(equation.invars[0])
            transposed[equation.outvars[0]] = value, tuple(order[axis] for axis in parameters["permutation"])
        elif primitive.name == "optimization_barrier":
            pairs = zip(equation.invars, equation.outvars, strict=True)
            transposed |= {new: source(old) for old, new in pairs}
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _cond(inputs, parameters):
    def branch(program):
        return lambda *arguments: _run(program, arguments)

    index, *inputs = inputs
    branches = [branch(program) for program in parameters["branches"]]
    platforms = parameters.get("branches_platforms")
    if platforms is None:
        return jax.lax.switch(index, branches, *inputs)
    default = dict(zip(platforms, branches, strict=True)).get(None)
    named = {name: branch for names, branch in zip(platforms, branches, strict=True) for name in names or ()}
    return jax.lax.platform_dependent(*inputs, default=default, **named)


def _scan(inputs, parameters):
    constants, carried = counts_of_scan(parameters)
    carried += constants

    def body(carry, x):
        outputs = _run(parameters["jaxpr"], [*inputs[:constants], *carry, *x])
        return outputs[: carried - constants], outputs[carried - constants :]

    how = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(body, inputs[constants:carried], inputs[carried:], **how)
    return [*carry, *ys]


def _is_large(factors, parameters) -> bool:
    x, y = factors
    if parameters["precision"] is not None or parameters["preferred_element_type"] not in (None, jnp.float32):
        return False  # whoever wrote it asked for something else
    (contracted, _), (batch, _) = parameters["dimension_numbers"]
    inner = math.prod(x.shape[axis] for axis in contracted)
    both = inner * math.prod(x.shape[axis] for axis in batch)
    sides = (inner, x.size // max(both, 1), y.size // max(both, 1))
    return x.dtype == y.dtype == jnp.float32 and min(sides) >= SHORTEST_SIDE


class _Factors:
    """The rounded factors of one program: each is rounded and arranged once.

    XLA's quick CPU kernels for bfloat16 take ``(..., m, k)`` and ``(..., k, n)`` or ``(..., n, k)`` whose axes lie in
    memory in that order, and it chooses before it knows how they will lie; what does not look like that is computed in
    float32. So factors are arranged here, from what they were before they were transposed, and barriers hold the
    arrangement. Adding an axis and taking it away again says to XLA that the others lie in order.
    """

    def __init__(self):
        self._known: dict[tuple, tuple[Any, Any]] = {}

    def product(self, left, right, dimension_numbers):
        """`jax.lax.dot_general` of two transposed values, each given as ``(value, permutation)``."""
        (x, order_x), (y, order_y) = left, right
        (contracted_x, contracted_y), (batch_x, batch_y) = dimension_numbers
        batch_x, contracted_x, free_x = _axes(order_x, batch_x, contracted_x)
        batch_y, contracted_y, free_y = _axes(order_y, batch_y, contracted_y)
        shape = [x.shape[axis] for axis in (*batch_x, *free_x)] + [y.shape[axis] for axis in free_y]
        batch = tuple(range(len(batch_x)))
        rows, columns = len(batch), len(batch) + 1
        x = self._arranged(x, batch_x, free_x, contracted_x)
        if (*batch_y, *free_y, *contracted_y) == tuple(range(y.ndim)):
            y, inner = self._arranged(y, batch_y, free_y, contracted_y), columns
        else:
            y, inner = self._arranged(y, batch_y, contracted_y, free_y), rows
        dimension_numbers = (((columns,), (inner,)), (batch, batch))
        product = jax.lax.dot_general(x, y, dimension_numbers, preferred_element_type=jnp.float32)
        return jax.lax.optimization_barrier(product).reshape(shape)

    def _arranged(self, value, batch, rows, columns):
        order = (*batch, *rows, *columns)
        shape = tuple(value.shape[axis] for axis in batch)
        shape += tuple(math.prod(value.shape[axis] for axis in axes) for axes in (rows, columns))
        key = (id(value), order, shape)
        if key not in self._known:
            numbers = jax.lax.optimization_barrier(jnp.transpose(self._rounded(value), order).reshape(*shape, 1))
            arranged = jax.lax.optimization_barrier(numbers.reshape(shape))
            self._known[key] = value, arranged
        return self._known[key][1]

    def _rounded(self, value):
        key = (id(value),)
        if key not in self._known:
            rounded = jax.lax.optimization_barrier(value.astype(jnp.bfloat16))
            self._known[key] = value, rounded  # the value is kept, so that its id stays its own
        return self._known[key][1]


def _axes(order, batch, contracted) -> list[list[int]]:
    """Axes of the value before it was transposed: those of the batch, the contracted and the free ones."""
    free = [axis for axis in range(len(order)) if axis not in batch and axis not in contracted]
    return [[order[axis] for axis in axes] for axes in (batch, contracted, free)]
