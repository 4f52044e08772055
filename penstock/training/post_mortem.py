"""What went wrong: replays a block of iterations and names the first bad number."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from penstock._types import Actions, GradientProbe
from penstock.algorithms.learner import Evidence, Learner
from penstock.storage.store import find_non_finite, save_crash_dump
from penstock.training.parts import OF_ONE_SEED
from penstock.worlds import FunctionalWorld
from penstock.worlds.world import MAGNITUDE_LIMIT, Transition, WorldState

FAULTS = (
    "actor/skipped",
    "critic/skipped",
    "temperature/skipped",
    "world/diverged",
    "world/bad_starts",
    "world/gradients_lost",
)
"""Counters whose events are explained. Large gradients that a firewall scales down belong to the method."""

_EVIDENCE = "evidence: "

Iterate = Callable[[Learner, Any], tuple[Any, Any, Evidence]]
"""A driver's iteration of one seed."""


class Witness(FunctionalWorld):
    """The same world; its diagnostics keep what the guards are about to clear away.

    For each array of the task, one diagnostic per environment: 0, or the first entry that is not finite (or, in
    observation and reward, beyond `MAGNITUDE_LIMIT`).
    """

    def __init__(self, world: FunctionalWorld):
        super().__init__(world.name, world.task, world.num_envs, world.gradient_limit)

    def step(
        self, state: WorldState, action: Actions, probe: GradientProbe | None = None
    ) -> tuple[WorldState, Transition]:
        """See `World.step`."""
        body, outcome = self.advance(state.body, action, state.key)
        suspects = [
            ("action", action, 0, jnp.inf),
            *((f"state{path}", leaf, self.task.env_axis, jnp.inf) for path, leaf in _named(body)),
            *((f"observation{path}", leaf, 0, MAGNITUDE_LIMIT) for path, leaf in _named(self.task.observe(body))),
            ("reward", outcome.reward, 0, MAGNITUDE_LIMIT),
        ]
        # The order is that of the computation, so that the first suspect is the cause of the others.
        evidence = {
            f"{_EVIDENCE}{rank:03d} {name}": _first_bad(leaf, axis, limit)
            for rank, (name, leaf, axis, limit) in enumerate(suspects)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        }
        state, transition = super().step(state, action, probe)
        return state, dataclasses.replace(transition, diagnostics=jax.lax.stop_gradient(evidence))


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that a block of iterations had to guard against, in one seed.

    Attributes:
        restore: loads the newest state that was saved before the block; None where there is none.
        begin: iteration at which the block began.
        iterations: length of the block.
        index: which of the seeds.
        counts: what was counted in the block for this seed, by name.
        seed: its number, for the sentence.
        steps_per_update: environment steps of an iteration.
        crash: the run's directory of crash dumps.
        config_hash: hash of the run's configuration.
    """

    restore: Callable[[], Any]
    begin: int
    iterations: int
    index: int
    counts: dict[str, int]
    seed: int
    steps_per_update: int
    crash: Path
    config_hash: str

    def happened(self) -> str:
        """``world/diverged 3 (handled; training goes on)``."""
        counted = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return f"{counted} (handled; training goes on)"


def explain_fault(learner: Learner, iterate: Iterate, train: Callable[..., Any], fault: Fault) -> str:
    """Replays a run from its newest checkpoint, saves the state before the first fault, and describes that fault.

    Args:
        learner: the algorithm. See `find_cause`.
        iterate: see `find_cause`.
        train: the run's own program for a block of iterations, so that the replay is exact. It may consume its states.
        fault: what happened.

    Returns:
        A sentence naming the first bad array, its environments, the iteration and the seed, and the dump.

    Raises:
        CheckpointNotWrittenError: the disk refused the dump.
    """
    index, counts, seed = fault.index, fault.counts, fault.seed
    states = fault.restore()
    if states is None:
        return f"{fault.happened()} in seed {seed}; no checkpoint is left from which it could be replayed."
    skip = fault.begin - int(states.clock.update)
    if skip > 0:
        states, _ = train(states, jnp.asarray(skip, jnp.int32))
    for _ in range(fault.iterations):
        before = jax.tree.map(jnp.copy, states.seed(index))
        states, metrics = train(states, jnp.asarray(1, jnp.int32))
        if any(float(metrics[name][index]) > 0 for name in counts):
            cause = find_cause(
                learner, iterate, before, {name: float(values[index]) for name, values in metrics.items()}
            )
            update = int(before.clock.update)
            extra = {"counts": counts, "cause": cause}
            path, _ = save_crash_dump(
                fault.crash,
                update * fault.steps_per_update,  # as all of a run's files are named
                before,
                seed=seed,
                config_hash=fault.config_hash,
                extra=extra,
                layout=OF_ONE_SEED,
            )
            return (
                f"{fault.happened()}. Seed {seed}, iteration {update}: {cause}. "
                f"The state before it is kept in {path}; one iteration from there shows the fault again."
            )
    return f"{fault.happened()} in seed {seed}; the replay did not show it again."


def find_cause(learner: Learner, iterate: Iterate, state: Any, metrics: dict[str, float]) -> str:
    """Names the first bad number of the iteration that begins at ``state``.

    Args:
        learner: the algorithm.
        iterate: the driver's iteration of one seed: from learner and state to state, metrics and evidence.
        state: state of one seed.
        metrics: of that iteration, to name losses and norms that are not finite.
    """
    shown = _watched(learner, iterate)(state)
    evidence = sorted(
        (name, np.asarray(values)) for name, values in shown.diagnostics.items() if name.startswith(_EVIDENCE)
    )
    times = [int(np.argwhere(values)[0][0]) for _, values in evidence if (values != 0).any()]
    if times:
        t = min(times)
        name, values = next((name, values[t]) for name, values in evidence if (values[t] != 0).any())
        value = values[np.flatnonzero(values)[0]]
        return f"{name.removeprefix(_EVIDENCE)[4:]} is {value:g} {_where(t, values)}"
    lost = np.zeros((1, 1)) if shown.gradient_events is None else np.asarray(shown.gradient_events)[:, 1]
    if lost.any():
        t = int(np.flatnonzero(lost.any(axis=1))[-1])  # the backward pass begins at the end
        return f"the gradient with respect to state and action is not finite {_where(t, lost[t])}"
    parts = [f"gradient{leaf.sentence()}" for leaf in find_non_finite(shown.gradient)[:1]]
    parts += [f"{name} is {value:g}" for name, value in metrics.items() if not np.isfinite(value)]
    return "; ".join(parts[:4]) or "every number of window, gradient and losses is finite when it is computed again"


@functools.lru_cache(maxsize=1)
def _watched(learner: Learner, iterate: Iterate) -> Callable[[Any], Evidence]:
    # Compiled once, however many faults there are to explain.
    watched = copy.copy(learner)
    assert isinstance(learner.world, FunctionalWorld)
    watched.world = Witness(learner.world)
    return jax.jit(lambda state: iterate(watched, state)[2])


def _where(t: int, flags: np.ndarray) -> str:
    environments = np.flatnonzero(flags)
    listed = ", ".join(map(str, environments[:16])) + (" ..." if len(environments) > 16 else "")
    return f"at step {t} of the window in environment{'s' if len(environments) > 1 else ''} {listed}"


def _named(tree: PyTree) -> list[tuple[str, Array]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _first_bad(leaf: Array, env_axis: int, limit: float) -> Float[Array, "N"]:
    flat = jnp.moveaxis(leaf, env_axis, 0).reshape(leaf.shape[env_axis], -1)
    bad = ~(jnp.abs(flat) <= limit) | ~jnp.isfinite(flat)
    first = jnp.take_along_axis(flat, bad.argmax(axis=1)[:, None], axis=1)[:, 0]
    return jnp.where(bad.any(axis=1), first, 0.0).astype(jnp.float32)
