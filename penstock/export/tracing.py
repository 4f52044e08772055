"""From a function written in JAX to a `Program`.

The function is traced by JAX; inner functions are inlined, loops of known length unrolled, and everything that follows
from constants alone is computed now, so that what is left is a list of array operations. A policy of somebody's own is
exported like ours, as long as it is made of operations that have a rule here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as JaxLiteral

from penstock._errors import CapabilityError
from penstock._jaxprs import INNER_PROGRAM, REMATERIALIZED, counts_of_scan
from penstock.export._rules import ENTRYWISE, STRUCTURAL
from penstock.export._writing import Value, Writer, evaluated
from penstock.export.program import Program

MOST_STEPS = 1024
"""Loops that are longer are not unrolled."""


def trace(function: Callable[..., Mapping[str, jax.Array]], inputs: Mapping[str, jax.ShapeDtypeStruct]) -> Program:
    """The program of a function.

    Args:
        function: takes the inputs by name, and returns arrays by name. Its shapes depend on nothing but theirs.
        inputs: shape and dtype of each, by name.

    Raises:
        CapabilityError: it uses an operation that has no rule, or a loop whose end depends on the inputs.
    """
    names = list(inputs)
    closed, shapes = jax.make_jaxpr(
        lambda *values: dict(function(**dict(zip(names, values, strict=True)))), return_shape=True
    )(*inputs.values())
    tracer = _Tracer()
    arguments = [Value(name, tuple(s.shape), tuple(s.shape), np.dtype(s.dtype)) for name, s in inputs.items()]
    results = dict(zip(sorted(shapes), tracer.run(closed.jaxpr, closed.consts, arguments), strict=True))
    outputs = {name: tracer.name(tracer.full(value)) for name, value in results.items()}
    return _tidied(
        Program(
            inputs={name: (tuple(s.shape), np.dtype(s.dtype).name) for name, s in inputs.items()},
            constants=tracer.constants,
            instructions=tuple(tracer.instructions),
            outputs=outputs,
            output_shapes={name: tuple(shapes[name].shape) for name in outputs},
        )
    )


class _Tracer(Writer):
    """Writes down what happens to values; what happens to constants just happens."""

    def run(self, jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """The results of a program of JAX's."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(variable):
            if isinstance(variable, JaxLiteral):
                return np.asarray(variable.val, variable.aval.dtype)  # pyright: ignore[reportAttributeAccessIssue]
            return values[variable]

        for equation in jaxpr.eqns:
            inputs = [read(variable) for variable in equation.invars]
            values |= dict(zip(equation.outvars, self._equation(equation, inputs), strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Any]) -> list[Any]:
        primitive, parameters = equation.primitive, equation.params
        name = primitive.name
        inner = parameters.get(INNER_PROGRAM.get(name) or REMATERIALIZED.get(name))
        if name == "platform_index":
            return [_PLATFORM]
        if inner is not None:
            return self._inner(inner, inputs)
        if not any(isinstance(value, Value) for value in inputs) and name != "cond":
            return self._computed(equation, inputs)
        if name == "scan":
            return self._scan(inputs, parameters)
        if name == "cond":
            return self._cond(inputs, parameters)
        if name == "optimization_barrier":
            return inputs
        if name == "split":
            return self._split(inputs[0], parameters)
        if name in ENTRYWISE or name in STRUCTURAL:
            return [_written(self, equation, inputs)]
        raise CapabilityError(
            f"The policy uses JAX's operation '{name}', for which export has no rule (penstock/export/_rules.py). "
            "Write that part of it with other operations, or export to StableHLO, which takes every operation."
        )

    def _computed(self, equation: Any, inputs: Sequence[Any]) -> list[Any]:
        """What follows from constants alone.

        By the operations of the program, in float64: JAX's own differ in their last bit between processors.
        """
        primitive, (out, *more) = equation.primitive, [variable.aval for variable in equation.outvars]
        floats = jnp.issubdtype(out.dtype, jnp.floating) and not more
        if floats and (primitive.name in ENTRYWISE or primitive.name in STRUCTURAL):
            scratch = Writer()
            constants = [np.asarray(value) for value in inputs]
            values = [Value(scratch.name(value), value.shape, value.shape, value.dtype) for value in constants]
            result = scratch.full(_written(scratch, equation, values))
            return [evaluated(scratch, result).astype(out.dtype)]
        results = primitive.bind(*inputs, **equation.params)
        return list(results) if primitive.multiple_results else [results]

    def _inner(self, program: Any, inputs: Sequence[Any]) -> list[Any]:
        if isinstance(program, ClosedJaxpr):
            return self.run(program.jaxpr, program.consts, inputs)
        return self.run(program, (), inputs)

    def _cond(self, inputs, parameters):
        """The branch that is known, or all of them and a choice."""
        index, *inputs = inputs
        branches = parameters["branches"]
        if index is _PLATFORM:
            platforms = parameters["branches_platforms"]
            return self._inner(
                branches[next(i for i, names in enumerate(platforms) if names is None or "cpu" in names)], inputs
            )
        if not isinstance(index, Value):
            return self._inner(branches[int(np.clip(int(index), 0, len(branches) - 1))], inputs)
        results = [self._inner(branch, inputs) for branch in branches]
        chosen = results[-1]
        for number in reversed(range(len(branches) - 1)):
            here = self.entrywise("less_equal", [index, np.int32(number)], (), bool)
            chosen = [self._where(here, a, b) for a, b in zip(results[number], chosen, strict=True)]
        return chosen

    def _where(self, condition, chosen, otherwise):
        if chosen is otherwise:
            return chosen
        shape = chosen.shape
        return self.entrywise("where", [condition, chosen, otherwise], shape, chosen.dtype)

    def _scan(self, inputs, parameters):
        """All steps, one after the other."""
        constants, carried = counts_of_scan(parameters)
        length, reverse = parameters["length"], parameters["reverse"]
        if length > MOST_STEPS:
            raise CapabilityError(
                f"The policy loops over {length} steps; export unrolls loops of up to {MOST_STEPS}. Use fewer steps, "
                "or export to StableHLO, which keeps loops."
            )
        fixed, carry = list(inputs[:constants]), list(inputs[constants : constants + carried])
        stacked: list[list[Any]] = []
        for step in reversed(range(length)) if reverse else range(length):
            now = [self._row(value, step) for value in inputs[constants + carried :]]
            results = self._inner(parameters["jaxpr"], [*fixed, *carry, *now])
            carry = results[:carried]
            stacked.append(results[carried:])
        if reverse:
            stacked.reverse()
        return [*carry, *(self._stack(list(rows)) for rows in zip(*stacked, strict=True))]

    def _row(self, value, index):
        if not isinstance(value, Value):
            return value[index]
        value = self.full(value)
        row = self.slice(value, [index, *[0] * (len(value.shape) - 1)], [index + 1, *value.shape[1:]])
        return self.reshape(row, value.shape[1:])

    def _stack(self, rows):
        if not any(isinstance(row, Value) for row in rows):
            return jnp.stack(rows)
        rows = [self.reshape(self.full(row), (1, *row.shape)) for row in rows]
        return self.concatenate(rows, 0)

    def _split(self, value, parameters):
        axis, results, start = parameters["axis"], [], 0
        value = self.full(value)
        for size in parameters["sizes"]:
            low, high = [0] * len(value.shape), list(value.shape)
            low[axis], high[axis] = start, start + size
            results.append(self.slice(value, low, high))
            start += size
        return results


