"""A small MuJoCo environment whose every number is known, and what its model is with other numbers."""

import gymnasium
import mujoco
import numpy as np

TIMESTEP = 0.02

MODEL = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1" pos="0 0 -9" friction="0.8 .005 .0001"/>
    <body name="cart" pos="0 0 1">
      <joint name="slide" type="slide" axis="1 0 0" armature="{armature}" damping="{damping}"/>
      <inertial mass="{cart}" pos="0 0 0" diaginertia="{cart_inertia} {cart_inertia} {cart_inertia}"/>
      <geom name="box" type="box" size=".1 .1 .1" friction="0.5 .005 .0001"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" range="-0.3 0.3" limited="{limited}"/>
        <inertial mass="{pole}" pos="0 0 {place}" diaginertia="{pole_inertia} {pole_inertia} {pole_inertia}"/>
        <geom type="sphere" size=".05" contype="0" conaffinity="0"/>
      </body>
    </body>
    <body name="ball" pos="0 3 1">
      <freejoint name="free"/>
      <geom name="ball" type="sphere" size=".1" mass="0.5"/>
      <body name="arm" pos=".2 0 0">
        <joint name="elbow" type="hinge" axis="0 0 1" armature="0.01"/>
        <geom name="arm" type="sphere" size=".1" mass="0.25" pos=".2 0 0"/>
      </body>
    </body>
  </worldbody>
  <contact><pair name="ground" geom1="floor" geom2="ball" friction="0.9 0.9 .005 .0001 .0001"/></contact>
  <actuator>
    <motor name="motor" joint="slide" ctrlrange="-10 10" forcerange="-8 8"/>
    <position name="servo" joint="hinge" kp="20" kv="2" ctrlrange="-10 10"/>
  </actuator>
</mujoco>
"""
NUMBERS = {
    **{"armature": 0.5, "damping": 0.0, "cart": 2.0, "cart_inertia": 0.04, "pole": 1.0, "pole_inertia": 0.02},
    **{"place": -0.5, "limited": "false"},
}


def model(**numbers):
    return mujoco.MjModel.from_xml_string(MODEL.format(**{**NUMBERS, **numbers}))


class Mechanism(gymnasium.Env):
    """A cart with a pole on a rail, and a ball with an arm that floats. Observes positions and velocities."""

    max_episode_steps = 30
    dt = TIMESTEP

    def __init__(self, **numbers):
        self.model = model(**numbers)
        self.data = mujoco.MjData(self.model)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.model.nq + self.model.nv,), np.float64)
        self.action_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[0] = 0.1 * self.np_random.uniform()
        mujoco.mj_forward(self.model, self.data)
        return self._get_obs(), {}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 2)
        return self._get_obs(), float(self.data.qvel[0]), False, False, {}

    def _get_obs(self):
        return np.concatenate([self.data.qpos, self.data.qvel])


class Remade(Mechanism):
    """Makes its model anew for every episode."""

    def reset(self, *, seed=None, options=None):
        self.model = model()
        self.data = mujoco.MjData(self.model)
        return super().reset(seed=seed)


class Scales(Mechanism):
    """The reward of a step is the mass of the cart."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.model.body_mass[1]), *rest


class Hidden(Mechanism):
    """Cannot be observed at will."""

    _get_obs = None

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.observation_space.shape), {}


def momentum(env):
    """(3,) of the ball and its arm, in kg m/s."""
    inner = env.unwrapped
    mujoco.mj_subtreeVel(inner.model, inner.data)
    ball = inner.model.body("ball").id
    return inner.model.body_subtreemass[ball] * inner.data.subtree_linvel[ball]
