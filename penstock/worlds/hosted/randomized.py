"""Domain randomisation of hosted environments: a wrapper of Gymnasium's that draws everything from the episode's seed.

Numbers of a MuJoCo model are written before an episode begins, each time from the nominal ones; latency and noise need
no model. Every term has random numbers of its own, so that one more term leaves the others' draws as they were.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from penstock._errors import ConfigurationError, PenstockError
from penstock.worlds.hosted.environments import EnvironmentSource, stated_timestep
from penstock.worlds.hosted.observation_names import names_of_parts
from penstock.worlds.hosted.pictures import model_and_data
from penstock.worlds.hosted.randomized_model import ModelOfEpisode, PushesOfEpisode, StartOfEpisode
from penstock.worlds.hosted.spaces import Part, observation_reader
from penstock.worlds.randomization.perturbations import (
    LATENCY,
    actions_kept,
    bound_noise,
    bound_pushes,
    drawn_latency,
    late_action,
)
from penstock.worlds.randomization.reading import read_randomization
from penstock.worlds.randomization.terms import ActionLatency, Per, Randomization

APART = 0x5EED
"""Sets the random numbers of randomisation apart from those that an environment draws from the same seed."""


def randomized_source(source: EnvironmentSource) -> EnvironmentSource:
    """The source with what its adjustments randomise; itself where they randomise nothing.

    Raises:
        ConfigurationError: the configuration is wrong, or the environments come as vectors.
    """
    given = source.adjustments.randomize
    if given is None:
        return source
    configuration = read_randomization(given)
    if source.make_vector is not None:
        raise ConfigurationError(
            f"'{source.name}': randomize is of single environments, and these come as a vector. Name a function that "
            "makes one, and leave vectorization=envpool out."
        )
    if configuration.evaluation == "nominal" and source.adjustments.single_instance:
        raise ConfigurationError(
            f"'{source.name}': randomize: evaluation = 'nominal': needs environments of its own, and there is a single "
            "instance. Leave it out."
        )
    wrapped = {
        field: functools.partial(_randomized, make, configuration, source.name, source.adjustments.image_size)
        for field, make in (("make", source.make), ("make_rendering", source.make_rendering))
        if make is not None
    }
    return dataclasses.replace(source, **wrapped, nominal=source, evaluated=configuration.evaluation)


def _randomized(make: Callable[[], Any], configuration: Randomization, name: str, image_size: int | None) -> Any:
    env = make()
    if not isinstance(env, gymnasium.Env):
        return env  # whoever declares it says so
    if isinstance(env, gymnasium.wrappers.TimeLimit):
        # It stays outside, where those who watch for faults expect it.
        env.env = Randomized(env.env, configuration, name, stated_timestep(env), image_size)
        return env
    return Randomized(env, configuration, name, stated_timestep(env), image_size)


class Randomized(gymnasium.Wrapper):
    """One environment, randomised.

    Args:
        env: the environment.
        configuration: what is randomised.
        name: of the world, for messages.
        timestep: seconds per control step.
        image_size: to which pictures that it observes are brought.

    Raises:
        ConfigurationError: the environment or its model lacks what a term needs.
    """

    def __init__(
        self, env: Any, configuration: Randomization, name: str, timestep: float, image_size: int | None = None
    ):
        super().__init__(env)
        self.configuration, self.name = configuration, name
        found, needing = model_and_data(env), configuration.needing_model
        if found is None and needing:
            raise ConfigurationError(
                f"'{name}': randomize: {needing[0]} needs a MuJoCo model, and this environment shows none (as `model` "
                "and `data`). action_latency and observation_noise work everywhere."
            )
        model = None if found is None else found[0]
        try:
            self._model = ModelOfEpisode(configuration.model, model) if configuration.model else None
            self._start = StartOfEpisode(configuration.initial, env, model) if configuration.initial else None
            self._pushes = bound_pushes(configuration.pushes, model, timestep) if configuration.pushes else []
            self._noise, self._parts = [], ()
            if configuration.noise:
                self._parts = observation_reader(env.observation_space, name, image_size).vectors
                whole = _whole_numbers(env.observation_space, self._parts)
                self._noise = bound_noise(configuration.noise, names_of_parts(self._parts, env), whole)
        except ConfigurationError as error:
            raise ConfigurationError(f"'{name}': randomize: {error}") from error
        self._unseeded = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Begins an episode of which everything randomised follows from the seed."""
        source_of = _sources(int(self._unseeded.integers(2**32)) if seed is None else seed)
        if self._model is not None:
            self._model.apply(source_of)
        observation, info = self.env.reset(seed=seed, options=options)
        self._refuse_other_model()
        if self._start is not None:
            observation = self._start.moved(source_of)
        latency = self.configuration.latency
        self._actions = None if latency is None else LateActions(latency, self.env.action_space, source_of(LATENCY))
        self._pushed = PushesOfEpisode(self._pushes, source_of) if self._pushes else None
        self._source_of = source_of
        self._bias = self._drawn_noise("episode")
        return self._noisy(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """One control step."""
        if self._actions is not None:
            action = self._actions.after(action)
        if self._pushed is None:
            returned = self.env.step(action)
        else:
            returned = self._pushed.stepped(self.env, lambda: self.env.step(action))
        if not self._noise or not isinstance(returned, tuple) or not returned:
            return returned  # whoever watches for faults says what is wrong with it
        return (self._noisy(returned[0]), *returned[1:])  # pyright: ignore[reportReturnType]

    def _refuse_other_model(self) -> None:
        found = model_and_data(self.env)
        if self._model is not None and (found is None or found[0] is not self._model.model):
            raise PenstockError(
                f"'{self.name}': randomize: the environment makes a new MuJoCo model in reset(), so what was drawn for "
                f"its model is lost. Make the model once, in __init__, or leave out {', '.join(_names(self._model))}."
            )

    def _drawn_noise(self, per: Per) -> np.ndarray:
        """``(n,)`` what is added to the observed vector, for a step or an episode."""
        total = np.zeros((sum(len(part.low) for part in self._parts),))
        for bound in self._noise:
            if bound.noise.per == per:
                total += bound.draw(self._source_of(bound.noise.stream))
        return total

    def _noisy(self, observation: Any) -> Any:
        if not self._noise:
            return observation
        added, first = self._bias + self._drawn_noise("step"), 0
        if len(self._parts) == 1 and not self._parts[0].path:  # the usual case, in less time
            clean = np.asarray(observation)
            return (clean + added.reshape(clean.shape)).astype(clean.dtype)
        for part in self._parts:
            here = added[first : first + len(part.low)]
            first += len(part.low)
            if part.choices is None and here.any():
                clean = np.asarray(part.of(observation))
                observation = _with(observation, part.path, (clean + here.reshape(clean.shape)).astype(clean.dtype))
        return observation


class LateActions:
    """The actions of an episode, which arrive late. Before the first has arrived, the middle of the box acts.

    Args:
        latency: how late.
        space: the box of actions.
        source: random numbers of the episode.
    """

    def __init__(self, latency: ActionLatency, space: Any, source: np.random.Generator):
        self._latency, self._source, self._dtype = latency, source, space.dtype
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        middle = np.where(bounded, 0.5 * (space.low.astype(float) + space.high.astype(float)), 0.0)
        self._kept = np.repeat(middle[None], actions_kept(latency), axis=0)
        self._steps = drawn_latency(latency, source)

    def after(self, action: Any) -> np.ndarray:
        """The action that acts now that this one was sent."""
        self._kept[1:] = self._kept[:-1]
        self._kept[0] = action
        if self._latency.per == "step":
            self._steps = drawn_latency(self._latency, self._source)
        whole = int(self._steps)
        late = self._kept[whole] if whole == self._steps else late_action(self._kept, self._steps)
        return late.astype(self._dtype)


def _sources(seed: int) -> Callable[[str], np.random.Generator]:
    """Random numbers of an episode for each term, by its stream."""

    @functools.cache
    def source_of(stream: str) -> np.random.Generator:
        sequence = np.random.SeedSequence(seed, spawn_key=(APART, zlib.crc32(stream.encode())))
        return np.random.default_rng(sequence)

    return source_of


def _names(model: ModelOfEpisode) -> list[str]:
    return list(dict.fromkeys(change.term.name for change in model.changes.changes))


def _whole_numbers(space: Any, parts: tuple[Part, ...]) -> list[int]:
    """Places in the observed vector of what is no number with a fraction."""
    found, first = [], 0
    for part in parts:
        whole = part.choices is not None or not np.issubdtype(part.of(space).dtype, np.floating)
        found += list(range(first, first + len(part.low))) if whole else []
        first += len(part.low)
    return found


def _with(observation: Any, path: tuple[Any, ...], value: Any) -> Any:
    """An observation with another value in one place."""
    if not path:
        return value
    inner = _with(observation[path[0]], path[1:], value)
    if isinstance(observation, dict):
        return {**observation, path[0]: inner}
    return tuple(inner if place == path[0] else other for place, other in enumerate(observation))