def _written(writer: Writer, equation: Any, inputs: Sequence[Any]) -> Any:
    """The result of an operation that has a rule."""
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name in ENTRYWISE:
        return ENTRYWISE[name](writer, list(inputs), out, equation.params)
    return STRUCTURAL[name](writer, [writer.full(value) for value in inputs], out, equation.params)


_PLATFORM = object()
"""In the place of the platform's number: the branch for CPUs is taken, which is written with plain operations."""


def _tidied(program: Program) -> Program:
    """The program without what no output needs, its values and constants numbered as they appear."""
    needed, kept = set(program.outputs.values()), []
    for step in reversed(program.instructions):
        if step.result in needed:
            needed.update(step.arguments)
            kept.append(step)
    kept.reverse()
    names: dict[str, str] = {name: name for name in program.inputs}
    constants: dict[str, np.ndarray] = {}

    def known(name):
        if name not in names:
            names[name] = f"c{len(constants)}"
            constants[names[name]] = program.constants[name]
        return names[name]

    instructions = []
    for step in kept:
        arguments = tuple(map(known, step.arguments))
        names[step.result] = f"v{len(instructions)}"
        instructions.append(dataclasses.replace(step, arguments=arguments, result=names[step.result]))
    outputs = {name: known(value) for name, value in program.outputs.items()}
    return dataclasses.replace(program, constants=constants, instructions=tuple(instructions), outputs=outputs)
