"""State-value networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from penstock._types import Key
from penstock.networks import MLP, Encoder, Normalizer, Trunk, make_encoder
from penstock.observation import Observation, ObservationSpec


class Critic(eqx.Module):
    """An ensemble of E independently initialised value networks over one shared encoder.

    Actors bootstrap with the mean over the ensemble, targets use the minimum (SAPO, arXiv 2412.12089).

    Under a policy that plans C actions at a time, what a state is worth depends on how far the current stretch of C
    steps has gone: on how long the future is committed. That phase is then a further input, one-hot.

    Attributes:
        encoder: shared by all members.
        networks: the members, stacked along a first axis of length E.
        size: E.
        phases: C; 1 where the policy is consulted at every step, and nothing is added to the input.
    """

    encoder: Encoder
    networks: MLP
    size: int = eqx.field(static=True)
    phases: int = eqx.field(static=True)

    def __init__(self, key: Key, spec: ObservationSpec, trunk: Trunk, size: int, phases: int = 1):
        key_encoder, key_networks = jax.random.split(key)
        self.encoder = make_encoder(key_encoder, spec.for_critics(), trunk)
        inputs = self.encoder.size + (phases if phases > 1 else 0)
        self.networks = eqx.filter_vmap(lambda k: MLP(k, inputs, 1, trunk))(jax.random.split(key_networks, size))
        self.size = size
        self.phases = phases

    def values(
        self, observation: Observation, normalizer: Normalizer, phase: Int[Array, "*N"] | int = 0
    ) -> Float[Array, "E N"]:
        """Value estimates by each member.

        Args:
            observation: N raw observations.
            normalizer: frozen observation statistics.
            phase: steps since the current stretch of C began, in [0, C); one for all or ``(N,)``.
        """
        return self.normalized_values(normalizer(observation), phase)

    def normalized_values(self, observation: Observation, phase: Int[Array, "*N"] | int = 0) -> Float[Array, "E N"]:
        """The same for observations that are normalised already."""
        features = jax.vmap(self.encoder)(observation.for_critics())
        if self.phases > 1:
            one_hot = jax.nn.one_hot(phase, self.phases, dtype=features.dtype)
            one_hot = jnp.broadcast_to(one_hot, (features.shape[0], self.phases))
            features = jnp.concatenate([features, one_hot], axis=1)

        def member(network):
            return jax.vmap(network)(features)[:, 0]

        return eqx.filter_vmap(member)(self.networks)
