"""Which program trains: the compiled one for functional worlds, the host's for hosted ones."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from penstock._errors import CapabilityError
from penstock._types import Key
from penstock.algorithms.off_policy import OffPolicyLearner
from penstock.policies import DeterministicAction
from penstock.training.evaluation import evaluation_metrics
from penstock.training.hosted_evaluation import HostedEvaluator
from penstock.training.hosted_program import HostedProgram
from penstock.training.program import Program
from penstock.worlds import FunctionalWorld, World
from penstock.worlds.hosted.hosted_world import HostedWorld

RunProgram = Program | HostedProgram
"""Both have the same methods: `template`, `init`, `resume`, `compile`, `train`, `evaluate`, `explain`, `close`."""


def make_evaluate(
    learner: Any, world: World, *, replan_every_step: bool = False, deterministic: DeterministicAction | None = None
) -> Callable[[Any, Key], dict[str, Any]]:
    """A function that evaluates one seed's state with a key: metrics as they are logged.

    Args:
        learner: an algorithm, bound to its world.
        world: the same world with one environment per episode.
        replan_every_step: for chunked policies; see `run_episodes`.
        deterministic: the rule of the deterministic action, in place of the run's own.
    """
    if isinstance(world, FunctionalWorld):

        def compiled(state, key):
            agent = learner.agent(state).acting_by(deterministic)
            return evaluation_metrics(agent, world, key, replan_every_step=replan_every_step)

        return jax.jit(compiled)
    assert isinstance(world, HostedWorld)
    evaluator = HostedEvaluator(learner, world, deterministic)
    return lambda state, key: evaluator.metrics(jax.tree.leaves(state.learned), key)


def evaluate_seeds(
    learner: Any,
    states: PyTree,
    episodes: int,
    key: Key,
    *,
    replan_every_step: bool = False,
    deterministic: DeterministicAction | None = None,
) -> list[dict[str, float]]:
    """Evaluates every seed of a run: metrics as they are logged, one dictionary per seed.

    Args:
        learner: an algorithm, bound to its world.
        states: training states, leaves ``(K, ...)``.
        episodes: of each kind, per seed.
        key: of resets and policy noise, the same for all seeds.
        replan_every_step: see `make_evaluate`.
        deterministic: see `make_evaluate`.
    """
    world = learner.world.with_num_envs(episodes)
    evaluate = make_evaluate(learner, world, replan_every_step=replan_every_step, deterministic=deterministic)
    results = []
    for index in range(states.update.shape[0]):
        metrics = jax.device_get(evaluate(jax.tree.map(lambda leaf, i=index: leaf[i], states), key))
        results.append({name: float(value) for name, value in metrics.items()})
    return results


def make_program(learner: Any, evaluation_world: World) -> RunProgram:
    """The program for a learner's world.

    Args:
        learner: an algorithm, bound to its world.
        evaluation_world: the same world with one environment per episode.

    Raises:
        CapabilityError: the learner needs to differentiate through a world that is not functional, or the world is of
            neither kind.
    """
    if isinstance(evaluation_world, FunctionalWorld):
        return Program(learner, evaluation_world)
    if isinstance(evaluation_world, HostedWorld) and isinstance(learner, OffPolicyLearner):
        return HostedProgram(learner, evaluation_world)
    raise CapabilityError(
        f"'{evaluation_world.name}' is a {type(evaluation_world).__name__}, on which {learner.name} cannot be trained."
    )
