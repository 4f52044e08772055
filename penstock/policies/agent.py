"""From observation to action: normaliser, encoder, policy and memory together."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array, Bool, Float, Int

from penstock._errors import require
from penstock._types import Actions, Key, PerEnvFlag
from penstock.networks import Encoder, Normalizer, Recurrence
from penstock.observation import Observation
from penstock.policies.deterministic_action import ZERO_NOISE, DeterministicAction
from penstock.policies.memory import Memory
from penstock.policies.planning import next_action, no_plan
from penstock.policies.policy import Draw, Policy

Hidden = Float[Array, "N M"] | None
"""What a recurrent cell remembers of N environments."""


class Actor(eqx.Module):
    """What the actor's optimiser trains: an encoder and a policy on its features.

    Attributes:
        encoder: of normalised observations.
        policy: on what comes out of the encoder, or of the recurrence behind it.
        recurrence: a cell with a memory; None for policies that see what is observed now.
    """

    encoder: Encoder
    policy: Policy
    recurrence: Recurrence | None = None

    @property
    def memory_size(self) -> int:
        """M, numbers that are remembered of an environment; 0 where there is no recurrence."""
        return 0 if self.recurrence is None else self.recurrence.memory_size

    def unrolled(
        self, observation: Observation, memory: Float[Array, "N M"], begins: Bool[Array, "N H"]
    ) -> Float[Array, "N H features"]:
        """What the policy saw in H control steps of N environments, for actors with a recurrence.

        Args:
            observation: ``(N, H, ...)``, normalised.
            memory: before the first step.
            begins: whether an episode begins at the step.
        """
        assert self.recurrence is not None
        return jax.vmap(self.recurrence.unroll)(memory, jax.vmap(jax.vmap(self.encoder))(observation), begins)[1]


class Agent(eqx.Module):
    """The one thing that acts: an actor with frozen observation statistics. Methods take batches of N raw observations.

    A recurrent agent also takes ``hidden``, what it remembers of each environment, ``(N, M)``; None stands for the
    beginning of an episode, at which that is zeros. Others have no use for it.

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
        rule = "must be 1 with a recurrence, which is to see every observation"
        require(self.chunk_length == 1 or self.actor.recurrence is None, "chunk_length", self.chunk_length, rule)

    def features(self, observation: Observation, hidden: Hidden = None) -> Float[Array, "N features"]:
        """What the policy sees: normalised and encoded observations, or what a recurrent cell makes of them."""
        return self.recall(hidden, observation)[1]

    def recall(
        self, hidden: Hidden, observation: Observation
    ) -> tuple[Float[Array, "N M"], Float[Array, "N features"]]:
        """What is remembered after an observation, and `features`."""
        encoded = jax.vmap(self.actor.encoder)(self.normalizer(observation))
        if hidden is None:
            hidden = jnp.zeros((encoded.shape[0], self.actor.memory_size), encoded.dtype)
        if self.actor.recurrence is None:
            return hidden, encoded
        return jax.vmap(self.actor.recurrence)(hidden, encoded)

    # ------------------------------------------------------------------ whole draws, (N, C * d)

    def noise(self, key: Key, count: int) -> Float[Array, "N *noise"]:
        """Independent noise for each of N draws."""
        return jax.vmap(self.actor.policy.noise)(jax.random.split(key, count))

    def sample(self, observation: Observation, key: Key, hidden: Hidden = None) -> Draw:
        """One reparameterised draw per environment."""
        return self.draw(self.features(observation, hidden), key)

    def sample_with_log_prob(
        self, observation: Observation, key: Key, hidden: Hidden = None
    ) -> tuple[Draw, Float[Array, "N"]]:
        """The same with the log-density of each draw. See `Policy.log_prob`."""
        features = self.features(observation, hidden)
        return jax.vmap(self.actor.policy.draw_with_log_prob)(features, self.noise(key, features.shape[0]))

    def mode(self, observation: Observation, hidden: Hidden = None) -> Draw:
        """The deterministic draw per environment, by the agent's rule."""
        return self.draw(self.features(observation, hidden), None)

    def draw(self, features: Float[Array, "N features"], key: Key | None) -> Draw:
        """One draw per environment from `features`; without a key the deterministic one."""
        policy = self.actor.policy
        if key is None:
            return jax.vmap(lambda features: self.deterministic(policy, features))(features)
        return jax.vmap(policy.draw)(features, self.noise(key, features.shape[0]))

    def acting_by(self, rule: DeterministicAction | None) -> "Agent":
        """The same agent with another rule for `mode`; None leaves it."""
        return self if rule is None else dataclasses.replace(self, deterministic=rule)

    # ------------------------------------------------------------------ acting, step by step

    def initial_memory(self, num_envs: int) -> Memory:
        """What the agent remembers before the first step."""
        plan = no_plan(num_envs, self.actor.policy.flat_size)
        return Memory(plan, jnp.zeros((num_envs, self.actor.memory_size)))

    def act(
        self,
        memory: Memory,
        step: Int[Array, ""],
        observation: Observation,
        key: jaxtyping.Key[Array, ""] | None,
        *,
        replan: bool = False,
    ) -> tuple[Memory, Actions, PerEnvFlag]:
        """The action of this step.

        After the world has moved on, the memory is to be told who was reset: `memory.Memory.after`.

        Args:
            memory: as `initial_memory` or the last `act` returned it.
            step: steps since the rollout began.
            observation: of N environments.
            key: key of this step's noise; None acts by `mode`.
            replan: draw anew at every step, in place of running chunks open loop.

        Returns:
            The memory, actions ``(N, d)`` in [-1, 1], and which environments decided anew.
        """
        recurrent = self.actor.recurrence is not None
        hidden, features = self.recall(memory.hidden, observation) if recurrent else (memory.hidden, None)

        def consult():  # whoever remembers nothing encodes only what it decides on
            return self.draw(self.features(observation) if features is None else features, key)

        plan, action, decision = next_action(memory.plan, step, self.chunk_length, consult, always=replan)
        return Memory(plan, hidden), action, decision

    # ------------------------------------------------------------------ what it is like

    def latent_std(
        self, observation: Observation, key: Key, draws: int = 32, hidden: Hidden = None
    ) -> Float[Array, "flat"]:
        """Standard deviation of each latent entry over fresh noise at a fixed state, root mean square over N states.

        A Gaussian's sigma; for a flow, what its steps make of the unit noise with which they start.

        Args:
            observation: N raw observations.
            key: key of the noise.
            draws: samples per state, at least 2.
            hidden: what is remembered there.
        """
        features = self.features(observation, hidden)
        keys = jax.random.split(key, (features.shape[0], draws))
        latent = jax.vmap(lambda f, ks: jax.vmap(lambda k: self.actor.policy.sample(f, k).latent)(ks))(features, keys)
        return jnp.sqrt(latent.var(axis=1, ddof=1).mean(axis=0))
