"""What an algorithm is: the contract between its file and whoever trains it.

An algorithm states how it begins (`Learner.init`), who acts (`Learner.agent`), what one update makes of data
(`Learner.update`), and which data that is (`Learner.data`). It steps no world that it is not asked to step, keeps no
count and writes no file: a driver does (``penstock/training/drivers``), and the clock that it holds is the same for all
seeds. So every algorithm trains on every kind of world that can give the data that it needs.
"""

import abc
import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from penstock._errors import ConfigurationError
from penstock._settings import Settings
from penstock._types import Key, Scalar
from penstock.algorithms.former_settings import FORMER_SETTINGS
from penstock.networks.optimization import LearningRate, Optimizer
from penstock.networks.precision import Precision, in_precision
from penstock.observation import Observation
from penstock.policies import Agent, DeterministicAction, Draw, Need, Policy, PolicySettings, require_of_policy
from penstock.policies.deterministic_action import ZERO_NOISE
from penstock.worlds import World


class AlgorithmSettings(Settings):
    """Base of an algorithm's configuration: a frozen dataclass of its own fields, and its parts as default values."""

    former: ClassVar[Mapping[str, str]] = FORMER_SETTINGS
    """See `Settings.former`."""

    @property
    def iteration_steps(self) -> int:
        """Control steps per iteration: what `Learner.data` will ask for."""
        raise ConfigurationError(
            f"{type(self).__module__}.{type(self).__name__}: does not say how many control steps an iteration has. "
            "Give it a property iteration_steps (docs/add_an_algorithm.md)."
        )

    @property
    def widest_layer(self) -> int | None:
        """The widest hidden layer, where the settings say: of whether bfloat16 can do anything."""
        return None

    def deterministic(self) -> DeterministicAction:
        """What the policy does without noise, where the plan does not say otherwise."""
        policy = getattr(self, "policy", None)
        return policy.deterministic() if isinstance(policy, PolicySettings) else ZERO_NOISE


# ---------------------------------------------------------------------- what an update learns from


@dataclasses.dataclass(frozen=True)
class DataNeed:
    """What an iteration gathers; one of the kinds below.

    Attributes:
        steps: control steps of an iteration.
        stagger: environments begin at random ages, so that their time limits do not coincide. Functional worlds only.
    """

    steps: int
    stagger: bool = False


class DifferentiableWindow(DataNeed):
    """The state of a functional world, from which the update itself rolls out H steps, to differentiate them."""


class WindowOfRecords(DataNeed):
    """What N environments went through in H steps under the present policy, each acted by `Learner.explore`.

    The update is given `penstock.data.Records`.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches(DataNeed):
    """Samples from a memory of everything so far: `penstock.data.Batch`; one update for each.

    Attributes:
        batch_size: samples of a batch.
        capacity: transitions that the memory holds; a driver may allocate no more than the plan will fill.
        warmup_steps: environment steps with uniformly random actions before the first update.
        updates_per_step: updates per control step of all environments together.
        sampling: how batches are drawn: keyword arguments of `penstock.data.Replay.sample`.
    """

    batch_size: int
    capacity: int
    warmup_steps: int
    updates_per_step: int
    sampling: Mapping[str, Any]

    @property
    def chunk_length(self) -> int:
        """C: actions that `Learner.explore` plans at a decision and an action of a sample has; 1 without chunks."""
        return self.sampling.get("chunk_length", 1)


class Clock(eqx.Module):
    """How far a run is. All seeds share it, so conditions on it are conditions under several seeds too.

    Attributes:
        update: finished iterations.
        env_steps: environment steps of each seed, all environments together.
        gradient_steps: updates from batches so far; 0 where there are none.
    """

    update: Int[Array, ""]
    env_steps: Int[Array, ""]
    gradient_steps: Int[Array, ""]

    @classmethod
    def start(cls) -> "Clock":
        """Before the first iteration."""
        zero = jnp.asarray(0, jnp.int32)
        return cls(zero, zero, zero)


# ---------------------------------------------------------------------- what an update tells


class Mean(eqx.Module):
    """A metric that is a mean, as a sum with its weight: means over several updates come out right.

    Attributes:
        total: sum of what was measured.
        weight: over how many.
    """

    total: Scalar
    weight: Scalar


class Count(eqx.Module):
    """A metric that counts events."""

    total: Scalar


Metrics = dict[str, Mean | Count]


def means(values: Mapping[str, Scalar]) -> Metrics:
    """One measurement of each."""
    return {name: Mean(jnp.asarray(value, jnp.float32), jnp.ones(())) for name, value in values.items()}


def counts(values: Mapping[str, Any]) -> Metrics:
    """Events, as numbers or flags."""
    return {name: Count(jnp.asarray(value, jnp.float32)) for name, value in values.items()}


def added(one: Metrics, other: Metrics) -> Metrics:
    """The metrics of both together."""
    return jax.tree.map(jnp.add, one, other)


def nothing(like: PyTree) -> PyTree:
    """Zeros in the place of metrics (or of their shapes): nothing was measured."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def results(metrics: Metrics) -> dict[str, Scalar]:
    """What is logged: means and counts. A mean over nothing is 0."""

    def result(metric):
        return metric.total / jnp.maximum(metric.weight, 1.0) if isinstance(metric, Mean) else metric.total

    return {name: result(metric) for name, metric in metrics.items()}


