"""A wall with two gaps, one of them closed, and no way to see which: a unimodal policy must lose here."""

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


class TwoGapState(eqx.Module):
    """State of one attempt, and what stays the same over all attempts of an episode.

    Attributes:
        position: ``(2,)`` m.
        velocity: ``(2,)`` m/s.
        start: ``(2,)`` m, where every attempt of this episode begins.
        side: -1 or +1, the open gap. Hidden.
        attempts: attempts that the wall has thrown back so far. Hidden.
    """

    position: Float[Array, "2"]
    velocity: Float[Array, "2"]
    start: Float[Array, "2"]
    side: Float[Array, ""]
    attempts: Float[Array, ""]


class TwoGapWall(SingleTask):
    """A point mass is launched at a soft wall. Both gaps look alike; one is open, drawn at reset and never shown.

    The mass (1 kg) is a double integrator in the plane, x'' = F(x) a + f(x), under the launcher's force

        F(x) a = (1 a_x, 14 a_y) N * exp(-((x - x_start) / 0.06 m)^2)

    (held during a control step of 0.1 s), of which 0.2 % is left one step after the launch, and the force f = -grad U
    of the wall of height 4 J around x = 0,

        U(x, y) = 4 J w(x) [1 - 0.8 exp(-d^2 / (2 (0.06 m)^2)) - 0.2 exp(-d^2 / (2 (0.3 m)^2))]
        w(x) = exp(-x^2 / (2 (0.13 m)^2)),    d = y - 0.5 m * side

    Every attempt starts at x = -1.2 m with 1.5 m/s (1.1 J) towards the wall. A mass that misses the open gap is
    thrown back (the wall is conservative and too high) and starts over *from the same state*: what it sees does not
    tell which gap it has tried. Because the launcher fades, the first action of an attempt decides. From launch to
    wall takes six steps, through it four, so gradients pass from the wall to the launch.

    Reward: ``5 [phi(x_{t+1}) - phi(x_t)] - 0.5 [psi(x_{t+1}) - psi(x_t)]^+ miss(d) - 0.02``, with sigmoids
    ``phi`` behind the wall (at 0.25 m) and ``psi`` at its face (at -0.3 m), both 0.05 m wide, and
    ``miss(d) = 1 - exp(-d^2 / (2 (0.35 m)^2))``. Progress telescopes, so an attempt that is thrown back earns nothing;
    the toll at the face tells a learner of gradients, from any distance, where the open gap would have been. The
    episode terminates behind the wall (x > 0.4 m).

    Why a unimodal policy loses in *expected return*: a policy without memory repeats itself. One aim finds the open
    gap in half of the episodes, ever. A wide Gaussian around the middle mostly meets the pillar at y = 0 and the
    wall outside. Tossing a coin between two sharp aims is blocked with probability 1/2 per attempt and gets through
    within the time limit almost surely. Expected returns (and share of episodes that get through):

        the best law of the lateral launch: two aims near +-0.6, evenly       4.07  (0.98)
        the best single aim, to which the best Gaussian shrinks               0.51  (0.50)
        the same, all but the lateral launch done knowing the open side       0.63  (0.53)   ``GAUSSIAN_BOUND`` 0.7
        the best tanh-Gaussian around the middle                              0.05  (0.47)

    Known without learning: attempts are independent draws from one law of launches, so the expected return over the
    time limit follows from the tabulated outcome of each launch by a recursion over the time left, exact but for the
    grid of launches; means and deviations are searched exhaustively for three forward actions, and all laws by ascent
    on the simplex (``benchmarks/best_policies.py``; held by the tests). What a policy does later in flight hardly
    matters: the launcher then moves the mass by less than 5 mm, which the third line includes. Seeing the start's
    noise only shifts the aims. A policy that plans several actions from one observation can aim by the side from which
    the mass was thrown back: the bounds hold without action chunks.

    Observation: ``(x, y, x', y')``. Reset: side +-1 with probability 1/2, start with normal noise of std 0.01 m in y.

    Attributes:
        hidden: False appends ``side`` to the observation, for comparison: then every policy class can win.
    """

    action_size: int = eqx.field(static=True, default=2, init=False)
    observation_spec: ObservationSpec = eqx.field(static=True, init=False)
    episode_length: int = eqx.field(static=True, default=64)
    control_timestep: float = eqx.field(static=True, default=0.1)
    substeps: int = eqx.field(static=True, default=4)
    hidden: bool = eqx.field(static=True, default=True)
    launch: float = -1.2
    speed: float = 1.5
    forward_force: float = 1.0
    lateral_force: float = 14.0
    reach: float = 0.06
    gap: float = 0.5
    gap_width: float = 0.06
    skirt: float = 0.2
    skirt_width: float = 0.3
    toll_width: float = 0.35
    wall_width: float = 0.13
    wall_height: float = 4.0
    goal: float = 0.4

    GAUSSIAN_BOUND = 0.7
    recorded = ("hidden", "launch", "speed", "gap", "gap_width", "wall_width", "wall_height", "goal", "substeps")

    def __post_init__(self):
        self.observation_spec = ObservationSpec(4 if self.hidden else 5)

    def __check_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "must be at least 1 step")
        require(self.substeps >= 1, "substeps", self.substeps, "must be at least 1")
        require_positive(self, "control_timestep", "speed", "reach", "gap", "wall_height", "goal")
        require_positive(self, "gap_width", "skirt_width", "toll_width", "wall_width")
        require_positive(self, "forward_force", "lateral_force", "skirt", zero=True)

    def initial(self, key: Key) -> TwoGapState:
        """See `SingleTask.initial`."""
        key_side, key_start = jax.random.split(key)
        side = jnp.where(jax.random.bernoulli(key_side), 1.0, -1.0)
        start = jnp.stack([jnp.asarray(self.launch), 0.01 * jax.random.normal(key_start)])
        return TwoGapState(start, self._launch_velocity(), start, side, jnp.zeros_like(side))

    def _launch_velocity(self) -> Float[Array, "2"]:
        return jnp.stack([jnp.asarray(self.speed), jnp.zeros(())])

    def potential(self, position: Float[Array, "2"], side: Float[Array, ""]) -> Float[Array, ""]:
        """U(x, y) in J."""
        x, y = position
        wall = jnp.exp(-0.5 * (x / self.wall_width) ** 2)
        off = jnp.square(y - self.gap * side)
        core, skirt = jnp.exp(-0.5 * off / self.gap_width**2), jnp.exp(-0.5 * off / self.skirt_width**2)
        opening = (1.0 - self.skirt) * core + self.skirt * skirt
        return self.wall_height * wall * (1.0 - opening)

    def authority(self, x: Float[Array, ""]) -> Float[Array, ""]:
        """The share of the launcher's force that is left at x, in (0, 1]."""
        return jnp.exp(-(((x - self.launch) / self.reach) ** 2))

    def advance(self, state: TwoGapState, action: Float[Array, "2"]) -> tuple[TwoGapState, Outcome]:
        """See `SingleTask.advance`."""
        dt = self.control_timestep / self.substeps
        thrust = jnp.stack([self.forward_force * action[0], self.lateral_force * action[1]])
        # The launcher's share is frozen over the control step, so that the launch depends linearly on the action.
        thrust = thrust * self.authority(state.position[0])

        def substep(carry, _):
            position, velocity = carry
            energy, slope = jax.value_and_grad(self.potential)(position, state.side)
            velocity = velocity + dt * (thrust - slope)
            return (position + dt * velocity, velocity), energy

        (position, velocity), energies = jax.lax.scan(
            substep, (state.position, state.velocity), None, length=self.substeps
        )
        toll = self._toll(state, position)
        through = position[0] > self.goal
        # Thrown back: moving backwards, and nearly where the attempt began.
        back = (velocity[0] < 0.0) & (position[0] < -3.0 * self.wall_width)
        again = lambda fresh, old: jnp.where(back, fresh, old)  # noqa: E731
        position = again(state.start, position)
        velocity = again(self._launch_velocity(), velocity)
        progress = self._progress(position[0]) - self._progress(state.position[0])
        reward = 5.0 * progress - toll - 0.02
        attempts = state.attempts + back.astype(reward.dtype)
        diagnostics = {
            "success": through.astype(reward.dtype),
            "thrown_back": back.astype(reward.dtype),
            "attempts": attempts,
            "wall_energy": jnp.max(energies),
        }
        state = TwoGapState(position, velocity, state.start, state.side, attempts)
        return state, Outcome(reward, through, diagnostics)

    def _progress(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return jax.nn.sigmoid((x - 0.25) / 0.05)

    def _toll(self, state: TwoGapState, position: Float[Array, "2"]) -> Float[Array, ""]:
        face = lambda x: jax.nn.sigmoid((x + 0.3) / 0.05)  # noqa: E731
        entered = jax.nn.relu(face(position[0]) - face(state.position[0]))
        off = position[1] - self.gap * state.side
        return 0.5 * entered * (1.0 - jnp.exp(-0.5 * (off / self.toll_width) ** 2))

    def observe(self, state: TwoGapState) -> Observation:
        """See `SingleTask.observe`."""
        parts = [state.position, state.velocity]
        return Observation(jnp.concatenate(parts if self.hidden else [*parts, state.side[None]]))

    def scene(self, state: TwoGapState) -> Scene:
        """See `SingleTask.scene`; the open gap is drawn open, the closed one pale."""
        gap, half, far = self.gap, self.gap_width, 1.2

        def post(low: float, high: float, color: str) -> Segment:
            return Segment(np.array([[0.0, low, 0.0], [0.0, high, 0.0]]), 2.0 * self.wall_width, color)

        wall, shut = "#9aa1ab", "#d8b4b9"
        closed = -gap * float(state.side)
        items = [
            post(-far, -gap - half, wall),
            post(-gap + half, gap - half, wall),
            post(gap + half, far, wall),
            post(closed - half, closed + half, shut),
            Ball(np.append(np.asarray(state.start), 0.0), 0.05, "#9aa1ab"),
            Ball(np.append(np.asarray(state.position), 0.0), 0.06),
        ]
        return Scene(items, np.zeros(3), far, ground=False, planar=True, caption=f"attempt {int(state.attempts) + 1}")
