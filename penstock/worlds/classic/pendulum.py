"""Torque-limited pendulum swing-up."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require, require_positive
from penstock._types import Key
from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Ball, Scene, Segment
from penstock.worlds.task import Outcome, SingleTask


class PendulumState(eqx.Module):
    """Attributes: ``angle`` in rad (0 is upright, counter-clockwise positive), ``velocity`` in rad/s."""

    angle: Float[Array, ""]
    velocity: Float[Array, ""]


class Pendulum(SingleTask):
    """A uniform rod on a hinge whose motor is too weak to lift it in one go.

    Equation of motion of a rod of mass m and length l about its end, theta = 0 upright, torque tau = 2 a N m:

        theta'' = 3 g / (2 l) sin(theta) + 3 / (m l^2) tau

    integrated by semi-implicit Euler at 0.05 s (m = 1 kg, l = 1 m, g = 10 m/s^2), as in Gymnasium's Pendulum-v1.
    Two things are smooth here that are not there:

    * the reward uses ``2 (1 - cos theta)``, which equals theta^2 near upright and has no kink at theta = pi:
      ``-(2 (1 - cos theta) + 0.1 theta'^2 + 0.001 tau^2)``, of the state after the step;
    * a speed above 8 rad/s is not clipped; half of the excess is braked away per step, so that a gradient remains.

    Observation: ``(cos theta, sin theta, theta')``. Reset: theta uniform on the circle, theta' uniform in [-1, 1].

    Source: G. Brockman et al., "OpenAI Gym" (2016); equation of motion of the physical pendulum.
    """

    action_size: int = eqx.field(static=True, default=1, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(3), init=False)
    episode_length: int = eqx.field(static=True, default=200)
    control_timestep: float = eqx.field(static=True, default=0.05)
    gravity: float = 10.0
    mass: float = 1.0
    length: float = 1.0
    torque_limit: float = 2.0
    speed_limit: float = 8.0

    recorded = ("gravity", "mass", "length", "torque_limit", "speed_limit")

    def __check_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require_positive(self, "control_timestep", "mass", "length", "torque_limit", "speed_limit")
        require_positive(self, "gravity", zero=True)

    def initial(self, key: Key) -> PendulumState:
        """See `SingleTask.initial`."""
        key_angle, key_velocity = jax.random.split(key)
        return PendulumState(
            jax.random.uniform(key_angle, minval=-math.pi, maxval=math.pi),
            jax.random.uniform(key_velocity, minval=-1.0, maxval=1.0),
        )

    def advance(self, state: PendulumState, action: Float[Array, "1"]) -> tuple[PendulumState, Outcome]:
        """See `SingleTask.advance`."""
        torque = self.torque_limit * action[0]
        acceleration = (
            1.5 * self.gravity / self.length * jnp.sin(state.angle) + 3.0 / (self.mass * self.length**2) * torque
        )
        velocity = state.velocity + self.control_timestep * acceleration
        excess = velocity - jnp.clip(velocity, -self.speed_limit, self.speed_limit)
        velocity = velocity - 0.5 * excess
        angle = state.angle + self.control_timestep * velocity
        height = jnp.cos(angle)
        reward = -(2.0 * (1.0 - height) + 0.1 * velocity**2 + 0.001 * torque**2)
        upright = (height > 0.95) & (jnp.abs(velocity) < 1.0)
        diagnostics = {"height": height, "speed": jnp.abs(velocity), "upright": upright.astype(height.dtype)}
        return PendulumState(angle, velocity), Outcome(reward, jnp.zeros((), bool), diagnostics)

    def observe(self, state: PendulumState) -> Observation:
        """See `SingleTask.observe`."""
        return Observation(jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.velocity]))

    def energy(self, state: PendulumState) -> Float[Array, ""]:
        """Kinetic plus potential energy in J, zero for hanging at rest. Constant without torque, as dt goes to 0."""
        inertia = self.mass * self.length**2 / 3.0
        return 0.5 * inertia * state.velocity**2 + 0.5 * self.mass * self.gravity * self.length * (
            1.0 + jnp.cos(state.angle)
        )

    def scene(self, state: PendulumState) -> Scene:
        """See `SingleTask.scene`."""
        angle = float(state.angle)
        tip = self.length * np.array([-math.sin(angle), math.cos(angle), 0.0])
        origin = np.zeros(3)
        rod = Segment(np.stack([origin, tip]), width=0.12)
        return Scene([rod, Ball(origin, 0.08, "#30343b"), Ball(tip, 0.1)], origin, 1.3, ground=False, planar=True)
