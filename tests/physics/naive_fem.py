"""An elastic body written the obvious way: one environment, ``(V, 3)`` arrays, matrices, `vmap` for batches.

An oracle for the tests (it shares no code with the package) and the baseline of ``benchmarks/fem_layouts.py``.
"""

import jax
import jax.numpy as jnp


def constants(body, dtype=jnp.float32):
    """Arrays of a `penstock.physics.SoftBody` in the wanted precision."""
    names = ("tets", "shape_gradients", "volumes", "masses")
    return {n: jnp.asarray(getattr(body, n), None if n == "tets" else dtype) for n in names}


def _deformation(c, x):
    corners = x[c["tets"]]
    Ds = jnp.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2)
    return Ds @ c["shape_gradients"]


def energy(body, c, x, act):
    """Elastic energy of one body, joules."""
    m = body.material
    F = _deformation(c, x)
    Ic = jnp.trace(jnp.swapaxes(F, 1, 2) @ F, axis1=1, axis2=2)
    alpha = 1 + m.mu / m.lam - m.mu / (4 * m.lam)
    psi = m.mu / 2 * (Ic - jnp.log(Ic + 1)) + m.lam / 2 * (jnp.linalg.det(F) - alpha + act) ** 2
    return jnp.sum(c["volumes"] * psi)


def forces(body, c, x, v, act):
    """Elastic and damping forces ``(V, 3)`` by the stress formula and scatter-add."""
    m = body.material
    F = _deformation(c, x)
    rate = _deformation(c, v)
    cof = jnp.stack(
        [
            jnp.cross(F[:, :, 1], F[:, :, 2]),
            jnp.cross(F[:, :, 2], F[:, :, 0]),
            jnp.cross(F[:, :, 0], F[:, :, 1]),
        ],
        axis=2,
    )
    J = jnp.sum(F[:, :, 0] * cof[:, :, 0], axis=1)
    Ic = jnp.sum(F * F, axis=(1, 2))
    alpha = 1 + m.mu / m.lam - m.mu / (4 * m.lam)
    pressure = m.lam * (J - alpha + act) + m.volume_damping * jnp.sum(cof * rate, axis=(1, 2))
    P = (m.mu * (1 - 1 / (Ic + 1)))[:, None, None] * F + m.damping * rate + pressure[:, None, None] * cof
    H = -c["volumes"][:, None, None] * P @ jnp.swapaxes(c["shape_gradients"], 1, 2)
    total = jnp.zeros_like(x)
    for a in range(3):
        total = total.at[c["tets"][:, a + 1]].add(H[:, :, a])
    return total.at[c["tets"][:, 0]].add(-H.sum(axis=2))


def substep(body, c, x, v, act, dt):
    """Symplectic Euler with mass-scaled contact, as documented in `penstock.physics.contact.MassScaledContact`."""
    v = v + dt * (forces(body, c, x, v, act) / c["masses"][:, None] + jnp.array([0.0, body.gravity, 0.0], x.dtype))
    law = body.contact
    if law is not None:
        depth = jnp.maximum(law.radius - x[:, 1], 0)
        push = law.frequency**2 * depth
        up = (v[:, 1] + dt * push) / (1 + dt * law.damping * jnp.minimum(law.ramp * depth, 1))
        slip = jnp.sqrt(v[:, 0] ** 2 + v[:, 2] ** 2 + law.slip_speed**2)
        brake = 1 / (1 + dt * law.friction * push / slip)
        v = jnp.stack([v[:, 0] * brake, up, v[:, 2] * brake], axis=1)
    return x + dt * v, v


def simulate(body, x, v, act, dt, substeps):
    """N bodies: ``x, v (N, V, 3)``, ``act (N, T)``."""
    c = constants(body, x.dtype)

    def one(x, v, act):
        @jax.checkpoint
        def step(carry, _):
            return substep(body, c, *carry, act, dt), None

        return jax.lax.scan(step, (x, v), None, length=substeps)[0]

    return jax.vmap(one)(x, v, act)
