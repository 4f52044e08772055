"""From JAX to a program: every rule against JAX itself, through both of what runs programs."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from penstock._errors import CapabilityError
from penstock.export import onnx, reader
from penstock.export.files import _numpy_bytes
from penstock.export.program import OPERATIONS
from penstock.export.tracing import trace

RANDOM = np.random.default_rng(0)
VECTOR = RANDOM.standard_normal(6).astype(np.float32)
VECTORS = (
    VECTOR,
    np.array([-1.5, 0.0, 0.0, 2.0, 2.0, -0.25], np.float32),  # ties, and another branch
    np.array([-0.5, 1.0, 3.0, -0.5, 0.1, 0.2], np.float32),  # ends of ranges, and a third branch
    np.array([0.5, 4.0, -1.0, 1.0, -2.0, 0.75], np.float32),
)
MATRIX = RANDOM.standard_normal((6, 4)).astype(np.float32)
CUBE = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)


def looped(x):
    def body(carry, row):
        carry = jnp.tanh(carry + row)
        return carry, carry * 2.0

    end, rows = jax.lax.scan(body, x, jnp.arange(12.0, dtype=jnp.float32).reshape(2, 6))
    _, backward = jax.lax.scan(lambda carry, row: (carry + row.sum(), carry), 0.0, rows, reverse=True)
    return jnp.concatenate([end, rows.reshape(-1), backward])


def branched(x):
    cases = [lambda x: x, lambda x: 2.0 * x, jnp.abs]  # chosen by a number that may lie beyond them, on both sides
    chosen = jax.lax.switch(jnp.argmax(x).astype(jnp.int32) - 1, cases, x)
    sign = jax.lax.cond(x[0] > 0, lambda x: x + 1.0, lambda x: x - 1.0, chosen)
    return sign + jax.lax.switch(2, [jnp.sin, jnp.cos, jnp.negative], x)


FUNCTIONS = {
    "arithmetic": lambda x: -(x + 1.0) * (x - 2.0) / (jnp.abs(x) + 3.0) + x**2 + x**3 + (x + 5.0) ** -1 + jnp.square(x),
    "functions": lambda x: jnp.exp(x) + jnp.expm1(x) + jnp.log(x * x + 0.1) + jnp.log1p(jnp.abs(x)) + jnp.tanh(x),
    "more functions": lambda x: jnp.sin(x) + jnp.cos(x) + jnp.sqrt(x * x) + jax.lax.rsqrt(x * x + 0.1) + jnp.sign(x),
    "activations": lambda x: jax.nn.silu(x) + jax.nn.elu(x) + jax.nn.gelu(x) + jax.nn.softplus(x) + jax.nn.relu(x),
    "erf": lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.sigmoid(x) + jnp.arctanh(0.5 * jnp.tanh(x)),
    "rounding": lambda x: jnp.floor(x) + jnp.ceil(3.0 * x) + jnp.power(jnp.abs(x), 1.5),
    "ends": lambda x: jnp.clip(x, -0.5, 0.5) + jnp.maximum(x, 0.1) + jnp.minimum(x, 0.2),
    "choices": lambda x: jnp.where((x > 0) & (x <= 1) | ~(x < 2), x, -x) + jnp.where(jnp.isfinite(x), x, 0.0),
    "comparisons": lambda x: (x >= 0.0) * 1.0 + (x <= -0.5) * 8.0 + (x > 2.0) * 16.0 + (x < -1.5) * 32.0,
    "equality": lambda x: (x == x[0]) * 2.0 + (x != x[1]) * 4.0,
    "sums": lambda x: jnp.stack([x.sum(), x.max(), x.min(), x.mean(), jnp.any(x > 1) * 1.0, jnp.all(x > -9) * 1.0]),
    "positions": lambda x: jnp.stack([jnp.argmax(x), jnp.argmin(x)]).astype(jnp.float32),
    "order": lambda x: jnp.concatenate([jnp.sort(x), jnp.median(x)[None], x[::-1], x[jnp.asarray([3, 1, 1])]]),
    "pieces": lambda x: jnp.concatenate([x[1:5:2], jnp.split(x, 3)[1], x[-1:], jnp.stack([x, 2 * x], 1)[0]]),
    "products": lambda x: x @ MATRIX + MATRIX.T @ x * jnp.outer(x, x)[0, 2:] + jnp.dot(x, MATRIX),
    "batches": lambda x: jnp.einsum("i,bij,bjk->bik", x[:2], CUBE[:, :2], CUBE.transpose(0, 2, 1)),
    "contracted": lambda x: jnp.einsum("bij,kij->bk", x[:2, None, None] * CUBE, CUBE),
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (6, 3)) + jnp.broadcast_to(jnp.arange(3.0), (6, 3)),
    "broadcast alone": lambda x: jnp.broadcast_to(x[:2, None], (2, 3)).reshape(6)[::2],
    "mapped": lambda x: jax.vmap(lambda row: jnp.tanh(row @ MATRIX))(x[None] * jnp.arange(3.0)[:, None]),
    "loops": looped,
    "branches": branched,
    "again": jax.checkpoint(lambda x: jnp.tanh(x) * jax.lax.stop_gradient(x)),
    "constant": lambda x: jnp.arange(3.0),
    "unchanged": lambda x: x,
}  # fmt: skip


def by_numpy(program, **inputs):
    policy = reader.Policy(io.BytesIO(_numpy_bytes(program, {})))
    return policy.decide(**inputs)


def by_onnx(program, **inputs):
    session = onnxruntime.InferenceSession(onnx.onnx_bytes(program, {}), providers=["CPUExecutionProvider"])
    return session.run(["action"], {name: value[None] for name, value in inputs.items()})[0][0]


def program_of(function, *shape):
    inputs = {"observation": jax.ShapeDtypeStruct(shape or (6,), jnp.float32)}
    return trace(lambda observation: {"action": function(observation)}, inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("run", [by_numpy, by_onnx])
def test_a_program_computes_what_the_function_does(name, run):
    program = program_of(FUNCTIONS[name])
    for vector in VECTORS:
        expected = np.asarray(FUNCTIONS[name](vector))
        found = run(program, observation=vector)
        assert found.shape == expected.shape == program.output_shapes["action"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_every_operation_is_tried_and_known_to_both_runners():
    tried = {step.operation for function in FUNCTIONS.values() for step in program_of(function).instructions}
    assert tried == OPERATIONS
    assert set(onnx.NAMES) | set(onnx.RULES) == OPERATIONS
    assert all(name in reader.OPERATIONS or hasattr(np, name) for name in OPERATIONS)


def test_what_follows_from_constants_is_not_left_to_the_program():
    program = program_of(lambda x: x + jax.random.normal(jax.random.key(0), (6,)) @ jnp.linalg.qr(jnp.eye(6))[0])
    assert [step.operation for step in program.instructions] == ["add"]


def test_equal_constants_are_kept_once():
    program = program_of(lambda x: jax.lax.scan(lambda x, _: (MATRIX @ (MATRIX.T @ x), None), x, None, length=4)[0])
    assert len(program.constants) == 2
    assert len(program.instructions) == 8


def test_what_is_not_needed_is_left_out():
    program = program_of(lambda x: (jnp.tanh(x) + x, jnp.exp(x))[0])
    assert [step.operation for step in program.instructions] == ["tanh", "add"]


def test_an_operation_without_a_rule_is_refused_by_its_name():
    with pytest.raises(CapabilityError, match="operation 'cumsum', for which export has no rule"):
        program_of(jnp.cumsum)
    with pytest.raises(CapabilityError, match="operation 'while'"):
        program_of(lambda x: jax.lax.while_loop(lambda x: x.sum() < 10.0, lambda x: x + 1.0, x))
    with pytest.raises(CapabilityError, match="indexing by constants only"):
        program_of(lambda x: x[jnp.argmax(x)])
    with pytest.raises(CapabilityError, match="loops over 2000 steps; export unrolls loops of up to 1024"):
        program_of(lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x), None), x, None, length=2000)[0])


def test_a_listing_is_json_and_its_hash_sees_everything():
    program = program_of(lambda x: jnp.tanh(MATRIX.T @ x))
    assert json.loads(program.listing())["inputs"] == {"observation": {"shape": [6], "dtype": "float32"}}
    other = program_of(lambda x: jnp.tanh((MATRIX + 1e-6).T @ x))
    same = program_of(lambda x: jnp.tanh(MATRIX.T @ x))
    assert program.sha256() == same.sha256()
    assert len({program.sha256(), other.sha256(), program_of(lambda x: jnp.sin(MATRIX.T @ x)).sha256()}) == 3
