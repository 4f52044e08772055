"""Running normalisation of observation vectors."""

import dataclasses
import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Scalar
from penstock.observation import Observation

EPSILON = 1e-5
INITIAL_COUNT = 1e-4
COUNT_LIMIT = 1e6
"""Weight at which the past saturates: beyond it float32 counts lose single samples, and the mean becomes an
exponential average over the last million observations, which also follows a policy that changes."""


class Normalizer(eqx.Module):
    """Running mean and population variance of the vector part. Point clouds and pixels pass unchanged.

    Attributes:
        mean: ``(n,)``.
        variance: ``(n,)``.
        count: weight of the statistics so far.
        enabled: whether ``__call__`` normalises at all.
    """

    mean: Float[Array, "n"]
    variance: Float[Array, "n"]
    count: Scalar
    enabled: bool = eqx.field(static=True)

    @classmethod
    def create(cls, size: int, enabled: bool = True) -> "Normalizer":
        """Statistics of nothing: mean 0, variance 1."""
        return cls(jnp.zeros(size), jnp.ones(size), jnp.asarray(INITIAL_COUNT), enabled)

    def __call__(self, observation: Observation) -> Observation:
        """Returns the observation with vector ``(v - mean) / sqrt(variance + 1e-5)``, for any leading axes."""
        if not self.enabled:
            return observation
        vector = (observation.vector - self.mean) / jnp.sqrt(self.variance + EPSILON)
        return dataclasses.replace(observation, vector=vector)

    def merge(self, observation: Observation) -> "Normalizer":
        """Absorbs a batch of any leading axes (Chan et al. 1979, parallel variance)."""
        if not self.enabled:
            return self
        *leading, length = observation.vector.shape
        size = math.prod(leading)
        batch = observation.vector.reshape(size, length)
        batch_mean = batch.mean(0)
        batch_variance = batch.var(0)
        total = self.count + size
        delta = batch_mean - self.mean
        mean = self.mean + delta * (size / total)
        squares = self.variance * self.count + batch_variance * size + jnp.square(delta) * (self.count * size / total)
        return Normalizer(mean, squares / total, jnp.minimum(total, COUNT_LIMIT), self.enabled)
