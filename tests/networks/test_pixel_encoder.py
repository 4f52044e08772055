"""The convolutional encoder against a convolution by hand, its gradient, its sizes and its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.networks import Normalizer, PixelEncoder, Trunk, VectorEncoder, make_encoder
from penstock.networks.pixel_encoder import Convolution, PixelNetwork, by_convolution, by_patches
from penstock.worlds import Observation, ObservationSpec


def picture(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape), jnp.uint8)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_by_hand(stride):
    layer = Convolution(jax.random.key(0), 2, 3, stride)
    layer = jax.tree.map(lambda leaf: leaf + 0.1, layer)  # a bias that is not zero
    x = np.random.default_rng(0).normal(size=(8, 7, 2)).astype(np.float32)
    weight = np.asarray(layer.weight)
    rows, columns = range(0, 8 - 2, stride), range(0, 7 - 2, stride)
    by_hand = np.array(
        [[np.einsum("ijc,ijco->o", x[i : i + 3, j : j + 3], weight) + 0.1 for j in columns] for i in rows]
    )
    np.testing.assert_allclose(layer(jnp.asarray(x)), np.maximum(by_hand, 0.0), rtol=1e-5, atol=1e-5)
    for linear in (by_patches, by_convolution):
        np.testing.assert_allclose(linear(jnp.asarray(x), layer.weight, stride) + 0.1, by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "left"), [((32, 32, 1), (9, 9)), ((84, 84, 9), (35, 35)), ((33, 128, 3), (10, 57))])
def test_sizes(size, left):
    network = jax.eval_shape(lambda key: PixelNetwork(key, size), jax.random.key(0))
    assert network.linear.weight.shape == (50, 32 * left[0] * left[1])
    features = jax.eval_shape(lambda net, seen: net(seen), network, jax.ShapeDtypeStruct(size, jnp.uint8))
    assert features.shape == (50,) and features.dtype == jnp.float32


@pytest.mark.parametrize("size", [(31, 64, 3), (84, 200, 3)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ConfigurationError, match=r"pixels = \(.*\): height and width must lie between 32 and 128"):
        make_encoder(jax.random.key(0), ObservationSpec(0, pixels=size), Trunk())


def test_features_of_the_picture_stand_before_the_vector():
    spec = ObservationSpec(3, pixels=(32, 34, 2))
    encoder = jax.jit(lambda key: make_encoder(key, spec, Trunk()))(jax.random.key(0))
    assert isinstance(encoder, PixelEncoder) and isinstance(encoder.rest, VectorEncoder) and encoder.size == 53
    encode = jax.jit(lambda seen: encoder(seen))
    one, other = (encode(Observation(jnp.arange(3.0), pixels=picture(32, 34, 2, seed=s))) for s in (0, 1))
    np.testing.assert_array_equal(one[50:], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(one[50:], other[50:])
    assert np.abs(one[:50] - other[:50]).max() > 0.1 and np.abs(one[:50]).max() <= 1.0


def test_pixels_alone_and_pixels_beside_points():
    for spec, size in ((ObservationSpec(0, pixels=(32, 32, 1)), 50), (ObservationSpec(2, 5, (32, 32, 1)), 242)):
        encoder = jax.eval_shape(lambda key, spec=spec: make_encoder(key, spec, Trunk()), jax.random.key(0))
        points = jnp.ones((5, 3)) if spec.points else None
        seen = Observation(jnp.zeros(spec.vector), points, picture(32, 32, 1))
        assert encoder.size == size
        assert jax.eval_shape(lambda encoder, seen: encoder(seen), encoder, seen).shape == (size,)


def test_gradient_agrees_with_finite_differences():
    network = jax.jit(lambda key: PixelNetwork(key, (32, 32, 1)))(jax.random.key(0))
    with jax.enable_x64(True):
        network = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), network)
        pixels = jnp.asarray(np.asarray(picture(32, 32, 1)))
        leaves, structure = jax.tree.flatten(network)
        towards = jnp.asarray(np.random.default_rng(1).normal(size=50))

        @jax.jit
        def output(leaves):
            return jax.tree.unflatten(structure, leaves)(pixels) @ towards

        gradient = jax.jit(jax.grad(output))(leaves)
        for index, leaf in enumerate(leaves):
            direction = jnp.asarray(np.random.default_rng(2 + index).normal(size=leaf.shape))
            h = 1e-6 / jnp.linalg.norm(direction)

            def moved(step, index=index, direction=direction):
                return output([v + step * direction if i == index else v for i, v in enumerate(leaves)])

            numeric = (moved(h) - moved(-h)) / (2 * h)
            np.testing.assert_allclose(jnp.sum(gradient[index] * direction), numeric, rtol=1e-5, atol=1e-8)
            assert numeric != 0.0  # every layer matters


def test_the_normaliser_leaves_pixels_alone():
    seen = Observation(jnp.arange(6.0).reshape(3, 2), pixels=picture(3, 32, 32, 1))
    normalizer = Normalizer.create(2).merge(seen)
    normalised = normalizer(seen)
    assert normalised.pixels is seen.pixels and normalised.pixels.dtype == jnp.uint8
    np.testing.assert_allclose(normalised.vector.mean(0), 0.0, atol=1e-4)


def test_the_normaliser_of_an_empty_vector_counts_and_changes_nothing():
    seen = Observation(jnp.zeros((4, 3, 0)), pixels=picture(4, 3, 32, 32, 1))
    normalizer = Normalizer.create(0).merge(seen)
    assert normalizer(seen).vector.shape == (4, 3, 0) and float(normalizer.count) == pytest.approx(12, abs=1e-3)
