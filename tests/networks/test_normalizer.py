"""Running observation statistics, against NumPy over everything seen."""

import jax
import jax.numpy as jnp
import numpy as np

from penstock.networks import Normalizer
from penstock.networks.normalizer import COUNT_LIMIT, INITIAL_COUNT
from penstock.worlds import Observation


def test_merging_batches_gives_the_statistics_of_all_of_them():
    generator = np.random.default_rng(0)
    batches = [generator.normal([1.0, -3.0, 50.0], [0.5, 2.0, 10.0], (7 + i, 5, 3)) for i in range(4)]
    normalizer = Normalizer.create(3)
    for batch in batches:
        normalizer = normalizer.merge(Observation(jnp.asarray(batch, jnp.float32)))
    everything = np.concatenate([batch.reshape(-1, 3) for batch in batches])
    np.testing.assert_allclose(normalizer.mean, everything.mean(0), rtol=1e-4)
    np.testing.assert_allclose(normalizer.variance, everything.var(0), rtol=1e-3)  # population variance
    np.testing.assert_allclose(normalizer.count, len(everything) + INITIAL_COUNT, rtol=1e-6)

    seen = normalizer(Observation(jnp.asarray(everything, jnp.float32))).vector
    np.testing.assert_allclose(seen.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(seen.std(0), 1.0, atol=1e-3)
    np.testing.assert_allclose(seen, (everything - everything.mean(0)) / np.sqrt(everything.var(0) + 1e-5), atol=1e-3)


def test_before_any_batch_it_changes_almost_nothing():
    vector = jnp.array([[1.0, -2.0]])
    np.testing.assert_allclose(Normalizer.create(2)(Observation(vector)).vector, vector, rtol=1e-5)


def test_constant_observations_stay_finite():
    for value in (0.0, 3.0, 1e6):
        normalizer = Normalizer.create(2)
        for _ in range(3):
            normalizer = normalizer.merge(Observation(jnp.full((50, 2), value)))
        seen = normalizer(Observation(jnp.full((1, 2), value))).vector
        assert np.isfinite(seen).all()
        if value < 1e3:
            np.testing.assert_allclose(seen, 0.0, atol=0.05)
        assert (normalizer.variance >= 0).all()


def test_old_observations_fade_once_the_count_is_full():
    normalizer = Normalizer(jnp.zeros(1), jnp.ones(1), jnp.asarray(COUNT_LIMIT), True)
    after = normalizer.merge(Observation(jnp.full((1000, 1), 2.0)))
    np.testing.assert_allclose(after.mean, 2.0 * 1000 / (COUNT_LIMIT + 1000), rtol=1e-4)
    assert float(after.count) == COUNT_LIMIT


def test_disabled_passes_everything_through():
    normalizer = Normalizer.create(2, enabled=False)
    observation = Observation(jnp.array([[1.0, -2.0]]))
    assert normalizer(observation) is observation
    assert normalizer.merge(observation) is normalizer


def test_points_are_never_normalised():
    points = jax.random.normal(jax.random.key(0), (4, 6, 3))
    observation = Observation(jnp.full((4, 2), 5.0), points)
    normalizer = Normalizer.create(2).merge(observation)
    np.testing.assert_array_equal(normalizer(observation).points, points)
    assert normalizer.mean.shape == (2,)
