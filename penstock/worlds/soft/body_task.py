"""What all tasks with an elastic body share: state, motion under per-element activation, points, pictures."""

import abc
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Actions, PerEnv
from penstock.observation import Observation, ObservationSpec
from penstock.physics.layout import Coordinates, Layout, checked_layout, pack, unpack
from penstock.physics.mesh import TetMesh, surface
from penstock.physics.quality import volume_ratios
from penstock.physics.soft_body import Motion, SoftBody, simulate
from penstock.physics.stability import warn_if_absurd, warn_if_unstable
from penstock.scene.items import Scene, Surface
from penstock.worlds.task import Outcome, Task

ObservationKind = Literal["state", "points"]


class SoftState(eqx.Module):
    """State of N bodies; the environment axis is the last one of every leaf.

    Attributes:
        position: vertex positions in metres, in one of the layouts of `penstock.physics.layout`.
        velocity: vertex velocities, m/s.
        action: ``(d, N)`` last action.
        time: ``(N,)`` seconds since the reset.
    """

    position: Coordinates
    velocity: Coordinates
    action: Float[Array, "d N"]
    time: Float[Array, "N"]


class SoftTask(Task):
    """Base of the soft worlds.

    Attributes:
        body: constants of the body.
        actuator: ``(T,)`` index of the action that drives each element.
        activation_scale: activation at action 1.
        substeps: substeps per control step.
        layout: how coordinates lie in memory.
        observation: ``"state"`` (everything in the vector) or ``"points"`` (vertex cloud beside a small vector).
        point_indices: vertices that make up the cloud; empty for ``"state"``.
        reset_noise: strength of the random start; 0 makes all starts equal.
        rematerialise: see `penstock.physics.soft_body.simulate`.
    """

    env_axis = -1
    recorded = ("activation_scale", "control_timestep", "substeps", "layout", "observation", "reset_noise")

    action_size: int = eqx.field(static=True)
    observation_spec: ObservationSpec = eqx.field(static=True)
    episode_length: int = eqx.field(static=True)
    control_timestep: float = eqx.field(static=True)
    body: SoftBody = eqx.field(static=True)
    actuator: tuple[int, ...] = eqx.field(static=True)
    activation_scale: float = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    observation: ObservationKind = eqx.field(static=True)
    point_indices: tuple[int, ...] = eqx.field(static=True)
    reset_noise: float = eqx.field(static=True)
    rematerialise: bool = eqx.field(static=True)

    def _configure(
        self,
        body: SoftBody,
        *,
        actuator: np.ndarray,
        activation_scale: float,
        control_timestep: float,
        substeps: int,
        episode_length: int,
        observation: str,
        num_points: int | None,
        vector_sizes: tuple[int, int],
        reset_noise: float,
        layout: str | None,
        rematerialise: bool,
    ) -> None:
        """Checks and stores what all soft tasks have. Warns if the substep is too long for the body.

        Args:
            body: constants of the body.
            actuator: ``(T,)`` action index of each element.
            activation_scale: activation at action 1.
            control_timestep: seconds.
            substeps: substeps per control step.
            episode_length: control steps.
            observation: ``"state"`` or ``"points"``.
            num_points: size of the cloud, None for all vertices.
            vector_sizes: length of the vector for ``"state"`` and for ``"points"``.
            reset_noise: strength of the random start.
            layout: see `penstock.physics.layout`.
            rematerialise: see `penstock.physics.soft_body.simulate`.
        """
        require(episode_length >= 1, "episode_length", episode_length, "must be at least 1")
        require(substeps >= 1, "substeps", substeps, "must be at least 1")
        require(reset_noise >= 0, "reset_noise", reset_noise, "must not be negative")
        require(observation in ("state", "points"), "observation", observation, "must be 'state' or 'points'")
        require(
            num_points is None or observation == "points",
            "num_points",
            num_points,
            "applies to observation='points' only; set that, or leave num_points out",
        )
        self.body = body
        self.actuator = tuple(actuator.tolist())
        self.action_size = int(actuator.max()) + 1
        self.activation_scale = activation_scale
        self.control_timestep = control_timestep
        self.substeps = substeps
        self.episode_length = episode_length
        self.observation = "state" if observation == "state" else "points"
        points = chosen_points(body.num_vertices, num_points)
        self.point_indices = () if observation == "state" else points
        self.observation_spec = ObservationSpec(vector_sizes[observation == "points"], len(self.point_indices))
        self.reset_noise = reset_noise
        self.layout = checked_layout(layout)
        self.rematerialise = rematerialise
        warn_if_absurd(body)
        warn_if_unstable(body, control_timestep / substeps)

    def start(self, position: Any, velocity: Any, num_envs: int) -> SoftState:
        """State at time 0 from two triples of ``(V, N)`` components."""
        dtype = position[0].dtype
        return SoftState(
            pack(position, self.layout),
            pack(velocity, self.layout),
            jnp.zeros((self.action_size, num_envs), dtype),
            jnp.zeros((num_envs,), dtype),
        )

    def advance(self, state: SoftState, action: Actions) -> tuple[SoftState, Outcome]:
        """See `Task.advance`."""
        controls = action.T
        activation = self.activation_scale * controls
        if self.actuator != tuple(range(self.action_size)):
            activation = activation.at[jnp.asarray(self.actuator, jnp.int32)].get(mode="promise_in_bounds")
        motion = simulate(
            self.body,
            Motion(state.position, state.velocity),
            activation,
            self.control_timestep / self.substeps,
            self.substeps,
            self.rematerialise,
        )
        after = SoftState(motion.position, motion.velocity, controls, state.time + self.control_timestep)
        reward, diagnostics = self.judge(state, after)
        diagnostics["mean_absolute_action"] = jnp.abs(controls).mean(0)
        # Below zero an element is inverted. For people only: no gradient, so no cost in the backward pass.
        still = jax.lax.stop_gradient(motion.position)
        diagnostics["smallest_volume_ratio"] = volume_ratios(self.body, still).min(axis=0)
        return after, Outcome(reward, jnp.zeros(reward.shape, bool), diagnostics)

    @abc.abstractmethod
    def judge(self, before: SoftState, after: SoftState) -> tuple[PerEnv, dict[str, PerEnv]]:
        """Reward and diagnostics of the control step from ``before`` to ``after``."""

    def cloud(self, state: SoftState) -> Float[Array, "N P 3"] | None:
        """Positions of the observed vertices (metres), or None where the observation is a vector only."""
        if self.observation == "state":
            return None
        x, y, z = unpack(state.position)
        chosen = jnp.asarray(self.point_indices, jnp.int32)
        return jnp.stack([c[chosen] for c in (x, y, z)], axis=0).transpose(2, 1, 0)

    def observe(self, state: SoftState) -> Observation:
        """See `Task.observe`. Gradients flow through every entry into the physics."""
        vector = jnp.concatenate(self.features(state), axis=0).T
        return Observation(vector, self.cloud(state))

    @abc.abstractmethod
    def features(self, state: SoftState) -> list[Float[Array, "_ N"]]:
        """Blocks of the observation vector, one under the other."""

    def scene(self, state: SoftState, env: int) -> Scene:
        """The body's surface, tinted by the last action of the element below each triangle. See `Task.scene`."""
        vertices = np.stack([np.asarray(c[:, env], np.float64) for c in unpack(state.position)], axis=1)
        faces, owners = surface(TetMesh(self.body.rest, self.body.tets))
        action = np.asarray(state.action[:, env], np.float64)
        weights = self.body.masses / self.body.masses.sum()
        extent = 0.75 * float(np.ptp(self.body.rest, axis=0).max())
        return Scene(
            items=[Surface(vertices, faces, action[np.asarray(self.actuator)[owners]])],
            focus=weights @ vertices,
            extent=extent,
            caption=f"t = {float(state.time[env]):.2f} s",
        )

    def describe(self) -> dict[str, Any]:
        """See `Declarations.describe`."""
        material = self.body.material
        return {
            "vertices": self.body.num_vertices,
            "tets": self.body.num_tets,
            "size": np.ptp(self.body.rest, axis=0).tolist(),
            "mass": float(self.body.masses.sum()),
            "volume": float(self.body.volumes.sum()),
            "mu": material.mu,
            "lam": material.lam,
            "damping": material.damping,
            "volume_damping": material.volume_damping,
            "density": material.density,
            "gravity": self.body.gravity,
            "contact": repr(self.body.contact),
        } | super().describe()


def chosen_points(num_vertices: int, num_points: int | None) -> tuple[int, ...]:
    """Evenly spread vertex indices: ``num_points`` of them, or all for None."""
    if num_points is None:
        return tuple(range(num_vertices))
    require(1 <= num_points <= num_vertices, "num_points", num_points, f"must lie between 1 and {num_vertices}")
    return tuple(round(p) for p in np.linspace(0, num_vertices - 1, num_points).tolist())
