"""The memory that a learner's data need asks for: its shape, its size, and what of a step it keeps."""

import os

import jax
import jax.numpy as jnp

from penstock._errors import ConfigurationError
from penstock._types import Actions
from penstock.algorithms.learner import Batches, Learner
from penstock.data import Experience
from penstock.data.replay import memory_bytes
from penstock.observation import Observation, blank
from penstock.worlds import Transition

SMALL = 8 * 2**20
"""Bytes that the memory of a functional world may take whatever the plan's length."""


def experience_shapes(learner: Learner) -> Experience:
    """Shapes of one control step's experience."""
    num_envs, action_size = learner.world.num_envs, learner.world.action_size

    def zeros():
        observation = blank(learner.world.observation_spec, num_envs)
        numbers, flags = jnp.zeros((num_envs,)), jnp.zeros((num_envs,), bool)
        return Experience(observation, jnp.zeros((num_envs, action_size)), numbers, flags, flags, observation)

    return jax.eval_shape(zeros)


def allocated(learner: Learner) -> int:
    """Transitions for which to allocate memory: its capacity, or less where the plan will not fill it.

    Programs of functional worlds hold the memory. Theirs is rounded up, so that a plan of another length has the same
    program.
    """
    need, num_envs = learner.data, learner.world.num_envs
    assert isinstance(need, Batches)
    stretch = num_envs * need.chunk_length
    # With chunks one stretch is being written while a batch is drawn from the others.
    least = need.batch_size * need.chunk_length + (stretch if need.chunk_length > 1 else 0)
    fill = max(learner.planned_updates * learner.steps_per_update, least)
    if learner.world.functional:
        fits = SMALL // memory_bytes(experience_shapes(learner), num_envs) * num_envs
        fill = max(1 << (fill - 1).bit_length(), fits)
    return min(need.capacity, -(-fill // stretch) * stretch)


def remembered(observation: Observation, action: Actions, transition: Transition) -> Experience:
    """What the replay memory keeps of a control step."""
    return Experience(
        observation,
        action,
        transition.reward,
        transition.terminated,
        transition.truncated,
        transition.final_observation,
        transition.valid,
    )


def require_memory(learner: Learner, seeds: int) -> None:
    """Refuses a replay memory that this machine cannot hold once for each seed.

    Raises:
        ConfigurationError: it is too large.
    """
    if not isinstance(learner.data, Batches):
        return
    functional = learner.world.functional
    if functional and jax.default_backend() != "cpu":
        return
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # On functional worlds a checkpoint holds a copy; hosted ones are saved as they are.
    copies = 2 if functional else 1
    size = memory_bytes(experience_shapes(learner), allocated(learner))
    if seeds * copies * size > 0.8 * available:
        times = f" for each of {seeds} seeds" if seeds > 1 else ""
        times += ", and a checkpoint copies them" if copies == 2 else ""
        raise ConfigurationError(
            f"replay_capacity = {learner.config.flat()['replay_capacity']}: {allocated(learner):,} transitions of "
            f"this world take {size / 2**30:.1f} GiB{times}, and this machine has {available / 2**30:.1f} GiB. Choose "
            f"a smaller --replay-capacity{' or fewer --seeds' * (seeds > 1)}."
        )


def memory_notice(learner: Learner) -> list[str]:
    """How much memory the run will take, in a sentence; nothing where there is none."""
    if not isinstance(learner.data, Batches):
        return []
    size = memory_bytes(experience_shapes(learner), allocated(learner))
    text = f"{size / 2**30:.2f} GiB" if size > 2**28 else f"{size / 2**20:.1f} MiB"
    where = "on the device" if learner.world.functional else "in host memory"
    return [f"replay memory: {allocated(learner):,} transitions, {text} {where}, for each seed"]
