"""Brax, gymnax and MuJoCo Playground themselves. Each test runs where its package is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.worlds import make_world
from penstock.worlds.check import check_world
from penstock.worlds.loading import load_world
from tests.worlds.test_jax_environments import played


def test_the_pendulum_of_gymnax_is_that_of_gymnasium():
    """Gymnasium's source: dt 0.05, g 10, torque up to 2, speed up to 8; reward of the state before the step."""
    pytest.importorskip("gymnax")
    world = make_world("jax/gymnax:Pendulum-v1", 3)
    assert (world.episode_length, world.control_timestep, world.action_size) == (200, 0.05, 1)
    actions = np.sin(0.1 * np.arange(203))
    for t, (before, transition) in enumerate(played(world, actions)):
        seen = np.asarray(before.observation.vector)
        angle, speed, torque = np.arctan2(seen[:, 1], seen[:, 0]), seen[:, 2], 2.0 * actions[t]
        expected = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        final = np.asarray(transition.final_observation.vector)
        np.testing.assert_allclose(final[:, 2], expected, atol=1e-3)
        np.testing.assert_allclose(final[:, 0], np.cos(angle + 0.05 * expected), atol=1e-3)
        np.testing.assert_allclose(transition.reward, -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2), atol=1e-3)
        assert transition.truncated.tolist() == [t == 199] * 3 and not transition.terminated.any()


