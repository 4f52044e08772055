"""Time step limits against dense eigenvalues; gradients of a standing body."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.physics import (
    ConstantContact,
    MassScaledContact,
    Material,
    Motion,
    SoftBody,
    StabilityWarning,
    elastic_forces,
    max_stable_timestep,
    simulate,
    stability_limits,
    voxel_mesh,
    warn_if_unstable,
)
from penstock.worlds.soft.jumper_mini import mini_cells


def make_body(contact=None, damping=200.0, volume_damping=0.0):
    return SoftBody(
        voxel_mesh(mini_cells(), 0.1), Material.from_young(3e4, 0.3, damping, 1e3, volume_damping), contact, -9.8
    )


def dense(body):
    """Mass-scaled stiffness and damping matrices by automatic differentiation of the force."""
    with jax.enable_x64(True):

        def force(x, v):
            q = [tuple(u.reshape(-1, 3)[:, i, None] for i in range(3)) for u in (x, v)]
            return jnp.concatenate(elastic_forces(body, *q, jnp.zeros((body.num_tets, 1))), axis=1).reshape(-1)

        x = jnp.asarray(body.rest.reshape(-1))
        K, C = (-np.asarray(jax.jacobian(force, i)(x, 0 * x)) for i in (0, 1))
    scale = np.repeat(body.masses, 3) ** -0.5
    return scale[:, None] * K * scale, scale[:, None] * C * scale


def test_limits_equal_dense_eigenvalues():
    body = make_body(MassScaledContact(), volume_damping=50.0)
    K, C = dense(body)
    limits = stability_limits(body)
    assert limits.elastic == pytest.approx(2 / np.linalg.eigvalsh(K)[-1] ** 0.5, rel=2e-3)
    assert limits.damping == pytest.approx(2 / np.linalg.eigvalsh(C)[-1], rel=2e-3)
    assert limits.contact == pytest.approx(2 / 350)
    assert np.linalg.eigvalsh(limits.coupled**2 * K + 2 * limits.coupled * C)[-1] == pytest.approx(4, rel=2e-2)
    assert max_stable_timestep(body) == min(limits[:3])

    def radius(dt):
        n = len(K)
        step = np.block([[np.eye(n) - dt * dt * K, dt * (np.eye(n) - dt * C)], [-dt * K, np.eye(n) - dt * C]])
        return np.abs(np.linalg.eigvals(step)).max()

    assert radius(0.97 * limits.coupled) < 1 + 1e-6
    assert radius(1.03 * limits.coupled) > 1.01


def test_known_limits_of_the_mini_constants():
    """Independent figures for these constants: 10.6 ms elastic, 6.9 ms damping, 1.8 ms contact at 5e4 N/m."""
    limits = stability_limits(make_body(ConstantContact(stiffness=5e4)))
    assert limits.elastic == pytest.approx(10.6e-3, rel=0.01)
    assert limits.damping == pytest.approx(6.9e-3, rel=0.01)
    assert limits.contact == pytest.approx(1.8e-3, rel=0.02)


def test_warning_is_a_sentence_with_numbers():
    body = make_body(MassScaledContact())
    with pytest.warns(StabilityWarning, match=r"5 ms exceeds 0\.7 of the stable limit 5\.71 ms .* contact .* 1\.25"):
        warn_if_unstable(body, 5e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_unstable(body, 4e-3)


@pytest.mark.parametrize(
    "contact",
    [
        MassScaledContact(),
        # The negative control: one stiffness for all leaves the body standing and ruins the gradient.
        pytest.param(ConstantContact(stiffness=5e4, radius=0.0), marks=pytest.mark.slow),
    ],
    ids=["mass-scaled", "constant"],
)
def test_mass_scaled_contact_keeps_gradients_finite_in_stance(contact):
    """The same standing body, 0.5 s at 2 ms: gradient of its height with respect to its velocities."""
    act, dt, quick = jnp.zeros((80, 1)), 2e-3, {"xla_backend_optimization_level": 0}

    def outcome(contact, position, velocity):
        body = make_body(contact, damping=30.0)

        def height(velocity):
            return body.mass_center(simulate(body, Motion(position, velocity), act, dt, 250).position)[1][0]

        value, gradient = jax.jit(jax.value_and_grad(height), compiler_options=quick)(velocity)
        return float(value), float(max(jnp.abs(g).max() for g in gradient))

    body = make_body(MassScaledContact(), damping=100.0)
    rest = tuple(jnp.asarray(body.rest[:, i, None], jnp.float32) for i in range(3))
    settle = jax.jit(lambda q: simulate(body, Motion(q, jax.tree.map(jnp.zeros_like, q)), act, dt, 400))
    calm = settle(rest)
    value, size = outcome(contact, *calm)
    assert 0.1 < value < 0.175
    if isinstance(contact, MassScaledContact):
        assert size < 1.0
    else:
        assert not size < 1e3


def test_contact_laws_on_one_vertex():
    """Hand numbers at depth 1 cm, approaching at 1 m/s and slipping at 3 m/s, m = 2 kg, dt = 1 ms."""
    y, v = jnp.array([[-0.01]]), (jnp.array([[3.0]]), jnp.array([[-1.0]]), jnp.array([[0.0]]))
    mass = jnp.array([[2.0]])
    vx, vy, _ = MassScaledContact(100.0, 60.0, 0.5).apply(y, v, mass, 1e-3)
    assert float(vy[0, 0]) == pytest.approx((-1 + 1e-3 * 1e4 * 0.01) / 1.06, rel=1e-5)
    assert float(vx[0, 0]) == pytest.approx(3 / (1 + 1e-3 * 0.5 * 100 / (9 + 1e-3) ** 0.5), rel=1e-5)
    vx, vy, _ = ConstantContact(2e3, 4.0, 1e6, 0.5, 0.0).apply(y, v, mass, 1e-3)
    assert float(vy[0, 0]) == pytest.approx((-1 + 1e-3 * 10) / 1.002, rel=1e-5)
    assert float(vx[0, 0]) == pytest.approx(3 / (1 + 1e-3 * 0.5 * 24 / 3 / 2), rel=1e-5)
    for law in (MassScaledContact(), ConstantContact(radius=0.0)):
        above = law.apply(-y, v, mass, 1e-3)
        assert [float(c[0, 0]) for c in above] == pytest.approx([3.0, -1.0, 0.0])


def test_contact_errors():
    with pytest.raises(ConfigurationError, match="slip_speed"):
        MassScaledContact(slip_speed=0.0)
    with pytest.raises(ConfigurationError, match="stiffness"):
        ConstantContact(stiffness=-1.0)
