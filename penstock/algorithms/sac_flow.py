"""SAC Flow (arXiv 2509.25756): SAC whose policy is a K-step flow with noise at every step.

The density in SAC's losses is that of the whole path x_0 .. x_K, which is exact for any velocity and any K:

    y  = r + gamma (1 - terminated) [ min_i Q_i(s', a') - alpha log p(x_0 .. x_K, a' | s') ]
    pi:  minimise alpha log p(x_0 .. x_K, a | s) - min_i Q_i(s, a)
    H  = d (c (K + 1) + K log target_step_std),  c = 0.5 log(2 pi e)       so that K may change

The rollout is a residual recurrent network, whose gradients explode with a plain MLP velocity; gated (Flow-G) and
decoded (Flow-T) velocities cure it. Everything else is sac.py, by default on CrossQ's critics (``critic = crossq``).
The released code differs from the paper in noise, density and temperature; this file follows the paper.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
from jaxtyping import Array, Float

from penstock._errors import ConfigurationError, require
from penstock._types import Key
from penstock.algorithms import sac
from penstock.networks import Trunk
from penstock.policies import Actor, Agent, Capability, NoisyFlow, Policy
from penstock.policies.noisy_flow import path_entropy_target
from penstock.policies.velocity_fields import VelocityName, make_velocity
from penstock.worlds import Observation, World


@dataclasses.dataclass(frozen=True)
class Config(sac.Config):
    """Settings of SAC Flow."""

    velocity: VelocityName = "gated"
    """Velocity field: mlp, gated (Flow-G) or decoded (Flow-T, whose width is the first of ``actor_hidden``)."""
    flow_steps: int = 4
    """K, steps from noise to action."""
    drift: bool = True
    """Drift correction that keeps the marginals of an ideal flow under the added noise."""
    learn_noise: bool = True
    """Learn the noise scale as a function of the state."""
    target_step_std: float = 0.1697
    """Standard deviation per step at which the target entropy is met; also where the noise starts. 0.1697 gives H = 0
    at K = 4."""
    critic: Literal["target", "crossq"] = "crossq"
    """Critic base: target (slowly following copies) or crossq (BatchRenorm, no target network)."""
    critic_hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the critics' hidden layers."""
    critic_learning_rate: float = 1e-3
    """Learning rate of the critics."""
    temperature_learning_rate: float = 1e-3
    """Learning rate of log alpha."""
    initial_temperature: float = 0.2
    """alpha at the start."""
    adam_betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two moments."""
    policy_delay: int = 3
    """Gradient steps of the critics per gradient step of the actor."""
    batch_size: int = 512
    """Samples per gradient step."""
    actor_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers of velocity and noise networks. Paper: gated 128, decoded 64, mlp 256-256."""

    def __post_init__(self):
        super().__post_init__()
        require(self.flow_steps >= 1, "flow_steps", self.flow_steps, "must be at least 1")
        value = self.target_step_std
        require(0.0 < value < math.inf, "target_step_std", value, "must be finite and greater than 0")

    def actor_trunk(self) -> Trunk:
        """Shape of the velocity and noise networks."""
        return Trunk(self.actor_hidden, "silu" if self.velocity == "gated" else self.activation, layer_norm=False)


class Learner(sac.Learner):
    """SAC with a noise-augmented flow: see the module's equations."""

    name: ClassVar[str] = "sac-flow"
    needs: ClassVar[tuple[Capability, ...]] = (
        Capability.SAMPLE,
        Capability.MODE,
        Capability.SAMPLE_WITH_PATH_LOG_PROB,
    )
    policy_hint: ClassVar[str] = "Use sac for policies with an exact density of the action."

    def __init__(self, config: Config, world: World, planned_updates: int):
        d = world.action_size
        attainable = path_entropy_target(d, config.flow_steps, config.target_step_std)
        target = attainable if config.target_entropy is None else config.target_entropy
        if config.learn_temperature and not config.learn_noise and target >= attainable:
            raise ConfigurationError(
                f"target_entropy = {target:.4g}: with constant noise (learn_noise = False) the path's entropy stays "
                f"below {attainable:.4g} nats, whatever is learned, so the temperature would grow without bound. Pass "
                "--learn-noise, --no-learn-temperature, or a smaller --target-entropy."
            )
        super().__init__(config, world, planned_updates)

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def make_policy(self, key: Key, feature_size: int) -> Policy:
        """The policy: a flow with noise at every step."""
        config, d = self.config, self.world.action_size
        key_field, key_noise = jax.random.split(key)
        trunk = config.actor_trunk()
        field = make_velocity(key_field, config.velocity, feature_size, d, trunk)
        return NoisyFlow(
            key_noise,
            field,
            feature_size,
            d,
            trunk,
            flow_steps=config.flow_steps,
            drift=config.drift,
            step_std=config.target_step_std,
            learn_noise=config.learn_noise,
        )

    @property
    def entropy_target(self) -> float:
        """H, in nats: of the path before squashing, at ``target_step_std``."""
        config = self.config
        if config.target_entropy is not None:
            return config.target_entropy
        return path_entropy_target(self.world.action_size, config.flow_steps, config.target_step_std)

    def sample(self, actor: Actor, observation: Observation, key: Key) -> tuple[Float[Array, "B d"], Float[Array, "B"]]:
        """Reparameterised actions and the log-densities of their paths."""
        features = Agent(actor, self.normalizer()).features(observation)
        keys = jax.random.split(key, features.shape[0])
        sample, log_prob = jax.vmap(actor.policy.sample_with_path_log_prob)(features, keys)
        return sample.action, log_prob
