"""Deterministic policy, TD3's."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks import MLP, Trunk
from penstock.policies.policy import ActionSample, Capability, Policy


class Deterministic(Policy):
    """``a = tanh(mu(s))``; noise is ignored. Exploration noise is the algorithm's matter."""

    network: MLP
    action_size: int = eqx.field(static=True)

    def __init__(self, key: Key, feature_size: int, action_size: int, trunk: Trunk, output_gain: float = 0.01):
        self.network = MLP(key, feature_size, action_size, trunk, output_gain)
        self.action_size = action_size

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Policy.capabilities`."""
        return frozenset({Capability.SAMPLE, Capability.MODE})

    def transport(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> ActionSample:
        """See `Policy.transport`."""
        del noise
        latent = self.network(features)
        return ActionSample(jnp.tanh(latent), latent)
