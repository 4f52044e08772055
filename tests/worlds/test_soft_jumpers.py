"""The soft worlds: sizes, rewards from logged states, gradients into the physics, starts, options."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.physics import StabilityWarning, voxel_mesh, write_mesh
from penstock.physics.layout import unpack
from penstock.worlds import Surface, make_world
from penstock.worlds.soft import Jumper, JumperMini
from penstock.worlds.soft.jumper_mini import mini_cells


@functools.cache
def ready(make):
    """A default task with compiled `initial` and `advance`; two environments everywhere, so each compiles once."""
    task = make()
    return task, jax.jit(task.initial, static_argnums=1), jax.jit(task.advance)


def array(coordinates):
    """Positions or velocities as (N, V, 3), float64."""
    return np.stack([np.asarray(c, np.float64).T for c in unpack(coordinates)], axis=-1)


def uniform_actions(size):
    """For two environments."""
    return jnp.asarray(np.random.default_rng(size).uniform(-1.0, 1.0, (2, size)), jnp.float32)


def test_mini_sizes():
    task = JumperMini()
    assert (task.action_size, task.episode_length, task.control_timestep) == (80, 128, 0.016)
    assert (task.observation_spec.vector, task.observation_spec.points) == (412, 0)
    assert (task.body.num_vertices, task.body.num_tets) == (54, 80)
    assert task.describe()["mass"] == pytest.approx(16.0)
    observation = jax.eval_shape(lambda key: task.observe(task.initial(key, 3)), jax.random.key(0))
    assert observation.vector.shape == (3, 412)
    assert observation.points is None


def test_jumper_sizes_mass_volume_and_height():
    task = Jumper()
    assert (task.action_size, task.episode_length) == (220, 300)
    assert task.control_timestep == pytest.approx(1 / 60)
    assert (task.body.num_vertices, task.body.num_tets) == (240, 550)
    assert task.body.volumes.sum() == pytest.approx(4.90, rel=5e-3)
    assert task.body.masses.sum() == pytest.approx(4.90, rel=5e-3)
    assert np.ptp(task.body.rest, axis=0) == pytest.approx([2.48, 1.77, 2.48], rel=5e-3)
    assert task.body.rest[:, 1].min() == pytest.approx(0.207)
    # Unweighted mean: layers 0-2 hold 16 vertices each, layers 3-5 hold 64.
    assert task.start_height == pytest.approx(0.207 + 0.3544 * (16 * 3 + 64 * 12) / 240)
    assert sorted(np.bincount(task.actuator).tolist()) == [2] * 110 + [3] * 110
    for kind, vector, points in (("state", 6 * 240 + 4 + 220, 0), ("points", 6 + 220, 240)):
        task = Jumper(observation=kind)
        observation = jax.eval_shape(lambda key, t=task: t.observe(t.initial(key, 2)), jax.random.key(0))
        assert observation.vector.shape == (2, vector) == (2, task.observation_spec.vector)
        assert task.observation_spec.points == points
        assert observation.points is None if points == 0 else observation.points.shape == (2, points, 3)


def test_mini_observation_by_numpy():
    task, initial, advance = ready(JumperMini)
    state = initial(jax.random.key(1), 2)
    action = uniform_actions(80)
    for _ in range(3):
        state, _ = advance(state, action)
    x, v, m = array(state.position), array(state.velocity), task.body.masses / task.body.masses.sum()
    horizontal = np.array([1.0, 0.0, 1.0])
    com, rest = m @ x, task.body.rest
    shape = 5 * ((x - com[:, None] * horizontal) - (rest - m @ rest * horizontal))
    phase = 2 * np.pi * 2.0 * 3 * 0.016 * np.array([1, 2])
    expected = [
        np.concatenate(
            [
                shape[n].T.reshape(-1),
                0.3 * v[n].T.reshape(-1),
                m @ v[n],
                com[n, 1:2],
                0.3 * np.asarray(action[n]),
                np.stack([np.sin(phase), np.cos(phase)], axis=1).reshape(-1),
            ]
        )
        for n in range(2)
    ]
    np.testing.assert_allclose(jax.jit(task.observe)(state).vector, expected, atol=2e-5)


def test_rewards_recomputed_from_logged_states():
    for make in (JumperMini, Jumper):
        task, initial, advance = ready(make)
        before = initial(jax.random.key(0), 2)
        action = uniform_actions(task.action_size)
        after, outcome = advance(before, action)
        x0, x1, v1, a = array(before.position), array(after.position), array(after.velocity), np.asarray(action)
        if isinstance(task, JumperMini):
            masses = task.body.masses / task.body.masses.sum()
            step = (masses @ x1 - masses @ x0) / 0.016
            forward, expected = step[:, 0], step[:, 0] - 0.3 * np.abs(step[:, 2]) - 0.002 * (a**2).mean(1)
            height = (masses @ x1)[:, 1]
        else:
            forward, height = v1[:, :, 0].mean(1), x1[:, :, 1].mean(1)
            expected = forward + 3 * (height - task.start_height) - 0.001 * (a**2).sum(1)
        np.testing.assert_allclose(outcome.reward, expected, atol=3e-4)
        np.testing.assert_allclose(outcome.diagnostics["forward_velocity"], forward, atol=3e-4)
        np.testing.assert_allclose(outcome.diagnostics["com_height"], height, atol=1e-5)
        np.testing.assert_allclose(outcome.diagnostics["mean_absolute_action"], np.abs(a).mean(1), rtol=1e-5)
        assert (outcome.diagnostics["smallest_volume_ratio"] > 0.3).all()
        assert not outcome.terminated.any()


def test_layouts_and_actuators_give_the_same_task():
    action = uniform_actions(220)
    ends = []
    _, initial, advance = ready(Jumper)
    rows = Jumper(layout="rows")
    begin_rows = jax.jit(rows.initial, static_argnums=1)
    for task, start, step in ((ready(Jumper)[0], initial, advance), (rows, begin_rows, jax.jit(rows.advance))):
        state, outcome = step(start(jax.random.key(0), 2), action)
        ends.append((array(state.position), jax.jit(task.observe)(state).vector, outcome.reward))
    assert initial(jax.random.key(0), 2).position[0].shape == (240, 2)
    assert begin_rows(jax.random.key(0), 2).position.shape == (240, 3, 2)
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", [JumperMini, Jumper])
def test_gradients_flow_through_points_and_reward(make):
    task = make(observation="points", num_points=10, substeps=6)
    state = ready(make)[1](jax.random.key(0), 2)

    def seen(action, state):
        state, outcome = task.advance(state, action)
        return jnp.square(task.observe(state).points).sum(), outcome.reward.sum()

    action = 0.1 * jnp.ones((2, task.action_size))
    with jax.disable_jit():  # for a single call much cheaper than compiling
        _, pull = jax.vjp(lambda a: seen(a, state), action)
        (points,), (reward,) = pull((jnp.ones(()), jnp.zeros(()))), pull((jnp.zeros(()), jnp.ones(())))
    for gradient in (points, reward):
        assert jnp.isfinite(gradient).all()
        assert (jnp.abs(gradient).max(axis=1) > 1e-7).all()


def test_world_truncates_at_the_time_limit_and_stands():
    world = make_world("soft/jumper-mini", 3)
    _, (transition, height) = jax.jit(
        lambda s: jax.lax.scan(
            lambda s, _: (lambda n, t: (n, (t, t.diagnostics["com_height"])))(*world.step(s, jnp.zeros((3, 80)))),
            s,
            None,
            length=130,
        )
    )(world.reset(jax.random.key(0)))
    assert transition.truncated[127].all()
    assert transition.truncated.sum() == 3
    assert not transition.terminated.any()
    assert not transition.diverged.any()
    # Rest height of the centre of mass is 0.175 m; it sags under its weight, and settles.
    assert ((height[120:128] > 0.14) & (height[120:128] < 0.165)).all()


def test_reset_noise():
    for make in (JumperMini, Jumper):
        still, noisy = make(reset_noise=0.0), make()
        starts = array(jax.jit(lambda k, t=still: t.initial(k, 256))(jax.random.key(0)).position)
        np.testing.assert_allclose(starts[0], still.body.rest, atol=1e-6)
        assert np.ptp(starts, axis=0).max() < 1e-6
        starts = array(jax.jit(lambda k, t=noisy: t.initial(k, 256))(jax.random.key(0)).position)
        assert np.ptp(starts, axis=0).max() > 0.01
        assert (starts[..., 1] >= -1e-6).all()
    sizes = np.ptp(starts, axis=1)[:, 0] / (7 * 0.3544)
    assert 0.9 < sizes.min() < 0.92
    assert 1.08 < sizes.max() < 1.1
    lowest = starts[..., 1].min(axis=1) / sizes
    assert 0.206 < lowest.min() < 0.23
    assert 0.58 < lowest.max() < 0.608


def test_scene():
    task, initial, advance = ready(Jumper)
    state = initial(jax.random.key(0), 2)
    state, _ = advance(state, jnp.asarray(np.stack([np.zeros(220), np.linspace(-1, 1, 220)]), jnp.float32))
    scene = task.scene(state, 1)
    (body,) = scene.items
    assert isinstance(body, Surface)
    assert body.vertices.shape == (240, 3)
    assert body.values.shape == body.faces.shape[:1]
    assert -1 <= body.values.min() < -0.5 < 0.5 < body.values.max() <= 1
    np.testing.assert_allclose(body.vertices, array(state.position)[1], atol=1e-6)
    assert scene.caption == "t = 0.02 s"
    assert scene.extent > 0.5


def test_jumper_with_a_mesh_file(tmp_path):
    pytest.importorskip("meshio")
    write_mesh(voxel_mesh(mini_cells(), 0.3), tmp_path / "mini.vtk")
    task = Jumper(mesh=tmp_path / "mini.vtk", tets_per_action=4)
    assert task.action_size == 20
    assert task.body.rest[:, 1].min() == pytest.approx(0.207)

    @jax.jit
    def first_step(key):
        state, outcome = task.advance(task.initial(key, 1), jnp.zeros((1, 20)))
        return task.observe(state), outcome

    observation, outcome = first_step(jax.random.key(0))
    assert np.isfinite(outcome.reward).all()
    assert observation.vector.shape == (1, 6 * 54 + 4 + 20)


def test_defaults_are_stable_and_long_substeps_are_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JumperMini()
        Jumper()
        Jumper(contact="constant")
    with pytest.warns(StabilityWarning, match="contact"):
        JumperMini(substeps=3)
    with pytest.warns(StabilityWarning, match="contact"):
        Jumper(contact="constant", substeps=8)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"observation": "pixels"}, "observation"),
        ({"observation": "points", "num_points": 0}, "num_points"),
        ({"num_points": 5}, "num_points"),
        ({"substeps": 0}, "substeps"),
        ({"episode_length": 0}, "episode_length"),
        ({"reset_noise": -1.0}, "reset_noise"),
        ({"layout": "columns"}, "layout"),
        ({"friction": -1.0}, "friction"),
    ],
)
def test_option_errors_name_the_option(options, word):
    for make in (JumperMini, Jumper):
        with pytest.raises(ConfigurationError, match=word):
            make(**options)
    with pytest.raises(ConfigurationError, match="contact"):
        Jumper(contact="sticky")