def where_due(due: Bool[Array, ""], part: Callable[[Any], tuple[Any, Metrics]], state: Any) -> tuple[Any, Metrics]:
    """What a part of an iteration makes of a state, and its metrics; where it is not due, the state, and nothing."""
    none = nothing(jax.eval_shape(part, state)[1])
    return jax.lax.cond(due, part, lambda state: (state, none), state)


class Updated(NamedTuple):
    """What an update brought.

    Attributes:
        learned: what is learned now.
        metrics: what was measured.
        world: the state of the world behind the window, where the update itself stepped it.
        evidence: for post-mortems; computed only where somebody looks at it.
    """

    learned: Any
    metrics: Metrics
    world: Any = None
    evidence: "Evidence | None" = None


class Evidence(NamedTuple):
    """What a replayed iteration shows.

    Attributes:
        diagnostics: the world's, ``(H, N)`` each.
        gradient: of the return, where the world is differentiated.
        gradient_events: ``(H, 2, N)`` gradients that had to be cut and that were lost, likewise.
    """

    diagnostics: dict[str, Any]
    gradient: PyTree = ()
    gradient_events: Any = None


class RunKeys(NamedTuple):
    """The keys into which a run's key is split.

    Attributes:
        learned: of `Learner.init`.
        world: of the world's first and later resets.
        base: of everything later; never consumed, only folded with a purpose and a count.
    """

    learned: Any
    world: Key
    base: Key


# ---------------------------------------------------------------------- the algorithm

ConfigT = TypeVar("ConfigT", bound=AlgorithmSettings)


