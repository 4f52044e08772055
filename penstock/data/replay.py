"""Replay memory: a ring of control steps, with uniform, recency-mixed, n-step and chunk sampling.

The same ring serves functional worlds (JAX arrays, inside `jax.jit`) and hosted ones (NumPy arrays in host memory,
written in place): `Replay` holds either. A control step of N environments is one slot; what is sampled is a slot and an
environment.

With action chunks, C slots in a row begin where all environments plan (`penstock.policies.planning`), and what is
sampled is such a chunk and an environment. Q(s, a_0 .. a_{C-1}) is the value of running these actions whatever happens
in between. A sample of it needs actions that were chosen at s alone:

    a chunk from its beginning      one plan, made at s: a sample of exactly that
    C steps from anywhere else      hold actions that were chosen after s, in view of what had happened. Where the
                                    world has noise, or hides a part of its state, they tell of it, and a value
                                    learned from them is that of knowing what will happen
    a plan that a reset began       ends with the chunk of all, before its C actions have run

Only the first is drawn. Where an episode ends inside a chunk the rest of the plan did not run. It is kept all the
same, in the place of what the next episode did: blanks there would tell the critic that the episode ended.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from penstock._errors import require
from penstock._types import AxisNames, Key
from penstock.observation import Observation

ArrayLike = Any
"""A JAX or a NumPy array."""


class Experience(eqx.Module):
    """One control step of N environments, or a ring of them with a leading axis of slots.

    Attributes:
        observation: what the policy acted on, raw.
        action: inside the box [-1, 1]; with chunks, of the plan with which the chunk began, also where its episode
            has ended since.
        reward: of the step.
        terminated: the episode ended inside the task: nothing to bootstrap from.
        truncated: the episode met its time limit: bootstrap from ``next_observation``.
        next_observation: the observation before any reset.
        valid: False where nothing happened, because the environment only reset itself: never drawn. None where every
            step counts. Host rings only.
    """

    observation: Observation
    action: Float[ArrayLike, "*slots N d"]
    reward: Float[ArrayLike, "*slots N"]
    terminated: Bool[ArrayLike, "*slots N"]
    truncated: Bool[ArrayLike, "*slots N"]
    next_observation: Observation
    valid: Bool[ArrayLike, "*slots N"] | None = None


class Batch(eqx.Module):
    """Samples for one update.

    Attributes:
        observation: raw.
        action: inside the box; with chunks of C actions ``(B, C * d)``, the earliest first.
        reward: discounted sum over the 1 to n (or C) steps that the sample spans.
        bootstrap: weight of the value at ``next_observation``: ``gamma^k``, 0 after a termination.
        next_observation: where the sample ends.
    """

    observation: Observation
    action: Float[ArrayLike, "B d"]
    reward: Float[ArrayLike, "B"]
    bootstrap: Float[ArrayLike, "B"]
    next_observation: Observation


class Replay(eqx.Module):
    """A preallocated ring of slots.

    Attributes:
        ring: leaves ``(S, N, ...)``.
        position: the slot that is written next.
        filled: number of slots that hold data.
    """

    ring: Experience
    position: Int[ArrayLike, ""]
    filled: Int[ArrayLike, ""]

    def axes(self) -> "Replay":
        """In the place of every array the names of its axes."""
        leaves = [AxisNames(("slot", "environment", *[None] * (leaf.ndim - 2))) for leaf in jax.tree.leaves(self.ring)]
        return jax.tree.unflatten(jax.tree.structure(self), [*leaves, AxisNames(()), AxisNames(())])

    @property
    def slots(self) -> int:
        """S."""
        return self.ring.reward.shape[0]

    @property
    def num_envs(self) -> int:
        """N."""
        return self.ring.reward.shape[1]

    @classmethod
    def create(cls, example: Experience, capacity: int) -> "Replay":
        """An empty ring of JAX arrays.

        Args:
            example: one control step (shapes and dtypes are read, not values).
            capacity: transitions, all environments together. Rounded down to whole control steps.

        Raises:
            ConfigurationError: the capacity is smaller than one control step.
        """
        return cls(_allocate(example, capacity, jnp), jnp.asarray(0, jnp.int32), jnp.asarray(0, jnp.int32))

    @classmethod
    def create_on_host(cls, example: Experience, capacity: int) -> "Replay":
        """An empty ring of NumPy arrays, written in place by `write`. See `create`."""
        return cls(_allocate(example, capacity, np), np.zeros((), np.int32), np.zeros((), np.int32))

    def add(self, step: Experience) -> "Replay":
        """The ring with one more control step, which replaces the oldest when the ring is full. Pure."""
        _refuse_other_bytes(self.ring, step)
        ring = jax.tree.map(
            lambda slots, new: jax.lax.dynamic_update_index_in_dim(slots, new.astype(slots.dtype), self.position, 0),
            self.ring,
            step,
        )
        return Replay(ring, (self.position + 1) % self.slots, jnp.minimum(self.filled + 1, self.slots))

    def write(self, step: Experience) -> None:
        """Adds one control step in place (host ring)."""
        _refuse_other_bytes(self.ring, step)
        for slots, new in zip(jax.tree.leaves(self.ring), jax.tree.leaves(step), strict=True):
            slots[self.position] = new
        self.position[...] = (self.position + 1) % self.slots
        self.filled[...] = min(self.filled + 1, self.slots)

    def cut(self) -> None:
        """Ends the newest episodes here, in place (host ring): what follows is no longer their continuation.

        Their last step counts as truncated, so that values are bootstrapped behind it and no n-step return goes on.
        """
        if self.filled > 0:
            self.ring.truncated[(self.position - 1) % self.slots] |= True

    def resized(self, slots: int) -> "Replay":
        """A ring of another number of slots with the same data; of more than it can hold, the newest."""
        keep = min(int(self.filled), slots)
        at = (int(self.position) - keep + np.arange(keep)) % self.slots
        xp = np if isinstance(self.ring.reward, np.ndarray) else jnp

        def moved(leaf):
            empty = xp.zeros((slots - keep, *leaf.shape[1:]), leaf.dtype)
            return xp.concatenate([leaf[at], empty])

        position, filled = xp.asarray(keep % slots, xp.int32), xp.asarray(keep, xp.int32)
        return Replay(jax.tree.map(moved, self.ring), position, filled)

    def sample(
        self,
        key: Key,
        batch_size: int,
        discount: float,
        *,
        n_step: int = 1,
        recent: int = 0,
        newest: int = 2048,
        chunk_length: int = 1,
    ) -> Batch:
        """Draws a batch.

        ``batch_size - recent`` samples come from the whole ring, ``recent`` from the ``newest`` transitions. Within
        each part every transition is as probable as every other, and none comes twice as long as the part of the ring
        is large enough: one is drawn from each of as many stretches, which begin at a random place.

        Where ``valid`` forbids a step, another of the same part takes its place, any with equal probability, and may
        then repeat one; of the whole ring where the newest part holds nothing else.

        Args:
            key: random key.
            batch_size: B.
            discount: gamma.
            n_step: longest span of a sample. It ends early at the end of an episode, and at the newest data. 1 with
                chunks.
            recent: how many of the batch come from the newest data.
            newest: how many transitions count as newest.
            chunk_length: C: samples are whole chunks, which the slots 0, C, 2 C, .. begin, and end early at the end of
                an episode. Counts of transitions stay counts of steps.
        """
        uniform = jax.random.uniform(key, (batch_size + 1,))
        return self.gather(uniform, discount, n_step=n_step, recent=recent, newest=newest, chunk_length=chunk_length)

    def gather(
        self,
        uniform: ArrayLike,
        discount: float,
        *,
        n_step: int = 1,
        recent: int = 0,
        newest: int = 2048,
        chunk_length: int = 1,
    ) -> Batch:
        """The batch that belongs to B + 1 uniform numbers in [0, 1). See `sample`.

        Args:
            uniform: one for each sample; the last says where stretches begin.
            discount: see `sample`.
            n_step: see `sample`.
            recent: see `sample`.
            newest: see `sample`.
            chunk_length: see `sample`.

        Raises:
            ConfigurationError: the ring does not hold whole chunks.
        """
        # Attributes of a module are slow to read, and the host draws in Python: each is read once.
        ring, filled, slots, num_envs = self.ring, self.filled, self.slots, self.num_envs
        reward, terminated, truncated = ring.reward, ring.terminated, ring.truncated
        xp = np if isinstance(reward, np.ndarray) else jnp
        unfinished, whole = 0, filled
        if chunk_length > 1:
            told = f"must divide the {slots} control steps of the ring"
            require(slots % chunk_length == 0, "chunk_length", chunk_length, told)
            unfinished = self.position % chunk_length  # steps of the chunk that is being written: its oldest are gone
            whole = (filled - unfinished) // chunk_length
        count = whole * num_envs
        begin = uniform[-1]
        rank = _stratified(xp, uniform[recent:-1], begin, count)  # 0 is the oldest transition
        late = xp.minimum(count, -(-newest // chunk_length))
        if recent:
            fresh = count - late + _stratified(xp, uniform[:recent], begin, late)
            rank = xp.concatenate([fresh, rank])
        oldest = self.position - filled

        def slot(age):
            return (oldest + age) % slots

        def age_of(rank):
            return filled - unfinished - (whole - rank // num_envs) * chunk_length

        if ring.valid is not None:
            place = lambda rank: (slot(age_of(rank)), rank % num_envs)  # noqa: E731
            rank = self._only_valid(place, rank, uniform, count, recent, count - late)
        age, env = age_of(rank), rank % num_envs
        total, weight = xp.zeros_like(uniform[:-1]), xp.ones_like(uniform[:-1])
        first = last = slot(age)
        going = xp.ones(age.shape, bool)
        for k in range(max(n_step, chunk_length)):
            here = age + k
            at = slot(here) if k else first
            going = going & (here < filled)
            total = total + xp.where(going, weight * reward[at, env], 0.0)
            last = xp.where(going, at, last)
            weight = xp.where(going, weight * discount, weight)
            going = going & ~(terminated[at, env] | truncated[at, env])
        if chunk_length > 1:
            chunks = ring.action[first[:, None] + np.arange(chunk_length), env[:, None]]
            action = chunks.reshape(first.shape[0], -1)
        else:
            action = ring.action[first, env]
        return Batch(
            observation=jax.tree.map(lambda leaf: leaf[first, env], ring.observation),
            action=action,
            reward=total,
            bootstrap=xp.where(terminated[last, env], 0.0, weight).astype(uniform.dtype),
            next_observation=jax.tree.map(lambda leaf: leaf[last, env], ring.next_observation),
        )

    def _only_valid(
        self, place: Callable[[Any], Any], rank: Any, uniform: Any, count: Any, recent: int, newest_from: Any
    ) -> Any:
        """Draws anew, uniformly in the same part, in place of steps that did not happen (host).

        Args:
            place: slots and environments of ranks: where samples begin.
            rank: ``(B,)``, by age; the first ``recent`` are of the newest part.
            uniform: what the draws follow from.
            count: samples in the ring.
            recent: how many belong to the newest part.
            newest_from: rank at which that part begins.
        """
        valid, generator = self.ring.valid, None
        assert valid is not None
        lowest = np.where(np.arange(rank.size) < recent, newest_from, 0)
        for attempt in range(2 * ATTEMPTS):
            bad = ~valid[place(rank)]
            if not bad.any():
                break
            if attempt == ATTEMPTS:  # as good as sure: nothing happened in the newest part
                lowest[:] = 0
            generator = generator or np.random.default_rng(uniform.view(np.uint32))
            rank = np.where(bad, generator.integers(lowest, max(int(count), 1)), rank)
        return rank


ATTEMPTS = 64
"""How often a step that did not happen is drawn anew: where half of them happened, one try in 10^19 needs more."""


def memory_bytes(example: Experience, capacity: int) -> int:
    """Bytes that a ring of this capacity takes. Pictures count one byte a value, twice: before and after the step."""
    slots = capacity // example.reward.shape[-1]
    return slots * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(example))


def _refuse_other_bytes(ring: Experience, step: Experience) -> None:
    """Pictures of another type (say, in [0, 1]) would turn into bytes without a word, and lose what they show."""
    for held, new in ((ring.observation, step.observation), (ring.next_observation, step.next_observation)):
        if held.pixels is not None and new.pixels is not None:
            kinds = held.pixels.dtype, new.pixels.dtype
            require(kinds[0] == kinds[1], "pixels", str(kinds[1]), f"the replay memory holds {kinds[0]}; convert first")


def _allocate(example: Experience, capacity: int, xp: ModuleType) -> Experience:
    num_envs = example.reward.shape[-1]
    require(capacity >= num_envs, "replay_capacity", capacity, f"must hold one step of all {num_envs} environments")
    return jax.tree.map(lambda leaf: xp.zeros((capacity // num_envs, *leaf.shape), leaf.dtype), example)


def _stratified(xp: ModuleType, uniform: ArrayLike, begin: ArrayLike, count: ArrayLike) -> ArrayLike:
    """B whole numbers below ``count``, one from each of B stretches of a circle of ``count`` places.

    Where ``count`` is no multiple of B, some stretches are wider by one place, and a place in them is drawn less often.
    As the first stretch begins anywhere with equal probability, every place is in a wide one equally often, and is
    drawn with probability ``B / count`` exactly (to the resolution of the uniform numbers).

    Args:
        xp: NumPy or its JAX twin.
        uniform: B numbers in [0, 1).
        begin: a number in [0, 1): how far the circle is turned.
        count: places.
    """
    size = uniform.shape[0]
    index = xp.arange(size)
    # Float32 cannot count to more than 16 million: the stretch is found with whole numbers.
    width, rest = count // max(size, 1), count % max(size, 1)
    low = index * width + xp.minimum(index, rest)
    span = xp.where(index < rest, width + 1, width)
    inside = (uniform * span).astype(xp.int32)
    drawn = low + xp.minimum(inside, xp.maximum(span - 1, 0))
    # Fewer transitions than samples: stretches are shorter than one, and repetition cannot be avoided.
    drawn = xp.where(count >= size, drawn, (uniform * count).astype(xp.int32))
    turned = drawn - xp.minimum((begin * count).astype(xp.int32), xp.maximum(count - 1, 0))
    return xp.where(turned < 0, turned + count, turned)  # a sum before the difference could overflow
