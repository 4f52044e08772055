"""Tiny tasks whose right answer is known: what a learner must find before it may try anything harder.

Each is a `SingleTask` with exact values in its docstring. ``probe(task, num_envs)`` makes a world of one. In formulas,
g is the discount factor and V the value that a correct critic must report.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped

ACTION_COST = 1e-3
"""Keeps actions away from the box where a probe does not care about them."""


def probe(task: SingleTask, num_envs: int = 16) -> FunctionalWorld:
    """A world of ``num_envs`` copies of the probe."""
    return FunctionalWorld(f"probe/{type(task).__name__}", Vmapped(task), num_envs)


class _Probe(SingleTask):
    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(1))
    episode_length: int = eqx.field(static=True, default=1)
    control_timestep: float = eqx.field(static=True, default=1.0)

    def initial(self, key):
        return jnp.zeros(())

    def observe(self, state):
        return Observation(jnp.reshape(state, (1,)))


def _outcome(reward, terminated=False, **diagnostics):
    return Outcome(jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), diagnostics)


class ConstantRewardTruncated(_Probe):
    """Reward 1 for ever; episodes are only cut off by the time limit, after 8 steps. Constant observation.

    Right answer: V = 1 / (1 - g). A learner that takes the time limit for an end reports at most
    (1 - g^8) / (1 - g).
    """

    episode_length: int = eqx.field(static=True, default=8)

    def advance(self, state, action):
        return state, _outcome(1.0 + 0.0 * jnp.sum(action))

    @staticmethod
    def right_value(discount: float) -> float:
        """V of the one observation."""
        return 1.0 / (1.0 - discount)


class ConstantRewardTerminated(_Probe):
    """Reward 1 for ``steps`` steps, then the episode terminates. The observation is the share of the episode done.

    Right answer: V(after i steps) = (1 - g^(steps - i)) / (1 - g). A learner that bootstraps over the end reports
    more. With ``steps = 1`` this is the one-step probe of constant reward: V = 1.
    """

    episode_length: int = eqx.field(static=True, default=100)
    steps: int = eqx.field(static=True, default=4)

    def advance(self, state, action):
        state = state + 1.0
        return state, _outcome(1.0 + 0.0 * jnp.sum(action), state >= self.steps)

    def observe(self, state):
        return Observation(jnp.reshape(state / self.steps, (1,)))

    def right_value(self, discount: float, done: int = 0) -> float:
        """V after ``done`` steps of the episode."""
        return (1.0 - discount ** (self.steps - done)) / (1.0 - discount)


class OneStep(_Probe):
    """One step, reward 1, terminated. Right answer: V = 1 for every discount."""

    episode_length: int = eqx.field(static=True, default=10)

    def advance(self, state, action):
        return state, _outcome(1.0 + 0.0 * jnp.sum(action), True)

    @staticmethod
    def right_value(discount: float) -> float:
        """V of the one observation."""
        del discount
        return 1.0


class TwoStepDiscount(_Probe):
    """Reward 0, then 1 and the end. Observation 0, then 1. Right answer: V(0) = g, V(1) = 1."""

    episode_length: int = eqx.field(static=True, default=10)

    def advance(self, state, action):
        return state + 1.0, _outcome(state + 0.0 * jnp.sum(action), state >= 1.0)

    @staticmethod
    def right_value(discount: float, observation: float = 0.0) -> float:
        """V of observation 0 or 1."""
        return 1.0 if observation else discount


class ObservationReward(_Probe):
    """One step whose reward is the observation, drawn from {-1, +1}. Right answer: V(o) = o."""

    episode_length: int = eqx.field(static=True, default=10)

    def initial(self, key):
        return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)

    def advance(self, state, action):
        return state, _outcome(state + 0.0 * jnp.sum(action), True)

    @staticmethod
    def right_value(discount: float, observation: float) -> float:
        """V of observation -1 or +1."""
        del discount
        return observation


class ActionReward(_Probe):
    """One step with reward -|a - a*|^2, a* = (0.4, -0.3). Right answer: a = a*; V = 0 under it."""

    action_size: int = eqx.field(static=True, default=2)
    episode_length: int = eqx.field(static=True, default=10)
    best: tuple[float, float] = eqx.field(static=True, default=(0.4, -0.3))

    def advance(self, state, action):
        return state, _outcome(-jnp.sum((action - jnp.asarray(self.best)) ** 2), True)


class ObservationActionReward(_Probe):
    """One step with reward -(a - o / 2)^2, o uniform in [-1, 1]. Right answer: a = o / 2; V = 0 under it."""

    episode_length: int = eqx.field(static=True, default=10)

    def initial(self, key):
        return jax.random.uniform(key, minval=-1.0, maxval=1.0)

    def advance(self, state, action):
        return state, _outcome(-((action[0] - 0.5 * state) ** 2), True)

    @staticmethod
    def right_action(observation: jax.Array) -> jax.Array:
        """The optimal action."""
        return 0.5 * observation


class Regulator(_Probe):
    """Credit through the state: x' = x + a with reward -(x'^2), x uniform in [-0.8, 0.8], 5 steps to the time limit.

    Right answer: a = -x (to 0.1 %, which is the action cost); V is then -0.001 x^2. Rewards are differentiable through
    the state, so a learner of pathwise gradients and one of likelihood ratios must both find it.
    """

    episode_length: int = eqx.field(static=True, default=5)

    def initial(self, key):
        return jax.random.uniform(key, minval=-0.8, maxval=0.8)

    def advance(self, state, action):
        state = state + action[0]
        return state, _outcome(-(state**2) - ACTION_COST * jnp.sum(action**2))


class TwoDoors(_Probe):
    """The bimodal probe: where a unimodal policy must lose, in expected return.

    One of two doors, at a = -0.5 and a = +0.5, is unlocked: side s = -1 or +1 with probability 1/2, drawn at reset
    and never observed (the observation is constant, and the policy has no memory). Four tries. A try opens the door
    to the degree

        p(a) = 0.9 exp(-(a - s/2)^2 / (2 0.1^2)) + 0.1 exp(-(a - s/2)^2 / (2 0.3^2))

    and pays the *first* opening only: with m the share still closed, m' = m (1 - p), the reward is m p = m - m', so
    that the return is 1 - prod(1 - p), smooth in all actions and at most 1. m is hidden as well. Terminated when m
    falls below 0.05. The wide part of p gives every action a gradient.

    Right answer: half of the tries at each door. For tries that are drawn independently the expected return is
    E_s[1 - (1 - E_a p)^4] (``expected_return``), hence

        two exact doors, evenly                1 - (1/2)^4          = 0.94   ``BEST``
        the best single action                 1/2                  = 0.50
        the best Gaussian, clipped or tanh     by search            < 0.56   ``GAUSSIAN_BOUND``

    (``tests/worlds/test_classic_probes.py`` holds the numbers. A policy that plans
    several actions from one observation can try both doors in turn: the bounds hold without action chunks.) The
    diagnostic ``opened`` is p.
    """

    episode_length: int = eqx.field(static=True, default=4)
    core: float = 0.1
    skirt: float = 0.1
    skirt_width: float = 0.3
    door: float = 0.5

    BEST = 0.9375
    GAUSSIAN_BOUND = 0.56

    def initial(self, key):
        side = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return jnp.stack([side, jnp.ones(())])

    def opening(self, action: jax.Array, side: jax.Array | float) -> jax.Array:
        """p of an action, elementwise."""
        off = jnp.square(action - self.door * side)
        return (1.0 - self.skirt) * jnp.exp(-0.5 * off / self.core**2) + self.skirt * jnp.exp(
            -0.5 * off / self.skirt_width**2
        )

    def advance(self, state, action):
        side, closed = state
        p = self.opening(action[0], side)
        still = closed * (1.0 - p)
        return jnp.stack([side, still]), _outcome(closed - still, still < 0.05, opened=p)

    def observe(self, state):
        del state
        return Observation(jnp.zeros(1))

    def expected_return(self, actions: jax.Array, weights: jax.Array) -> jax.Array:
        """Expected undiscounted return of a policy that draws ``actions`` with ``weights`` (which sum to 1)."""
        values = [1.0 - (1.0 - jnp.sum(weights * self.opening(actions, side))) ** 4 for side in (-1.0, 1.0)]
        return 0.5 * (values[0] + values[1])


class TwoActions(_Probe):
    """One step; two actions are equally good at every observation, and their mean is bad.

        r(a) = -((a^2 - m^2) / m^2)^2,  m = 0.6 + 0.1 o,  o uniform in [-1, 1]

    Right answer: a = m and a = -m with reward 0, in any proportion. a = 0 has reward -1 and no slope. The expected
    reward of a policy that covers both is 0; so is that of one that knows only one of them: what a policy knows is seen
    in its samples (``coverage``), not in its return.
    """

    episode_length: int = eqx.field(static=True, default=10)

    def initial(self, key):
        return jax.random.uniform(key, minval=-1.0, maxval=1.0)

    @staticmethod
    def reward(action: jax.Array, observation: jax.Array | float) -> jax.Array:
        """r, elementwise."""
        square = jnp.square(0.6 + 0.1 * observation)
        return -jnp.square((jnp.square(action) - square) / square)

    def advance(self, state, action):
        return state, _outcome(self.reward(action[0], state), True)

    @staticmethod
    def coverage(actions: jax.Array, observation: float) -> tuple[float, float]:
        """Shares of the actions within 0.2 of the negative and of the positive good action."""
        m = 0.6 + 0.1 * observation
        return tuple(float((jnp.abs(actions - sign * m) < 0.2).mean()) for sign in (-1.0, 1.0))


class HiddenBeat(_Probe):
    """Two steps that look alike. The reward is the action in the first, and its negative in the second.

    Right answer: without memory nothing is better than 0, as one answer serves both steps. A plan of two actions, 1 and
    -1, gets 1 + g.
    """

    episode_length: int = eqx.field(static=True, default=2)

    def advance(self, state, action):
        return state + 1.0, _outcome(jnp.where(state == 0.0, action[0], -action[0]), state >= 1.0)

    def observe(self, state):
        return Observation(jnp.zeros((1,)))


class LateCoin(_Probe):
    """Three steps; a coin is shown behind the first. The reward is coin times action in the second, else nothing.

    Observations are 0 before the coin is thrown, the coin in the second step, and 3 in the third.

    Right answer for plans of two actions: at 0 no plan is worth anything, as it is made before the coin is seen; at the
    coin the best is worth 1. Who learns from two steps that hold actions of two plans, the second made in view of the
    coin, is told that plans made at 0 are worth up to g.
    """

    episode_length: int = eqx.field(static=True, default=3)

    def initial(self, key):
        coin = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return jnp.stack([jnp.zeros(()), coin])

    def advance(self, state, action):
        age, coin = state
        reward = jnp.where(age == 1.0, coin * action[0], 0.0 * action[0])
        return state.at[0].add(1.0), _outcome(reward, age >= 2.0)

    def observe(self, state):
        age, coin = state
        return Observation(jnp.where(age == 0.0, 0.0, jnp.where(age == 1.0, coin, 3.0))[None])


class PointCloud(_Probe):
    """One step; the right action is the x-coordinate of the cloud's mean, and the vector part says nothing.

    Observation: the number 0 and 6 points of normal noise (std 0.1) around (c, 0, 0), c uniform in [-0.8, 0.8].
    Reward -(a - c)^2. Right answer: a = the mean of the points' x, with expected reward -0.1^2 / 6 to first order.
    """

    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(1, 6))
    episode_length: int = eqx.field(static=True, default=10)

    def initial(self, key):
        key_center, key_points = jax.random.split(key)
        center = jax.random.uniform(key_center, minval=-0.8, maxval=0.8)
        points = 0.1 * jax.random.normal(key_points, (6, 3)) + jnp.stack([center, 0.0 * center, 0.0 * center])
        return center, points

    def advance(self, state, action):
        return state, _outcome(-((action[0] - state[0]) ** 2), True)

    def observe(self, state):
        return Observation(jnp.zeros(1), state[1])


class Cue(_Probe):
    """Three steps: a cue c of -1 or 1 is shown at the first, 0 at the others. Reward -(a - c / 2)^2 at the last.

    Right answer for who remembers: a = c / 2, return 0. Whoever sees the present alone can do no better than a = 0,
    return -1/4.
    """

    episode_length: int = eqx.field(static=True, default=3)

    def initial(self, key):
        return jnp.where(jax.random.bernoulli(key), 1.0, -1.0), jnp.zeros((), jnp.int32)

    def advance(self, state, action):
        cue, age = state
        last = age == 2
        reward = jnp.where(last, -jnp.square(action[0] - 0.5 * cue), 0.0)
        return (cue, age + 1), _outcome(reward, last)

    def observe(self, state):
        cue, age = state
        return Observation(jnp.where(age == 0, cue, 0.0)[None])


ALL = (
    ConstantRewardTruncated,
    ConstantRewardTerminated,
    OneStep,
    TwoStepDiscount,
    ObservationReward,
    ActionReward,
    ObservationActionReward,
    Regulator,
    TwoDoors,
    TwoActions,
    PointCloud,
    Cue,
)
"""Every probe class; each can be built without arguments."""
