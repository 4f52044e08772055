"""How long may a substep be? Limits of explicit symplectic Euler, from the body linearised at rest."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from penstock.physics.soft_body import SoftBody

MARGIN = 0.7
"""Fraction of the limit that a substep should not exceed: deformation and activation lower the true limit, and
gradients overflow before the motion looks wrong."""


class StabilityWarning(UserWarning):
    """A substep is close to, or beyond, what the integrator can follow."""


class StabilityLimits(NamedTuple):
    """Longest stable substeps in seconds, each for one force alone.

    Attributes:
        elastic: ``2 / omega`` with the highest elastic frequency.
        damping: ``2 / c`` with the highest damping rate.
        contact: ``2 / sqrt(ke / m)`` of the stiffest contact (infinite without contact).
        coupled: elastic and damping forces together (without contact): the exact limit of the linearised free body.
    """

    elastic: float
    damping: float
    contact: float
    coupled: float


def stability_limits(body: SoftBody) -> StabilityLimits:
    """Limits by power iteration on the mass-scaled stiffness and damping matrices at rest.

    At F = I and without activation the stress differential of the stable neo-Hookean material is

        dP = 3/4 mu (dF + dF^T) + (lam - 5/8 mu) tr(dF) I,

    and the damping stress is ``damping dF + volume_damping tr(dF) I``. A symplectic Euler step is stable where
    ``dt^2 K + 2 dt C < 4 M``.
    """
    material = body.material
    elastic = (0.75 * material.mu, 0.75 * material.mu, material.lam - 0.625 * material.mu)
    damping = (material.damping, 0.0, material.volume_damping)
    stiffness, mode = _largest(body, elastic)
    rate, _ = _largest(body, damping) if any(damping) else (0.0, None)
    dt = 2 / math.sqrt(stiffness)
    for _ in range(20):
        combined = tuple(dt * dt * e + 2 * dt * c for e, c in zip(elastic, damping, strict=True))
        value, mode = _largest(body, combined, mode)
        if abs(value - 4) < 1e-4:
            break
        w = _rayleigh(body, elastic, mode)
        c = _rayleigh(body, damping, mode)
        dt = 4 / (c + math.sqrt(c * c + 4 * w))
    return StabilityLimits(
        elastic=2 / math.sqrt(stiffness),
        damping=2 / rate if rate > 0 else math.inf,
        contact=body.contact.max_timestep(body.masses) if body.contact is not None else math.inf,
        coupled=dt,
    )


def max_stable_timestep(body: SoftBody) -> float:
    """The smallest of the elastic, the damping and the contact limit, in seconds. Stay below 0.7 of it."""
    limits = stability_limits(body)
    return min(limits.elastic, limits.damping, limits.contact)


def warn_if_unstable(body: SoftBody, dt: float) -> None:
    """Issues a `StabilityWarning` where a substep of ``dt`` seconds exceeds 0.7 of `max_stable_timestep`."""
    limits = stability_limits(body)
    advice = {
        "elastic": "soften or coarsen the body",
        "damping": "reduce its damping",
        "contact": "soften the contact",
    }
    name = min(advice, key=lambda n: getattr(limits, n))
    limit = getattr(limits, name)
    if dt > MARGIN * limit * (1 + 1e-6):
        warnings.warn(
            f"The substep of {1e3 * dt:.3g} ms exceeds {MARGIN} of the stable limit {1e3 * limit:.3g} ms set by the "
            f"{name} forces: motion or gradients may blow up. Take at least "
            f"{dt / (MARGIN * limit):.2f} times as many substeps, or {advice[name]}.",
            StabilityWarning,
            stacklevel=3,
        )


USUAL_SIZES = (1e-3, 50.0)
"""Metres between which the longest side of a body usually lies."""


def warn_if_absurd(body: SoftBody) -> None:
    """Issues a `StabilityWarning` where a body is so small or large that its file was hardly meant in metres."""
    sides = np.ptp(body.rest, axis=0)
    low, high = USUAL_SIZES
    if not low <= sides.max() <= high:
        measures = " x ".join(f"{side:.3g}" for side in sides)
        warnings.warn(
            f"The body measures {measures} m and weighs {body.masses.sum():.3g} kg. Coordinates are metres: a file in "
            "millimetres needs scale=0.001 (mesh_scale of a world).",
            StabilityWarning,
            stacklevel=3,
        )


def _apply(body: SoftBody, law: tuple[float, ...], u: np.ndarray) -> np.ndarray:
    """``M^-1/2 A M^-1/2 u`` for the linear stress law ``dP = a dF + b dF^T + c tr(dF) I``."""
    a, b, c = law
    scale = 1 / np.sqrt(body.masses)[:, None]
    w = u * scale
    edges = w[body.tets[:, 1:]] - w[body.tets[:, :1]]
    dF = np.einsum("tai,taj->tij", edges, body.shape_gradients)
    dP = a * dF + b * dF.transpose(0, 2, 1) + c * np.trace(dF, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    forces = np.einsum("t,tij,taj->tai", body.volumes, dP, body.shape_gradients)
    corner = np.concatenate([-forces.sum(axis=1, keepdims=True), forces], axis=1).reshape(-1, 3)
    index = body.tets.reshape(-1)
    total = [np.bincount(index, corner[:, i], minlength=len(u)) for i in range(3)]
    return np.stack(total, axis=1) * scale


def _rayleigh(body: SoftBody, law: tuple[float, ...], mode: np.ndarray) -> float:
    return float((mode * _apply(body, law, mode)).sum())


def _largest(
    body: SoftBody, law: tuple[float, ...], start: np.ndarray | None = None, iterations: int = 2000
) -> tuple[float, np.ndarray]:
    """Largest eigenvalue and its unit vector, by power iteration."""
    u = np.random.default_rng(0).standard_normal(body.rest.shape)
    if start is not None:
        # A little noise: the old mode may be orthogonal to the new one.
        u = start + 1e-3 * u / np.linalg.norm(u)
    u /= np.linalg.norm(u)
    value = 0.0
    for _ in range(iterations):
        image = _apply(body, law, u)
        new = float((u * image).sum())
        norm = float(np.linalg.norm(image))
        # |A u - value u| bounds the distance to an eigenvalue; the square of it bounds that of the Rayleigh quotient.
        converged = norm**2 - new**2 <= (1e-3 * new) ** 2
        u = image / norm
        value = new
        if converged:
            break
    return value, u
