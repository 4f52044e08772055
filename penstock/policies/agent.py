"""From observation to action: normaliser, encoder and policy together."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks import Encoder, Normalizer
from penstock.observation import Observation
from penstock.policies.deterministic_action import ZERO_NOISE, DeterministicAction
from penstock.policies.policy import ActionSample, Policy


class Actor(eqx.Module):
    """What the actor's optimiser trains: an encoder and a policy on its features."""

    encoder: Encoder
    policy: Policy


class Agent(eqx.Module):
    """An actor with frozen observation statistics. Methods take batches of N raw observations.

    `sample` and `mode` return latents and actions of whole chunks, ``(N, C * d)``.

    Attributes:
        actor: encoder and policy.
        normalizer: observation statistics.
        deterministic: what `mode` does.
    """

    actor: Actor
    normalizer: Normalizer
    deterministic: DeterministicAction = eqx.field(static=True, default=ZERO_NOISE)

    def features(self, observation: Observation) -> Float[Array, "N features"]:
        """Normalised and encoded observations."""
        return jax.vmap(self.actor.encoder)(self.normalizer(observation))

    def sample(self, observation: Observation, key: Key) -> ActionSample:
        """One reparameterised chunk per environment."""
        features = self.features(observation)
        keys = jax.random.split(key, features.shape[0])
        return jax.vmap(self.actor.policy.sample)(features, keys)

    def latent_std(self, observation: Observation, key: Key, draws: int = 32) -> Float[Array, "flat"]:
        """Standard deviation of each latent entry over fresh noise at a fixed state, root mean square over N states.

        A Gaussian's sigma; for a flow, what its steps make of the unit noise with which they start.

        Args:
            observation: N raw observations.
            key: key of the noise.
            draws: samples per state, at least 2.
        """
        features = self.features(observation)
        keys = jax.random.split(key, (features.shape[0], draws))
        latent = jax.vmap(lambda f, ks: jax.vmap(lambda k: self.actor.policy.sample(f, k).latent)(ks))(features, keys)
        return jnp.sqrt(latent.var(axis=1, ddof=1).mean(axis=0))

    def mode(self, observation: Observation) -> ActionSample:
        """The deterministic chunk per environment, by the agent's rule."""
        return jax.vmap(lambda features: self.deterministic(self.actor.policy, features))(self.features(observation))

    def acting_by(self, rule: DeterministicAction | None) -> "Agent":
        """The same agent with another rule for `mode`; None leaves it."""
        return self if rule is None else dataclasses.replace(self, deterministic=rule)
