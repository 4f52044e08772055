"""From a `Program` to ONNX.

Written with the operations of opset 17, which the runtimes on robots have (ONNX Runtime from 1.12 on, TensorRT 8.6),
through ``onnx.helper`` alone: a program is a list of array operations already, and converters from JAX to ONNX ask for
opsets of 2025 and bring a second neural network library along. Inputs and output have a leading axis of 1, as robot
stacks feed them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock._extras import extra
from penstock.export._seal import sealed
from penstock.export.program import Instruction, Program

OPSET = 17
IR_VERSION = 8

NAMES = {
    "negative": "Neg", "absolute": "Abs", "sign": "Sign", "exp": "Exp", "log": "Log", "tanh": "Tanh",
    "arctanh": "Atanh", "sin": "Sin", "cos": "Cos", "sqrt": "Sqrt", "floor": "Floor", "ceil": "Ceil", "erf": "Erf",
    "logistic": "Sigmoid", "logical_not": "Not", "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div",
    "maximum": "Max", "minimum": "Min", "power": "Pow", "less": "Less", "less_equal": "LessOrEqual",
    "greater": "Greater", "greater_equal": "GreaterOrEqual", "equal": "Equal", "logical_and": "And",
    "logical_or": "Or", "where": "Where", "matmul": "MatMul",
}  # fmt: skip
"""Operations that are one of ONNX's, without parameters."""


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def integers(self, name: str, values: Any) -> str:
        return self.constant(name, np.asarray(values, np.int64))


def _expm1(graph: _Graph, step: Instruction) -> None:
    grown = graph.node("Exp", list(step.arguments), f"{step.result}.exp")
    graph.node("Sub", [grown, graph.constant(f"{step.result}.one", np.float32(1.0))], step.result)


def _log1p(graph: _Graph, step: Instruction) -> None:
    above = graph.node(
        "Add", [*step.arguments, graph.constant(f"{step.result}.one", np.float32(1.0))], f"{step.result}.sum"
    )
    graph.node("Log", [above], step.result)


def _not_equal(graph: _Graph, step: Instruction) -> None:
    graph.node("Not", [graph.node("Equal", list(step.arguments), f"{step.result}.equal")], step.result)


def _isfinite(graph: _Graph, step: Instruction) -> None:
    nan = graph.node("IsNaN", list(step.arguments), f"{step.result}.nan")
    infinite = graph.node("IsInf", list(step.arguments), f"{step.result}.inf")
    graph.node("Not", [graph.node("Or", [nan, infinite], f"{step.result}.either")], step.result)


def _shaped(kind: str) -> Callable[[_Graph, Instruction], None]:
    def rule(graph: _Graph, step: Instruction) -> None:
        shape = graph.integers(f"{step.result}.shape", step.parameters["shape"])
        graph.node(kind, [*step.arguments, shape], step.result)

    return rule


def _transpose(graph: _Graph, step: Instruction) -> None:
    graph.node("Transpose", list(step.arguments), step.result, perm=step.parameters["axes"])


def _concatenate(graph: _Graph, step: Instruction) -> None:
    graph.node("Concat", list(step.arguments), step.result, axis=step.parameters["axis"])


def _slice(graph: _Graph, step: Instruction) -> None:
    start, stop, stride = (step.parameters[name] for name in ("start", "stop", "step"))
    parts = {"start": start, "stop": stop, "axes": range(len(start)), "step": stride}
    bounds = [graph.integers(f"{step.result}.{name}", list(values)) for name, values in parts.items()]
    graph.node("Slice", [*step.arguments, *bounds], step.result)


def _take(graph: _Graph, step: Instruction) -> None:
    graph.node("Gather", list(step.arguments), step.result, axis=step.parameters["axis"])


def _sum(graph: _Graph, step: Instruction) -> None:
    axes = graph.integers(f"{step.result}.axes", step.parameters["axis"])
    graph.node("ReduceSum", [*step.arguments, axes], step.result, keepdims=0)


def _reduction(kind: str) -> Callable[[_Graph, Instruction], None]:
    def rule(graph: _Graph, step: Instruction) -> None:
        graph.node(kind, list(step.arguments), step.result, axes=step.parameters["axis"], keepdims=0)

    return rule


def _position(kind: str) -> Callable[[_Graph, Instruction], None]:
    def rule(graph: _Graph, step: Instruction) -> None:
        graph.node(kind, list(step.arguments), step.result, axis=step.parameters["axis"], keepdims=0)

    return rule


