"""Evaluation on a hosted world: whole episodes with a frozen agent, in environments of their own."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from penstock._errors import warn
from penstock._types import Key
from penstock.algorithms.learner import Learner
from penstock.observation import blank
from penstock.policies import DeterministicAction
from penstock.policies.memory import Memory
from penstock.training.episode_info import EpisodeInfo
from penstock.training.evaluation import Evaluation, as_logged
from penstock.worlds.hosted.hosted_world import HostedWorld

PROGRESS_STEPS = 50
"""Steps between two words on the progress of an evaluation."""

PROCESSES_AT_ONCE = 4
"""Environments in processes of their own that evaluation starts at most; further episodes follow in further rounds."""


class EvaluationStopped(Exception):  # noqa: N818  (not an error: somebody asked for it)
    """Raised in the middle of an evaluation when somebody asks to stop."""


@dataclasses.dataclass(frozen=True)
class Supervision:
    """What a loop wants of a driver that takes its time.

    Attributes:
        stop_requested: whether to come to an end soon.
        evaluating: told the share of an evaluation that is done.
        tell: told what the user should know.
    """

    stop_requested: Callable[[], bool] = lambda: False
    evaluating: Callable[[float], None] = lambda share: None
    tell: Callable[[str], None] = warn


class HostedEvaluator:
    """Runs episodes of a learner's agent on a hosted world.

    Args:
        learner: the algorithm.
        world: one environment per episode.
        rule: of the deterministic action, in place of the run's.
        replan_every_step: for chunked policies; see `run_episodes`.
    """

    def __init__(
        self,
        learner: Learner,
        world: HostedWorld,
        rule: DeterministicAction | None = None,
        *,
        replan_every_step: bool = False,
    ):
        self.learner = learner
        self.episodes = world.num_envs
        at_once = min(self.episodes, PROCESSES_AT_ONCE) if world.vectorization == "processes" else self.episodes
        self.world = world.with_num_envs(world.at_once or at_once)
        structure = jax.tree.structure(jax.eval_shape(learner.evaluated, learner.shapes()))
        self.traces = 0
        self._info = EpisodeInfo(self.world.num_envs)
        self._missing_told = False

        def act(leaves, memory, observation, key, t, deterministic):
            self.traces += 1
            agent = jax.tree.unflatten(structure, leaves).acting_by(rule)
            # Each environment plays one episode, so all plan at its beginning, and every C steps; and nothing counts
            # that comes after it, so that what they remember may stay.
            noise = None if deterministic else jax.random.fold_in(key, t)
            return agent.act(memory, t, observation, noise, replan=replan_every_step)[:2]

        self._act = jax.jit(act, static_argnums=5)
        self._structure = structure

    def _memory(self, leaves: list[jax.Array]) -> Memory:
        """What the agent remembers before the first step."""
        return jax.tree.unflatten(self._structure, leaves).initial_memory(self.world.num_envs)

    def compile(self, leaves: list[jax.Array]) -> None:
        """Compiles both ways of acting."""
        observation = jax.tree.map(np.asarray, blank(self.world.observation_spec, self.world.num_envs))
        memory = self._memory(leaves)
        for deterministic in (False, True):
            self._act(leaves, memory, observation, jax.random.key(0), np.int32(0), deterministic)

    def run(
        self,
        leaves: list[jax.Array],
        key: Key,
        *,
        deterministic: bool,
        supervision: Supervision | None = None,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> Evaluation:
        """Runs one episode in each environment, as often as it takes.

        Args:
            leaves: the agent, flattened.
            key: key of resets and policy noise.
            deterministic: act by `Agent.mode`.
            supervision: asked before every step whether to stop, and told the progress.
            part: of the whole evaluation, from share to share.

        Raises:
            EvaluationStopped: the supervision asked for it.
        """
        supervision, rounds = supervision or Supervision(), []
        for t, share in self.play(leaves, key, rounds, deterministic=deterministic):
            if supervision.stop_requested():
                raise EvaluationStopped
            if t and t % PROGRESS_STEPS == 0:
                supervision.evaluating(part[0] + min(share, 1.0) * (part[1] - part[0]))
        self.tell_missing(self.world, supervision)
        self.world.take_faults()  # training tells of its own
        names = {name: None for played in rounds for name in played.diagnostics}
        return Evaluation(
            episode_return=_joined([played.episode_return for played in rounds], self.episodes),
            episode_length=_joined([played.episode_length for played in rounds], self.episodes),
            diagnostics={
                name: _joined([played.diagnostics.get(name, _untold(played)) for played in rounds], self.episodes)
                for name in names
            },
        )

    def play(
        self, leaves: list[jax.Array], key: Key, rounds: list[Evaluation], *, deterministic: bool
    ) -> Iterator[tuple[int, float]]:
        """Plays episodes step by step, in rounds of as many as there are environments.

        Args:
            leaves: the agent, flattened.
            key: key of resets and policy noise.
            rounds: gets the results of each round.
            deterministic: act by `Agent.mode`.

        Yields:
            Before every control step: its number in the round, and the share of all steps that is done, at most.
        """
        key_world, key_policy = jax.random.split(key)
        world = self.world
        for done_before in range(0, self.episodes, world.num_envs):
            state = world.reset(jax.random.fold_in(key_world, done_before))
            key_round = jax.random.fold_in(key_policy, done_before)
            alive = np.ones((world.num_envs,), bool)
            total, length = np.zeros((world.num_envs,)), np.zeros((world.num_envs,))
            self._info.forget()
            memory = self._memory(leaves)
            for t in range(world.episode_length):
                yield t, (done_before + world.num_envs * t / world.episode_length) / self.episodes
                memory, action = self._act(leaves, memory, state.observation, key_round, np.int32(t), deterministic)
                state, transition = world.step(state, np.asarray(action))
                total += np.where(alive, transition.reward, 0.0)
                length += alive
                self._info.add(transition.diagnostics, alive)
                alive &= ~transition.done
                if not alive.any():
                    break
            everywhere = np.ones((world.num_envs,), bool)
            successes = self._info.successes(everywhere) if self._info.tells_success else {}
            rounds.append(
                Evaluation(
                    episode_return=total.astype(np.float32),
                    episode_length=length.astype(np.float32),
                    diagnostics={**successes, **self._info.means()},
                )
            )

    def tell_missing(self, world: HostedWorld, supervision: Supervision) -> None:
        """Says once which entries of ``info`` a user wants and an episode in ``world`` did not bring."""
        missing = "" if self._missing_told else world.missing_info()
        if missing:
            self._missing_told = True
            supervision.tell(missing)

    def metrics(
        self,
        leaves: list[jax.Array],
        key: Key,
        supervision: Supervision | None = None,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> dict[str, float]:
        """Stochastic and deterministic evaluation, as they are logged. See `run`."""
        middle = sum(part) / 2
        keys = jax.random.split(key)
        stochastic, deterministic = (
            self.run(leaves, keys[index], deterministic=index == 1, supervision=supervision, part=of)
            for index, of in enumerate(((part[0], middle), (middle, part[1])))
        )
        return {name: float(value) for name, value in as_logged(stochastic, deterministic).items()}


def _joined(rounds: list[np.ndarray], episodes: int) -> np.ndarray:
    return np.concatenate(rounds)[:episodes]


def _untold(played: Evaluation) -> np.ndarray:
    """In place of what was told in other rounds alone."""
    return np.full(played.episode_return.shape, np.nan, np.float32)