def test_limits_and_boxes_of_gymnax():
    pytest.importorskip("gymnax")
    limits = {"MountainCarContinuous-v0": 999, "PointRobot-misc": 100, "Reacher-misc": 100, "Swimmer-misc": 500}
    for ident, limit in limits.items():
        world = make_world(f"jax/gymnax:{ident}", 2)
        assert world.episode_length == limit
        assert played(world, [0.5])[0][1].reward.shape == (2,)
    robot = make_world("jax/gymnax:PointRobot-misc", 2).task.single.environment
    np.testing.assert_allclose((robot.action_low, robot.action_high), [[-0.1] * 2, [0.1] * 2])
    changed = make_world("jax/gymnax:Pendulum-v1", 2, max_torque=1.0, max_steps_in_episode=50)
    assert changed.episode_length == 50 and changed.task.single.environment.action_high.tolist() == [1.0]
    for options, sentence in (
        ({"max_torq": 1.0}, "cannot be made with the options.*Its parameters are .*max_torque"),
        ({"max_torque": "strong"}, "max_torque = 'strong': must be a number"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            make_world("jax/gymnax:Pendulum-v1", 2, **options)
    with pytest.raises(ConfigurationError, match="has actions of the kind Discrete"):
        make_world("jax/gymnax:CartPole-v1", 2)


def test_the_pendulum_of_gymnax_passes_the_checker():
    pytest.importorskip("gymnax")
    assert not [finding for finding in check_world(make_world("jax/gymnax:Pendulum-v1", 2)) if finding.severity != "ok"]


def test_a_pole_of_brax_falls_and_is_drawn(tmp_path):
    """It falls at 0.2 rad. As Brax's own factory makes it, with its own limit and reset, it is the same world."""
    pytest.importorskip("brax")
    (tmp_path / "poles.py").write_text(
        "from brax import envs\n\n\ndef make(episode_length=1000):\n"
        "    return envs.create('inverted_pendulum', episode_length, batch_size=2, backend='spring')\n"
    )
    world = make_world("jax/brax:inverted_pendulum", 2, backend="spring", max_episode_steps=20)
    own = load_world(f"{tmp_path}/poles.py:make", 2, episode_length=20)
    assert make_world("jax/brax:inverted_pendulum", 2, backend="spring").episode_length == 1000
    assert own.episode_length == 20 and own.control_timestep == world.control_timestep == 0.02
    ages = np.zeros(2, int)
    for (_, one), (_, other) in zip(played(world, [1.0] * 25), played(own, [1.0] * 25), strict=True):
        ages += 1
        fallen = np.abs(one.final_observation.vector[:, 1]) > 0.2
        np.testing.assert_array_equal(one.terminated, fallen)
        np.testing.assert_array_equal(one.truncated, ages == 20)
        np.testing.assert_array_equal(one.final_observation.vector, other.final_observation.vector)
        np.testing.assert_array_equal(one.terminated, other.terminated)
        ages[np.asarray(one.done)] = 0
    assert fallen.any() or (ages < 20).all()
    state = jax.jit(world.reset)(jax.random.key(0))
    assert len(world.task.scene(jax.device_get(state.body), 0).items) == 3
    with pytest.raises(ConfigurationError, match=r"Brax knows no environment 'aunt'\. Did you mean 'ant'"):
        make_world("jax/brax:aunt", 2)


MASSES = {"Go1JoystickFlatTerrain": 12.743, "G1JoystickFlatTerrain": 33.341, "T1JoystickFlatTerrain": 31.614}
"""Of robots, in kg, without their visual meshes."""


@pytest.mark.parametrize(("ident", "mass"), MASSES.items())
def test_robots_of_playground_with_stand_in_meshes_have_their_masses(ident, mass, monkeypatch, tmp_path):
    pytest.importorskip("mujoco_playground")
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    world = make_world(f"playground/{ident}", 2, meshes="stand-in")
    assert float(world.task.single.environment.env.mj_model.body_mass.sum()) == pytest.approx(mass, abs=1e-3)
    assert (world.episode_length, world.control_timestep) == (1000, 0.02)
    if ident.startswith("Go1"):
        assert (world.observation_spec.vector, world.observation_spec.privileged, world.action_size) == (48, 123, 12)


@pytest.mark.slow
def test_the_cartpole_of_playground_moves_as_in_c():
    """MJX against C MuJoCo, from the same states, under the same actions."""
    pytest.importorskip("mujoco_playground")
    import mujoco

    world = make_world("playground/CartpoleBalance", 2, impl="jax")
    env = world.task.single.environment.env
    assert world.describe()["engine"].endswith("impl jax")
    data = mujoco.MjData(env.mj_model)
    for before, transition in played(world, np.sin(0.3 * np.arange(20))):
        action = np.sin(0.3 * float(before.age[0]))
        data.qpos[:], data.qvel[:], data.ctrl[:] = before.body.data.qpos[0], before.body.data.qvel[0], action
        mujoco.mj_step(env.mj_model, data)
        seen = np.asarray(transition.final_observation.vector[0])
        np.testing.assert_allclose(seen[0], data.qpos[0], atol=1e-5)
        np.testing.assert_allclose(seen[3:], data.qvel, atol=1e-4)
        assert set(transition.diagnostics) >= {"info/reward/upright"} and not transition.terminated.any()
    assert jnp.isfinite(transition.reward).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ident", "options", "substeps"),
    [("CartpoleBalance", {}, 1), ("Go1JoystickFlatTerrain", {"meshes": "stand-in"}, 5)],
)
def test_on_a_cpu_playground_is_stepped_by_the_c_library(ident, options, substeps, monkeypatch, tmp_path):
    """Control step by control step as the library moves the same states."""
    pytest.importorskip("mujoco_playground")
    import mujoco
    from mujoco import mjx

    from penstock.export.controls import controls_of_task

    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    own_step = mjx.step
    assert make_world(f"playground/{ident}", 3, **options).describe()["engine"].endswith("impl c")  # tests run on CPUs
    world = make_world(f"playground/{ident}", 3, impl="c", **options)
    env = world.task.single.environment.env
    found = controls_of_task(world.task.single)
    pose, scale = (env._default_pose, env._config.action_scale) if ident.startswith("Go1") else ([0.0], 1.0)
    np.testing.assert_allclose(found.offset, pose, atol=1e-5)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-5)
    data = mujoco.MjData(env.mj_model)
    for t, (before, transition) in enumerate(played(world, 0.3 * np.sin(0.3 * np.arange(20)))):
        if transition.done.any():
            break
        action = 0.3 * np.sin(0.3 * t)
        inside = before.body.data
        for name in ("qpos", "qvel", "qacc_warmstart", "time"):
            setattr(data, name, np.asarray(getattr(inside, name))[1])
        data.ctrl[:] = env._default_pose + action * env._config.action_scale if ident.startswith("Go1") else action
        mujoco.mj_step(env.mj_model, data, substeps)
        seen = transition.final_observation
        if ident.startswith("Go1"):
            velocity = data.sensor("local_linvel").data  # what critics see has it without noise
            assert np.abs(np.asarray(seen.privileged[1])[None, :] - velocity[:, None]).min(axis=1).max() < 1e-5
        else:
            np.testing.assert_allclose(seen.vector[1, 0], data.qpos[0], atol=1e-6)
            np.testing.assert_allclose(seen.vector[1, 3:], data.qvel, atol=1e-5)
    assert t > 5 and mjx.step is own_step
