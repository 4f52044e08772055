"""Networks against NumPy, and the point-cloud encoder's symmetry."""

import functools
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from penstock import _processor
from penstock._errors import ConfigurationError
from penstock.networks import ACTIVATIONS, MLP, PointCloudEncoder, Trunk, VectorEncoder, activations, make_encoder, mlp
from penstock.networks.mlp import LayerNorm, Linear
from penstock.worlds import Observation, ObservationSpec

FORMULAS = {
    "silu": lambda h: h / (1.0 + np.exp(-h)),
    "elu": lambda h: np.where(h > 0, h, np.expm1(h)),
    "relu": lambda h: np.maximum(h, 0.0),
    "tanh": np.tanh,
    "gelu": lambda h: 0.5 * h * (1.0 + scipy.special.erf(h / np.sqrt(2.0))),
    "mish": lambda h: h * np.tanh(np.log1p(np.exp(h))),
    "identity": lambda h: h,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_norm", [True, False])
def test_mlp_is_linear_norm_activation(activation, layer_norm):
    network = MLP(jax.random.key(0), 3, 2, Trunk((5, 4), activation, layer_norm, gain=1.3))
    x = np.array([0.5, -1.0, 2.0])
    h = x
    for layer in network.layers:
        h = layer.linear.weight @ h + layer.linear.bias
        if layer_norm:
            h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
        h = FORMULAS[activation](h)
    expected = network.output.weight @ h + network.output.bias
    np.testing.assert_allclose(network(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "mish"])
def test_activations_and_their_gradients_are_jax_s_at_every_size(name):
    own = getattr(activations, name)
    library = {"gelu": functools.partial(jax.nn.gelu, approximate=False), "mish": jax.nn.mish}[name]
    x = np.concatenate([np.linspace(-30.0, 30.0, 2_001), [-1e30, -800.0, 0.0, 19.999, 20.001, 1e30]])
    with jax.enable_x64(True):
        expected = np.asarray(library(jnp.asarray(x)))
        np.testing.assert_allclose(own(jnp.asarray(x)), expected, rtol=1e-13, atol=2e-15)
        slopes = [jax.jit(jax.vmap(jax.grad(f)))(jnp.asarray(x[:-1])) for f in (own, library)]
        np.testing.assert_allclose(*slopes, rtol=1e-12, atol=2e-15)
    single = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(own(single), expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(jax.jit(jax.vmap(jax.grad(own)))(single)).all()


def test_layer_norm_s_derivatives_are_those_of_its_formula_in_both_modes_and_twice():
    with jax.enable_x64(True):
        x, direction = jax.random.normal(jax.random.key(0), (2, 6))
        norm = LayerNorm(6)
        norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, tuple(jax.random.normal(jax.random.key(1), (2, 6))))

        def formula(x):
            return (x - x.mean()) / jnp.sqrt(x.var() + norm.eps) * norm.weight + norm.bias

        for first, second in zip(jax.jvp(norm, (x,), (direction,)), jax.jvp(formula, (x,), (direction,)), strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-12)
        for derivative, bounds in ((jax.jacrev, (1e-11, 1e-13)), (jax.hessian, (1e-10, 1e-12))):
            ours, theirs = (jax.jit(derivative(form))(x) for form in (norm, formula))
            np.testing.assert_allclose(ours, theirs, *bounds)


def test_weights_start_orthogonal_with_the_gain_and_biases_at_zero():
    network = MLP(jax.random.key(0), 4, 2, Trunk((6, 3), gain=2.0**0.5), output_gain=0.01)
    tall, wide = (np.asarray(layer.linear.weight) for layer in network.layers)
    np.testing.assert_allclose(tall.T @ tall, 2.0 * np.eye(4), atol=1e-5)
    np.testing.assert_allclose(wide @ wide.T, 2.0 * np.eye(3), atol=1e-5)
    output = np.asarray(network.output.weight)
    np.testing.assert_allclose(output @ output.T, 1e-4 * np.eye(2), atol=1e-9)
    for linear in (network.layers[0].linear, network.layers[1].linear, network.output):
        np.testing.assert_array_equal(linear.bias, 0.0)


def test_unknown_activation_is_refused():
    with pytest.raises(ConfigurationError, match=r"activation = 'sliu': unknown\. Did you mean 'silu'"):
        Trunk(activation="sliu")


def test_vector_encoder_is_chosen_without_points():
    encoder = make_encoder(jax.random.key(0), ObservationSpec(3), Trunk())
    assert isinstance(encoder, VectorEncoder) and encoder.size == 3
    np.testing.assert_array_equal(encoder(Observation(jnp.arange(3.0))), [0.0, 1.0, 2.0])


def test_point_cloud_encoder_ignores_the_order_and_passes_gradients_to_points():
    encoder = make_encoder(jax.random.key(0), ObservationSpec(2, points=6), Trunk())
    assert isinstance(encoder, PointCloudEncoder) and encoder.size == 192
    points = jax.random.normal(jax.random.key(1), (6, 3))
    vector = jnp.array([0.3, -0.4])

    @jax.jit
    def features_and_gradient(points):
        def scalar(points):
            features = encoder(Observation(vector, points))
            return jnp.sum(jnp.square(features)), features

        (_, features), gradient = jax.value_and_grad(scalar, has_aux=True)(points)
        return features, gradient

    features, gradient = features_and_gradient(points)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    permuted, permuted_gradient = features_and_gradient(points[order])
    np.testing.assert_allclose(permuted, features, atol=1e-5)
    np.testing.assert_allclose(permuted_gradient, gradient[order], atol=1e-4)
    assert features.shape == (192,)
    assert (np.abs(gradient).max(axis=1) > 1e-5).all()  # every point matters
    moved, _ = features_and_gradient(points.at[2].add(0.5))
    assert np.abs(moved - features).max() > 1e-3
    np.testing.assert_array_equal(moved[64:], features[64:])  # the vector's part does not see the points


def test_one_model_traces_to_one_program_on_every_machine():
    """Unless the process was told to suit its processor, layers do not look at it."""
    wide = eqx.nn.Linear(1024, 1024, key=jax.random.key(0))
    layer = Linear(wide.weight)
    amd, intel = "vendor_id : AuthenticAMD\nflags : fma avx2", "vendor_id : GenuineIntel\nflags : avx512f"
    assert _processor.rows_compete(amd, "cpu") and not _processor.rows_compete(amd, "gpu")
    assert not _processor.rows_compete(intel, "cpu") and not _processor.rows_compete(f"{amd} avx512f", "cpu")
    before, programs = _processor.padded_rows(), []
    try:
        for chosen in (False, True):
            _processor.suit(pad_rows=chosen)
            programs.append(str(jax.make_jaxpr(layer)(jnp.ones(1024))))
    finally:
        _processor.suit(pad_rows=before)
    assert "pad" not in programs[0] and "pad" in programs[1]
    script = "from penstock import _processor; import penstock.networks; print(_processor.padded_rows())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "False"


@pytest.mark.parametrize(
    "inputs, outputs, padded", [(3, 7, False), (7, 3, False), (1024, 1024, False), (1024, 1024, True)]
)
def test_layers_equal_equinox_s_own_forms_forward_and_backward(inputs, outputs, padded, monkeypatch):
    monkeypatch.setattr(mlp, "padded_rows", lambda: padded)
    keys = jax.random.split(jax.random.key(0), 4)
    x = 30.0 + 5.0 * jax.random.normal(keys[0], (5, inputs))
    weight, bias = jax.random.normal(keys[1], (outputs, inputs)), jax.random.normal(keys[2], (outputs,))
    linear = eqx.tree_at(lambda layer: layer.bias, Linear(weight), bias)
    norm = LayerNorm(outputs)
    norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, tuple(jax.random.normal(k, (outputs,)) for k in keys[2:]))

    def loss(layers, x, apply_linear, apply_norm):
        return jnp.sum(jnp.sin(jax.vmap(lambda v: apply_norm(layers[1], apply_linear(layers[0], v)))(x)))

    slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=(2, 3))
    own = slopes((linear, norm), x, Linear.__call__, LayerNorm.__call__)
    expected = slopes((linear, norm), x, eqx.nn.Linear.__call__, eqx.nn.LayerNorm.__call__)
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
