"""State-value networks."""

import equinox as eqx
import jax
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks import MLP, Encoder, Normalizer, Trunk, make_encoder
from penstock.observation import Observation, ObservationSpec


class Critic(eqx.Module):
    """An ensemble of E independently initialised value networks over one shared encoder.

    Actors bootstrap with the mean over the ensemble, targets use the minimum (SAPO, arXiv 2412.12089).
    """

    encoder: Encoder
    networks: MLP
    size: int = eqx.field(static=True)

    def __init__(self, key: Key, spec: ObservationSpec, trunk: Trunk, size: int):
        key_encoder, key_networks = jax.random.split(key)
        self.encoder = make_encoder(key_encoder, spec, trunk)
        features = self.encoder.size
        self.networks = eqx.filter_vmap(lambda k: MLP(k, features, 1, trunk))(jax.random.split(key_networks, size))
        self.size = size

    def values(self, observation: Observation, normalizer: Normalizer) -> Float[Array, "E N"]:
        """Value estimates of N raw observations by each member."""
        features = jax.vmap(self.encoder)(normalizer(observation))

        def member(network):
            return jax.vmap(network)(features)[:, 0]

        return eqx.filter_vmap(member)(self.networks)
