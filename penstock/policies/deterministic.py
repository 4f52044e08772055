"""Deterministic policy, TD3's."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks import MLP, Trunk
from penstock.policies.policy import Draw, Policy


class Deterministic(Policy):
    """``a = tanh(mu(s))``; noise is ignored. Exploration noise is the algorithm's matter."""

    network: MLP
    flat_size: int = eqx.field(static=True)

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01):
        self.network = MLP(key, feature_size, flat_size, trunk, output_gain)
        self.flat_size = flat_size

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> Draw:
        """See `Policy.draw`."""
        del noise
        latent = self.network(features)
        return Draw(jnp.tanh(latent), latent)