class Learner(abc.ABC, Generic[ConfigT]):
    """One algorithm, bound to a world and a plan. All methods are pure; what is learned is a pytree of arrays.

    Attributes:
        config: settings.
        world: N environments.
        planned_updates: iterations of the plan, over which schedules run.
    """

    name: ClassVar[str]
    settings: ClassVar[type[AlgorithmSettings]]
    """Its configuration class. To be stated by algorithms that are brought in a file."""
    needs: ClassVar[tuple[Need, ...]] = ()
    """What the policy must offer beside draws."""
    policy_hint: ClassVar[str] = "Choose another policy with --policy."
    """What to do where it does not."""
    presets_of: ClassVar[str] = ""
    """Of an algorithm in a file that changes one that comes with Penstock: its name, whose presets it takes."""

    config: ConfigT
    world: World
    planned_updates: int
    precision: Precision = "float32"
    """In which large matrix products of updates from batches are; the plan's, which sets it."""
    deterministic: DeterministicAction | None = None
    """The action without noise of who is evaluated and filmed, likewise; None leaves it to `agent`."""

    def __init__(self, config: ConfigT, world: World, planned_updates: int):
        self.config = config
        self.world = world
        self.planned_updates = planned_updates

    # ------------------------------------------------------------------ what an algorithm states

    @property
    @abc.abstractmethod
    def data(self) -> DataNeed:
        """What an update learns from."""

    @abc.abstractmethod
    def init(self, key: Any) -> Any:
        """Draws what the algorithm learns. ``key`` is `RunKeys.learned`."""

    @abc.abstractmethod
    def agent(self, learned: Any) -> Agent:
        """Who acts, is evaluated, is filmed."""

    @abc.abstractmethod
    def update(self, learned: Any, data: Any, key: Key, clock: Clock) -> Updated:
        """One update.

        Args:
            learned: as `init` or the last update returned it.
            data: of the kind that `data` names.
            key: a base key: fold it with a purpose and a count of the clock (`purpose_key`) for each use.
            clock: how far the run is, this update not counted.
        """

    # ------------------------------------------------------------------ what it may state

    def explore(self, learned: Any, observation: Observation, key: Key) -> Draw:
        """What is done while collecting data; its action is inside [-1, 1]."""
        return self.agent(learned).sample(observation, key)

    def acting_memory(self, num_envs: int) -> Any:
        """What `explore_remembering` remembers of N environments when their episodes begin: zeros, N first.

        None where nothing is remembered. Learners from a window of records alone may have such a memory; drivers keep
        it from step to step, and clear it where an episode ends.
        """
        del num_envs
        return None

    def explore_remembering(self, learned: Any, memory: Any, observation: Observation, key: Key) -> tuple[Any, Draw]:
        """`explore` with what is remembered: of `acting_memory`'s structure, before and after the observation."""
        return memory, self.explore(learned, observation, key)

    def measure(self, learned: Any, observation: Observation, key: Key) -> dict[str, Scalar]:
        """Numbers about what is learned alone, measured once per line of metrics.

        Args:
            learned: what is learned.
            observation: where the environments are now.
            key: fresh.
        """
        del learned, observation, key
        return {}

    def measure_remembering(self, learned: Any, memory: Any, observation: Observation, key: Key) -> dict[str, Scalar]:
        """`measure` with what is remembered before the observation."""
        del memory
        return self.measure(learned, observation, key)

    def opening_notices(self) -> list[str]:
        """What a user should know before the first step, in sentences."""
        return []

    def run_keys(self, key: Key) -> RunKeys:
        """Splits the key of a run."""
        return RunKeys(*jax.random.split(key, 3))

    # ------------------------------------------------------------------ what follows

    @property
    def rates(self) -> dict[str, LearningRate]:
        """Learning rates of the optimisers among its attributes: the numbers that its programs take as input."""
        return {name: part.rate for name, part in vars(self).items() if isinstance(part, Optimizer)}

    def with_rates(self, rates: Mapping[str, LearningRate]) -> "Learner[ConfigT]":
        """The same learner with other learning rates, which may be traced."""
        other = copy.copy(self)
        for name, rate in rates.items():
            setattr(other, name, dataclasses.replace(getattr(self, name), rate=rate))
        return other

    def shapes(self) -> Any:
        """What is learned, in shapes and dtypes without values."""
        return jax.eval_shape(lambda key: self.init(self.run_keys(key).learned), jax.random.key(0))

    def update_from_batch(self, learned: Any, batch: Any, key: Key, clock: Clock) -> Updated:
        """`update` on a batch of a replay memory, in the run's precision."""
        return in_precision(self.precision, self.update)(learned, batch, key, clock)

    def evaluated(self, learned: Any) -> Agent:
        """`agent`, with the run's action without noise: who is evaluated and filmed."""
        return self.agent(learned).acting_by(self.deterministic)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one iteration."""
        return self.world.num_envs * self.data.steps

    def require_policy(self, policy: Policy) -> None:
        """Refuses a policy that lacks something that the algorithm needs."""
        require_of_policy(policy, self.needs, self.name, self.policy_hint)
