"""A policy as a straight list of array operations: what every exported file is made of.

An instruction applies one operation to values, all of them known by name: inputs, constants, or results of earlier
instructions. There is no control flow left, no randomness and nothing of JAX; shapes are fixed. The operations are
NumPy's, by NumPy's names, with its broadcasting (`OPERATIONS`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

OPERATIONS = frozenset(
    (
        *("negative", "absolute", "sign", "exp", "expm1", "log", "log1p", "tanh", "arctanh", "sin", "cos", "sqrt"),
        *(
            "floor",
            "ceil",
            "erf",
            "logistic",
            "isfinite",
            "add",
            "subtract",
            "multiply",
            "divide",
            "maximum",
            "minimum",
        ),
        *("power", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "logical_and"),
        *(
            "logical_or",
            "logical_not",
            "where",
            "matmul",
            "transpose",
            "reshape",
            "broadcast_to",
            "concatenate",
            "slice",
            "take",
        ),
        *("sum", "max", "min", "argmax", "argmin", "sort", "astype"),
    )
)
"""All operations. Not NumPy's own are erf, logistic (``1 / (1 + exp(-x))``) and slice (``x[start:stop:step, ...]``).

Parameters: axes of transpose; shape of reshape and broadcast_to; axis of concatenate, argmax, argmin and sort, and a
list of them of sum, max and min; start, stop and step of slice (lists); axis of take, whose indices are constant; dtype
of astype.
"""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
        operation: one of `OPERATIONS`.
        arguments: names of values.
        result: the name of what it gives.
        parameters: beside the arguments, as JSON has them.
    """

    operation: str
    arguments: tuple[str, ...]
    result: str
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of arrays.

    Attributes:
        inputs: shape and dtype of every input, by name, in order.
        constants: every constant by its name.
        instructions: in the order of execution.
        outputs: the value that each output is, by the output's name.
        output_shapes: shape of each output, by name.
    """

    inputs: dict[str, tuple[tuple[int, ...], str]]
    constants: dict[str, np.ndarray]
    instructions: tuple[Instruction, ...]
    outputs: dict[str, str]
    output_shapes: dict[str, tuple[int, ...]]

    def listing(self) -> str:
        """The program without its constants, as JSON."""
        return json.dumps(
            {
                "inputs": {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in self.inputs.items()},
                "instructions": [
                    [step.operation, list(step.arguments), step.result, step.parameters] for step in self.instructions
                ],
                "outputs": self.outputs,
            }
        )

    def sha256(self) -> str:
        """See `program_sha256`."""
        return program_sha256(self.listing(), self.constants)


def program_sha256(listing: str, constants: Mapping[str, np.ndarray]) -> str:
    """A hash of all that a program computes: its listing, and names, types, shapes and bytes of its constants."""
    digest = hashlib.sha256(listing.encode())
    for name in sorted(constants):
        value = constants[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
