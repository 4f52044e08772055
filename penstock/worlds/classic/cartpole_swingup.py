"""Cart-pole swing-up on a rail with soft ends."""

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


class CartpoleState(eqx.Module):
    """Attributes: cart ``position`` (m), ``velocity`` (m/s); pole ``angle`` (rad, 0 upright), ``spin`` (rad/s)."""

    position: Float[Array, ""]
    velocity: Float[Array, ""]
    angle: Float[Array, ""]
    spin: Float[Array, ""]


class CartpoleSwingup(SingleTask):
    """A pole hangs from a cart; move the cart so that the pole swings up and stays up, near the middle of the rail.

    With cart mass M, pole mass m, half-length l (uniform pole, moment of inertia m l^2 / 3 about its centre) and a
    horizontal force F on the cart, theta = 0 upright and positive towards +x (Barto, Sutton, Anderson 1983, without
    friction):

        theta'' = (g sin(theta) - cos(theta) h) / (l (4/3 - m cos(theta)^2 / (M + m)))
        x''     = h - m l theta'' cos(theta) / (M + m),      h = (F + m l theta'^2 sin(theta)) / (M + m)

    Semi-implicit Euler, four substeps per control step of 0.05 s. F = 10 a N, plus springs with dampers that push
    the cart back where ``|x| > 1.8 m``, in place of a termination at the rail's end (soft, so gradients pass).

    Reward: ``(1 + cos theta) / 2 - 0.1 x^2 - 0.01 theta'^2 - 0.01 a^2`` of the state after the step; at most 1 per
    step. Observation: ``(x, x', cos theta, sin theta, theta')``. Reset: hanging, with normal noise of std 0.05.

    Source: A. Barto, R. Sutton, C. Anderson, IEEE Trans. SMC 13(5), 1983; task as in the DeepMind Control Suite.
    """

    action_size: int = eqx.field(static=True, default=1, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(5), init=False)
    episode_length: int = eqx.field(static=True, default=200)
    control_timestep: float = eqx.field(static=True, default=0.05)
    substeps: int = eqx.field(static=True, default=4)
    gravity: float = 9.81
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    force_limit: float = 10.0
    rail: float = 1.8
    rail_stiffness: float = 100.0
    rail_damping: float = 10.0

    recorded = ("gravity", "cart_mass", "pole_mass", "half_length", "force_limit", "rail", "substeps")

    def __check_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require(self.substeps >= 1, "substeps", self.substeps, "must be at least 1")
        require_positive(self, "control_timestep", "cart_mass", "pole_mass", "half_length", "force_limit", "rail")
        require_positive(self, "gravity", "rail_stiffness", "rail_damping", zero=True)

    def initial(self, key: Key) -> CartpoleState:
        """See `SingleTask.initial`."""
        noise = 0.05 * jax.random.normal(key, (4,))
        return CartpoleState(noise[0], noise[1], math.pi + noise[2], noise[3])

    def accelerations(self, state: CartpoleState, force: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns (x'' in m/s^2, theta'' in rad/s^2) under a horizontal force on the cart in N."""
        total = self.cart_mass + self.pole_mass
        moment = self.pole_mass * self.half_length
        sine, cosine = jnp.sin(state.angle), jnp.cos(state.angle)
        h = (force + moment * state.spin**2 * sine) / total
        spin_rate = (self.gravity * sine - cosine * h) / (
            self.half_length * (4.0 / 3.0 - self.pole_mass * cosine**2 / total)
        )
        return h - moment * spin_rate * cosine / total, spin_rate

    def advance(self, state: CartpoleState, action: Float[Array, "1"]) -> tuple[CartpoleState, Outcome]:
        """See `SingleTask.advance`."""
        dt = self.control_timestep / self.substeps

        def substep(now: CartpoleState, _):
            beyond = now.position - jnp.clip(now.position, -self.rail, self.rail)
            stop = -self.rail_stiffness * beyond - self.rail_damping * now.velocity * jnp.tanh(10.0 * jnp.abs(beyond))
            push, turn = self.accelerations(now, self.force_limit * action[0] + stop)
            velocity, spin = now.velocity + dt * push, now.spin + dt * turn
            return CartpoleState(now.position + dt * velocity, velocity, now.angle + dt * spin, spin), None

        state, _ = jax.lax.scan(substep, state, None, length=self.substeps)
        height = jnp.cos(state.angle)
        reward = 0.5 * (1.0 + height) - 0.1 * state.position**2 - 0.01 * state.spin**2 - 0.01 * action[0] ** 2
        upright = (height > 0.95) & (jnp.abs(state.spin) < 1.5)
        diagnostics = {"height": height, "position": state.position, "upright": upright.astype(height.dtype)}
        return state, Outcome(reward, jnp.zeros((), bool), diagnostics)

    def observe(self, state: CartpoleState) -> Observation:
        """See `SingleTask.observe`."""
        return Observation(
            jnp.stack([state.position, state.velocity, jnp.cos(state.angle), jnp.sin(state.angle), state.spin])
        )

    def scene(self, state: CartpoleState) -> Scene:
        """See `SingleTask.scene`."""
        x, angle = float(state.position), float(state.angle)
        cart = np.array([x, 0.0, 0.0])
        tip = cart + 2.0 * self.half_length * np.array([math.sin(angle), math.cos(angle), 0.0])
        side = np.array([0.2, 0.0, 0.0])
        items = [
            Segment(np.array([[-self.rail, 0.0, 0.0], [self.rail, 0.0, 0.0]]), width=0.03, color="#9aa1ab"),
            Segment(np.stack([cart - side, cart + side]), width=0.2, color="#4c9f9a"),
            Segment(np.stack([cart, tip]), width=0.08),
            Ball(tip, 0.07),
        ]
        return Scene(items, np.zeros(3), 1.4, ground=False, planar=True)
