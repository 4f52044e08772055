"""Small environments in JAX whose every number is known, written as Brax and as gymnax write theirs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# ------------------------------------------------------------------------------------------------- as Brax writes them


def state_of(first):
    """A class of states with the fields that Brax's and Playground's have, behind one of the environment's own."""
    fields = [(name, Any) for name in (first, "obs", "reward", "done", "metrics", "info")]
    made = dataclasses.make_dataclass("State", fields, namespace={"replace": dataclasses.replace})
    return jax.tree_util.register_dataclass(made)


State = state_of("x")


class Slider:
    """x moves by gain * action and a bit of noise; falls off at |x| >= 1. The reward of a step is 1 + action.

    The policy sees x and its age, critics the gain, which every episode draws anew. Like Brax's own, ``step`` writes
    into the dictionaries of the state that it is given, and begins with other types of numbers than it goes on with.
    """

    action_size = 2
    dt = 0.1

    def __init__(self, noise=0.0, told=("success",)):
        self.noise, self.told = noise, told

    def reset(self, key):
        key, key_x, key_gain = jax.random.split(key, 3)
        x = jax.random.uniform(key_x, (), minval=-0.1, maxval=0.1)
        info = {"rng": key, "age": 0, "gain": jax.random.uniform(key_gain, (), minval=0.1, maxval=0.2)}
        info |= {name: jnp.zeros(()) for name in self.told}
        return State(x, self.seen(x, info), 0, False, {"place": x, "path": 0, "pair": jnp.zeros(2)}, info)

    def step(self, state, action):
        info = state.info
        info["rng"], key = jax.random.split(info["rng"])
        info["age"] += 1
        x = state.x + info["gain"] * action[0] + self.noise * jax.random.normal(key)
        for name in self.told:
            info[name] = (x > 0.5).astype(float)
        state.metrics["place"] = x
        state.metrics["path"] += info["gain"] * jnp.abs(action[0])
        done = (jnp.abs(x) >= 1.0).astype(float)
        return state.replace(x=x, obs=self.seen(x, info), reward=1.0 + action[0], done=done)

    def seen(self, x, info):
        return {
            "state": {"z_age": jnp.asarray(info["age"]), "x": jnp.stack([x])},
            "privileged_state": info["gain"].reshape(1),
        }


class Wrapper:
    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.__dict__["env"], name)

    def reset(self, key):
        return self.env.reset(key)

    def step(self, state, action):
        return self.env.step(state, action)


class VmapWrapper(Wrapper):
    def reset(self, key):
        return jax.vmap(self.env.reset)(key)

    def step(self, state, action):
        return jax.vmap(self.env.step)(state, action)


class EpisodeWrapper(Wrapper):
    def __init__(self, env, episode_length, action_repeat):
        super().__init__(env)
        self.episode_length, self.action_repeat = episode_length, action_repeat


class AutoResetWrapper(Wrapper):
    def step(self, state, action):
        raise AssertionError("nobody but the world resets")


class DomainRandomizationVmapWrapper(VmapWrapper):
    pass


class Halved(Wrapper):
    """A user's wrapper, which is kept."""

    def step(self, state, action):
        state = self.env.step(state, action)
        return state.replace(reward=0.5 * state.reward)


def slider(episode_length=6, noise=0.0):
    return EpisodeWrapper(Slider(noise), episode_length, 1)


def trained_slider(episode_length: int = 5, action_repeat: int = 2):
    """As somebody's training script makes it."""
    return AutoResetWrapper(EpisodeWrapper(VmapWrapper(Halved(Slider())), episode_length, action_repeat))


# ----------------------------------------------------------------------------------------------- as gymnax writes them


@dataclasses.dataclass(frozen=True)
class Box:
    low: Any
    high: Any
    shape: tuple


@dataclasses.dataclass(frozen=True)
class Discrete:
    n: int


@dataclasses.dataclass(frozen=True)
class Params:
    leak: float = 0.5
    full: float = 1.0
    dt: float = 0.2
    max_steps_in_episode: int = 7


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TankState:
    level: Any
    time: Any


class Tank:
    """level' = level + dt * (flow of two valves); overflows at ``full``. As gymnax before 1.0: done is also the limit.

    It observes the level and the share of the episode that is over; actions lie in [0, 3].
    """

    default_params = Params()

    def action_space(self, params):
        return Box(0.0, 3.0, (2, 1))

    def reset_env(self, key, params):
        state = TankState(jax.random.uniform(key, (), maxval=0.1), 0)
        return self.seen(state, params), state

    def step_env(self, key, state, action, params):
        assert action.shape == (2, 1)
        state = TankState(state.level + params.dt * (action.sum() - params.leak), state.time + 1)
        done = self.ended(state, params) | (state.time >= params.max_steps_in_episode)
        noise = jax.random.normal(key)
        info = {"discount": 1.0 - done, "is_success": state.level > 0.5, "noise": noise, "both": jnp.zeros(2)}
        return self.seen(state, params), state, state.level, done, info

    def ended(self, state, params):
        return state.level >= params.full

    def seen(self, state, params):
        return jnp.stack([state.level, state.time / params.max_steps_in_episode])


class NewTank(Tank):
    """As gymnax from 1.0 on: done is the end inside the task."""

    calls = 0

    def step_env(self, key, state, action, params):
        type(self).calls += 1
        seen, state, reward, _, info = super().step_env(key, state, action, params)
        return seen, state, reward, self.ended(state, params), info

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode


class Switch(Tank):
    def action_space(self, params):
        return Discrete(3)


class Unbounded(Tank):
    def action_space(self, params):
        return Box(-np.inf, np.inf, (2, 1))


class Proxy:
    """As gymnax's wrappers: it changes reset and step alone, and hands everything else on."""

    def __init__(self, env):
        self._env = env

    def __getattr__(self, name):
        return getattr(self.__dict__["_env"], name)


def wrapped_tank():
    return Proxy(Tank())


ready = NewTank()
