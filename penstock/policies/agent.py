"""From observation to action: normaliser, encoder and policy together."""

import equinox as eqx
import jax
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks import Encoder, Normalizer
from penstock.observation import Observation
from penstock.policies.policy import ActionSample, Policy


class Actor(eqx.Module):
    """What the actor's optimiser trains: an encoder and a policy on its features."""

    encoder: Encoder
    policy: Policy


class Agent(eqx.Module):
    """An actor with frozen observation statistics. Methods take batches of N raw observations.

    `sample` and `mode` return latents and actions of whole chunks, ``(N, C * d)``.
    """

    actor: Actor
    normalizer: Normalizer

    def features(self, observation: Observation) -> Float[Array, "N features"]:
        """Normalised and encoded observations."""
        return jax.vmap(self.actor.encoder)(self.normalizer(observation))

    def sample(self, observation: Observation, key: Key) -> ActionSample:
        """One reparameterised chunk per environment."""
        features = self.features(observation)
        keys = jax.random.split(key, features.shape[0])
        return jax.vmap(self.actor.policy.sample)(features, keys)

    def mode(self, observation: Observation) -> ActionSample:
        """The deterministic chunk (zero base noise) per environment."""
        return jax.vmap(self.actor.policy.mode)(self.features(observation))
