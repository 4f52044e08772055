"""Stable neo-Hookean elements with volumetric activation and damping, in component form.

The element kernel works on scalars-per-element: every argument and result is a plain array of shape ``(T, N)`` (one
value per element and environment), never a stacked matrix. XLA turns this into flat vector loops on a CPU and into
few fused kernels on a GPU, so that one kernel serves both storage layouts (see `penstock.physics.layout`).

Forces come with their gradient in closed form, which costs about twice the forces and stores nothing but its inputs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from penstock._errors import require

PerElement = Float[Array, "T #N"]
"""One number per element and environment."""

Matrix = Sequence[Sequence[PerElement]]
"""3 x 3 (or 4 x 3) arrays, row by row."""

Stage = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps one step of the calculation: `inline_stage` or `stored_stage`."""


def inline_stage(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step itself: the compiler is free to merge it with the next."""
    return step


def stored_stage(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step as a call that the compiler leaves in place, so that its results are calculated once and stored.

    The CPU compiler makes one loop per result and repeats in it whatever cheap arithmetic leads there from stored
    arrays; left alone it calculates the deformation gradient anew for each of the 12 corner forces. It ignores
    `jax.lax.optimization_barrier`. Were the attribute ignored too, only speed would be lost.
    """

    def call(*arguments: Any, **static: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(step, static_argnames=tuple(static))(*arguments, **static)

    return call


@dataclasses.dataclass(frozen=True)
class Material:
    """A stable neo-Hookean material with linear damping.

    Attributes:
        mu: first Lame parameter (shear), Pa.
        lam: second Lame parameter, Pa.
        damping: coefficient of the rate of deformation, Pa s.
        density: kg/m^3.
        volume_damping: coefficient of the rate of volume change, Pa s. It nearly doubles the fastest damping rate,
            hence halves the stable time step where damping limits it.
    """

    mu: float
    lam: float
    damping: float
    density: float
    volume_damping: float = 0.0

    def __post_init__(self):
        """Checks the ranges."""
        require(self.mu > 0, "material.mu", self.mu, "must be positive (Pa)")
        require(self.lam > 0, "material.lam", self.lam, "must be positive (Pa)")
        require(self.damping >= 0, "material.damping", self.damping, "must not be negative (Pa s)")
        require(self.volume_damping >= 0, "material.volume_damping", self.volume_damping, "must not be negative (Pa s)")
        require(self.density > 0, "material.density", self.density, "must be positive (kg/m^3)")

    @classmethod
    def from_young(
        cls, young: float, poisson: float, damping: float, density: float, volume_damping: float = 0.0
    ) -> "Material":
        """From Young's modulus E (Pa) and Poisson's ratio nu: ``mu = E/(2(1+nu))``, ``lam = E nu/((1+nu)(1-2nu))``."""
        require(young > 0, "young", young, "must be positive (Pa)")
        require(0 < poisson < 0.5, "poisson", poisson, "must lie between 0 and 0.5, both excluded")
        mu = young / (2 * (1 + poisson))
        lam = young * poisson / ((1 + poisson) * (1 - 2 * poisson))
        return cls(mu, lam, damping, density, volume_damping)

    @property
    def rest_ratio(self) -> float:
        """``alpha = 1 + mu/lam - mu/(4 lam)``: makes the undeformed element force-free."""
        return 1 + self.mu / self.lam - self.mu / (4 * self.lam)


def element_forces(
    corners: Matrix,
    corner_velocities: Matrix,
    shape_gradients: Matrix,
    volume: PerElement,
    activation: PerElement,
    material: Material,
    stage: Stage = inline_stage,
) -> list[list[PerElement]]:
    """Forces of all elements on their four corners.

    With ``F = Ds Dm^-1``, ``Ic = tr(F^T F)``, ``J = det F`` and first Piola-Kirchhoff stress

        P = mu F (1 - 1/(Ic + 1)) + lam (J - alpha + act) cof F + damping dF/dt + volume_damping dJ/dt cof F

    the force on corner ``a = 1..3`` is ``-Vol P g_a`` with shape gradient ``g_a``; corner 0 gets minus their sum.
    Velocities enter only as differences within an element, so a translating body feels no damping. A rotating one
    does: ``dF/dt`` contains the spin. The volume part opposes neither translation nor rotation.

    Args:
        corners: ``corners[a][i]``, coordinate i of corner a = 0..3.
        corner_velocities: likewise.
        shape_gradients: ``shape_gradients[a][j]``: row a of ``Dm^-1`` (a = 0..2 stands for corner a + 1).
        volume: rest volume.
        activation: ``act``, shift of the target volume ratio; positive contracts.
        material: constants.
        stage: how the steps of the calculation are compiled, see ``Stage``.

    Returns:
        ``forces[a][i]``, a = 0..3.

    Source:
        Smith, de Goes and Kim (2018), "Stable Neo-Hookean Flesh Simulation"; activation as in soft-body locomotion
        tasks of the DiffRL and Rewarped family.
    """
    F = stage(_deformation)(corners, shape_gradients)
    rate = stage(_deformation)(corner_velocities, shape_gradients) if material.volume_damping > 0 else None
    shear, pressure = stage(_moduli)(F, rate, activation, material=material)
    P = stage(_stress)(F, corner_velocities, shape_gradients, shear, pressure, material=material)
    return _corner_forces(P, shape_gradients, volume, stage)


def element_force_gradients(
    cotangents: Matrix,
    corners: Matrix,
    corner_velocities: Matrix,
    shape_gradients: Matrix,
    volume: PerElement,
    activation: PerElement,
    material: Material,
    stage: Stage = inline_stage,
) -> tuple[list[list[PerElement]], list[list[PerElement]], PerElement]:
    """Gradients of ``sum(cotangents * element_forces(...))`` by corners, corner velocities and activation.

    With ``R`` the "deformation" of the cotangents (``R = sum_a f_a g_a`` over corner differences) that sum is
    ``-Vol P : R``. Its derivative by F is again a stress,

        S = mu (1 - 1/(Ic + 1)) R + 2 mu (F : R)/(Ic + 1)^2 F + lam (cof F : R) cof F + p Dcof[R]
            + volume_damping (cof F : R) Dcof[dF/dt]

    (``p`` the factor of ``cof F`` in P, ``Dcof`` the differential of the cofactor matrix at F, which is self-adjoint),
    and acts on the corners as P does in `element_forces`. So does the derivative by dF/dt.

    Args:
        cotangents: ``cotangents[a][i]``, weight of coordinate i of the force on corner a.
        corners: as in `element_forces`.
        corner_velocities: likewise; read only with volume damping.
        shape_gradients: likewise.
        volume: likewise.
        activation: likewise.
        material: likewise.
        stage: likewise.

    Returns:
        Gradients in the shapes of ``corners``, ``corner_velocities`` and ``activation``.
    """
    F = stage(_deformation)(corners, shape_gradients)
    R = stage(_deformation)(cotangents, shape_gradients)
    rate = stage(_deformation)(corner_velocities, shape_gradients) if material.volume_damping > 0 else None
    shear, pressure, along_F, along_cof = stage(_gradient_moduli)(F, rate, R, activation, material=material)
    S = stage(_gradient_stress)(F, rate, R, shear, pressure, along_F, along_cof, material=material)
    by_corners = _corner_forces(S, shape_gradients, volume, stage)
    if material.volume_damping > 0:
        viscous = stage(_viscous_stress)(F, R, along_cof, material=material)
        by_velocities = _corner_forces(viscous, shape_gradients, volume, stage)
    else:
        by_velocities = _corner_forces(R, shape_gradients, material.damping * volume, stage)
    return by_corners, by_velocities, -volume * material.lam * along_cof


def element_energy(
    corners: Matrix, shape_gradients: Matrix, volume: PerElement, activation: PerElement, material: Material
) -> PerElement:
    """Elastic energy in joules: ``Vol (mu/2 (Ic - log(Ic + 1)) + lam/2 (J - alpha + act)^2)``.

    The undamped part of `element_forces` is minus its gradient.
    """
    F = _deformation(corners, shape_gradients)
    J = _determinant(F, _cofactor(F, F))
    invariant = _dot(F, F)
    deviatoric = 0.5 * material.mu * (invariant - jnp.log(invariant + 1.0))
    return volume * (deviatoric + 0.5 * material.lam * jnp.square(J - material.rest_ratio + activation))


def _moduli(
    F: Matrix, rate: Matrix | None, activation: PerElement, material: Material
) -> tuple[PerElement, PerElement]:
    """Factors of F and of cof F in the stress. Without volume damping the rate is not needed."""
    cof = _cofactor(F, F)
    shear = material.mu * (1.0 - 1.0 / (_dot(F, F) + 1.0))
    pressure = material.lam * (_determinant(F, cof) - material.rest_ratio + activation)
    if rate is not None:
        pressure = pressure + material.volume_damping * _dot(cof, rate)
    return shear, pressure


def _stress(
    F: Matrix,
    corner_velocities: Matrix,
    shape_gradients: Matrix,
    shear: PerElement,
    pressure: PerElement,
    material: Material,
) -> list[list[PerElement]]:
    """P of `element_forces`. Each entry needs one entry of dF/dt: no use in storing that first."""
    rate = _deformation(corner_velocities, shape_gradients)
    cof = _cofactor(F, F)
    return _entries(lambda i, j: shear * F[i][j] + material.damping * rate[i][j] + pressure * cof[i][j])


def _gradient_moduli(
    F: Matrix, rate: Matrix | None, R: Matrix, activation: PerElement, material: Material
) -> tuple[PerElement, PerElement, PerElement, PerElement]:
    """Factors of R, Dcof[R] and F in S of `element_force_gradients`, and ``cof F : R``."""
    shear, pressure = _moduli(F, rate, activation, material)
    along_F = 2.0 * material.mu * _dot(F, R) / jnp.square(_dot(F, F) + 1.0)
    return shear, pressure, along_F, _dot(_cofactor(F, F), R)


def _gradient_stress(
    F: Matrix,
    rate: Matrix | None,
    R: Matrix,
    shear: PerElement,
    pressure: PerElement,
    along_F: PerElement,
    along_cof: PerElement,
    material: Material,
) -> list[list[PerElement]]:
    """S of `element_force_gradients`."""
    turned = _entries(lambda i, j: pressure * R[i][j])
    if rate is not None:
        factor, turned_R = material.volume_damping * along_cof, turned
        turned = _entries(lambda i, j: turned_R[i][j] + factor * rate[i][j])
    cof, left, right = _cofactor(F, F), _cofactor(F, turned), _cofactor(turned, F)
    stretch = _entries(lambda i, j: shear * R[i][j] + along_F * F[i][j] + material.lam * along_cof * cof[i][j])
    return _entries(lambda i, j: stretch[i][j] + left[i][j] + right[i][j])


def _viscous_stress(F: Matrix, R: Matrix, along_cof: PerElement, material: Material) -> list[list[PerElement]]:
    cof = _cofactor(F, F)
    return _entries(lambda i, j: material.damping * R[i][j] + material.volume_damping * along_cof * cof[i][j])


def _entries(entry: Callable[[int, int], PerElement]) -> list[list[PerElement]]:
    return [[entry(i, j) for j in range(3)] for i in range(3)]


def _deformation(corners: Matrix, shape_gradients: Matrix) -> list[list[PerElement]]:
    edges = [[corners[a + 1][i] - corners[0][i] for i in range(3)] for a in range(3)]
    g = shape_gradients
    return _entries(lambda i, j: edges[0][i] * g[0][j] + edges[1][i] * g[1][j] + edges[2][i] * g[2][j])


def _corner_forces(P: Matrix, shape_gradients: Matrix, volume: PerElement, stage: Stage) -> list[list[PerElement]]:
    """``-Vol P g_a`` on corners 1..3, minus their sum on corner 0."""
    outer = stage(_tractions)(P, shape_gradients, volume)
    return [[-(outer[0][i] + outer[1][i] + outer[2][i]) for i in range(3)], *outer]


def _tractions(P: Matrix, shape_gradients: Matrix, volume: PerElement) -> list[list[PerElement]]:
    weights = [[-volume * g for g in row] for row in shape_gradients]
    return [[P[i][0] * w[0] + P[i][1] * w[1] + P[i][2] * w[2] for i in range(3)] for w in weights]


def _determinant(F: Matrix, cof: Matrix) -> PerElement:
    return F[0][0] * cof[0][0] + F[0][1] * cof[0][1] + F[0][2] * cof[0][2]


def _dot(A: Matrix, B: Matrix) -> PerElement:
    rows = [A[i][0] * B[i][0] + A[i][1] * B[i][1] + A[i][2] * B[i][2] for i in range(3)]
    return rows[0] + rows[1] + rows[2]


def _cofactor(A: Matrix, B: Matrix) -> list[list[PerElement]]:
    """Minors with one row of A and one of B: ``cof F`` for A = B = F, bilinear, hence also its differential."""

    def minor(i: int, j: int) -> PerElement:
        r, s = (i + 1) % 3, (i + 2) % 3
        p, q = (j + 1) % 3, (j + 2) % 3
        return A[r][p] * B[s][q] - A[r][q] * B[s][p]

    return _entries(minor)
