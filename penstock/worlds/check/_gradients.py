"""Checks of a world's gradients: finite, right against finite differences, and not zero everywhere."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._types import Actions, Key
from penstock.worlds.check._findings import Finding, error, failure, is_float, listed, ok, warning
from penstock.worlds.check._steps import Played
from penstock.worlds.task import Task
from penstock.worlds.world import FunctionalWorld, World

WINDOW = 3
"""Steps over which rewards are added up; the gradient with respect to the first action passes through the state."""

STEP_SIZES = (3e-2, 1e-2, 3e-3, 1e-3)
TOLERANCE = 0.05
ROUNDING = 4e-6  # relative error of a few float32 operations


def gradient_findings(world: World, played: Played, key: Key) -> Iterator[Finding]:
    """Compares reverse mode with central differences in the states that were played."""
    if not world.differentiable:
        yield ok(
            "Gradients",
            "The world declares that it has none; algorithms that need gradients will refuse it in a sentence.",
        )
        return
    if not world.functional:
        yield error(
            "Gradients", "A world that lives outside JAX cannot have gradients.", "Set differentiable to False."
        )
        return
    window = _window(world, key)
    try:
        compare = _comparison(window, played.action, key)
        results = [compare(played.early), compare(played.late)]
    except Exception as exception:
        yield failure("The gradient of advance()", exception)
        return

    names = {name for _, bad, _ in results for name in bad}
    if names:
        yield error(
            "Gradients are finite",
            f"The gradient of the rewards of {WINDOW} steps is not finite with respect to {listed(sorted(names))}.",
            "Look for sqrt, norm, division, log or arccos at the edge of their domain. jnp.where around the result "
            "does not help, since its unused branch still spoils the gradient: make the argument safe first.",
        )
        return
    yield ok("Gradients are finite", "With respect to action and state.")

    size = np.concatenate([size for size, _, _ in results])
    wrong = np.concatenate([wrong for _, _, wrong in results], axis=1)
    parts = [name for name, row in zip(("rewards", "observations"), wrong, strict=True) if row.mean() > 0.5]
    if parts:
        yield error(
            "Gradients are right",
            f"The gradient of the {' and '.join(parts)} with respect to the action disagrees with finite differences.",
            "Look for stop_gradient, comparisons, rounding, integer arithmetic, clipping, or a custom derivative. If "
            "the rules must jump, override `differentiable` with False.",
        )
    elif wrong.any():
        yield warning(
            "Gradients are right",
            f"They disagree with finite differences in {int(wrong.any(0).sum())} of {wrong.shape[1]} cases.",
            "Kinks and contacts do this; so do faults in rare branches. Look at them if it is more than a few.",
        )
    else:
        yield ok("Gradients are right", f"They agree with finite differences in {wrong.shape[1]} cases.")

    if not (size[:, 0] > 0).any():
        reached = (size[:, 1] > 0).any()
        yield warning(
            "Gradients reach the action",
            f"The rewards of {WINDOW} steps have zero gradient with respect to the first action, everywhere that was "
            + (
                "looked at, though the observations have one."
                if reached
                else "looked at, and so have the observations."
            ),
            "A learner of gradients sees nothing here. Make the reward smooth, with slopes that reach far."
            if reached
            else "advance() ignores the action, or something cuts the gradient (see above).",
        )
    else:
        yield ok("Gradients reach the action", "The rewards have a slope in the action.")


def slope_findings(task: Task) -> Iterator[Finding]:
    """Whether the rules can be differentiated at all, found by tracing them; says nothing where they can."""
    if not task.differentiable:
        return

    def slope(key, action):
        def reward(action):
            return task.advance(task.initial(key, action.shape[0]), action)[1].reward.sum()

        return jax.grad(reward)(action)

    try:
        jax.eval_shape(slope, jax.random.key(0), jnp.zeros((2, task.action_size)))
    except Exception as exception:
        yield failure("The gradient of advance()", exception)


Window = Callable[[Any, Actions], Float[Array, "2 N"]]


def _window(world: World, key: Key) -> Window:
    """Returns f(state, first action): rewards over the window, and a random projection of the last observation."""
    later = 0.5 * jax.random.uniform(key, (world.num_envs, world.action_size), minval=-1.0)

    def advance(state, action):
        if isinstance(world, FunctionalWorld):  # without firewall and resets, so that faults show
            body, outcome = world.task.advance(state, action)
            return body, outcome.reward, world.task.observe(body)
        state, transition = world.step(state, action)
        return state, transition.reward, transition.final_observation

    def run(state, action):
        def step(state, action):
            state, reward, seen = advance(state, action)
            return state, (reward, seen.vector)

        actions = jnp.stack([action, *[later] * (WINDOW - 1)])
        _, (rewards, seen) = jax.lax.scan(step, state, actions)
        weights = jax.random.normal(jax.random.fold_in(key, 1), (world.observation_spec.vector,))
        return jnp.stack([rewards.sum(0), seen[-1] @ weights])

    if isinstance(world, FunctionalWorld):
        return lambda state, action: run(state.body, action)
    return run


def _comparison(window: Window, action: Actions, key: Key) -> Callable:
    """Returns f(start): slopes ``(N, 2)``, parts with bad gradients, and disagreements ``(2, N)``."""
    split = lambda state: eqx.partition(state, lambda leaf: eqx.is_array(leaf) and is_float(leaf))  # noqa: E731
    direction = jax.random.normal(jax.random.fold_in(key, 2), action.shape)
    direction = direction / jnp.max(jnp.abs(direction))

    @jax.jit
    def slopes(moving, fixed):
        outputs, pull = jax.vjp(lambda moving, action: window(eqx.combine(moving, fixed), action), moving, action)
        by_state, by_action = jax.vmap(pull)(jnp.stack([jnp.zeros_like(outputs).at[row].set(1.0) for row in (0, 1)]))
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(by_state)]
        return outputs, jnp.sum(by_action * direction, -1), by_action, jnp.stack(finite or [jnp.array(True)]).all()

    @jax.jit
    def central(moving, fixed, steps):
        at = lambda step: window(eqx.combine(moving, fixed), action + step * direction)  # noqa: E731
        return jax.lax.map(at, steps), jax.lax.map(at, -steps)

    def compare(state):
        moving, fixed = split(state)
        outputs, along, by_action, state_finite = slopes(moving, fixed)
        bad = [] if np.isfinite(np.asarray(by_action)).all() else ["the action"]
        bad += [] if bool(state_finite) else ["the state"]
        steps = np.asarray(STEP_SIZES, np.float32)
        ahead, behind = (np.asarray(side, np.float64) for side in central(moving, fixed, steps))
        h = steps[:, None, None].astype(np.float64)
        numeric, along = (ahead - behind) / (2 * h), np.asarray(along, np.float64)
        noise = ROUNDING * np.maximum(np.abs(np.asarray(outputs, np.float64)), 1e-3) / h
        bound = TOLERANCE * np.maximum(np.abs(numeric), np.abs(along)) + noise
        right = (np.abs(numeric - along) <= bound).any(0)
        return np.abs(np.asarray(by_action)).sum(-1).T, bad, ~right

    return compare
