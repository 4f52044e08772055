"""A low hill next to the start, a high hill far away: does the policy explore?"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require, require_positive
from penstock._types import Key
from penstock.observation import Observation, ObservationSpec
from penstock.worlds.scene import Ball, Scene
from penstock.worlds.task import Outcome, SingleTask


class DeceptiveBasins(SingleTask):
    """A servo moves a point in the plane; the reward has two hills, and the nearer one is the lower.

    The action is the commanded position in [-1, 1]^2; the point covers the fraction 0.8 of the remaining way in a
    step, p' = p + 0.8 (a - p). Reward of the new position:

        r(p) = 1 exp(-|p - (-0.3, 0)|^2 / (2 0.25^2)) + 3 exp(-|p - (0.7, 0.4)|^2 / (2 0.12^2))

    The high hill stands 0.81 from the start. The gradient of the expected reward of a Gaussian around the start, of
    standard deviation 0.25 or less, points to the low hill, while about one uniform action in 20 lands within two
    widths of the top of the high one.

    Observation: the position. Reset: the origin with
    normal noise of std 0.02.

    Diagnostics: ``on_high`` and ``on_low`` are 1 within two widths of the hill's top; ``success`` equals ``on_high``.
    """

    action_size: int = eqx.field(static=True, default=2, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2), init=False)
    episode_length: int = eqx.field(static=True, default=8)
    control_timestep: float = eqx.field(static=True, default=0.1)
    speed: float = 0.8
    low: tuple[float, float] = (-0.3, 0.0)
    high: tuple[float, float] = (0.7, 0.4)
    low_height: float = 1.0
    high_height: float = 3.0
    low_width: float = 0.25
    high_width: float = 0.12

    def __check_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require_positive(self, "control_timestep", "speed", "low_width", "high_width")

    def initial(self, key: Key) -> Float[Array, "2"]:
        """See `SingleTask.initial`."""
        return 0.02 * jax.random.normal(key, (2,))

    def landscape(self, position: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """The reward r(p) of a position."""
        to_low = jnp.sum((position - jnp.asarray(self.low)) ** 2, -1)
        to_high = jnp.sum((position - jnp.asarray(self.high)) ** 2, -1)
        return self.low_height * jnp.exp(-0.5 * to_low / self.low_width**2) + self.high_height * jnp.exp(
            -0.5 * to_high / self.high_width**2
        )

    def advance(self, state: Float[Array, "2"], action: Float[Array, "2"]) -> tuple[Float[Array, "2"], Outcome]:
        """See `SingleTask.advance`."""
        place = state + self.speed * (action - state)
        near = lambda top, width: jnp.sum((place - jnp.asarray(top)) ** 2) < (2.0 * width) ** 2  # noqa: E731
        on_high = near(self.high, self.high_width).astype(place.dtype)
        diagnostics = {
            "on_high": on_high,
            "on_low": near(self.low, self.low_width).astype(place.dtype),
            "success": on_high,
        }
        return place, Outcome(self.landscape(place), jnp.zeros((), bool), diagnostics)

    def observe(self, state: Float[Array, "2"]) -> Observation:
        """See `SingleTask.observe`."""
        return Observation(state)

    def scene(self, state: Float[Array, "2"]) -> Scene:
        """See `SingleTask.scene`."""
        spot = lambda p: np.array([p[0], p[1], 0.0])  # noqa: E731
        items = [
            Ball(spot(self.low), self.low_width, "#cfe3e1"),
            Ball(spot(self.high), self.high_width, "#4c9f9a"),
            Ball(spot(np.asarray(state)), 0.05),
        ]
        return Scene(items, np.zeros(3), 1.1, ground=False, planar=True)

    def describe(self) -> dict[str, Any]:
        """See `SingleTask.describe`."""
        names = ("speed", "low", "high", "low_height", "high_height", "low_width", "high_width")
        return {name: getattr(self, name) for name in names}