def _sort(graph: _Graph, step: Instruction) -> None:
    """The smallest of all entries, all of them: ONNX has no other way to sort."""
    axis = step.parameters["axis"]
    (value,) = step.arguments
    shape = graph.node("Shape", [value], f"{step.result}.shape")
    where = graph.integers(f"{step.result}.axis", [axis])
    count = graph.node("Gather", [shape, where], f"{step.result}.count", axis=0)
    outputs = [step.result, f"{step.result}.positions"]
    node = graph.onnx.helper.make_node(
        "TopK", [value, count], outputs, name=step.result, axis=axis, largest=0, sorted=1
    )
    graph.nodes.append(node)


def _astype(graph: _Graph, step: Instruction) -> None:
    kind = graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(step.parameters["dtype"]))
    graph.node("Cast", list(step.arguments), step.result, to=kind)


RULES: dict[str, Callable[[_Graph, Instruction], None]] = {
    "expm1": _expm1,
    "log1p": _log1p,
    "not_equal": _not_equal,
    "isfinite": _isfinite,
    "reshape": _shaped("Reshape"),
    "broadcast_to": _shaped("Expand"),
    "transpose": _transpose,
    "concatenate": _concatenate,
    "slice": _slice,
    "take": _take,
    "sum": _sum,
    "max": _reduction("ReduceMax"),
    "min": _reduction("ReduceMin"),
    "argmax": _position("ArgMax"),
    "argmin": _position("ArgMin"),
    "sort": _sort,
    "astype": _astype,
}
"""Operations that take several of ONNX's, or parameters."""


def onnx_bytes(program: Program, metadata: Mapping[str, Any]) -> bytes:
    """The content of an ``.onnx`` file. Every entry of the metadata is one of the model's, as JSON.

    Raises:
        MissingExtraError: ONNX is not installed.
    """
    onnx = _onnx()
    helper, graph = onnx.helper, _Graph(onnx)

    def described(name, shape, dtype):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1, *shape])

    for name, value in program.constants.items():
        graph.constant(name, value)
    inside = {}
    for name, (shape, _) in program.inputs.items():
        flat = graph.integers(f"{name}.shape", shape)
        inside[name] = graph.node("Reshape", [name, flat], f"{name}.one")
    for step in program.instructions:
        arguments = tuple(inside.get(name, name) for name in step.arguments)
        step = Instruction(step.operation, arguments, step.result, step.parameters)
        if step.operation in NAMES:
            graph.node(NAMES[step.operation], list(arguments), step.result)
        else:
            RULES[step.operation](graph, step)
    outputs = []
    for name, value in program.outputs.items():
        shape = program.output_shapes[name]
        outputs.append(described(name, shape, np.float32))
        graph.node("Reshape", [inside.get(value, value), graph.integers(f"{name}.shape", (1, *shape))], name)
    inputs = [described(name, shape, dtype) for name, (shape, dtype) in program.inputs.items()]
    made = helper.make_graph(graph.nodes, "policy", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="penstock")
    model.ir_version = IR_VERSION
    told = sealed(metadata, graph_sha256(onnx, model))
    helper.set_model_props(model, {name: json.dumps(value) for name, value in told.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def graph_sha256(onnx: Any, model: Any) -> str:
    """A hash of all that a model computes: inputs, outputs, nodes with their attributes, and constants."""
    graph, digest = model.graph, hashlib.sha256()

    def add(*parts):
        digest.update(repr(parts).encode())

    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        add(value.name, kind.elem_type, [size.dim_value for size in kind.shape.dim])
    for node in graph.node:
        attributes = sorted((one.name, onnx.helper.get_attribute_value(one)) for one in node.attribute)
        add(node.op_type, list(node.input), list(node.output), attributes)
    for constant in graph.initializer:
        value = onnx.numpy_helper.to_array(constant)
        add(constant.name, value.dtype.str, value.shape)
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def content_of(path: Path) -> tuple[dict[str, Any], str]:
    """The metadata of an ``.onnx`` file, and the hash of all that it computes.

    Raises:
        MissingExtraError: ONNX is not installed.
    """
    onnx = _onnx()
    model = onnx.load_model_from_string(path.read_bytes())
    metadata = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    return metadata, graph_sha256(onnx, model)


def _onnx() -> Any:
    for part in ("checker", "helper", "numpy_helper"):
        extra(f"onnx.{part}", "onnx")
    return extra("onnx", "onnx")


def session(path: Path) -> Any:
    """An ONNX Runtime session of one thread.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
