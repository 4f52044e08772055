"""State-value networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from penstock._types import Key
from penstock.networks import MLP, Encoder, Normalizer, Recurrence, Trunk, make_encoder
from penstock.networks.recurrence import RecurrenceMaker
from penstock.observation import Observation, ObservationSpec


class Critic(eqx.Module):
    """An ensemble of E independently initialised value networks over one shared encoder.

    Actors bootstrap with the mean over the ensemble, targets use the minimum (SAPO, arXiv 2412.12089).

    Under a policy that plans C actions at a time, what a state is worth depends on how far the current stretch of C
    steps has gone: on how long the future is committed. That phase is then a further input, one-hot.

    It may have a memory of its own: what a state is worth follows from what was observed before, where that is not
    all in the observation. Then `unrolled` stands in the place of `values`.

    Attributes:
        encoder: shared by all members.
        networks: the members, stacked along a first axis of length E.
        size: E.
        phases: C; 1 where the policy is consulted at every step, and nothing is added to the input.
        recurrence: a cell behind the encoder, shared by all members; None for none.
    """

    encoder: Encoder
    networks: MLP
    size: int = eqx.field(static=True)
    phases: int = eqx.field(static=True)
    recurrence: Recurrence | None

    def __init__(
        self,
        key: Key,
        spec: ObservationSpec,
        trunk: Trunk,
        size: int,
        phases: int = 1,
        recurrent: RecurrenceMaker | None = None,
    ):
        key_encoder, key_networks = jax.random.split(key)
        self.encoder = make_encoder(key_encoder, spec.for_critics(), trunk)
        self.recurrence = None
        if recurrent is not None:
            self.recurrence = recurrent(jax.random.fold_in(key_encoder, 1), self.encoder.size)
        features = self.encoder.size if self.recurrence is None else self.recurrence.size
        inputs = features + (phases if phases > 1 else 0)
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
        return self._of(features)

    def recall(self, memory: Float[Array, "N M"], observation: Observation) -> Float[Array, "N M"]:
        """What a critic with a recurrence remembers after N normalised observations."""
        assert self.recurrence is not None
        return jax.vmap(self.recurrence)(memory, jax.vmap(self.encoder)(observation.for_critics()))[0]

    def unrolled(
        self, observation: Observation, memory: Float[Array, "N M"], begins: Bool[Array, "N H"]
    ) -> tuple[Float[Array, "N H M"], Float[Array, "E N H"]]:
        """Memories after, and values at, H control steps of N environments, for critics with a recurrence.

        Args:
            observation: ``(N, H, ...)``, normalised.
            memory: before the first step.
            begins: whether an episode begins at the step.
        """
        assert self.recurrence is not None
        encoded = jax.vmap(jax.vmap(self.encoder))(observation.for_critics())
        memories, features = jax.vmap(self.recurrence.unroll)(memory, encoded, begins)
        return memories, self._of_sequences(features)

    def values_after(self, memories: Float[Array, "N H M"], observation: Observation) -> Float[Array, "E N H"]:
        """Values at one more observation behind each of the memories that `unrolled` gives."""
        assert self.recurrence is not None
        encoded = jax.vmap(jax.vmap(self.encoder))(observation.for_critics())
        return self._of_sequences(jax.vmap(jax.vmap(self.recurrence))(memories, encoded)[1])

    def _of_sequences(self, features: Float[Array, "N H features"]) -> Float[Array, "E N H"]:
        return self._of(jax.lax.collapse(features, 0, 2)).reshape(self.size, *features.shape[:2])

    def _of(self, features: Float[Array, "N features"]) -> Float[Array, "E N"]:
        def member(network):
            return jax.vmap(network)(features)[:, 0]

        return eqx.filter_vmap(member)(self.networks)
