"""Samples of action chunks against a loop over what happened: ends at every phase, across the place of writing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.data import Experience, Replay
from penstock.worlds import Observation

N, C, SLOTS, GAMMA = 4, 3, 9, 0.5
add = jax.jit(Replay.add)
gather = jax.jit(Replay.gather, static_argnames=("discount", "recent", "newest", "chunk_length"))


def happened(steps, seed=0):
    """Control steps whose every number is its own, with ends at random."""
    generator = np.random.default_rng(seed)
    for t in range(steps):
        place = np.arange(N, dtype=np.float32) + N * t
        ends = generator.choice(3, N, p=[0.7, 0.15, 0.15])
        yield Experience(
            observation=Observation(place[:, None]),
            action=np.stack([place + 0.25, place + 0.5], axis=1),
            reward=generator.normal(size=N).astype(np.float32),
            terminated=ends == 1,
            truncated=ends == 2,
            next_observation=Observation(place[:, None] + 1000.0),
            valid=None,
        )


def by_hand(steps):
    """What can be drawn after these steps, oldest first: ``(observation, plan, reward, bootstrap, next)`` of each."""
    rows = []
    for begin in range(0, len(steps) - C + 1, C):
        if begin < len(steps) - SLOTS:
            continue  # its first step is overwritten
        for env in range(N):
            total, weight, plan, going = 0.0, 1.0, [], True
            for step in steps[begin : begin + C]:
                plan += step.action[env].tolist()
                if not going:
                    continue
                total, weight = total + weight * step.reward[env], weight * GAMMA
                last = 0.0 if step.terminated[env] else weight
                then = step.next_observation.vector[env, 0]
                going = not (step.terminated[env] or step.truncated[env])
            rows.append((steps[begin].observation.vector[env, 0], *plan, total, last, then))
    return np.array(rows)


def in_rows(batch):
    parts = (batch.observation.vector, batch.action, batch.reward, batch.bootstrap, batch.next_observation.vector)
    return np.concatenate([np.asarray(part, np.float64).reshape(len(batch.reward), -1) for part in parts], axis=1)


@pytest.mark.parametrize("host", [True, False])
def test_every_chunk_that_can_be_drawn_is_the_one_that_happened(host):
    steps, seen = [], set()
    for step in happened(40):
        if not steps:
            example = jax.tree.map(np.asarray, step)
            ring = Replay.create_on_host(example, SLOTS * N) if host else Replay.create(example, SLOTS * N)
        steps.append(step)
        if host:
            ring.write(step)
        else:
            ring = add(ring, jax.tree.map(jnp.asarray, step))
        expected = by_hand(steps)
        if not len(expected):
            continue
        uniform = np.append(np.full(len(expected), 0.5, np.float32), np.float32(0.0))
        draw = ring.gather if host else functools.partial(gather, ring)
        np.testing.assert_allclose(in_rows(draw(uniform, GAMMA, chunk_length=C)), expected, rtol=1e-6)
        bootstraps = expected[:, -2].tolist()
        seen |= {*bootstraps, len(expected) // N}
    assert {0.0, 0.5, 0.25, 0.125} < seen, "ends at every phase"
    assert {1, 2, 3} < seen, "two whole stretches while a third is being written"


def test_newest_steps_are_counted_in_whole_chunks_and_the_one_that_is_being_written_is_none():
    steps = list(happened(8))
    ring = Replay.create_on_host(steps[0], SLOTS * N)
    for step in steps:
        ring.write(step)
    uniform = np.random.default_rng(0).random(101, dtype=np.float32)
    batch = ring.gather(uniform, GAMMA, recent=40, newest=C * N, chunk_length=C)
    begun = batch.observation.vector[:, 0] // N
    assert set(begun[:40]) == {3} and set(begun[40:]) == {0, 3}
    batch = ring.gather(uniform, GAMMA, recent=40, newest=1, chunk_length=C)
    assert set(batch.observation.vector[:40, 0]) == {3.0 * N + N - 1}


def test_a_stretch_that_begins_while_an_environment_resets_itself_is_not_drawn():
    """Environments 0 and 1 reset themselves in the steps 2 and 3, after they ended in 1 and 2."""
    steps = []
    for t, step in enumerate(happened(6)):
        idle, ends = np.zeros(N, bool), np.zeros(N, bool)
        idle[:2], ends[:2] = (t == 2, t == 3), (t == 1, t == 2)
        steps.append(step.__class__(**{**vars(step), "valid": ~idle, "truncated": ends, "terminated": ends & False}))
    ring = Replay.create_on_host(steps[0], SLOTS * N)
    for step in steps:
        ring.write(step)
    batch = ring.gather(np.random.default_rng(0).random(201, dtype=np.float32), GAMMA, chunk_length=C)
    begun = set(batch.observation.vector[:, 0].astype(int))
    assert begun == {*range(N), *range(3 * N, 4 * N)} - {3 * N + 1}
    first = np.flatnonzero(batch.observation.vector[:, 0] == 0)[0]
    np.testing.assert_allclose(batch.reward[first], steps[0].reward[0] + GAMMA * steps[1].reward[0], rtol=1e-6)


def test_a_ring_that_holds_no_whole_chunks_is_refused():
    ring = Replay.create_on_host(next(happened(1)), 8 * N)
    with pytest.raises(ConfigurationError, match=r"chunk_length = 3: must divide the 8 control steps of the ring"):
        ring.gather(np.zeros(5, np.float32), GAMMA, chunk_length=3)
