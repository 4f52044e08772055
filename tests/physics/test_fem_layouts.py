"""Both layouts against the naive form, derivatives against finite differences, memory."""

import functools

import jax
import jax.numpy as jnp
import naive_fem
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.physics import (
    ConstantContact,
    MassScaledContact,
    Material,
    Motion,
    SoftBody,
    elastic_forces,
    simulate,
    voxel_mesh,
)
from penstock.physics.elastic import inline_stage
from penstock.physics.layout import checked_layout, pack, unpack
from penstock.worlds.soft.jumper_mini import mini_cells

DT, SUBSTEPS, NUM_ENVS = 0.002, 3, 3


def make_body(contact=MassScaledContact()):  # noqa: B008  (frozen)
    return SoftBody(voxel_mesh(mini_cells(), 0.1), Material.from_young(3e4, 0.3, 100.0, 1e3, 20.0), contact)


def start(body, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = body.rest + 0.003 * rng.standard_normal((NUM_ENVS, *body.rest.shape)) - np.array([0, 0.002, 0])
    v = 0.1 * rng.standard_normal(x.shape)
    act = 0.2 * rng.standard_normal((NUM_ENVS, body.num_tets))
    return tuple(jnp.asarray(q, dtype) for q in (x, v, act))


def value_and_pullback(function):
    """Of arguments and weights: the function's value, and the weights pulled back to each argument."""

    def both(arguments, weights):
        value, pull = jax.vjp(function, *arguments)
        return value, pull(weights)

    return jax.jit(both)


def our_loss(body, layout, rematerialise=True):
    def loss(x, v, act):
        def to(q):
            return pack([q[..., i].T for i in range(3)], layout)

        motion = simulate(body, Motion(to(x), to(v)), act.T, DT, SUBSTEPS, rematerialise)
        y, w = (jnp.stack([c.T for c in unpack(part)], axis=-1) for part in motion)
        return jnp.sum(jnp.sin(20 * y)) + jnp.sum(w * w), (y, w)

    return loss


def test_layouts_agree_with_the_naive_form():
    body = make_body()

    def naive(x, v, act):
        y, w = naive_fem.simulate(body, x, v, act, DT, SUBSTEPS)
        return jnp.sum(jnp.sin(20 * y)) + jnp.sum(w * w), (y, w)

    results = {
        name: jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*start(body))
        for name, loss in (("naive", naive), ("soa", our_loss(body, "soa")), ("rows", our_loss(body, "rows")))
    }
    (_, motion), gradients = results["naive"]
    for name in ("soa", "rows"):
        (_, ours), our_gradients = results[name]
        for a, b in zip((*motion, *gradients), (*ours, *our_gradients), strict=True):
            assert np.abs(a - b).max() < 1e-5 * max(1.0, np.abs(a).max()), name


@pytest.mark.parametrize(
    "contact",
    [
        MassScaledContact(),
        pytest.param(MassScaledContact(implicit=True), marks=pytest.mark.slow),
        pytest.param(ConstantContact(5e3, 1.0), marks=pytest.mark.slow),
    ],
)
def test_gradient_equals_finite_differences(contact):
    with jax.enable_x64(True):
        body = make_body(contact)
        x = start(body, np.float64)

        @jax.jit
        def loss(*arguments):
            return our_loss(body, "soa")(*arguments)[0]

        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*x)
        rng = np.random.default_rng(2)
        for which in range(3):
            direction = rng.standard_normal(x[which].shape)
            direction /= np.linalg.norm(direction)
            plus, minus = (
                [q + sign * 1e-6 * direction if i == which else q for i, q in enumerate(x)] for sign in (1, -1)
            )
            difference = float(loss(*plus) - loss(*minus)) / 2e-6
            assert float(np.vdot(gradients[which], direction)) == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("layout", ["soa", pytest.param("rows", marks=pytest.mark.slow)])
