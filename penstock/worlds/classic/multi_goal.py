"""Several goals around the start, all equally good: which of them does the policy know?"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require, require_positive
from penstock._types import Key
from penstock.observation import Observation, ObservationSpec
from penstock.scene.items import Ball, Scene
from penstock.worlds.task import Outcome, SingleTask


class MultiGoal(SingleTask):
    """A point moves by ``p' = p + a`` (m per step) to one of n goals, which lie evenly on a circle of radius R = 5 m.

        r(p', a) = -min_i |p' - g_i|^2 / R^2 - 1.2 |a|^2,    terminated within 1 m of a goal

    The world is unchanged by a turn of 2 pi / n, so at the start all goals are worth the same and the mean of the best
    actions, standing still, is the worst of all. A unimodal policy commits to one goal or loses time; what a policy
    knows shows in the goals at which its episodes end. The best episode towards one goal returns about -5.

    Observation: the position in units of R. Reset: the origin, with normal noise of std 0.1 m. The point stays inside
    [-7 m, 7 m]^2.

    Diagnostics: ``goal_0 .. goal_{n-1}`` are 1 in the step in which that goal is reached; ``success`` is their sum.

    Source: the multi-goal environment of soft Q-learning (Haarnoja et al. 2017, arXiv 1702.08165) without its bonus
    on arrival, which would be a jump, and divided by R^2 = 25.

    Attributes:
        goals: n.
        radius: R, in m.
        threshold: distance at which a goal counts as reached, in m.
        action_cost: weight of ``|a|^2``.
        start_std: standard deviation of the start, in m, for each coordinate.
        box: largest absolute coordinate, in m.
    """

    action_size: int = eqx.field(static=True, default=2, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2), init=False)
    episode_length: int = eqx.field(static=True, default=30)
    control_timestep: float = eqx.field(static=True, default=1.0)
    goals: int = eqx.field(static=True, default=4)
    radius: float = 5.0
    threshold: float = 1.0
    action_cost: float = 1.2
    start_std: float = 0.1
    box: float = 7.0

    recorded = ("goals", "radius", "threshold", "action_cost", "start_std", "box")

    def __check_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require(self.goals >= 1, "goals", self.goals, "must be at least 1")
        require_positive(self, "control_timestep", "radius", "threshold", "box")
        require_positive(self, "action_cost", "start_std", zero=True)
        apart = 2.0 * self.radius * math.sin(math.pi / self.goals) if self.goals > 1 else math.inf
        require(
            2.0 * self.threshold < min(apart, 2.0 * self.radius),
            "threshold",
            self.threshold,
            "is so large that goals overlap or hold the start",
        )

    def places(self) -> Float[Array, "n 2"]:
        """The goals in m; the first lies on the positive x axis."""
        angle = 2.0 * jnp.pi * jnp.arange(self.goals) / self.goals
        return self.radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)

    def initial(self, key: Key) -> Float[Array, "2"]:
        """See `SingleTask.initial`."""
        return self.start_std * jax.random.normal(key, (2,))

    def advance(self, state: Float[Array, "2"], action: Float[Array, "2"]) -> tuple[Float[Array, "2"], Outcome]:
        """See `SingleTask.advance`."""
        place = jnp.clip(state + action, -self.box, self.box)
        squares = jnp.sum(jnp.square(place - self.places()), axis=-1)
        nearest = squares.min()
        arrived = nearest < self.threshold**2
        reached = ((squares == nearest) & arrived).astype(place.dtype)
        reward = -nearest / self.radius**2 - self.action_cost * jnp.sum(jnp.square(action))
        diagnostics = {f"goal_{i}": reached[i] for i in range(self.goals)}
        diagnostics["success"] = arrived.astype(place.dtype)
        return place, Outcome(reward, arrived, diagnostics)

    def observe(self, state: Float[Array, "2"]) -> Observation:
        """See `SingleTask.observe`."""
        return Observation(state / self.radius)

    def scene(self, state: Float[Array, "2"]) -> Scene:
        """See `SingleTask.scene`."""
        spots = np.pad(np.asarray(self.places()), ((0, 0), (0, 1)))
        items = [Ball(spot, self.threshold, "#cfe3e1") for spot in spots]
        items += [Ball(np.zeros(3), 0.12, "#9aa1ab"), Ball(np.append(np.asarray(state), 0.0), 0.2)]
        return Scene(items, np.zeros(3), 1.25 * self.radius, ground=False, planar=True)
