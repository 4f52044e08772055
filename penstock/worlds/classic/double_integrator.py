"""A point mass with linear dynamics and quadratic cost: the one world whose gradients are known in closed form."""

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


class DoubleIntegrator(SingleTask):
    """Drive a mass of 1 kg to rest at the origin with a bounded force.

    State s = (x, v) per axis, in m and m/s. The force u = F a is held during a control step h, which integrates
    exactly:

        x_{t+1} = x_t + h v_t + h^2 / 2 u_t,    v_{t+1} = v_t + h u_t

    that is s_{t+1} = A s_t + B a_t. Reward r_t = -(s_{t+1}' Q s_{t+1} + a_t' R a_t) with
    Q = diag(1, 0.1) and R = 0.01 per axis, so the H-step return of a linear policy a = -K s has the closed-form
    (Riccati / Lyapunov) gradient as long as no action meets the box [-1, 1].

    Observation: the state ``(x_1.. x_k, v_1 .. v_k)``. Reset: uniform in [-0.5, 0.5].

    Source: textbook linear-quadratic regulator, for example B. Anderson, J. Moore, "Optimal Control" (1990).

    Attributes:
        axes: number of independent axes k, which is also the action dimension.
        force: F in N, the force of a full action.
    """

    action_size: int = eqx.field(static=True, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, init=False)
    axes: int = eqx.field(static=True, default=1)
    episode_length: int = eqx.field(static=True, default=100)
    control_timestep: float = eqx.field(static=True, default=0.1)
    force: float = 2.0
    position_cost: float = 1.0
    velocity_cost: float = 0.1
    action_cost: float = 0.01

    recorded = ("axes", "force", "position_cost", "velocity_cost", "action_cost")

    def __post_init__(self):
        self.action_size = self.axes
        self.observation_spec = ObservationSpec(2 * self.axes)

    def __check_init__(self):
        require(self.axes >= 1, "axes", self.axes, "must be at least 1")
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require_positive(self, "control_timestep", "force")
        require_positive(self, "position_cost", "velocity_cost", "action_cost", zero=True)

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns (A, B, Q, R) in float64, with s_{t+1} = A s + B a and r = -(s_{t+1}' Q s_{t+1} + a' R a)."""
        h, eye = self.control_timestep, np.eye(self.axes)
        A = np.kron(np.array([[1.0, h], [0.0, 1.0]]), eye)
        B = np.kron(np.array([[0.5 * h**2], [h]]) * self.force, eye)
        Q = np.kron(np.diag([self.position_cost, self.velocity_cost]), eye)
        return A, B, Q, self.action_cost * eye

    def initial(self, key: Key) -> Float[Array, "n"]:
        """See `SingleTask.initial`."""
        return jax.random.uniform(key, (2 * self.axes,), minval=-0.5, maxval=0.5)

    def advance(self, state: Float[Array, "n"], action: Float[Array, "k"]) -> tuple[Float[Array, "n"], Outcome]:
        """See `SingleTask.advance`."""
        h = self.control_timestep
        position, velocity = state[: self.axes], state[self.axes :]
        force = self.force * action
        position = position + h * velocity + 0.5 * h**2 * force
        velocity = velocity + h * force
        cost = (
            self.position_cost * jnp.sum(position**2)
            + self.velocity_cost * jnp.sum(velocity**2)
            + self.action_cost * jnp.sum(action**2)
        )
        diagnostics = {"distance": jnp.sqrt(jnp.sum(position**2) + 1e-12)}
        return jnp.concatenate([position, velocity]), Outcome(-cost, jnp.zeros((), bool), diagnostics)

    def observe(self, state: Float[Array, "n"]) -> Observation:
        """See `SingleTask.observe`."""
        return Observation(state)

    def scene(self, state: Float[Array, "n"]) -> Scene:
        """See `SingleTask.scene`; the first two axes."""
        place = np.zeros(3)
        place[: min(2, self.axes)] = np.asarray(state)[: min(2, self.axes)]
        line = Segment(np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), width=0.01, color="#9aa1ab")
        items = [line, Ball(np.zeros(3), 0.04, "#9aa1ab"), Ball(place, 0.06)]
        return Scene(items, np.zeros(3), 1.0, ground=False, planar=True)
