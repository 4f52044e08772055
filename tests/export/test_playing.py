"""Files in worlds: the units of actions, and what a world says of its robot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.export.decision import Decision
from penstock.export.files import open_policy, write
from penstock.export.parity import compare
from penstock.export.playing import play
from penstock.networks import Normalizer, Trunk, VectorEncoder
from penstock.policies import Actor, Agent
from penstock.policies.settings import POLICIES
from penstock.worlds.hosted.robot import actuators, observation_names, one_environment
from penstock.worlds.loading import load_world
from tests.export.exported_agents import shaken

TANK = "tests/worlds/jax_environments.py:Tank"


def test_actions_of_worlds_written_in_jax_have_their_own_units(tmp_path):
    """The valves of the tank open from 0 to 3. In the file, and on the way back into the world."""
    world = load_world(TANK, 1)
    np.testing.assert_array_equal(world.action_range, ([0.0, 0.0], [3.0, 3.0]))
    policy = POLICIES["gaussian"].build(jax.random.key(0), 2, 2, Trunk((8,), output_gain=1.0))
    agent = Agent(Actor(VectorEncoder(2), jax.tree.map(shaken, policy)), Normalizer.create(2, False))
    made = Decision(agent, world)
    metadata = {"world": {"name": TANK}, "action": {"size": 2}}
    write(made, metadata, tmp_path / "policy.npz", "numpy")
    file = open_policy(tmp_path / "policy.npz")
    assert compare(made, file, count=20).passed

    state, rewards = world.reset(jax.random.key(3)), []
    seen = np.asarray(state.observation.vector[0])
    unit = np.asarray(agent.mode(state.observation).action[0])
    np.testing.assert_allclose(file.decide({"observation": seen}), 1.5 * (unit + 1.0), rtol=1e-5)
    while True:
        state, transition = world.step(state, agent.mode(state.observation).action)
        rewards.append(float(transition.reward[0]))
        if bool(transition.done[0]):
            break
    np.testing.assert_allclose([step.reward for step in play(file, world, 3)], rewards, rtol=1e-5)


def test_names_of_what_is_observed():
    """As the environments themselves say of what their observation is made."""
    hopper, walker = load_world("gym/Hopper-v5", 1), load_world("dmc/walker-walk", 1)
    with one_environment(hopper) as env:
        names = observation_names(hopper, env)
        observation, _ = env.reset(seed=0)
        data = env.unwrapped.data
    assert names[:3] == ["qpos.rootz", "qpos.rooty", "qpos.thigh_joint"] and names[-1] == "qvel.foot_joint"
    np.testing.assert_allclose(observation[: len(data.qpos) - 1], data.qpos[1:])
    with one_environment(walker) as env:
        names = observation_names(walker, env)
    assert names[0] == "orientations[0]" and names[14] == "height" and names[15] == "velocity[0]"


def test_actuators_of_a_model():
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><body><joint name="hip" axis="0 1 0" damping="0.5" armature="0.01" frictionloss="0.2"/>
        <geom size="0.1"/>
        <body pos="0 0 1"><joint type="slide"/><geom size="0.1"/></body></body></worldbody>
        <actuator><position name="servo" joint="hip" kp="30" kv="2" ctrlrange="-1 1" ctrllimited="true"/>
        <motor joint="hip" gear="5"/></actuator>
        <keyframe><key name="standing" qpos="0.4 0.1"/></keyframe></mujoco>"""
    )
    servo, motor = actuators(model)
    assert servo == {
        "name": "servo",
        "joint": "hip",
        "default_position": pytest.approx(0.4),
        "default_from": "keyframe 'standing'",
        "joint_damping": 0.5,
        "joint_armature": 0.01,
        "joint_friction": 0.2,
        "gear": 1.0,
        "control_range": [-1.0, 1.0],
        "gain": 30.0,
        "bias": [0.0, -30.0, -2.0],
    }
    assert motor["name"] == "hip" and motor["gear"] == 5.0 and motor["control_range"] is None
    assert jnp.asarray(motor["bias"]).tolist() == [0.0, 0.0, 0.0]
