"""`HostedWorld`: N environments of somebody else behind the `World` contract, stepped by the host.

What differs from a functional world: there is one present. `step` takes the state that `reset`, `restart` or `step`
returned last, and no other; arrays are NumPy's; nothing can be differentiated. What is the same: actions in [-1, 1]^d,
terminated and truncated apart, the final observation before any reset, and the guards against divergence.

Every episode begins with a seed that follows from the world's key, the environment and the number of the episode, so
that a run does not depend on what was played before. The simulator's own state is not saved: a run that continues
begins new episodes (`restart`), and the episodes that were cut count as truncated.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8, UInt32

from penstock._errors import ConfigurationError, PenstockError, require
from penstock._records import pytree_record
from penstock._types import Actions, AxisNames, Key, environment_axis
from penstock.observation import Observation
from penstock.scene.items import Scene
from penstock.worlds.history import first_history, next_histories, with_history
from penstock.worlds.hosted.declared import Declared, declare
from penstock.worlds.hosted.environments import EnvironmentSource
from penstock.worlds.hosted.faults import WorldFaultError
from penstock.worlds.hosted.infos import InfoReader
from penstock.worlds.hosted.pictures import frame_of, scene_of
from penstock.worlds.hosted.vectorization import GymnasiumVector, VectorEnvironment, Vectorization, vectorize
from penstock.worlds.randomization.terms import Evaluated
from penstock.worlds.world import MAGNITUDE_LIMIT, Transition, World, refuse_choice_of_worlds

STARTS_TRIED = 8
"""Episodes in a row that may begin with a number that cannot be used."""
FAULTS_KEPT = 8
"""Sentences about diverged environments that are kept until somebody takes them."""


@pytree_record
class HostedState:
    """What is known of N hosted environments. The simulators' own state is not part of it.

    Attributes:
        observation: what the policy acts on next.
        age: ``(N,)`` control steps since the episode began.
        episode: ``(N,)`` number of the episode, from 0.
        words: ``(2,)`` random words from which the seeds of all episodes follow.
    """

    observation: Observation
    age: Int[np.ndarray, "*seeds N"]
    episode: Int[np.ndarray, "*seeds N"]
    words: UInt32[np.ndarray, "*seeds 2"]


class _Present:
    """The environments themselves, and where they stand: the one part of a hosted world that changes."""

    def __init__(self):
        self.vector: VectorEnvironment | None = None
        self.state: HostedState | None = None
        self.faults: list[str] = []
        self.bad_starts = 0


class HostedWorld(World):
    """N environments of one source. They are made when they are first reset.

    Attributes:
        source: makes environments.
        vectorization: where they live: ``serial`` (this process), ``processes`` or ``envpool``.
        timeout: seconds to wait for a step of environments in processes of their own.
        declared: what the environments say of themselves.
        log_info: entries of ``info`` that a user wants to see, beside success.
        history: K; see `World.with_history`.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        num_envs: int,
        vectorization: Vectorization = "serial",
        timeout: float = 60.0,
        declared: Declared | None = None,
        log_info: tuple[str, ...] = (),
        history: int = 1,
    ):
        require(num_envs >= 1, "num_envs", num_envs, "must be at least 1")
        require(timeout > 0, "timeout", timeout, "must be a number of seconds above 0")
        declared = declared or declare(source)
        self.name = source.name
        self.num_envs = num_envs
        self.action_size = len(declared.actions.low)
        self.observation_spec = declared.reader.spec
        if history != 1:
            self.observation_spec = with_history(declared.reader.spec, history, source.name)
        self.episode_length = declared.episode_length
        self.control_timestep = declared.control_timestep
        self.source = source
        self.vectorization: Vectorization = vectorization
        self.timeout = timeout
        self.declared = declared
        self.log_info = log_info
        self.history = history
        self._infos = InfoReader(log_info, num_envs)
        self._present = _Present()

    def with_num_envs(self, num_envs: int) -> "HostedWorld":
        """The same world with environments of its own, ``num_envs`` of them."""
        other = self._like(num_envs=num_envs)
        if self.source.adjustments.single_instance:
            other._present, other._infos = self._present, self._infos
        return other

    def for_evaluation(self, where: Evaluated | None = None) -> "HostedWorld":
        """See `World.for_evaluation`; the nominal world has environments of its own."""
        nominal = self.source.nominal
        if nominal is None:
            refuse_choice_of_worlds(self.name, where)
        elif (where or self.source.evaluated) == "nominal":
            rule = "needs environments of its own, and there is a single instance"
            require(not self.source.adjustments.single_instance, "evaluation", "nominal", rule)
            return self._like(source=nominal)
        return self

    def with_info(self, log_info: tuple[str, ...]) -> "HostedWorld":
        """The same world, whose transitions carry these entries of ``info`` among their diagnostics."""
        return self._like(log_info=log_info)

    def with_history(self, length: int) -> "HostedWorld":
        """See `World.with_history`."""
        return self if length == 1 else self._like(history=length)

    def _like(self, **changes: Any) -> "HostedWorld":
        """Another world with environments of its own, which differs in what is named."""
        parts = ("source", "num_envs", "vectorization", "timeout", "declared", "log_info", "history")
        return HostedWorld(**{**{part: getattr(self, part) for part in parts}, **changes})

    @property
    def action_range(self) -> tuple[np.ndarray, np.ndarray]:
        """See `World.action_range`."""
        return self.declared.actions.low, self.declared.actions.high

    @property
    def at_once(self) -> int | None:
        """How many environments there can be at a time; None for any number."""
        return 1 if self.source.adjustments.single_instance else None

    def describe(self) -> dict[str, Any]:
        """See `World.describe`."""
        return dict(self.declared.constants)

    def axes(self, state: HostedState) -> HostedState:
        """See `World.axes`."""
        parts = state.observation, state.age, state.episode
        leaves = [environment_axis(leaf.shape, 0) for leaf in jax.tree.leaves(parts)]
        return jax.tree.unflatten(jax.tree.structure(state), [*leaves, AxisNames((None,))])

    # ------------------------------------------------------------------ play

    def reset(self, key: Key) -> HostedState:
        """See `World.reset`.

        Raises:
            WorldFaultError: an environment failed.
        """
        words = np.asarray(jax.random.key_data(key)).astype(np.uint32).reshape(-1)[-2:]
        return self._begin(words, np.zeros((self.num_envs,), np.int32))

    def restart(self, state: HostedState) -> HostedState:
        """Begins the next episode in every environment, after a state that was saved."""
        return self._begin(np.array(state.words), np.asarray(state.episode) + 1)

    def _begin(self, words: np.ndarray, episode: np.ndarray) -> HostedState:
        present = self._present
        if present.vector is None:
            present.vector = self._make_vector(int(np.random.SeedSequence(words.tolist()).generate_state(1)[0]))
        observation = self.declared.reader.read(present.vector.reset(self._seeds(words, episode)))
        observation, episode = self._usable_starts(observation, words, episode.astype(np.int32))
        if self.history > 1:
            observation = first_history(observation, self.history)
        present.state = HostedState(observation, np.zeros((self.num_envs,), np.int32), episode, words)
        return present.state

    def _usable_starts(
        self, observation: Observation, words: np.ndarray, episode: np.ndarray
    ) -> tuple[Observation, np.ndarray]:
        """Leaves out episodes that begin with an observation that is no usable number: nothing could be done in them.

        Raises:
            WorldFaultError: an environment begins so again and again, or resets itself only.
        """
        vector = self._present.vector
        assert vector is not None
        fault = ""
        for _ in range(STARTS_TRIED):
            fine = np.abs(observation.vector) <= MAGNITUDE_LIMIT  # False for NaN
            bad = ~fine.all(axis=1)
            if not bad.any():
                return observation, episode
            self._present.bad_starts += int(bad.sum())
            index = int(np.flatnonzero(bad)[0])
            entry = int(np.flatnonzero(~fine[index])[0])
            fault = (
                f"observation[{entry}] is {_told(observation.vector[index, entry])} in environment {index} right after "
                f"the reset of episode {int(episode[index])}"
            )
            if len(self._present.faults) < FAULTS_KEPT:
                self._present.faults.append(fault)
            episode = (episode + bad).astype(np.int32)
            fresh = vector.renew(bad, np.zeros_like(bad), self._seeds(words, episode, bad))
            observation = self.declared.reader.read(fresh)
        raise WorldFaultError(
            f"'{self.name}': {fault}, and so it was in {STARTS_TRIED} episodes one after the other. Correct the "
            "environment's reset()."
        )

    def present(self) -> HostedState:
        """The present state: the one that the environments are in.

        Raises:
            PenstockError: they have not been started.
        """
        if self._present.state is None:
            raise PenstockError(f"'{self.name}' has not been started: call reset() first.")
        return self._present.state

    def step(self, state: HostedState, action: Actions) -> tuple[HostedState, Transition]:
        """See `World.step`.

        Raises:
            PenstockError: ``state`` is not the present one.
            WorldFaultError: an environment raised, died, hung, or returned something else than it declared.
        """
        present = self._present
        if present.vector is None or state is not present.state:
            raise PenstockError(
                f"'{self.name}' is hosted and has one present: step from the state that reset() or step() "
                "returned last."
            )
        action = np.asarray(action)
        possible = np.isfinite(action).all(axis=1)
        played = present.vector.step(self.declared.actions.from_unit(np.where(possible[:, None], action, 0.0)))
        final = self.declared.reader.read(played.final)  # a copy: environments write the next one into the same memory
        reward = np.asarray(played.reward, np.float32)
        diverged = self._diverged(state, action, reward, final)

        ended = played.terminated | played.truncated
        valid = np.ones((self.num_envs,), bool) if played.valid is None else played.valid
        age = np.where(valid, state.age + 1, 0).astype(np.int32)
        terminated = played.terminated | diverged
        if self.source.adjustments.limit_as_truncation:
            terminated = terminated & ~((age >= self.episode_length) & ~diverged)
        truncated = played.truncated | (age >= self.episode_length)
        over = terminated | truncated
        self._infos.episodes += int(over.sum())
        if over.any():
            fresh = present.vector.renew(over, ended, self._seeds(state.words, state.episode + 1, over))
            batch = played.observation if fresh is None else fresh
            observation, episode = self._usable_starts(
                self.declared.reader.read(batch), state.words, (state.episode + over).astype(np.int32)
            )
        else:
            episode = state.episode
            observation = final if played.final is played.observation else self.declared.reader.read(played.observation)
        if self.history > 1:
            final, observation = next_histories(state.observation, final, observation, over | ~valid)
        if diverged.any():
            reward = np.where(diverged, 0.0, reward).astype(np.float32)
            final = jax.tree.map(lambda leaf: _cleared(leaf, diverged), final)
        present.state = HostedState(observation, np.where(over, 0, age).astype(np.int32), episode, state.words)
        return present.state, Transition(
            observation=observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_observation=final,
            diverged=diverged,
            diagnostics=self._infos.read(played.info, ended, valid & ~diverged),
            valid=played.valid,
        )

    def _diverged(self, state: HostedState, action: np.ndarray, reward: np.ndarray, seen: Observation) -> np.ndarray:
        """``(N,)`` where an action, a reward or an observation is no usable number; remembers which."""
        diverged = np.zeros((self.num_envs,), bool)
        usual = all(np.abs(values).max(initial=0.0) <= MAGNITUDE_LIMIT for values in (seen.vector, reward))
        if usual and np.isfinite(action).all():  # the first is False for NaN
            return diverged
        suspects = (
            ("action", action, np.inf),
            ("observation", seen.vector, MAGNITUDE_LIMIT),
            ("reward", reward[:, None], MAGNITUDE_LIMIT),
        )
        for name, values, limit in suspects:
            fine = np.abs(values) <= limit  # False for NaN
            if limit == np.inf:
                fine &= np.isfinite(values)
            if fine.all():
                continue
            bad = ~fine.all(axis=1)
            for index in np.flatnonzero(bad & ~diverged)[: FAULTS_KEPT - len(self._present.faults)]:
                entry = int(np.flatnonzero(~fine[index])[0])
                which = name if name == "reward" else f"{name}[{entry}]"
                self._present.faults.append(
                    f"{which} is {_told(values[index, entry])} in environment {index}, "
                    f"episode {int(state.episode[index])}, step {int(state.age[index])}"
                )
            diverged |= bad
        return diverged

    def take_faults(self) -> list[str]:
        """What diverged, or was left out, since the last call: array, value, environment, episode and step."""
        taken, self._present.faults = self._present.faults, []
        return taken

    def take_bad_starts(self) -> int:
        """How many episodes were left out since the last call, because they began with a number that is none."""
        taken, self._present.bad_starts = self._present.bad_starts, 0
        return taken

    def told_info(self) -> tuple[str, set[str]]:
        """The entry of ``info`` that has told success so far (empty: none), and the names of the other numbers."""
        return self._infos.success_name, self._infos.known - {self._infos.success_name}

    def missing_info(self) -> str:
        """A sentence on entries of ``info`` that a user wants and no episode brought so far; empty where none lacks."""
        return self._infos.missing()

    def scene(self, caption: str = "") -> Scene | None:
        """The first environment for our renderer, where it is one of MuJoCo's and lives in this process."""
        env = self._present.vector.scene_source() if self._present.vector is not None else None
        return None if env is None else scene_of(env, caption)

    def frame(self) -> UInt8[np.ndarray, "rows columns 3"]:
        """A picture of the first environment as it renders itself; for worlds made by `filmed`.

        Raises:
            PenstockError: rendering failed, or nothing has been started.
        """
        self.present()
        vector = self._present.vector
        env = vector.scene_source() or getattr(vector, "envs", None)  # pyright: ignore[reportOptionalMemberAccess]
        return frame_of(env, self.name)

    def filmed(self) -> "HostedWorld":
        """The same world with one environment, in this process, that renders pictures of itself where it can."""
        source, render = self.source, self.source.make_rendering
        vectors = source.make_vector is not None and self.vectorization != "envpool"
        if not vectors:
            source = dataclasses.replace(source, make_vector=None)
        if render is not None and self.declared.pictures == "rgb_array":
            made = {"make_vector": lambda num_envs, seed: render()} if vectors else {"make": render}
            source = dataclasses.replace(source, **made)
        return self._like(source=source, num_envs=1, vectorization="serial")

    def close(self) -> None:
        """Ends the environments. The next `reset` makes new ones."""
        present = self._present
        if present.vector is not None:
            present.vector.close()
        present.vector = present.state = None

    # ------------------------------------------------------------------ environments

    def _make_vector(self, seed: int) -> VectorEnvironment:
        if self.at_once is not None and self.num_envs > self.at_once:
            raise ConfigurationError(
                f"'{self.name}': single_instance = True, and {self.num_envs} environments are asked for. Pass "
                "--num-envs 1."
            )
        if self.source.make_vector is not None:
            made = self.source.make_vector(self.num_envs, seed)
            return GymnasiumVector(made, self.name, self.timeout) if hasattr(made, "single_action_space") else made
        return vectorize(
            self.source.make, self.num_envs, self.vectorization, self.name, self.timeout, self._infos.wanted
        )

    def _seeds(self, words: np.ndarray, episode: np.ndarray, begins: np.ndarray | None = None) -> list[int]:
        """The seed of each environment's episode; 0 where none begins."""
        entropy = [int(word) for word in words]
        return [
            int(np.random.SeedSequence(entropy, spawn_key=(env, int(episode[env]))).generate_state(1)[0])
            if begins is None or begins[env]
            else 0
            for env in range(self.num_envs)
        ]


def _told(value: Any) -> str:
    """A number that cannot be used, and why."""
    over = np.isfinite(value) and abs(value) > MAGNITUDE_LIMIT
    return f"{value:g}" + (f" (the limit is {MAGNITUDE_LIMIT:g}: scale it in a wrapper)" if over else "")


def _cleared(leaf: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    leaf = leaf.copy()
    leaf[diverged] = 0
    return leaf
