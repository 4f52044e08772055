"""``soft/jumper``: the soft quadruped at the size of the published comparisons."""

import itertools
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Key, PerEnv
from penstock.physics.contact import ConstantContact, Contact, MassScaledContact
from penstock.physics.elastic import Material
from penstock.physics.layout import unpack
from penstock.physics.mesh import TetMesh, voxel_mesh
from penstock.physics.mesh_files import read_mesh
from penstock.physics.soft_body import SoftBody
from penstock.worlds.soft.body_task import SoftState, SoftTask

SPACING = 0.3544
"""Edge length of a voxel, m."""

CLEARANCE = 0.207
"""Height of the lowest vertex above the ground at the undisturbed start, m."""


def jumper_cells() -> list[tuple[int, int, int]]:
    """Voxels of the body: four corner legs of 1 x 1 in plan and 3 high, below a slab of 7 x 7 in plan and 2 high."""
    legs = [(x, y, z) for x, z in itertools.product((0, 6), (0, 6)) for y in range(3)]
    return legs + [(x, y, z) for x, y, z in itertools.product(range(7), (3, 4), range(7))]


def two_actuators_per_voxel(mesh: TetMesh) -> np.ndarray:
    """Action index ``(T,)`` of each element of a voxel mesh: two actions per voxel.

    The first drives the voxel's central element and its two corner elements at low x, the second its two corner
    elements at high x, so that the two sides of a leg can contract against each other along the running direction.
    """
    center_x = mesh.vertices[mesh.tets][..., 0].mean(axis=1).reshape(-1, 5)
    front = center_x > center_x[:, :1] + 1e-9  # the first element of a voxel is the central one
    return (2 * np.arange(len(front))[:, None] + front).reshape(-1)


