"""Which driver trains, and how a run is evaluated: functional worlds are compiled whole, hosted ones stepped."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jaxtyping
from jaxtyping import Array

from penstock._errors import CapabilityError, ConfigurationError
from penstock._types import Key
from penstock.algorithms.learner import DifferentiableWindow, Learner
from penstock.policies import Agent, DeterministicAction
from penstock.training.drivers.functional import FunctionalDriver
from penstock.training.drivers.hosted import HostedDriver
from penstock.training.drivers.rates import Rates
from penstock.training.drivers.state import RunState
from penstock.training.evaluation import evaluation_metrics
from penstock.training.hosted_evaluation import HostedEvaluator, Supervision
from penstock.training.post_mortem import Fault
from penstock.worlds import FunctionalWorld, World
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.randomization.terms import Evaluated


@runtime_checkable
class Driver(Protocol):
    """Who steps the worlds of K seeds, keeps their memories and the clock, and feeds the learner."""

    learner: Learner
    supervision: Supervision
    """Who may ask to stop in the middle of something that takes long."""
    train: Callable[..., Any]
    """From states and a number of iterations to the states after them, and metrics. Consumes the states."""
    evaluate: Callable[..., Any]
    """From states and a key per seed to the metrics of an evaluation of every seed."""

    def template(self, keys: jaxtyping.Key[Array, "K"]) -> RunState:
        """A state with shapes and dtypes but no values, for loading a checkpoint."""
        ...

    def init(self, keys: jaxtyping.Key[Array, "K"]) -> RunState:
        """The states before the first iteration."""
        ...

    def resume(self, states: RunState) -> RunState:
        """Goes on from loaded states."""
        ...

    def compile(self, states: RunState, iterations: Any, keys: jaxtyping.Key[Array, "K"] | None) -> None:
        """Compiles training, and evaluation unless there are no keys for it, so that no later call does."""

    def explain(self, fault: Fault) -> str:
        """Says what went wrong in a block of iterations."""
        ...

    def require_memory(self, seeds: int) -> None:
        """Refuses a memory that this machine cannot hold."""

    def notices(self) -> list[str]:
        """What a user should know before the first step, in sentences."""
        ...

    def close(self) -> None:
        """Ends what is open."""


def make_evaluate(
    learner: Learner, world: World, *, replan_every_step: bool = False, deterministic: DeterministicAction | None = None
) -> Callable[[Agent, Key], dict[str, Any]]:
    """A function that evaluates the agent of one seed, with a key: metrics as they are logged.

    Args:
        learner: an algorithm, bound to its world.
        world: the same world with one environment per episode.
        replan_every_step: for chunked policies; see `run_episodes`.
        deterministic: the rule of the deterministic action, in place of the run's own.
    """
    if isinstance(world, FunctionalWorld):

        def compiled(agent, key):
            return evaluation_metrics(agent.acting_by(deterministic), world, key, replan_every_step=replan_every_step)

        return jax.jit(compiled)
    assert isinstance(world, HostedWorld)
    evaluator = HostedEvaluator(learner, world, deterministic, replan_every_step=replan_every_step)
    return lambda agent, key: evaluator.metrics(jax.tree.leaves(agent), key)


def evaluate_seeds(
    learner: Learner,
    agents: list[Agent],
    episodes: int,
    key: Key,
    *,
    replan_every_step: bool = False,
    deterministic: DeterministicAction | None = None,
    where: Evaluated | None = None,
) -> list[dict[str, float]]:
    """Evaluates every seed of a run: metrics as they are logged, one dictionary per seed.

    Args:
        learner: an algorithm, bound to its world.
        agents: of all seeds.
        episodes: of each kind, per seed.
        key: of resets and policy noise, the same for all seeds.
        replan_every_step: see `make_evaluate`.
        deterministic: see `make_evaluate`.
        where: see `World.for_evaluation`.
    """
    world = learner.world.for_evaluation(where).with_num_envs(episodes)
    evaluate = make_evaluate(learner, world, replan_every_step=replan_every_step, deterministic=deterministic)
    results = []
    for agent in agents:
        metrics = jax.device_get(evaluate(agent, key))
        results.append({name: float(value) for name, value in metrics.items()})
    return results


def make_driver(learner: Learner, evaluation_world: World, rates: Rates | None = None) -> Driver:
    """The driver for a learner's world.

    Args:
        learner: an algorithm, bound to its world.
        evaluation_world: the same world with one environment per episode.
        rates: learning rates of every row, ``(K,)`` each; None gives all rows the learner's own.

    Raises:
        CapabilityError: the world cannot give the data that the learner needs, or is of no known kind.
        ConfigurationError: the learner asks for another number of steps than its settings say.
    """
    steps, said = learner.data.steps, learner.config.iteration_steps
    if steps != said:
        raise ConfigurationError(
            f"{learner.name}: its data has {steps} control steps an iteration, and its settings' iteration_steps says "
            f"{said}; budgets would be counted wrongly. Make them equal."
        )
    if isinstance(evaluation_world, FunctionalWorld):
        return FunctionalDriver(learner, evaluation_world, rates=rates)
    if isinstance(evaluation_world, HostedWorld) and not isinstance(learner.data, DifferentiableWindow):
        return HostedDriver(learner, evaluation_world, rates=rates)
    raise CapabilityError(
        f"'{evaluation_world.name}' is a {type(evaluation_world).__name__}, on which {learner.name} cannot be trained."
    )
