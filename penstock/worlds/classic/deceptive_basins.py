"""A low hill near the start, a high hill far away, and each pays once: a unimodal policy must lose here."""

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


class BasinsState(eqx.Module):
    """State of an episode.

    Attributes:
        start: ``(2,)`` from where every cast of this episode is made.
        left: ``(2,)`` shares of the low and of the high hill that are still there, in [0, 1]. Hidden.
        place: ``(2,)`` where the last cast fell, for the scene. Hidden.
    """

    start: Float[Array, "2"]
    left: Float[Array, "2"]
    place: Float[Array, "2"]


class DeceptiveBasins(SingleTask):
    """A net is cast eight times from the same place; two hills hold a catch, and the nearer one holds less.

    The action is the throw: the net falls at ``p = start + a``, is hauled in, and the next cast begins where the first
    did. It takes the share c_i(p) of what is left on hill i, and that is gone for the episode:

        c_i(p) = 0.9 exp(-|p - top_i|^2 / (2 0.12^2)) + 0.1 exp(-|p - top_i|^2 / (2 0.4^2))
        reward = 2 c_low m_low + 3 c_high m_high,        m_i <- m_i (1 - c_i),        m_i = 1 at reset

    with tops (-0.3, 0) and (0.7, 0.4). The wide part gives every throw a gradient. The gradient of the expected reward
    of a Gaussian around the start, of standard deviation 0.25 or less, points to the low hill (deception); all the
    more must a policy that has found it go on looking.

    Why a unimodal policy loses in *expected return*: observations do not tell the second cast from the first, so a
    policy without memory draws all casts of an episode from one law, and its expected return is exactly

        sum_i h_i [1 - (1 - E c_i)^8]        (`expected_return`)

    One aim empties one hill; a Gaussian wide enough for both mostly falls between and beside them; two aims empty both:

        two aims, about evenly                                 4.98   (5 is all there is)
        the best tanh-Gaussian, over all means and deviations  3.21   ``GAUSSIAN_BOUND`` 3.25
        the high hill alone                                    3.04
        the low hill alone                                     2.06

    Known without learning or sampling: E c_i of a diagonal Gaussian is a product of two integrals over one coordinate,
    tabulated over a grid of means and deviations and searched exhaustively (``benchmarks/best_policies.py``; held by
    the tests). The start's noise only shifts the aims. A policy that plans several throws from one observation can
    visit both hills in turn: the bounds hold without action chunks.

    Observation: the start. Reset: the origin with normal noise of std 0.02, hills full.

    Diagnostics: ``on_high`` and ``on_low`` are 1 within two widths of the hill's top; ``success`` is 1 while less than
    a tenth is left of either hill.
    """

    action_size: int = eqx.field(static=True, default=2, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2), init=False)
    episode_length: int = eqx.field(static=True, default=8)
    control_timestep: float = eqx.field(static=True, default=0.1)
    low: tuple[float, float] = (-0.3, 0.0)
    high: tuple[float, float] = (0.7, 0.4)
    low_height: float = 2.0
    high_height: float = 3.0
    low_width: float = 0.12
    high_width: float = 0.12
    skirt: float = 0.1
    skirt_width: float = 0.4

    GAUSSIAN_BOUND = 3.25
    recorded = ("low", "high", "low_height", "high_height", "low_width", "high_width", "skirt", "skirt_width")

    def __check_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require_positive(self, "control_timestep", "low_width", "high_width", "skirt_width")
        require(0.0 <= self.skirt <= 1.0, "skirt", self.skirt, "must lie in [0, 1]")

    def initial(self, key: Key) -> BasinsState:
        """See `SingleTask.initial`."""
        start = 0.02 * jax.random.normal(key, (2,))
        return BasinsState(start, jnp.ones(2), start)

    def heights(self) -> Float[Array, "2"]:
        """What the low and the high hill hold."""
        return jnp.stack([jnp.asarray(self.low_height), jnp.asarray(self.high_height)])

    def catch(self, place: Float[Array, "*batch 2"]) -> Float[Array, "*batch 2"]:
        """The shares c_low and c_high that a cast to a place takes."""

        def share(top, width):
            off = jnp.sum((place - jnp.asarray(top)) ** 2, -1)
            core, skirt = jnp.exp(-0.5 * off / width**2), jnp.exp(-0.5 * off / self.skirt_width**2)
            return (1.0 - self.skirt) * core + self.skirt * skirt

        return jnp.stack([share(self.low, self.low_width), share(self.high, self.high_width)], -1)

    def landscape(self, position: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """The reward of an episode's first cast, if it falls at a position."""
        return self.catch(position) @ self.heights()

    def expected_return(self, mean_catch: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """Expected undiscounted return of a policy whose casts are independent and take ``mean_catch`` = E c."""
        return (1.0 - (1.0 - mean_catch) ** self.episode_length) @ self.heights()

    def advance(self, state: BasinsState, action: Float[Array, "2"]) -> tuple[BasinsState, Outcome]:
        """See `SingleTask.advance`."""
        place = state.start + action
        left = state.left * (1.0 - self.catch(place))
        near = lambda top, width: jnp.sum((place - jnp.asarray(top)) ** 2) < (2.0 * width) ** 2  # noqa: E731
        diagnostics = {
            "on_high": near(self.high, self.high_width).astype(place.dtype),
            "on_low": near(self.low, self.low_width).astype(place.dtype),
            "success": jnp.all(left < 0.1).astype(place.dtype),
        }
        reward = (state.left - left) @ self.heights()
        return BasinsState(state.start, left, place), Outcome(reward, jnp.zeros((), bool), diagnostics)

    def observe(self, state: BasinsState) -> Observation:
        """See `SingleTask.observe`."""
        return Observation(state.start)

    def scene(self, state: BasinsState) -> Scene:
        """See `SingleTask.scene`; a hill shrinks as it is emptied."""
        spot = lambda p: np.array([p[0], p[1], 0.0])  # noqa: E731
        low, high = np.sqrt(np.maximum(np.asarray(state.left), 0.02))
        items = [
            Ball(spot(self.low), 2.0 * self.low_width * float(low), "#cfe3e1"),
            Ball(spot(self.high), 2.0 * self.high_width * float(high), "#4c9f9a"),
            Ball(spot(np.asarray(state.start)), 0.03, "#9aa1ab"),
            Ball(spot(np.asarray(state.place)), 0.05),
        ]
        return Scene(items, np.zeros(3), 1.1, ground=False, planar=True)
