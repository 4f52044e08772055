import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from penstock._errors import ConfigurationError
from penstock.reports.statistics import (
    area_under_curve,
    bootstrap_curves,
    bootstrap_interval,
    common_grid,
    interquartile_mean,
)


def test_interquartile_mean_of_hand_numbers():
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0, -50.0])) == 2.0
    assert interquartile_mean(np.array([8.0, 1.0, 2.0, 4.0])) == 3.0
    assert interquartile_mean(np.array([1.0, 2.0, 9.0])) == 4.0  # fewer than four: the plain mean
    assert interquartile_mean(np.array([7.0])) == 7.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 11, 16])
def test_interquartile_mean_agrees_with_scipy(count):
    scores = np.random.default_rng(count).normal(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(scores), scipy.stats.trim_mean(scores, 0.25, axis=-1), rtol=1e-13)


def test_a_seed_that_is_not_a_number_is_not_trimmed_away():
    scores = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 2.0, 3.0, 4.0]])
    result = interquartile_mean(scores)
    assert np.isnan(result[0])
    assert result[1] == 2.5


def test_bootstrap_agrees_with_scipy():
    scores = np.random.default_rng(0).normal(3.0, 1.0, size=12)
    ours = bootstrap_interval([scores], resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (scores,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.value == pytest.approx(scipy.stats.trim_mean(scores, 0.25))
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_bootstrap_covers_the_truth_as_often_as_documented():
    generator = np.random.default_rng(5)
    trials, hits = 400, 0
    for trial in range(trials):
        estimate = bootstrap_interval([generator.normal(size=10)], resamples=500, seed=trial)
        hits += estimate.low <= 0 <= estimate.high
    assert 0.90 <= hits / trials <= 0.97  # 94 %, within three standard errors


def test_strata_are_resampled_within_themselves():
    # Two worlds far apart: mixing them would make the interval of the mean as wide as their distance.
    worlds = [np.array([0.0, 0.1, 0.2]), np.array([100.0, 100.1, 100.2])]
    stratified = bootstrap_interval(worlds, lambda scores: scores.mean(-1))
    assert stratified.value == pytest.approx(50.1)
    assert stratified.high - stratified.low < 0.2
    mixed = bootstrap_interval([np.concatenate(worlds)], lambda scores: scores.mean(-1))
    assert mixed.high - mixed.low > 50


def test_one_seed_has_no_interval():
    estimate = bootstrap_interval([np.array([4.0])])
    assert estimate.value == 4.0
    assert np.isnan(estimate.low) and np.isnan(estimate.high)
    assert str(estimate) == "4.000"


def test_whole_curves_are_resampled():
    # Curves that differ by a constant: a resample shifts all steps alike, so the band is equally wide everywhere.
    offsets = np.random.default_rng(0).normal(size=(8, 1))
    curves = np.linspace(0, 5, 7) + offsets
    value, low, high = bootstrap_curves([curves], resamples=300)
    np.testing.assert_allclose(high - low, (high - low)[0])
    np.testing.assert_allclose(value - value[0], np.linspace(0, 5, 7))
    single = bootstrap_interval([curves[:, 3]], resamples=300)
    assert (single.low, single.high) == (pytest.approx(low[3]), pytest.approx(high[3]))


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(0).normal(size=6)
    assert bootstrap_interval([scores]) == bootstrap_interval([scores])
    assert bootstrap_interval([scores], seed=1) != bootstrap_interval([scores])


def test_area_under_curve_of_hand_numbers():
    # Triangle over [0, 2] of height 4, then constant 4 over [2, 6]: area 4 + 16, range 6.
    steps = np.array([0, 2, 6])
    assert area_under_curve(steps, np.array([0.0, 4.0, 4.0])) == pytest.approx(20 / 6)
    np.testing.assert_allclose(area_under_curve(steps, np.array([[0.0, 4.0, 4.0], [3.0, 3.0, 3.0]])), [20 / 6, 3.0])
    assert area_under_curve(np.array([5]), np.array([2.5])) == 2.5


def test_area_does_not_depend_on_the_unit_of_steps():
    steps, values = np.array([1.0, 2.0, 5.0, 9.0]), np.array([1.0, -2.0, 4.0, 0.0])
    assert area_under_curve(1000 * steps, values) == pytest.approx(scipy.integrate.trapezoid(values, steps) / 8)


def test_common_grid_interpolates_inside_the_shared_range():
    first = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    second = (np.array([5.0, 15.0, 40.0]), np.array([10.0, 30.0, 80.0]))
    grid, values = common_grid([first, second], points=4)
    np.testing.assert_allclose(grid, [5, 10, 15, 20])
    np.testing.assert_allclose(values, [[5, 10, 15, 20], [10, 20, 30, 40]])


def test_common_grid_keeps_shared_steps_as_they_are():
    steps = np.array([10, 20, 40])
    grid, values = common_grid([(steps, np.array([1.0, 2.0, 3.0])), (steps[:2], np.array([5.0, 6.0]))])
    np.testing.assert_array_equal(grid, [10, 20])
    np.testing.assert_array_equal(values, [[1, 2], [5, 6]])


def test_errors_are_sentences():
    with pytest.raises(ConfigurationError, match="no step in common"):
        common_grid([(np.array([1, 2]), np.ones(2)), (np.array([3, 4]), np.ones(2))])
    with pytest.raises(ConfigurationError, match="must increase strictly"):
        area_under_curve(np.array([1, 1]), np.ones(2))
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        bootstrap_interval([np.ones(3)], confidence=95)
    with pytest.raises(ConfigurationError, match="may not be empty"):
        bootstrap_interval([np.ones(3), np.ones(0)])
