"""From observation to action: normaliser, encoder, policy and memory together."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array, Float, Int

from penstock._types import Actions, Key, PerEnvFlag
from penstock.networks import Encoder, Normalizer
from penstock.observation import Observation
from penstock.policies.deterministic_action import ZERO_NOISE, DeterministicAction
from penstock.policies.planning import Plan, next_action, no_plan
from penstock.policies.policy import Draw, Policy


class Actor(eqx.Module):
    """What the actor's optimiser trains: an encoder and a policy on its features."""

    encoder: Encoder
    policy: Policy


class Agent(eqx.Module):
    """The one thing that acts: an actor with frozen observation statistics. Methods take batches of N raw observations.

    Attributes:
        actor: encoder and policy.
        normalizer: observation statistics.
        deterministic: what `mode` does.
        chunk_length: C: a draw of the policy is read as C actions, the earliest first, which run open loop.
    """

    actor: Actor
    normalizer: Normalizer
    deterministic: DeterministicAction = eqx.field(static=True, default=ZERO_NOISE)
    chunk_length: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        self.deterministic.require(self.actor.policy)

    def features(self, observation: Observation) -> Float[Array, "N features"]:
        """Normalised and encoded observations."""
        return jax.vmap(self.actor.encoder)(self.normalizer(observation))

    # ------------------------------------------------------------------ whole draws, (N, C * d)

    def noise(self, key: Key, count: int) -> Float[Array, "N *noise"]:
        """Independent noise for each of N draws."""
        return jax.vmap(self.actor.policy.noise)(jax.random.split(key, count))

    def sample(self, observation: Observation, key: Key) -> Draw:
        """One reparameterised draw per environment."""
        features = self.features(observation)
        return jax.vmap(self.actor.policy.draw)(features, self.noise(key, features.shape[0]))

    def sample_with_log_prob(self, observation: Observation, key: Key) -> tuple[Draw, Float[Array, "N"]]:
        """The same with the log-density of each draw. See `Policy.log_prob`."""
        features = self.features(observation)
        return jax.vmap(self.actor.policy.draw_with_log_prob)(features, self.noise(key, features.shape[0]))

    def mode(self, observation: Observation) -> Draw:
        """The deterministic draw per environment, by the agent's rule."""
        return jax.vmap(lambda features: self.deterministic(self.actor.policy, features))(self.features(observation))

    def acting_by(self, rule: DeterministicAction | None) -> "Agent":
        """The same agent with another rule for `mode`; None leaves it."""
        return self if rule is None else dataclasses.replace(self, deterministic=rule)

    # ------------------------------------------------------------------ acting, step by step

    def initial_memory(self, num_envs: int) -> Plan:
        """What the agent remembers before the first step."""
        return no_plan(num_envs, self.actor.policy.flat_size)

    def act(
        self,
        memory: Plan,
        step: Int[Array, ""],
        observation: Observation,
        key: jaxtyping.Key[Array, ""] | None,
        *,
        replan: bool = False,
    ) -> tuple[Plan, Actions, PerEnvFlag]:
        """The action of this step.

        After the world has moved on, the memory is to be told who was reset: `Plan.after`.

        Args:
            memory: as `initial_memory` or the last `act` returned it.
            step: steps since the rollout began.
            observation: of N environments.
            key: key of this step's noise; None acts by `mode`.
            replan: draw anew at every step, in place of running chunks open loop.

        Returns:
            The memory, actions ``(N, d)`` in [-1, 1], and which environments decided anew.
        """

        def consult():
            return self.mode(observation) if key is None else self.sample(observation, key)

        return next_action(memory, step, self.chunk_length, consult, always=replan)

    # ------------------------------------------------------------------ what it is like

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
