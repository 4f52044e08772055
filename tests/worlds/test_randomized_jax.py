"""Domain randomisation inside `jax.jit`: the same configuration, drawn per episode into the state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mujoco_environments import model

from penstock._errors import ConfigurationError
from penstock.worlds.jax_packages import jax_world
from penstock.worlds.jax_packages.brax_convention import BraxEnvironment
from penstock.worlds.jax_packages.sources import own_environment
from tests.worlds.jax_environments import Slider, Tank, state_of

KEY = jax.random.key(3)
BALL, MASS = 3, 0.75


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Numbers:
    """Stands for `mujoco.mjx.Model`."""

    body_mass: Any
    body_inertia: Any
    body_subtreemass: Any
    dof_frictionloss: Any

    def tree_replace(self, changes):
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Data:
    qvel: Any
    xfrc_applied: Any

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


State = state_of("data")


class Rail:
    """As Playground writes them: the ball of `mujoco_environments`, moved by actions (N) and by what acts on it."""

    action_size, dt, episode_length = 1, 0.02, 20

    def __init__(self):
        self.mj_model = model()
        self._mjx_model = Numbers(*(jnp.asarray(getattr(self.mj_model, f.name)) for f in dataclasses.fields(Numbers)))

    @property
    def unwrapped(self):
        return self

    def reset(self, key):
        mass = self._mjx_model.body_subtreemass[BALL]
        data = Data(jnp.zeros((9,)), jnp.zeros((5, 6)))
        return State(data, {"state": self.seen(data), "privileged_state": mass[None]}, 0.0, 0.0, {}, {})

    def step(self, state, action):
        mass = self._mjx_model.body_subtreemass[BALL]
        force = jnp.array([action[0], 0.0, 0.0]) + state.data.xfrc_applied[BALL, :3]
        data = state.data.replace(qvel=state.data.qvel.at[2:5].add(self.dt * force / mass))
        return state.replace(data=data, obs={"state": self.seen(data), "privileged_state": mass[None]}, reward=mass)

    def seen(self, data):
        return data.qvel[2:5]


def rail(num_envs=16, **terms):
    return jax_world("rail", num_envs, BraxEnvironment("rail", Rail()), {"randomize": terms} if terms else {})


def played(world, actions, key=KEY):
    """What was observed, before and after every step, and rewards."""
    state, step = jax.jit(world.reset)(key), jax.jit(world.step)
    seen, rewards = [np.asarray(state.observation.vector)], []
    for action in actions:
        state, transition = step(state, jnp.full((world.num_envs, world.action_size), action))
        seen.append(np.asarray(transition.final_observation.vector))
        rewards.append(np.asarray(transition.reward))
    return np.array(seen), np.array(rewards), state


def test_every_environment_has_a_model_of_its_own_and_another_one_in_the_next_episode():
    world = rail(mass={"bodies": ["ball", "arm"], "scale": [0.5, 2.0], "shared": True})
    seen, masses, state = played(world, [0.5] * 21)
    first = masses[0]
    assert (masses[:20] == first).all() and len(set(first.tolist())) == 16
    assert MASS / 2 <= first.min() < 0.6 and 1.1 < first.max() <= 2 * MASS
    assert seen[1, :, 0] == pytest.approx(0.5 * 0.02 / first, rel=1e-5)  # Newton
    assert (masses[20] != first).all()  # of 20 steps is an episode
    assert np.asarray(state.observation.privileged)[:, 0] == pytest.approx(masses[20])
    assert np.asarray(jax.jit(world.reset)(KEY).observation.privileged)[:, 0] == pytest.approx(first)
    assert (played(world, [0.5])[1][0] == first).all() and (
        played(world, [0.5], jax.random.key(4))[1][0] != first
    ).all()
    environment = world.task.single.inner.environment.env
    assert isinstance(environment._mjx_model.body_mass, jax.Array)  # no tracer stays behind
    assert environment._mjx_model.body_mass.tolist() == pytest.approx(model().body_mass.tolist())


def test_actions_arrive_as_late_as_was_drawn_and_noise_is_the_policys_alone():
    world = rail(64, action_latency={"steps": [0, 2]}, observation_noise={"names": "state[1]",
                 "add": [-0.5, 0.5]})  # fmt: skip
    seen, _, state = played(world, [1.0, 0.0, 0.0, 0.0])
    late = np.argmax(np.diff(seen[:, :, 0], axis=0) > 1e-6, axis=0)
    assert set(late.tolist()) == {0, 1, 2} and late.tolist() == np.asarray(state.body.late).tolist()
    assert not seen[:, :, 2].any()
    noise = seen[:, :, 1]
    assert len(np.unique(noise)) == noise.size and np.abs(noise).max() <= 0.5
    assert noise.std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    between = rail(2, action_latency={"steps": [0.25, 0.25], "interpolate": True})
    jumps = np.diff(played(between, [1.0, 0.0, 0.0])[0][:, 0, 0]) * MASS / 0.02
    assert jumps == pytest.approx([0.75, 0.25, 0.0], abs=1e-5)


def test_pushes_change_the_momentum_by_what_was_drawn():
    by_velocity = rail(pushes={"interval": [0.1, 0.1], "velocity": [0.7, 0.7]})
    seen, _, _ = played(by_velocity, [0.0] * 12)
    size = np.linalg.norm(np.diff(seen, axis=0), axis=2)
    assert size[[5, 10]] == pytest.approx(0.7, rel=1e-5) and not np.delete(size, [5, 10], axis=0).any()
    assert len(set(seen[6, :, 0].tolist())) == 16 and not seen[:, :, 2].any()
    by_force = rail(pushes={"interval": [0.1, 0.1], "force": [3, 3], "duration": 0.06, "body": "ball", "axes": ["z"]})
    seen, _, state = played(by_force, [0.0] * 10)
    size = np.abs(np.diff(seen, axis=0))[:, :, 2]
    assert size[[5, 6, 7]] == pytest.approx(3 * 0.02 / MASS, rel=1e-5)
    assert not np.delete(size, [5, 6, 7], axis=0).any() and not np.asarray(state.body.inner.data.xfrc_applied).any()


def test_evaluation_is_randomised_unless_the_nominal_world_is_asked_for():
    world = rail(mass={"scale": [2, 3]})
    assert world.for_evaluation() is world
    assert played(world.for_evaluation("nominal"), [0.5])[1] == pytest.approx(MASS)
    asked = rail(mass={"scale": [2, 3]}, evaluation="nominal").for_evaluation()
    assert played(asked, [0.5])[1] == pytest.approx(MASS)
    with pytest.raises(ConfigurationError, match="nothing in 'rail' is randomised"):
        rail().for_evaluation("nominal")


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ({"mass": {"bodies": "bell", "scale": [1, 2]}}, "there is no such name. Did you mean 'ball'?"),
        ({"joint_friction": {"add": [0.1, 0.2]}}, "MJX computes friction for joints that have some in the model alone"),
        ({"initial_joint_position": {"add": [0, 1]}}, "environments in JAX draw their starts themselves"),
        (
            {"observation_noise": {"names": "qpos*", "add": [0, 1]}},
            "The observed numbers are: state[0], state[1], state[2]",
        ),
    ],
)
def test_what_the_environment_lacks_is_refused(terms, sentence):
    with pytest.raises(ConfigurationError) as error:
        rail(**terms)
    assert str(error.value).startswith("'rail': randomize: ") and sentence in str(error.value)


def test_without_a_model_latency_and_noise_remain():
    def slider(**terms):
        return jax_world("slider", 3, BraxEnvironment("slider", Slider(), 6), {"randomize": terms})

    with pytest.raises(ConfigurationError, match="mass needs an MJX model as MuJoCo Playground's environments have"):
        slider(mass={"scale": [1, 2]})
    assert played(slider(action_latency={"steps": [1, 1]}), [0.5, 0.0])[1].tolist() == [[1.0] * 3, [1.5] * 3]
    noisy = played(slider(observation_noise={"indices": [0], "add": [2, 3], "per": "episode"}), [0.0, 0.0])[0]
    assert (noisy[:, :, 0] > 1.5).all() and (np.ptp(noisy[:, :, 0], axis=0) < 1e-5).all()


def test_actions_keep_their_units_and_the_model_its_nominal_numbers():
    world, plain = (
        jax_world("tank", 2, own_environment("tank", Tank()), {"max_episode_steps": 5, **more})
        for more in ({"randomize": {"action_latency": {"steps": [1, 1]}}}, {})
    )
    assert np.array_equal(world.action_range, plain.action_range) and (plain.action_range[1] != 1.0).any()
    heavy = rail(mass={"scale": [2, 3]})
    assert heavy.task.mujoco_model is heavy.task.single.inner.environment.env.mj_model


@pytest.mark.slow
def test_a_randomised_pole_of_playground_moves_as_c_mujoco_says():
    pytest.importorskip("mujoco_playground")
    import copy

    import mujoco

    from penstock.worlds import make_world

    terms = {
        "mass": {"scale": [0.3, 3.0]},
        "center_of_mass": {"bodies": "pole_1", "add": [-0.1, 0.1]},
        "joint_damping": {"scale": [0.5, 2.0]},
        "motor_strength": {"scale": [0.5, 2.0]},
        "joint_offset": {"joints": "hinge_1", "add": [-0.2, 0.2]},
    }
    world = make_world("playground/CartpoleBalance", 3, randomize=terms)
    nominal = world.task.single.inner.environment.env.mj_model
    before = jax.jit(world.reset)(KEY)
    after, _ = jax.jit(world.step)(before, jnp.ones((3, 1)))
    for env in range(3):
        changed = copy.deepcopy(nominal)
        for field, values in before.body.model.items():
            getattr(changed, field)[...] = np.asarray(values[env])
        data = mujoco.MjData(changed)
        data.qpos[:], data.qvel[:] = before.body.inner.data.qpos[env], before.body.inner.data.qvel[env]
        data.ctrl[:] = 1.0
        mujoco.mj_step(changed, data)
        np.testing.assert_allclose(after.body.inner.data.qvel[env], data.qvel, rtol=1e-4, atol=1e-6)
        wrong = mujoco.MjData(nominal)
        wrong.qpos[:], wrong.qvel[:], wrong.ctrl[:] = data.qpos, before.body.inner.data.qvel[env], 1.0
        mujoco.mj_step(nominal, wrong)
        assert np.abs(wrong.qvel - data.qvel).max() > 1e-4
