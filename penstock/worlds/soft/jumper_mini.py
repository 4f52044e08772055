"""``soft/jumper-mini``: a small elastic quadruped that learns to bound on two CPU cores in about a minute."""

import itertools
import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from penstock._types import Key, PerEnv
from penstock.physics.contact import MassScaledContact
from penstock.physics.elastic import Material
from penstock.physics.layout import unpack
from penstock.physics.mesh import voxel_mesh
from penstock.physics.soft_body import SoftBody
from penstock.worlds.soft.body_task import SoftState, SoftTask

CLOCK_FREQUENCY = 2.0
"""Hz. The observation holds sine and cosine of this clock and of its double."""


def mini_cells() -> list[tuple[int, int, int]]:
    """Voxels of the body: four legs of 1 x 1 in plan and 2 high, below a torso of 4 x 2 in plan and 1 high."""
    legs = [(x, y, z) for x, z in itertools.product((0, 3), (0, 1)) for y in (0, 1)]
    return legs + [(x, 2, z) for x, z in itertools.product(range(4), range(2))]


class JumperMini(SoftTask):
    """Run along +x with a body of 16 voxels (80 elements, 54 vertices, 16 kg, 0.4 m long), one action per element.

    Reward per control step: ``v_x - 0.3 |v_z| - action_cost mean(a^2)``, with the velocity of the centre of mass
    averaged over the control step (displacement / time), in m/s. Nothing terminates the episode early.

    Observation ``"state"`` (412 numbers, in this order; "centred" means minus the centre of mass in x and z):
    5 x (centred vertex positions - centred rest positions), x block, y block, z block (162); 0.3 x vertex velocities
    (162); velocity of the centre of mass (3); its height (1); 0.3 x last action (80); sine and cosine of a 2 Hz clock
    and of its double (4). Observation ``"points"``: the vertex cloud (centred in x and z, metres) and the last 88
    numbers.
    """

    recorded = (*SoftTask.recorded, "action_cost", "lateral_cost")

    action_cost: float = eqx.field(static=True)
    lateral_cost: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        observation: str = "state",
        num_points: int | None = None,
        episode_length: int = 128,
        substeps: int = 4,
        reset_noise: float = 1.0,
        action_cost: float = 0.002,
        lateral_cost: float = 0.3,
        young: float = 3e4,
        poisson: float = 0.3,
        damping: float = 200.0,
        density: float = 1e3,
        contact_frequency: float = 350.0,
        contact_damping: float = 60.0,
        friction: float = 0.9,
        implicit_contact: bool = False,
        activation_scale: float = 0.5,
        layout: str | None = None,
        rematerialise: bool = True,
    ):
        """Builds the task.

        Args:
            observation: ``"state"`` or ``"points"``.
            num_points: size of the cloud for ``"points"``; None takes all 54 vertices.
            episode_length: control steps of 16 ms.
            substeps: substeps per control step.
            reset_noise: strength of the random start (0: always at rest on the ground). At 1: a random linear map
                I + 0.02 G of the shape (G standard normal), raised so that no vertex is below the ground, a drop
                height uniform in 0..2 cm, and vertex velocities of a rigid translation (standard deviation 0.05 m/s)
                plus a random linear field (0.1 1/s).
            action_cost: weight of the mean of the squared action.
            lateral_cost: weight of the absolute lateral speed.
            young: Young's modulus, Pa.
            poisson: Poisson's ratio.
            damping: Pa s.
            density: kg/m^3.
            contact_frequency: ``wc``, 1/s.
            contact_damping: ``gc``, 1/s.
            friction: Coulomb coefficient.
            implicit_contact: take the normal contact spring implicitly. At 4 substeps the explicit spring leaves the
                feet of a standing body chattering (a loaded foot vertex at about 0.75 m/s, centre of mass unmoved);
                the implicit one, or 5 substeps, does not. The default is the setting with which learning was first
                shown.
            activation_scale: shift of an element's target volume ratio at action 1.
            layout: ``"soa"``, ``"rows"``, or None for the backend's best.
            rematerialise: keep only substep states and elastic forces for the backward pass.

        Raises:
            ConfigurationError: a value out of range.
        """
        mesh = voxel_mesh(mini_cells(), 0.1)
        contact = MassScaledContact(contact_frequency, contact_damping, friction, implicit=implicit_contact)
        small = 8 + len(mesh.tets)
        self._configure(
            SoftBody(mesh, Material.from_young(young, poisson, damping, density), contact, gravity=-9.8),
            actuator=np.arange(len(mesh.tets)),
            activation_scale=activation_scale,
            control_timestep=0.016,
            substeps=substeps,
            episode_length=episode_length,
            observation=observation,
            num_points=num_points,
            vector_sizes=(small + 6 * len(mesh.vertices), small),
            reset_noise=reset_noise,
            layout=layout,
            rematerialise=rematerialise,
        )
        self.action_cost = action_cost
        self.lateral_cost = lateral_cost

    def initial(self, key: Key, num_envs: int) -> SoftState:
        """See `Task.initial`."""
        key_shape, key_drop, key_velocity = jr.split(key, 3)
        weights = self.body.masses / self.body.masses.sum()
        centred = jnp.asarray(self.body.rest - weights @ self.body.rest, jnp.float32)
        rest = jnp.asarray(self.body.rest, jnp.float32)
        # Linear fields: 22 random numbers per environment in place of 324, and no element can invert.
        shape = 0.02 * self.reset_noise * jr.normal(key_shape, (3, 3, num_envs))
        spin = jr.normal(key_velocity, (3, 4, num_envs))
        position = [rest[:, i, None] + centred @ shape[i] for i in range(3)]
        drop = 0.02 * self.reset_noise * jr.uniform(key_drop, (num_envs,))
        position[1] = position[1] - position[1].min(axis=0) + drop
        velocity = [self.reset_noise * (0.05 * spin[i, 3] + 0.1 * (centred @ spin[i, :3])) for i in range(3)]
        return self.start(position, velocity, num_envs)

    def judge(self, before: SoftState, after: SoftState) -> tuple[PerEnv, dict[str, PerEnv]]:
        """See `SoftTask.judge`."""
        x0, _, z0 = self.body.mass_center(before.position)
        x1, y1, z1 = self.body.mass_center(after.position)
        forward = (x1 - x0) / self.control_timestep
        lateral = (z1 - z0) / self.control_timestep
        effort = jnp.square(after.action).mean(0)
        reward = forward - self.lateral_cost * jnp.abs(lateral) - self.action_cost * effort
        return reward, {"forward_velocity": forward, "lateral_velocity": lateral, "com_height": y1}

    def features(self, state: SoftState) -> list[Float[Array, "_ N"]]:
        """See the class."""
        small = self._small_features(state)
        if self.observation == "points":
            return small
        x, y, z = self._centred(state)
        rest = jnp.asarray(self._centred_rest(), x.dtype)
        shape = [5.0 * (c - rest[:, i, None]) for i, c in enumerate((x, y, z))]
        return [*shape, *(0.3 * c for c in unpack(state.velocity)), *small]

    def cloud(self, state: SoftState) -> Float[Array, "N P 3"] | None:
        """See `SoftTask.cloud`; centred in x and z."""
        points = super().cloud(state)
        if points is None:
            return None
        x, _, z = self.body.mass_center(state.position)
        return points - jnp.stack([x, jnp.zeros_like(x), z], axis=-1)[:, None]

    def _small_features(self, state: SoftState) -> list[Array]:
        velocity = jnp.stack(self.body.mass_center(state.velocity))
        height = self.body.mass_center(state.position)[1][None]
        phase = 2 * math.pi * CLOCK_FREQUENCY * state.time
        clock = jnp.stack([jnp.sin(phase), jnp.cos(phase), jnp.sin(2 * phase), jnp.cos(2 * phase)])
        return [velocity, height, 0.3 * state.action, clock]

    def _centred(self, state: SoftState) -> tuple[Array, Array, Array]:
        x, y, z = unpack(state.position)
        center = self.body.mass_center(state.position)
        return x - center[0], y, z - center[2]

    def _centred_rest(self) -> np.ndarray:
        center = self.body.masses @ self.body.rest / self.body.masses.sum()
        return self.body.rest - center * np.array([1.0, 0.0, 1.0])
