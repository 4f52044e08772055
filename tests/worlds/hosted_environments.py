"""Small Gymnasium environments whose every number is known, and some that misbehave."""

import os
import signal
import time

import gymnasium
import numpy as np

from penstock.worlds.hosted.environments import Adjustments, EnvironmentSource
from penstock.worlds.hosted.hosted_world import HostedWorld


def hosted(make, num_envs=2, vectorization="serial", **adjustments):
    """A world of environments that ``make`` makes."""
    source = EnvironmentSource("mine", make, adjustments=Adjustments(**adjustments))
    return HostedWorld(source, num_envs, vectorization)


class Counting(gymnasium.Env):
    """Observes (episode's offset, age). The offset is drawn from the seed; the reward is age + first action.

    Terminates at ``ends`` steps, truncates at ``limit``.
    """

    def __init__(self, ends=10**9, limit=5, low=-1.0, high=1.0, first_ends=None):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(low, high, (1,), np.float32)
        self.ends, self.limit = ends, limit
        self.max_episode_steps = limit
        self.first_ends = first_ends
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.offset, self.age = float(self.np_random.integers(1000)), 0
        self.episodes += 1
        return np.array([self.offset, 0.0]), {}

    def step(self, action):
        self.age += 1
        terminated, truncated = self.age >= self.ends, self.age >= self.limit
        return np.array([self.offset, float(self.age)]), self.age + float(action[0]), terminated, truncated, {}


class Unsteady(Counting):
    """Does something else than it should at step ``when`` of an episode."""

    def __init__(self, fault="", when=3, **kwargs):
        super().__init__(**kwargs)
        self.fault, self.when = fault, when

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.age == self.when:
            if self.fault == "raise":
                raise ZeroDivisionError("the motor is on fire")
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(60)
            if self.fault == "shape":
                observation = observation[:1]
            if self.fault == "reward":
                reward = np.ones(2)
            if self.fault == "nan":
                observation = observation * np.nan
            if self.fault == "huge":
                reward = 1e30
        return observation, reward, terminated, truncated, info


class BadStarts(Counting):
    """Begins every ``period``-th episode with NaN; ``by_offset``: those whose offset the period divides."""

    def __init__(self, period=3, by_offset=False):
        super().__init__(limit=2)
        self.period, self.by_offset = period, by_offset

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        number = int(self.offset) if self.by_offset else self.episodes
        return observation * (np.nan if number % self.period == 0 else 1.0), info


class Picture(gymnasium.Env):
    """Observes stacked pictures whose bytes count the steps, and one number."""

    def __init__(self, alone=False):
        picture = gymnasium.spaces.Box(0, 255, (2, 32, 40, 3), np.uint8)
        number = gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32)
        self.observation_space = picture if alone else gymnasium.spaces.Dict({"number": number, "eye": picture})
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.alone = alone
        self.max_episode_steps = 4

    def _look(self):
        picture = np.stack([np.full((32, 40, 3), self.age + frame, np.uint8) for frame in range(2)])
        number = np.full((2, 2), self.age / 10.0, np.float32)
        return picture if self.alone else {"number": number, "eye": picture}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._look(), {}

    def step(self, action):
        self.age += 1
        return self._look(), 0.0, False, self.age >= 4, {}


class Alone(Counting):
    """There can be one at a time."""

    alive = 0

    def __init__(self):
        super().__init__(limit=7)
        assert Alone.alive == 0, "there is one already"
        Alone.alive += 1

    def close(self):
        Alone.alive -= 1


class Money(Counting):
    """Rewards that no learner bears."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return (observation, 3e6, *rest)


def vector(mode, **kwargs):
    """A factory of vector environments with a mode of automatic reset."""

    def make(num_envs=2):
        makers = [lambda: Counting(**kwargs)] * num_envs
        envs = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode)
        envs.max_episode_steps = kwargs.get("limit", 5)
        return envs

    return make


def next_step(num_envs=2):
    """Vector environments that spend a step on resetting themselves."""
    return vector(gymnasium.vector.AutoresetMode.NEXT_STEP)(num_envs)


class Tells(Counting):
    """Says in ``info`` whether it succeeds (at its second step, and from ``holds`` on) and numbers of several kinds."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, holds=10**9, mixed=False, render_mode=None, **kwargs):
        super().__init__(**kwargs)
        self.holds, self.mixed, self.render_mode = holds, mixed, render_mode

    def step(self, action):
        *rest, _ = super().step(action)
        info = {"is_success": self.age == 2 or self.age >= self.holds, "age": self.age, "deep": {"x": -1.0}}
        info |= {"array": np.ones(3), "text": "abc"}
        if self.mixed:
            info["mixed"] = self.age if self.age % 2 else "even"
        return (*rest, info)

    def render(self):
        assert self.render_mode == "rgb_array"
        return np.full((41, 81, 3), 10 * self.age, np.uint8)


class DrawsNothing(Tells):
    """Renders the background alone."""

    def render(self):
        return np.full((40, 80, 3), 7, np.uint8)
