"""The ring: wrap-around, n-step returns by hand, recency, no repetition; host and device alike."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.data import Experience, Replay
from penstock.data.replay import _stratified, memory_bytes
from penstock.worlds import Observation

N = 2
STATIC = ("batch_size", "discount", "n_step", "recent", "newest")
add = jax.jit(Replay.add)
gather = jax.jit(Replay.gather, static_argnames=STATIC[1:])
sample = jax.jit(Replay.sample, static_argnames=STATIC)


def step(t, terminated=(False, False), truncated=(False, False)):
    """Observations count 10 t + environment; the reward is t + 1 and t + 2."""
    env = np.arange(N, dtype=np.float32)
    numbers = Experience(
        observation=Observation((10.0 * t + env)[:, None]),
        action=(0.01 * t + 0.001 * env)[:, None],
        reward=t + 1.0 + env,
        terminated=np.asarray(terminated),
        truncated=np.asarray(truncated),
        next_observation=Observation((10.0 * t + env + 5.0)[:, None]),
    )
    return jax.tree.map(jnp.asarray, numbers)


def filled(steps, capacity=8, **flags):
    replay = Replay.create(step(0), capacity)
    for t in range(steps):
        replay = add(replay, step(t, **{name: value[t] for name, value in flags.items() if t in value}))
    return replay


def middles(count):
    """Uniform numbers that draw ``count`` transitions in order: the middle of each stretch, nothing turned."""
    return np.append(np.full(count, 0.5, np.float32), np.float32(0.0))


def everything(replay, discount=0.5, **settings):
    """One sample of every transition, by age and environment."""
    uniform = middles(int(replay.filled) * N)
    if isinstance(replay.ring.reward, np.ndarray):
        return replay.gather(uniform, discount, **settings)
    return gather(replay, jnp.asarray(uniform), discount, **settings)


def test_newest_steps_survive_and_come_in_order():
    replay = filled(6)  # four slots
    assert replay.slots == 4 and int(replay.filled) == 4 and int(replay.position) == 2
    batch = everything(replay)
    np.testing.assert_array_equal(batch.observation.vector[:, 0], [20, 21, 30, 31, 40, 41, 50, 51])
    np.testing.assert_array_equal(batch.reward, [3, 4, 4, 5, 5, 6, 6, 7])
    np.testing.assert_array_equal(batch.next_observation.vector[:, 0], [25, 26, 35, 36, 45, 46, 55, 56])
    np.testing.assert_array_equal(batch.bootstrap, [0.5] * 8)


def test_capacity_is_rounded_down_to_whole_steps_and_too_little_is_refused():
    assert Replay.create(step(0), 7).slots == 3
    with pytest.raises(ConfigurationError, match=r"replay_capacity = 1: must hold one step of all 2 environments"):
        Replay.create(step(0), 1)
    assert memory_bytes(step(0), 7) == 3 * N * (4 + 4 + 4 + 1 + 1 + 4)


def test_truncation_bootstraps_and_termination_does_not():
    """The 2 x 2 table: nothing, terminated, truncated, both."""
    cases = [(False, False), (True, False), (False, True), (True, True)]
    for terminated, truncated in cases:
        replay = add(Replay.create(step(0), 2), step(3, (terminated, False), (truncated, False)))
        batch = everything(replay)
        np.testing.assert_array_equal(batch.bootstrap, [0.0 if terminated else 0.5, 0.5])
        np.testing.assert_array_equal(batch.reward, [4.0, 5.0])


def test_three_step_returns_by_hand():
    """Environment 0 is truncated at t = 1, environment 1 terminates at t = 2; g = 1/2."""
    replay = filled(4, terminated={2: (False, True)}, truncated={1: (True, False)})
    batch = everything(replay, n_step=3)
    ages = {(t, e): 2 * t + e for t in range(4) for e in range(N)}
    expected = {
        (0, 0): (1 + 2 / 2, 0.25, 15),  # two steps, then the value behind the time limit
        (1, 0): (2, 0.5, 15),
        (2, 0): (3 + 4 / 2, 0.25, 35),  # the newest data ends it
        (3, 0): (4, 0.5, 35),
        (0, 1): (2 + 3 / 2 + 4 / 4, 0.0, 26),
        (1, 1): (3 + 4 / 2, 0.0, 26),
        (2, 1): (4, 0.0, 26),
        (3, 1): (5, 0.5, 36),
    }
    for place, (reward, bootstrap, end) in expected.items():
        row = ages[place]
        got = (batch.reward[row], batch.bootstrap[row], batch.next_observation.vector[row, 0])
        np.testing.assert_allclose(got, (reward, bootstrap, end), err_msg=str(place))


def test_n_step_does_not_run_from_the_newest_into_the_oldest():
    batch = everything(filled(6), n_step=3)  # wrapped: slot 1 holds t = 5, slot 2 the oldest, t = 2
    np.testing.assert_array_equal(batch.reward[-2:], [6.0, 7.0])
    np.testing.assert_array_equal(batch.bootstrap[-2:], [0.5, 0.5])


@pytest.mark.parametrize("steps", [40, 130])
def test_recent_part_comes_from_the_newest_without_repetition(steps):
    replay = Replay.create(step(0), 200)
    for t in range(steps):
        replay = add(replay, step(t))
    count = int(replay.filled) * N
    seen = set()
    for seed in range(30):
        batch = sample(replay, jax.random.key(seed), 50, 0.9, recent=10, newest=20)
        rank = np.asarray(batch.observation.vector[:, 0])
        recent, uniform = rank[:10], rank[10:]
        assert len(set(recent)) == 10 and len(set(uniform)) == 40
        assert recent.min() >= 10 * (steps - 10)  # the newest 20 transitions are 10 control steps
        seen |= set(uniform)
    assert len(seen) == count or len(seen) > 0.95 * count


def ranks_of_batches(count, size, batches, host, **settings):
    """Ages of what many batches hold, ``(batches, size)``: the ring is full, its oldest transition in the middle."""
    place = np.arange(count)
    age = ((place - count // 3) % count).astype(np.float32)
    seen, nothing = Observation(age[:, None, None]), np.zeros((count, 1), np.float32)
    ring = Experience(seen, nothing[:, :, None], nothing, nothing > 0, nothing > 0, seen)
    position, filled = np.array(count // 3, np.int32), np.array(count, np.int32)
    if host:
        replay, generator = Replay(ring, position, filled), np.random.default_rng(0)
        draws = (generator.random(size + 1, dtype=np.float32) for _ in range(batches))
        return np.stack([replay.gather(u, 0.9, **settings).observation.vector[:, 0] for u in draws]).astype(int)
    replay = jax.tree.map(jnp.asarray, Replay(ring, position, filled))
    draw = jax.jit(jax.vmap(lambda key: replay.sample(key, size, 0.9, **settings).observation.vector[:, 0]))
    return np.asarray(draw(jax.random.split(jax.random.key(0), batches))).astype(int)


def assert_uniform(ranks, places):
    """Pearson's chi-squared over 0 .. places - 1, below its quantile of 1 in 10^6 (Wilson and Hilferty's cube).

    Draws without repetition scatter less than independent ones, so that the statistic is smaller, if anything.
    """
    counts, expected, freedom = np.bincount(ranks.ravel(), minlength=places), ranks.size / places, places - 1
    assert counts.size == places and expected > 100
    limit = freedom * (1 - 2 / (9 * freedom) + 4.7534 * np.sqrt(2 / (9 * freedom))) ** 3
    statistic = np.square(counts - expected).sum() / expected
    assert statistic < limit, f"chi-squared {statistic:.0f} of {freedom} degrees of freedom"


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("count", [100, 257, 300, 511, 512, 1000])
def test_every_transition_is_equally_probable_whatever_the_count(count, host):
    """Counts just above the batch size, where stretches are one or two wide; a multiple of it, and fewer than it."""
    ranks = ranks_of_batches(count, 256, 1000, host)
    assert_uniform(ranks, count)
    if count >= 256:
        assert (np.diff(np.sort(ranks)) > 0).all(), "without repetition"


@pytest.mark.parametrize("host", [True, False])
def test_both_parts_are_uniform(host):
    """52 of the newest 75, 204 of all 300, as FlowRL draws them: neither is a multiple."""
    ranks = ranks_of_batches(300, 256, 1000, host, recent=52, newest=75)
    assert_uniform(ranks[:, :52] - 225, 75)
    assert_uniform(ranks[:, 52:], 300)
    for part in (ranks[:, :52], ranks[:, 52:]):
        assert (np.diff(np.sort(part)) > 0).all(), "without repetition"


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("count", [2**24 + 3, 2**31 - 5])
def test_counts_beyond_what_float32_can_count(count, xp):
    """Inside the range, no two alike, odd and even numbers, and equally many in each sixteenth of the range."""
    uniform = np.random.default_rng(0).random((400, 257), dtype=np.float32)
    draw = functools.partial(_stratified, xp, count=xp.asarray(count, xp.int32))
    if xp is jnp:
        ranks = np.asarray(jax.jit(jax.vmap(lambda u: draw(u[:-1], u[-1])))(jnp.asarray(uniform)), np.int64)
    else:
        ranks = np.stack([draw(u[:-1], u[-1]) for u in uniform]).astype(np.int64)
    assert ranks.min() >= 0 and ranks.max() < count
    assert (np.diff(np.sort(ranks)) > 0).all()
    np.testing.assert_allclose(np.bincount(ranks.ravel() * 16 // count) / ranks.size, 1 / 16, rtol=0.02)
    if count < 2**25:
        np.testing.assert_allclose((ranks % 2).mean(), 0.5, atol=0.01)


def test_more_samples_than_data_repeats_but_stays_inside():
    batch = sample(filled(2), jax.random.key(0), 64, 0.9)
    assert set(np.asarray(batch.observation.vector[:, 0]).tolist()) <= {0.0, 1.0, 10.0, 11.0}


def test_host_ring_gives_the_same_batches():
    host = Replay.create_on_host(jax.tree.map(np.asarray, step(0)), 8)
    for t in range(7):
        host.write(step(t, truncated=(t == 4, False)))
    device = filled(7, truncated={4: (True, False)})
    uniform = np.linspace(0.0, 0.999, 13, dtype=np.float32)
    for settings in ({}, {"n_step": 3}, {"recent": 4, "newest": 3}):
        ours, theirs = host.gather(uniform, 0.9, **settings), gather(device, jnp.asarray(uniform), 0.9, **settings)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert isinstance(a, np.ndarray)
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize(("slots", "kept"), [(7, 4), (4, 4), (3, 3)])
def test_a_resized_ring_holds_the_newest_in_order_and_goes_on(slots, kept, host):
    """Six steps through four slots: 2, 3, 4 and 5 are held."""
    replay = filled(6)
    if host:
        replay = jax.tree.map(np.array, replay)
    replay = replay.resized(slots)
    assert replay.slots == slots and isinstance(replay.ring.reward, np.ndarray) is host
    np.testing.assert_array_equal(everything(replay).reward, [t + 1 + e for t in range(6 - kept, 6) for e in range(N)])
    if host:
        replay.write(step(6))
    else:
        replay = add(replay, step(6))
    kept = min(kept + 1, slots)
    np.testing.assert_array_equal(everything(replay).reward, [t + 1 + e for t in range(7 - kept, 7) for e in range(N)])


def pictures(t):
    """A control step of pictures without a vector part: every byte of environment e is 100 t + e modulo 256."""
    byte = (100 * t + np.arange(N)) % 256

    def seen(offset):
        pixels = np.broadcast_to((byte + offset)[:, None, None, None] % 256, (N, 4, 5, 3)).astype(np.uint8)
        return Observation(jnp.zeros((N, 0)), pixels=jnp.asarray(pixels))

    return dataclasses.replace(step(t), observation=seen(0), next_observation=seen(7))


def test_pictures_stay_bytes_through_both_rings_and_the_wrap_around():
    device, host = Replay.create(pictures(0), 8), Replay.create_on_host(jax.tree.map(np.asarray, pictures(0)), 8)
    for t in range(6):  # four slots
        device = add(device, pictures(t))
        host.write(pictures(t))
    count = 4 * N
    expected = (100 * np.repeat(np.arange(2, 6), N) + np.tile(np.arange(N), 4)) % 256
    for replay, uniform in ((device, jnp.asarray(middles(count))), (host, middles(count))):
        batch = replay.gather(uniform, 0.9)
        for seen, offset in ((batch.observation, 0), (batch.next_observation, 7)):
            assert seen.vector.shape == (count, 0)
            assert seen.pixels.dtype == np.uint8 and seen.pixels.shape == (count, 4, 5, 3)
            np.testing.assert_array_equal(
                seen.pixels, np.broadcast_to(((expected + offset) % 256)[:, None, None, None], (count, 4, 5, 3))
            )


def test_pictures_are_counted_as_bytes():
    numbers = 4 + 4 + 1 + 1  # action, reward, flags
    assert memory_bytes(pictures(0), 7) == 3 * N * (numbers + 2 * 4 * 5 * 3)
    held = jax.tree.leaves(Replay.create(pictures(0), 7).ring)
    assert sum(leaf.nbytes for leaf in held) == memory_bytes(pictures(0), 7)


@pytest.mark.parametrize("host", [False, True])
def test_pictures_of_another_type_are_refused(host):
    wrong = pictures(0)
    wrong = eqx.tree_at(lambda s: s.next_observation.pixels, wrong, jnp.ones((N, 4, 5, 3)) * 0.5)
    with pytest.raises(ConfigurationError, match=r"pixels = 'float32': the replay memory holds uint8"):
        if host:
            Replay.create_on_host(jax.tree.map(np.asarray, pictures(0)), 8).write(wrong)
        else:
            Replay.create(pictures(0), 8).add(wrong)


def test_steps_that_did_not_happen_are_never_drawn():
    """Every second step of one environment only reset it (host ring); the others are drawn about equally often."""
    example = dataclasses.replace(step(0), valid=np.ones((N,), bool))
    replay = Replay.create_on_host(example, 12 * N)
    for t in range(16):
        replay.write(dataclasses.replace(step(t), valid=np.array([True, t % 2 == 0])))
    drawn = np.concatenate(
        [
            replay.gather(np.random.default_rng(i).random(65, dtype=np.float32), 0.99).observation.vector[:, 0]
            for i in range(200)
        ]
    )
    values, counts = np.unique(drawn, return_counts=True)
    happened = {10.0 * t for t in range(4, 16)} | {10.0 * t + 1 for t in range(4, 16, 2)}
    assert set(values.tolist()) == happened
    assert counts.min() > 0.85 * drawn.size / 18 and counts.max() < 1.15 * drawn.size / 18


def test_a_recent_step_that_did_not_happen_is_replaced_by_another_of_the_newest():
    """Two thirds of the newest 36 only reset; what is drawn there stays there, and the rest of the batch does not."""
    replay = Replay.create_on_host(dataclasses.replace(step(0), valid=np.ones(N, bool)), 120)
    for t in range(60):
        replay.write(dataclasses.replace(step(t), valid=np.array([t < 42 or t % 3 == 0] * N)))
    generator = np.random.default_rng(0)
    draws = [
        replay.gather(generator.random(33, dtype=np.float32), 0.9, recent=12, newest=36).observation.vector[:, 0]
        for _ in range(1000)
    ]
    drawn = np.stack(draws)
    newest = [10.0 * t + e for t in range(42, 60, 3) for e in range(N)]
    happened = [10.0 * t + e for t in range(42) for e in range(N)] + newest
    for part, allowed in ((drawn[:, :12], newest), (drawn[:, 12:], happened)):
        assert set(part.ravel()) <= set(allowed)
        assert_uniform(np.searchsorted(allowed, part), len(allowed))


def test_where_nothing_happened_in_the_newest_part_the_whole_ring_serves():
    replay = Replay.create_on_host(dataclasses.replace(step(0), valid=np.ones(N, bool)), 20)
    for t in range(10):
        replay.write(dataclasses.replace(step(t), valid=np.array([t < 9] * N)))
    uniform = np.random.default_rng(0).random(9, dtype=np.float32)
    assert (replay.gather(uniform, 0.9, recent=4, newest=2).observation.vector < 90).all()


def test_cut_ends_the_newest_episodes_for_n_step_returns():
    replay = Replay.create_on_host(step(0), 8 * N)
    for t in range(3):
        replay.write(step(t))
    replay.cut()
    for t in range(3, 5):
        replay.write(step(t))
    batch = replay.gather(middles(10), 0.5, n_step=3)
    np.testing.assert_allclose(batch.reward[::2], [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3, 4 + 0.5 * 5, 5])
    np.testing.assert_allclose(batch.bootstrap[::2], [0.125, 0.25, 0.5, 0.25, 0.5])