@pytest.mark.parametrize("volume_damping", [0.0, pytest.param(20.0, marks=pytest.mark.slow)])
def test_hand_written_force_gradient_equals_autodiff_of_the_naive_form(layout, volume_damping):
    with jax.enable_x64(True):
        body = SoftBody(voxel_mesh([(0, 0, 0)], 0.1), Material.from_young(3e4, 0.3, 100.0, 1e3, volume_damping))
        rng = np.random.default_rng(4)
        x = jnp.asarray(body.rest + 0.02 * rng.standard_normal((2, *body.rest.shape)))
        v, weights = jnp.asarray(rng.standard_normal((2, *x.shape)))
        act = jnp.asarray(0.3 * rng.standard_normal((2, body.num_tets)))

        def naive(x, v, act):
            c = naive_fem.constants(body, x.dtype)
            return jax.vmap(lambda x, v, act: naive_fem.forces(body, c, x, v, act))(x, v, act)

        def ours(x, v, act):
            position, velocity = (pack([q[..., i].T for i in range(3)], layout) for q in (x, v))
            return jnp.stack([c.T for c in unpack(elastic_forces(body, position, velocity, act.T))], axis=-1)

        theirs, their_pullback = value_and_pullback(naive)((x, v, act), weights)
        forces, pullback = value_and_pullback(ours)((x, v, act), weights)
        assert np.abs(forces - theirs).max() < 1e-10 * np.abs(theirs).max()
        for a, b in zip(pullback, their_pullback, strict=True):
            assert np.abs(a - b).max() < 1e-10 * np.abs(b).max()
        shared = jax.jit(jax.grad(lambda a: jnp.sum(weights * ours(x, v, jnp.tile(a, (2, 1))))))(act[0])
        assert shared.shape == (body.num_tets,)


@pytest.mark.optimized
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="stages are stored on the CPU only")
def test_cpu_compiler_repeats_no_arithmetic_across_stages(monkeypatch):
    body = SoftBody(voxel_mesh([(0, 0, 0)], 0.1), Material.from_young(3e4, 0.3, 100.0, 1e3))
    x = tuple(jnp.asarray(body.rest[:, i, None], jnp.float32) for i in range(3))

    def flops():
        program = jax.jit(lambda x: elastic_forces(body, x, x, jnp.zeros((body.num_tets, 1))))
        return program.lower(x).compile().cost_analysis()["flops"]

    stored = flops()
    monkeypatch.setattr("penstock.physics.soft_body.stored_stage", inline_stage)
    assert stored < 0.5 * flops()


@pytest.mark.slow
def test_rematerialisation_changes_memory_only():
    body = make_body()
    n, substeps = 8, 256  # long enough for what one substep needs at a time to vanish beside what all of them keep

    def loss(rematerialise, x, v, act):
        motion = simulate(body, Motion(x, v), act, 1e-3, substeps, rematerialise)
        return sum(jnp.sum(jnp.sin(20 * c)) for c in motion.position)

    rng = np.random.default_rng(3)
    x = tuple(jnp.asarray(body.rest[:, i, None] + 1e-3 * rng.standard_normal((1, n)), jnp.float32) for i in range(3))
    arguments = x, tuple(jnp.zeros_like(c) for c in x), 0.1 * jnp.ones((body.num_tets, n))
    memory, results = [], []
    for rematerialise in (True, False):
        program = jax.jit(
            jax.value_and_grad(functools.partial(loss, rematerialise), (0, 2)),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        compiled = program.lower(*arguments).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes / (substeps * n))
        results.append(compiled(*arguments))
    bound = 2 * 24 * body.num_vertices
    assert memory[0] < bound < memory[1]
    for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        assert np.abs(a - b).max() < 1e-3 * np.abs(b).max()


def test_layout_errors_and_default():
    assert checked_layout(None) == ("soa" if jax.default_backend() == "cpu" else "rows")
    with pytest.raises(ConfigurationError, match="layout"):
        checked_layout("columns")