class Jumper(SoftTask):
    """Run along +x and jump, with a soft body of 4.9 kg, 2.5 m square and 1.77 m high (density 1 kg/m^3).

    The solid is that of the published task (110 voxels). The mesh is our own: 240 vertices, 550 elements in place of
    204 and 444, hence 220 actions (two per voxel) in place of 222.

    Reward per control step: ``v_x + 3 (y_com - y_start) - 0.001 |a|^2``, with ``|a|^2`` the sum over actions, the
    velocity at the end of the step, and the centre of mass taken as the *unweighted* mean of the vertices, as in the
    published task. ``y_start`` is its height in the undisturbed start. Nothing terminates the episode early.

    Start: the undisturbed body (lowest vertex 0.207 m above the ground), translated by (+-0.8, 0..0.4, +-0.8) m, then
    all coordinates multiplied by 1 +- 0.1: the body starts stretched or compressed, at rest, in the air.

    Observation ``"points"``: vertex cloud (V, 3) and a vector of mean position (3), mean velocity (3), all times 0.1,
    and the last action. Observation ``"state"``: deformation (positions minus mean in x and z, minus the same at the
    undisturbed start), x, y, z block (3 V); 0.3 x vertex velocities (3 V); 0.3 x mean velocity (3);
    ``y_com - y_start`` (1); last action.

    Source: the soft jumper of Rewarped (Xing et al., 2025), rebuilt from its constants.
    """

    recorded = (*SoftTask.recorded, "action_cost", "height_weight", "start_height")

    action_cost: float = eqx.field(static=True)
    height_weight: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        observation: str = "state",
        num_points: int | None = None,
        episode_length: int = 300,
        substeps: int | None = None,
        reset_noise: float = 1.0,
        action_cost: float = 0.001,
        height_weight: float = 3.0,
        mesh: str | Path | None = None,
        mesh_scale: float = 1.0,
        mesh_merge_tolerance: float | None = None,
        tets_per_action: int = 2,
        mu: float = 1000.0,
        lam: float = 1000.0,
        damping: float = 1.0,
        volume_damping: float = 1.0,
        density: float = 1.0,
        contact: str = "mass-scaled",
        contact_frequency: float = 350.0,
        contact_damping: float = 60.0,
        friction: float = 0.7,
        contact_radius: float = 0.05,
        activation_scale: float = 0.3,
        layout: str | None = None,
        rematerialise: bool = True,
    ):
        """Builds the task.

        Args:
            observation: ``"state"`` or ``"points"``.
            num_points: size of the cloud for ``"points"``; None takes all vertices.
            episode_length: control steps of 1/60 s.
            substeps: substeps per control step; None takes 10 for mass-scaled and 14 for constant contact. The
                published task takes 80.
            reset_noise: factor on the ranges of the random start (0: always the undisturbed start; at most 5).
            action_cost: weight of the sum of squared actions.
            height_weight: weight of the height gained, 1/s.
            mesh: file with a tetrahedral mesh to use in place of the built-in one (see
                `penstock.physics.mesh_files.read_mesh`); it is placed with its lowest vertex 0.207 m high.
            mesh_scale: multiplies the coordinates of ``mesh``.
            mesh_merge_tolerance: joins vertices of ``mesh`` that are not further apart, relative to its size.
            tets_per_action: for ``mesh``: consecutive elements driven by one action.
            mu: Lame parameter, Pa.
            lam: Lame parameter, Pa.
            damping: Pa s, on the rate of deformation.
            volume_damping: Pa s, on the rate of volume change.
            density: kg/m^3.
            contact: ``"mass-scaled"``, or ``"constant"`` for the published constants (ke 2e3, kd 0.1, kf 10).
            contact_frequency: ``wc`` of the mass-scaled contact, 1/s.
            contact_damping: ``gc`` of the mass-scaled contact, 1/s.
            friction: Coulomb coefficient.
            contact_radius: height at which contact begins, m.
            activation_scale: shift of an element's target volume ratio at action 1.
            layout: ``"soa"``, ``"rows"``, or None for the backend's best.
            rematerialise: keep only substep states and elastic forces for the backward pass.

        Raises:
            ConfigurationError: a value out of range, or a mesh that cannot be used.
        """
        require(contact in ("mass-scaled", "constant"), "contact", contact, "must be 'mass-scaled' or 'constant'")
        require(reset_noise <= 5, "reset_noise", reset_noise, "must be at most 5: the scale 1 +- 0.1 reset_noise")
        require(tets_per_action >= 1, "tets_per_action", tets_per_action, "must be at least 1")
        if mesh is None:
            chosen = voxel_mesh(jumper_cells(), SPACING)
            actuator = two_actuators_per_voxel(chosen)
        else:
            chosen = read_mesh(mesh, scale=mesh_scale, merge_tolerance=mesh_merge_tolerance)
            actuator = np.arange(len(chosen.tets)) // tets_per_action
        lift = np.array([0.0, CLEARANCE - chosen.vertices[:, 1].min(), 0.0])
        law: Contact
        if contact == "constant":
            law = ConstantContact(friction=friction, radius=contact_radius)
        else:
            law = MassScaledContact(contact_frequency, contact_damping, friction, radius=contact_radius)
        num_actions = int(actuator.max()) + 1
        self._configure(
            SoftBody(
                TetMesh(chosen.vertices + lift, chosen.tets),
                Material(mu, lam, damping, density, volume_damping),
                law,
                gravity=-9.81,
            ),
            actuator=actuator,
            activation_scale=activation_scale,
            control_timestep=1 / 60,
            substeps=(14 if contact == "constant" else 10) if substeps is None else substeps,
            episode_length=episode_length,
            observation=observation,
            num_points=num_points,
            vector_sizes=(6 * len(chosen.vertices) + 4 + num_actions, 6 + num_actions),
            reset_noise=reset_noise,
            layout=layout,
            rematerialise=rematerialise,
        )
        self.action_cost = action_cost
        self.height_weight = height_weight

    @property
    def start_height(self) -> float:
        """``y_start``: height of the unweighted mean of the vertices in the undisturbed start, m."""
        return float(self.body.rest[:, 1].mean())

    def initial(self, key: Key, num_envs: int) -> SoftState:
        """See `Task.initial`."""
        key_place, key_scale = jr.split(key)
        low, high = jnp.array([-0.8, 0.0, -0.8]), jnp.array([0.8, 0.4, 0.8])
        shift = self.reset_noise * jr.uniform(key_place, (num_envs, 3), minval=low, maxval=high)
        scale = 1 + 0.1 * self.reset_noise * jr.uniform(key_scale, (num_envs,), minval=-1.0, maxval=1.0)
        rest = jnp.asarray(self.body.rest, shift.dtype)
        position = [(rest[:, i, None] + shift[:, i]) * scale for i in range(3)]
        return self.start(position, [jnp.zeros_like(c) for c in position], num_envs)

    def judge(self, before: SoftState, after: SoftState) -> tuple[PerEnv, dict[str, PerEnv]]:
        """See `SoftTask.judge`."""
        del before
        height = unpack(after.position)[1].mean(axis=0)
        forward = unpack(after.velocity)[0].mean(axis=0)
        gained = height - self.start_height
        reward = forward + self.height_weight * gained - self.action_cost * jnp.square(after.action).sum(axis=0)
        return reward, {"forward_velocity": forward, "com_height": height}

    def features(self, state: SoftState) -> list[Float[Array, "_ N"]]:
        """See the class."""
        positions, velocities = unpack(state.position), unpack(state.velocity)
        center = jnp.stack([c.mean(axis=0) for c in positions])
        drift = jnp.stack([c.mean(axis=0) for c in velocities])
        if self.observation == "points":
            return [0.1 * center, 0.1 * drift, state.action]
        rest = self.body.rest - self.body.rest.mean(axis=0) * np.array([1.0, 0.0, 1.0])
        x, y, z = positions
        centred = (x - center[0], y, z - center[2])
        shape = [c - jnp.asarray(rest[:, i, None], c.dtype) for i, c in enumerate(centred)]
        gained = center[1:2] - self.start_height
        return [*shape, *(0.3 * c for c in velocities), 0.3 * drift, gained, state.action]

    def cloud(self, state: SoftState) -> Float[Array, "N P 3"] | None:
        """See `SoftTask.cloud`; absolute positions times 0.1."""
        points = super().cloud(state)
        return None if points is None else 0.1 * points
