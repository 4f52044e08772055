"""A tiny world that is seen through pictures: a dot in the dark, drawn inside JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp

from penstock.worlds import Observation, ObservationSpec, Outcome, SingleTask

SIZE = 32


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """A picture ``(32, 32, 1)`` with a soft bright dot; x and y in [-1, 1], x to the right, y up."""
    axis = jnp.linspace(-1.25, 1.25, SIZE)
    square = jnp.square(axis[None, :] - x) + jnp.square(axis[:, None] + y)
    return jnp.round(255.0 * jnp.exp(-0.5 * square / 0.2**2)).astype(jnp.uint8)[..., None]


class MovingDot(SingleTask):
    """One step; the right action is where the dot stands, which nothing but the picture tells.

    The dot's x is uniform in [-0.8, 0.8], and so is its y, which does not matter. Reward -(a - x)^2, then the end.
    Right answer: a = x. With ``moves`` the dot moves by 0.2 a instead, with
    reward -x^2 of where it then is; no end but beyond 1.2.
    """

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(0, pixels=(SIZE, SIZE, 1)))
    episode_length: int = eqx.field(static=True, default=10)
    control_timestep: float = eqx.field(static=True, default=0.1)
    moves: bool = eqx.field(static=True, default=False)

    def initial(self, key):
        return jax.random.uniform(key, (2,), minval=-0.8, maxval=0.8)

    def advance(self, state, action):
        if self.moves:
            state = state.at[0].add(0.2 * action[0])
            return state, Outcome(-jnp.square(state[0]), jnp.abs(state[0]) > 1.2, {})
        return state, Outcome(-jnp.square(action[0] - state[0]), jnp.ones((), bool), {})

    def observe(self, state):
        return Observation(jnp.zeros(0), pixels=dot(state[0], state[1]))
