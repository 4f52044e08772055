"""A deformable body: constants of the mesh, and its motion by explicit symplectic Euler steps."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from penstock._errors import require
from penstock.physics.contact import Contact
from penstock.physics.elastic import (
    Material,
    Matrix,
    Stage,
    element_energy,
    element_force_gradients,
    element_forces,
    inline_stage,
    stored_stage,
)
from penstock.physics.layout import Coordinates, assemble, gather, layout_of, pack, unpack
from penstock.physics.mesh import TetMesh

_FORCE = "elastic_force"
"""What the backward pass keeps of a substep beside its state."""


class Motion(NamedTuple):
    """Positions (m) and velocities (m/s) of N bodies, in either layout of `penstock.physics.layout`."""

    position: Coordinates
    velocity: Coordinates


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class SoftBody:
    """Constants of one body (NumPy, float64; cast to the precision of the state when used).

    Compared and hashed by identity, so that functions which close over a body can be compiled with `jax.jit`.

    Attributes:
        rest: ``(V, 3)`` rest positions in metres.
        tets: ``(T, 4)`` elements.
        shape_gradients: ``(T, 3, 3)``: ``Dm^-1``, row a belongs to corner a + 1.
        volumes: ``(T,)`` rest volumes, m^3.
        masses: ``(V,)`` lumped masses, kg (a quarter of each adjacent element).
        material: elastic constants.
        contact: ground contact, or None for a body in free space.
        gravity: acceleration along y, m/s^2 (negative: down).
    """

    rest: np.ndarray
    tets: np.ndarray
    shape_gradients: np.ndarray
    volumes: np.ndarray
    masses: np.ndarray
    material: Material
    contact: Contact | None
    gravity: float

    def __init__(self, mesh: TetMesh, material: Material, contact: Contact | None = None, gravity: float = -9.81):
        volumes = mesh.volumes
        worst = int(np.argmin(volumes))
        require(bool(volumes[worst] > 0), f"volume of element {worst}", volumes[worst], "must be positive (m^3)")
        edges = mesh.vertices[mesh.tets[:, 1:]] - mesh.vertices[mesh.tets[:, :1]]
        masses = np.zeros(len(mesh.vertices))
        np.add.at(masses, mesh.tets, material.density * volumes[:, None] / 4)
        fields = {
            "rest": mesh.vertices,
            "tets": mesh.tets,
            # Rows of `edges` are edge vectors, Dm holds them as columns: Dm^-1 is the inverse of the transpose.
            "shape_gradients": np.linalg.inv(edges.transpose(0, 2, 1)),
            "volumes": volumes,
            "masses": masses,
            "material": material,
            "contact": contact,
            "gravity": gravity,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def num_vertices(self) -> int:
        """V."""
        return self.rest.shape[0]

    @property
    def num_tets(self) -> int:
        """T."""
        return self.tets.shape[0]

    def mass_center(self, coordinates: Coordinates) -> tuple[Float[Array, "N"], Float[Array, "N"], Float[Array, "N"]]:
        """Mass-weighted mean of positions (or velocities): three arrays ``(N,)``."""
        x, y, z = unpack(coordinates)
        weights = jnp.asarray(self.masses / self.masses.sum(), x.dtype)
        return weights @ x, weights @ y, weights @ z


def elastic_forces(
    body: SoftBody, position: Coordinates, velocity: Coordinates, activation: Float[Array, "T #N"]
) -> Coordinates:
    """Elastic and damping forces in newtons at the vertices, in the layout of ``position``.

    The gradient is written by hand, for reverse mode only (`jax.grad`, `jax.vjp`; not `jax.jvp`). Of a rollout (a
    `jax.lax.scan` over this) JAX 0.10 and 0.11 take first derivatives only: the second fails while tracing.

    Args:
        body: constants.
        position: metres.
        velocity: m/s.
        activation: ``act`` of every element (see `penstock.physics.elastic.element_forces`).
    """
    act = jnp.broadcast_to(activation, (body.num_tets, unpack(position)[0].shape[1]))
    return _elastic_forces(body.material, _constants(body, act.dtype), position, velocity, act)


class _Constants(NamedTuple):
    tets: Int[Array, "T 4"]
    shape_gradients: Float[Array, "T 3 3"]
    volumes: Float[Array, " T"]

    def columns(self) -> tuple[Matrix, Float[Array, "T 1"]]:
        """Shape gradients and volumes, as the element kernel wants them."""
        g = self.shape_gradients[..., None]
        return [[g[:, a, j] for j in range(3)] for a in range(3)], self.volumes[:, None]


_Inputs = tuple[_Constants, Coordinates, Coordinates, Float[Array, "T N"]]


def _constants(body: SoftBody, dtype: DTypeLike) -> _Constants:
    return _Constants(
        jnp.asarray(body.tets), jnp.asarray(body.shape_gradients, dtype), jnp.asarray(body.volumes, dtype)
    )


def stage_for(position: Coordinates) -> Stage:
    """How calculations on elements are best compiled, see `penstock.physics.elastic.Stage`."""
    # Only XLA's CPU compiler repeats work; elsewhere fewer and larger kernels are better.
    return stored_stage if layout_of(position) == "soa" and jax.default_backend() == "cpu" else inline_stage


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _elastic_forces(
    material: Material,
    constants: _Constants,
    position: Coordinates,
    velocity: Coordinates,
    activation: Float[Array, "T N"],
) -> Coordinates:
    tets = constants.tets
    corners, rates = gather(position, tets), gather(velocity, tets)
    forces = element_forces(corners, rates, *constants.columns(), activation, material, stage_for(position))
    return assemble(forces, tets, position)


def _forces_and_inputs(
    material: Material,
    constants: _Constants,
    position: Coordinates,
    velocity: Coordinates,
    activation: Float[Array, "T N"],
) -> tuple[Coordinates, _Inputs]:
    inputs = constants, position, velocity, activation
    return _elastic_forces(material, *inputs), inputs


def _force_gradients(
    material: Material, inputs: _Inputs, cotangent: Coordinates
) -> tuple[None, Coordinates, Coordinates, Float[Array, "T N"]]:
    constants, position, velocity, activation = inputs
    tets = constants.tets
    weights, corners, rates = gather(cotangent, tets), gather(position, tets), gather(velocity, tets)
    by_corners, by_rates, by_activation = element_force_gradients(
        weights, corners, rates, *constants.columns(), activation, material, stage_for(position)
    )
    return None, assemble(by_corners, tets, position), assemble(by_rates, tets, velocity), by_activation


_elastic_forces.defvjp(_forces_and_inputs, _force_gradients)


def elastic_energy(body: SoftBody, position: Coordinates, activation: Float[Array, "T #N"]) -> Float[Array, "N"]:
    """Elastic energy of each body in joules. The undamped part of `elastic_forces` is minus its gradient."""
    constants = _constants(body, activation.dtype)
    energy = element_energy(gather(position, constants.tets), *constants.columns(), activation, body.material)
    return energy.sum(axis=0)


def substep(body: SoftBody, motion: Motion, activation: Float[Array, "T #N"], dt: float) -> Motion:
    """One symplectic Euler step: velocities first, then positions with the new velocities.

    Args:
        body: constants.
        motion: state before.
        activation: ``act`` of every element.
        dt: seconds.
    """
    force = elastic_forces(body, motion.position, motion.velocity, activation)
    force = unpack(checkpoint_name(force, _FORCE))
    x, y, z = unpack(motion.position)
    vx, vy, vz = unpack(motion.velocity)
    step_per_mass = jnp.asarray(dt / body.masses, x.dtype)[:, None]
    vx = vx + step_per_mass * force[0]
    vy = vy + step_per_mass * force[1] + dt * body.gravity
    vz = vz + step_per_mass * force[2]
    if body.contact is not None:
        mass = jnp.asarray(body.masses, x.dtype)[:, None]
        vx, vy, vz = body.contact.apply(y, (vx, vy, vz), mass, dt)
    layout = layout_of(motion.position)
    return Motion(pack((x + dt * vx, y + dt * vy, z + dt * vz), layout), pack((vx, vy, vz), layout))


def simulate(
    body: SoftBody,
    motion: Motion,
    activation: Float[Array, "T #N"],
    dt: float,
    substeps: int,
    rematerialise: bool = True,
) -> Motion:
    """``substeps`` substeps of ``dt`` seconds under constant activation.

    Args:
        body: constants.
        motion: state before.
        activation: ``act`` of every element.
        dt: seconds per substep.
        substeps: how many.
        rematerialise: keep only the state and the elastic force of each substep for the backward pass (36 V bytes
            per environment and substep in float32) and recompute the rest. Values and gradients do not depend on it.
    """

    def one(carry: Motion, _: None) -> tuple[Motion, None]:
        return substep(body, carry, activation, dt), None

    # Inside scan the loop already prevents the common-subexpression merging that prevent_cse guards against.
    keep = jax.checkpoint_policies.save_only_these_names(_FORCE)
    step = jax.checkpoint(one, prevent_cse=False, policy=keep) if rematerialise else one
    return jax.lax.scan(step, motion, None, length=substeps)[0]
