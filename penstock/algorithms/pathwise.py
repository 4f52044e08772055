"""What all pathwise algorithms share: one actor step through a differentiable window, then a critic.

APG, SHAC, SHAC2, SAPO and RFO each state in their own file what they add: which critic, which bonus in the return,
which regularizers beside it. The iteration itself is `PathwiseLearner.update`:

    1. roll out H steps of N environments under the agent, from the detached end of the last window
    2. gradient of  -mean(window return) / H  through policy, physics and bootstrap value; plus regularizers
    3. one guarded, clipped optimiser step on the actor
    4. TD(lambda) targets, and several passes of regression on the critic
    5. merge the window into the observation statistics
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from penstock._errors import CapabilityError, ConfigurationError, require
from penstock._types import Key, PerEnv, Scalar
from penstock.algorithms.keys import purpose_key
from penstock.algorithms.learner import Clock, DifferentiableWindow, Evidence, Learner, RunKeys, Updated, counts, means
from penstock.algorithms.pathwise_config import PathwiseConfig
from penstock.algorithms.window import Window, phase_of, rollout_window
from penstock.critics import Critic, fit_values, segment_return, td_lambda_targets
from penstock.networks import Normalizer
from penstock.networks.optimization import Optimizer, guarded_step, make_optimizer
from penstock.policies import Actor, Agent, Need, make_actor
from penstock.worlds import FunctionalWorld, Observation, World
from penstock.worlds.world import WorldState


class Learned(eqx.Module):
    """What a pathwise algorithm learns.

    Attributes:
        actor: encoder and policy.
        actor_optimizer: optimiser state.
        critic: value ensemble, or None (APG).
        target_critic: slowly following copy, or None.
        critic_optimizer: optimiser state.
        normalizer: observation statistics.
        memory: what one algorithm alone remembers (SAPO's temperature, RFO's previous window).
    """

    actor: Actor
    actor_optimizer: PyTree
    critic: Critic | None
    target_critic: Critic | None
    critic_optimizer: PyTree
    normalizer: Normalizer
    memory: Any


class Now(NamedTuple):
    """An update under way, as hooks see it.

    Attributes:
        learned: before the update.
        window: what was rolled out.
        key: base key.
        clock: how far the run is.
        metrics: means of this update; hooks may add to them.
        events: counts of this update, likewise.
    """

    learned: Learned
    window: Window
    key: Key
    clock: Clock
    metrics: dict[str, Scalar]
    events: dict[str, Scalar]

    def key_for(self, purpose: str) -> Key:
        """A fresh key."""
        return purpose_key(self.key, self.clock.update, purpose)


ConfigT = TypeVar("ConfigT", bound=PathwiseConfig)


class PathwiseLearner(Learner[ConfigT]):
    """One pathwise algorithm, bound to a world and a plan.

    Subclasses fill the class constants and override the hooks `bonus`, `regularizer_gradients`, `initial_memory` and
    `remember`; none overrides `update`.
    """

    needs: ClassVar[tuple[Need, ...]] = (Need.ACTION_GRADIENT,)
    num_critics: ClassVar[int]
    """Size of the value ensemble; 0 for none."""
    has_bonus: ClassVar[bool] = False
    """Whether there is a `bonus`."""

    def __init__(self, config: ConfigT, world: World, planned_updates: int):
        if not (isinstance(world, FunctionalWorld) and world.differentiable):
            raise CapabilityError(
                f"{self.name} differentiates through the world, and '{world.name}' is not differentiable. Choose a "
                "soft/ or classic/ world, or an algorithm that needs no gradients of the world."
            )
        steps = world.num_envs * config.window
        if config.critic is not None and steps % config.critic.critic_minibatches:
            raise ConfigurationError(
                f"critic_minibatches = {config.critic.critic_minibatches}: must divide num_envs * window = {steps}."
            )
        require(
            config.window <= world.episode_length,
            "window",
            config.window,
            f"must not exceed the episode length {world.episode_length} of '{world.name}'",
        )
        self.config = config
        # The window loss averages over environments and steps, so a limit on one environment's own return scales.
        self.world = world.with_gradient_limit(config.gradient_limit / steps)
        self.planned_updates = planned_updates
        self.actor_optimizer = self._optimizer(config.optimizer.actor_learning_rate, planned_updates)
        critic = config.critic
        if critic is not None:
            fits = planned_updates * critic.critic_passes * critic.critic_minibatches
            self.critic_optimizer = self._optimizer(critic.critic_learning_rate, fits)
        abstract = jax.eval_shape(self._make_actor, jax.random.key(0))
        self.require_policy(abstract.policy)

    # ------------------------------------------------------------------ what an algorithm adds

    @property
    def target_mixing(self) -> float | None:
        """Weight of the old target critic in its update; None for no target network."""
        return None

    def bonus(self, memory: Any, agent: Agent, observation: Observation, key: Key) -> tuple[PerEnv, PerEnv]:
        """Bonus added to the reward, and a number to record, per environment; where `has_bonus`."""
        raise NotImplementedError

    def regularizer_gradients(self, now: Now) -> dict[str, Actor]:
        """Gradients of further losses on the actor, by name."""
        del now
        return {}

    def initial_memory(self) -> Any:
        """What the algorithm remembers before the first window."""
        return None

    def remember(self, now: Now) -> Any:
        """What the algorithm remembers after a window."""
        return now.learned.memory

    # ------------------------------------------------------------------ the iteration

    @property
    def data(self) -> DifferentiableWindow:
        """See `learner.Learner.data`."""
        return DifferentiableWindow(self.config.window, stagger=True)

    def run_keys(self, key: Key) -> RunKeys:
        """See `learner.Learner.run_keys`; one key for the actor, one for the critic."""
        keys = jax.random.split(key, 4)
        return RunKeys(keys[:2], keys[2], keys[3])

    def _optimizer(self, learning_rate: float, steps: int) -> Optimizer:
        settings = self.config.optimizer
        return make_optimizer(
            learning_rate,
            settings.final_learning_rate,
            steps,
            clip=settings.gradient_clip,
            betas=settings.adam_betas,
            weight_decay=settings.weight_decay,
        )

    def _make_actor(self, key: Key) -> Actor:
        config, spec = self.config, self.world.observation_spec
        flat_size = config.chunk_length * self.world.action_size
        key_encoder, key_policy = jax.random.split(key)
        return make_actor(key_encoder, key_policy, config.policy, spec, flat_size, config.trunk(config.actor_hidden))

    def opening_notices(self) -> list[str]:
        """What a user should know before the first step, in sentences."""
        policy = jax.eval_shape(self._make_actor, jax.random.key(0)).policy
        if policy.noise_rank == policy.flat_size:
            return []
        velocity = getattr(self.config.policy, "velocity", None)
        subject = f"velocity = '{velocity}'" if velocity else f"policy = '{self.config.policy.policy}'"
        return [
            f"{subject}: can shape its noise in {policy.noise_rank} of {policy.flat_size} latent directions, "
            "the width of its narrowest layer; in the others the standard deviation stays 1. Choose --velocity affine, "
            "or a wider --actor-hidden."
        ]

    def measure(self, learned: Learned, observation: Observation, key: Key) -> dict[str, Scalar]:
        """See `learner.Learner.measure`: the policy's noise where the environments are now."""
        std = self.agent(learned).latent_std(observation, key)
        return {
            "policy/latent_std": std.mean(),
            "policy/latent_std_min": std.min(),
            "policy/latent_std_max": std.max(),
            "policy/noise_rank": jnp.asarray(float(learned.actor.policy.noise_rank)),
        }

    def init(self, key: Any) -> Learned:
        """See `learner.Learner.init`."""
        key_actor, key_critic = key
        actor = self._make_actor(key_actor)
        critic = None
        if self.config.critic is not None:
            trunk = self.config.trunk(self.config.critic.critic_hidden)
            phases = self.config.chunk_length
            critic = Critic(key_critic, self.world.observation_spec, trunk, self.num_critics, phases)
        return Learned(
            actor=actor,
            actor_optimizer=self.actor_optimizer.init(eqx.filter(actor, eqx.is_array)),
            critic=critic,
            target_critic=None if self.target_mixing is None else critic,
            critic_optimizer=None if critic is None else self.critic_optimizer.init(eqx.filter(critic, eqx.is_array)),
            normalizer=Normalizer.create(self.world.observation_spec.vector, self.config.normalize_observations),
            memory=self.initial_memory(),
        )

    def agent(self, learned: Learned) -> Agent:
        """See `learner.Learner.agent`."""
        return self._agent(learned.actor, learned.normalizer)

    def _agent(self, actor: Actor, normalizer: Normalizer) -> Agent:
        return Agent(actor, normalizer, self.config.deterministic(), self.config.chunk_length)

    def return_gradient(
        self, learned: Learned, world: WorldState, key: Key, clock: Clock
    ) -> tuple[Actor, Window, WorldState, dict[str, Scalar]]:
        """Rolls out a window and differentiates ``-mean(window return) / H`` with respect to the actor.

        Returns:
            Gradient, window, the world's state after it, and means.
        """
        config, arena = self.config, self.world
        assert isinstance(arena, FunctionalWorld)  # see __init__
        bootstrap = learned.critic if learned.target_critic is None else learned.target_critic

        def value(observation, phase):
            assert bootstrap is not None
            return bootstrap.values(observation, learned.normalizer, phase).mean(axis=0)

        def bonus(agent, observation, key):
            return self.bonus(learned.memory, agent, observation, key)

        def loss(actor, probe):
            window, world_state = rollout_window(
                self._agent(actor, learned.normalizer),
                arena,
                world,
                config.window,
                purpose_key(key, clock.update, "policy noise"),
                value=None if bootstrap is None else value,
                bonus=bonus if self.has_bonus else None,
                key_bonus=purpose_key(key, clock.update, "bonus") if self.has_bonus else None,
                probe=probe,
            )
            returns = jax.vmap(segment_return, in_axes=(1, 1, 1, 1, None))(
                window.reward + window.bonus, window.terminated, window.truncated, window.next_value, config.discount
            )
            return -returns.mean() / config.window, (window, world_state, returns)

        probe = jnp.zeros((config.window, 2, self.world.num_envs))
        (gradient, events), (window, world_state, returns) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            learned.actor, probe
        )
        window = dataclasses.replace(jax.lax.stop_gradient(window), gradient_events=events)
        return (
            gradient,
            window,
            world_state,
            {
                "train/window_return": returns.mean(),
                "train/reward": window.reward.mean(),
                "policy/saturation": window.saturation.mean(),
                **{f"train/{name}": value.mean() for name, value in window.diagnostics.items()},
            },
        )

    def update(self, learned: Learned, data: WorldState, key: Key, clock: Clock) -> Updated:
        """One iteration: N * H environment steps, one actor step, one critic fit."""
        gradient, window, world, metrics = self.return_gradient(learned, data, key, clock)
        cut, lost = window.gradient_events.sum(axis=(0, 2))
        events = {"world/diverged": window.diverged.sum(), "world/gradients_cut": cut, "world/gradients_lost": lost}
        now = Now(learned, window, key, clock, metrics, events)
        evidence = Evidence(window.diagnostics, gradient, window.gradient_events)
        metrics["actor/return_gradient_norm"] = optax.tree.norm(gradient)
        for name, part in self.regularizer_gradients(now).items():
            metrics[f"actor/{name}_gradient_norm"] = optax.tree.norm(part)
            gradient = jax.tree.map(jnp.add, gradient, part)
        actor, actor_optimizer, health = guarded_step(
            self.actor_optimizer, gradient, learned.actor_optimizer, learned.actor
        )
        metrics["actor/gradient_norm"] = health.norm
        events["actor/skipped"] = health.skipped
        critic, target_critic, critic_optimizer = self._fit_critic(now)
        after = Learned(
            actor=actor,
            actor_optimizer=actor_optimizer,
            critic=critic,
            target_critic=target_critic,
            critic_optimizer=critic_optimizer,
            memory=self.remember(now),
            normalizer=learned.normalizer.merge(window.observation),
        )
        return Updated(after, means(metrics) | counts(events), world, evidence)

    def _fit_critic(self, now: Now) -> tuple[Critic | None, Critic | None, PyTree]:
        """Critic, target and optimiser after the fit."""
        config, fit, learned, window = self.config, self.config.critic, now.learned, now.window
        if learned.critic is None or fit is None:
            return None, None, None
        judge = learned.critic if learned.target_critic is None else learned.target_critic

        def value(observation, phase):
            return judge.values(observation, learned.normalizer, phase).min(axis=0)

        def flat(leaf):
            return jax.lax.collapse(leaf, 0, 2)

        phase = jnp.repeat(phase_of(jnp.arange(config.window + 1), config.chunk_length), self.world.num_envs)
        next_value = value(jax.tree.map(flat, window.final_observation), phase[self.world.num_envs :])
        next_value = next_value.reshape(window.reward.shape)
        next_decision = jnp.concatenate([window.decision[1:], jnp.ones_like(window.decision[:1])])
        targets = jax.vmap(td_lambda_targets, in_axes=(1, 1, 1, 1, None, None, 1), out_axes=1)(
            window.reward + window.bonus,
            window.terminated,
            window.truncated,
            next_value,
            config.discount,
            fit.td_lambda,
            next_decision,
        )

        critic, critic_optimizer, fit_metrics = fit_values(
            learned.critic,
            self.critic_optimizer,
            learned.critic_optimizer,
            learned.normalizer,
            jax.tree.map(flat, window.observation),
            phase[: -self.world.num_envs],
            flat(targets),
            passes=fit.critic_passes,
            minibatches=fit.critic_minibatches,
        )
        now.events["critic/skipped"] = fit_metrics.pop("critic/skipped")
        now.metrics.update(fit_metrics)
        now.metrics["critic/target_mean"] = targets.mean()
        target_critic = None
        if learned.target_critic is not None:
            mixing = self.target_mixing
            assert mixing is not None
            target_critic = jax.tree.map(
                lambda old, new: mixing * old + (1.0 - mixing) * new, learned.target_critic, critic
            )
        return critic, target_critic, critic_optimizer
