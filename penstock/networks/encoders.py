"""From an observation to a feature vector, for one environment."""

import abc
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks.mlp import HiddenLayer, Trunk
from penstock.networks.pixel_encoder import PixelNetwork
from penstock.observation import Observation, ObservationSpec


class Encoder(eqx.Module):
    """Turns one (unbatched) observation into features."""

    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, observation: Observation) -> Float[Array, "features"]:
        """Returns the features of one observation."""


class VectorEncoder(Encoder):
    """The vector part, unchanged."""

    size: int = eqx.field(static=True)

    def __call__(self, observation: Observation) -> Float[Array, "features"]:
        """See `Encoder`."""
        return observation.vector


class PointCloudEncoder(Encoder):
    """Permutation-invariant encoder of a point cloud, beside a layer for the vector part.

    Points go through a shared MLP 3-64-128-256, are averaged, and projected to 64; the vector goes through one layer
    of 128; the two are concatenated to 192 features. Layers are made as ``trunk`` says (widths apart). Gradients reach
    the points, hence the simulator (SAPO, arXiv 2412.12089, after DP3).
    """

    point_layers: tuple[HiddenLayer, ...]
    pooled_layer: HiddenLayer
    vector_layer: HiddenLayer
    size: int = eqx.field(static=True)

    def __init__(self, key: Key, spec: ObservationSpec, trunk: Trunk):
        keys = jax.random.split(key, 5)
        widths = (3, 64, 128, 256)
        self.point_layers = tuple(HiddenLayer(keys[i], widths[i], widths[i + 1], trunk) for i in range(3))
        self.pooled_layer = HiddenLayer(keys[3], 256, 64, trunk)
        self.vector_layer = HiddenLayer(keys[4], spec.vector, 128, trunk)
        self.size = 192

    def __call__(self, observation: Observation) -> Float[Array, "features"]:
        """See `Encoder`."""
        points = observation.points
        assert points is not None
        for layer in self.point_layers:
            points = jax.vmap(layer)(points)
        pooled = self.pooled_layer(points.mean(axis=0))
        return jnp.concatenate([pooled, self.vector_layer(observation.vector)])


class PixelEncoder(Encoder):
    """Features of the picture (`PixelNetwork`), followed by those of the rest of the observation.

    The rest is the vector itself, of length 0 where there is nothing but pixels.
    """

    network: PixelNetwork
    rest: Encoder
    size: int = eqx.field(static=True)

    def __init__(self, key: Key, pixels: tuple[int, int, int], rest: Encoder):
        self.network = PixelNetwork(key, pixels)
        self.rest = rest
        self.size = self.network.size + rest.size

    def __call__(self, observation: Observation) -> Float[Array, "features"]:
        """See `Encoder`."""
        assert observation.pixels is not None
        return jnp.concatenate([self.network(observation.pixels), self.rest(observation)])


def make_encoder(key: Key, spec: ObservationSpec, trunk: Trunk) -> Encoder:
    """The encoder that fits an observation.

    A `PixelEncoder` where there are pixels, a `PointCloudEncoder` where there are points, else the vector itself.

    Raises:
        ConfigurationError: the picture has a size that the pixel encoder is not made for.
    """
    if spec.pixels is not None:
        key_pixels, key_rest = jax.random.split(key)
        rest = make_encoder(key_rest, dataclasses.replace(spec, pixels=None), trunk)
        return PixelEncoder(key_pixels, spec.pixels, rest)
    if spec.points:
        return PointCloudEncoder(key, spec, trunk)
    return VectorEncoder(spec.vector)
