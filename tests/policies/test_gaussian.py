"""The tanh-squashed Gaussian: its density against SciPy and quadrature, its samples, its entropy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks import Trunk
from penstock.policies import Density, Need, SquashedGaussian

FEATURES = jnp.array([0.5, -1.0])


def gaussian(mean, log_std, state_dependent=True):
    """A policy with this mean and log standard deviation whatever the features."""
    size = len(mean)
    policy = SquashedGaussian(
        jax.random.key(0), 2, size, Trunk(hidden=(4,)), state_dependent_std=state_dependent, output_gain=0.0
    )
    mean, log_std = jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32)
    bias = jnp.concatenate([mean, log_std]) if state_dependent else mean
    policy = eqx.tree_at(lambda p: p.network.output.bias, policy, bias)
    return policy if state_dependent else eqx.tree_at(lambda p: p.global_log_std, policy, log_std)


def trapezoids(y, x):
    """Integral of y over x."""
    return np.sum(0.5 * (y[1:] + y[:-1]) * np.diff(x))


def log_probs(policy, latents):
    return jax.jit(jax.vmap(policy.log_prob, in_axes=(None, 0)))(FEATURES, latents)


@pytest.mark.parametrize("state_dependent", [True, False])
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.8, 0.3), (-1.5, -2.5)])
def test_density_of_the_action_integrates_to_one(mean, log_std, state_dependent):
    """Over the action itself, a in (-1, 1), on a grid refined towards the ends by a = tanh(u)."""
    policy = gaussian([mean], [log_std], state_dependent)
    latent = np.linspace(mean - 12 * np.exp(log_std), mean + 12 * np.exp(log_std), 8001)
    action = np.tanh(latent)
    density = np.exp(np.asarray(log_probs(policy, jnp.asarray(latent[:, None], jnp.float32)), np.float64))
    np.testing.assert_allclose(trapezoids(density, action), 1.0, atol=2e-3)


def test_density_is_scipys_after_change_of_variables():
    stats = pytest.importorskip("scipy.stats")
    mean, log_std = np.array([0.4, -0.9]), np.array([-0.5, 0.2])
    latents = np.random.default_rng(0).normal(size=(20, 2)) * 1.5
    normal = stats.multivariate_normal(mean, np.diag(np.exp(2 * log_std)))
    expected = normal.logpdf(latents) - np.log(1.0 - np.tanh(latents) ** 2).sum(1)
    np.testing.assert_allclose(
        log_probs(gaussian(mean, log_std), jnp.asarray(latents, jnp.float32)), expected, rtol=1e-4
    )


def test_samples_come_with_their_own_log_density_and_are_reparameterised():
    policy = gaussian([0.4, -0.9], [-0.5, 0.2])
    key = jax.random.key(4)
    sample, log_prob = policy.draw_with_log_prob(FEATURES, policy.noise(key))
    np.testing.assert_allclose(log_prob, policy.log_prob(FEATURES, sample.record), rtol=1e-5)
    np.testing.assert_allclose(sample.action, np.tanh(sample.latent), rtol=1e-6)
    plain = policy.sample(FEATURES, key)
    np.testing.assert_array_equal(plain.latent, sample.latent)
    noise = np.asarray(jax.random.normal(key, (2,)))
    np.testing.assert_allclose(sample.latent, [0.4, -0.9] + np.exp([-0.5, 0.2]) * noise, rtol=1e-5, atol=1e-6)
    # d latent / d mean = 1 and d latent / d log_std = sigma eps.
    gradient = jax.jit(jax.grad(lambda p: p.sample(FEATURES, key).latent.sum()))(policy).network.output.bias
    np.testing.assert_allclose(gradient, [1.0, 1.0, *(np.exp([-0.5, 0.2]) * noise)], rtol=1e-5)


def test_entropy_estimate_is_unbiased():
    """Mean of -log pi over fresh samples, against the entropy by quadrature (32,000 samples, 4 standard errors)."""
    mean, log_std = 0.5, -0.3
    policy = gaussian([mean], [log_std])
    x = np.linspace(mean - 10, mean + 10, 40_001)
    sigma = np.exp(log_std)
    log_normal = -0.5 * ((x - mean) / sigma) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    log_density = log_normal - (2 * np.log(2.0) - 2 * np.abs(x) - 2 * np.log1p(np.exp(-2 * np.abs(x))))
    entropy = -trapezoids(np.exp(log_normal) * log_density, x)
    keys = jax.random.split(jax.random.key(5), 32_000)
    _, log_prob = jax.jit(jax.vmap(lambda key: policy.draw_with_log_prob(FEATURES, policy.noise(key))))(keys)
    estimates = -np.asarray(log_prob, np.float64)
    assert abs(estimates.mean() - entropy) < 4 * estimates.std() / np.sqrt(estimates.size)
    assert estimates.std() / np.sqrt(estimates.size) < 0.01


@pytest.mark.parametrize("latent", [20.0, -60.0, 300.0])
def test_saturated_actions_have_finite_log_density_and_gradient(latent):
    policy = gaussian([0.0], [0.0])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: p.log_prob(FEATURES, jnp.array([latent]))))(policy)
    expected = -0.5 * latent**2 - 0.5 * np.log(2 * np.pi) - (2 * np.log(2.0) - 2 * abs(latent))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("log_std", "clamped"), [(-50.0, -5.0), (9.0, 2.0), (-5.5, -5.0)])
def test_collapsed_or_exploded_standard_deviations_are_clamped(log_std, clamped):
    policy = gaussian([0.2], [log_std])
    mean, bounded = policy.mean_and_log_std(FEATURES)
    np.testing.assert_allclose(bounded, [clamped])
    assert np.isfinite(policy.log_prob(FEATURES, mean + 0.1))


def test_starts_at_its_initial_standard_deviation_near_zero_mean():
    for state_dependent in (True, False):
        policy = SquashedGaussian(
            jax.random.key(0), 2, 3, Trunk(hidden=(4,)), state_dependent_std=state_dependent, initial_log_std=-0.7
        )
        mean, log_std = policy.mean_and_log_std(FEATURES)
        np.testing.assert_allclose(mean, 0.0, atol=0.05)
        np.testing.assert_allclose(log_std, -0.7, atol=0.05 if state_dependent else 0.0)
        assert (policy.global_log_std is None) == state_dependent


def test_mode_is_the_squashed_mean_and_what_it_offers_is_stated():
    policy = gaussian([0.4, -0.9], [-0.5, 0.2])
    np.testing.assert_allclose(policy.mode(FEATURES).action, np.tanh([0.4, -0.9]), rtol=1e-6)
    assert policy.density is Density.ACTION and not policy.has_velocity
    assert [need for need in Need if policy.offers(need)] == [Need.ACTION_DENSITY, Need.DENSITY, Need.ACTION_GRADIENT]
    assert policy.network_evaluations == 1


# ------------------------------------------------------------------------------------------------- BatchRenorm


def renormed(calls):
    """CrossQ's actor with a warm-up of 10 calls, every weight, scale, offset and running statistic in use."""
    trunk = Trunk((5, 4), "relu", False, renorm_warmup=10)
    policy = SquashedGaussian(jax.random.key(0), 3, 2, trunk, output_gain=1.0)
    rng = np.random.default_rng(0)

    def in_use(path, leaf):
        noise = 0.3 * rng.standard_normal(leaf.shape)
        value = {"calls": calls, "variance": np.exp(noise)}.get(path[-1].name, leaf + noise)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(in_use, policy)


def by_numpy(policy, x, normalise):
    """Means and log standard deviations of a batch in float64: norm, [linear, ReLU, norm] twice, linear."""
    network = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), policy.network)
    h = normalise(network.norms[0], np.asarray(x, np.float64))
    for linear, norm in zip(network.linears, network.norms[1:], strict=True):
        h = normalise(norm, np.maximum(h @ linear.weight.T + linear.bias, 0.0))
    mean, log_std = np.split(h @ network.output.weight.T + network.output.bias, 2, axis=1)
    return mean, np.clip(log_std, -5.0, 2.0)


def density_by_numpy(mean, log_std, noise):
    latent = mean + np.exp(log_std) * noise
    normal = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return latent, (normal - np.log(1.0 - np.tanh(latent) ** 2)).sum(1)


BATCH = 1.0 + 1.5 * jax.random.normal(jax.random.key(7), (6, 3))
DRAWN = jax.random.normal(jax.random.key(8), (6, 2))
NOISE = np.asarray(DRAWN, np.float64)


def test_acting_with_batch_renorm_normalises_by_running_statistics():
    policy = renormed(calls=10)

    def running(norm, x):
        return norm.scale * (x - norm.mean) / np.sqrt(norm.variance + 1e-3) + norm.offset

    mean, log_std = by_numpy(policy, BATCH, running)
    latent, density = density_by_numpy(mean, log_std, NOISE)
    sample, log_prob = jax.jit(jax.vmap(policy.draw_with_log_prob))(BATCH, DRAWN)
    np.testing.assert_allclose(sample.latent, latent, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_prob, density, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(policy.mode))(BATCH).action, np.tanh(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("calls", [9, 10])
def test_training_with_batch_renorm_normalises_by_the_batch(calls):
    """Before the warm-up ends and after it; the running statistics move by a hundredth, and nothing else does."""
    policy, moved = renormed(calls), []

    def of_batch(norm, x):
        mean, variance = x.mean(0), x.var(0)
        moved.append((0.99 * norm.mean + 0.01 * mean, 0.99 * norm.variance + 0.01 * variance))
        r, q = np.sqrt((variance + 1e-3) / (norm.variance + 1e-3)), (mean - norm.mean) / np.sqrt(norm.variance + 1e-3)
        r, q = (np.clip(r, 1 / 3, 3), np.clip(q, -5, 5)) if calls >= 10 else (1.0, 0.0)
        return norm.scale * ((x - mean) / np.sqrt(variance + 1e-3) * r + q) + norm.offset

    latent, density = density_by_numpy(*by_numpy(policy, BATCH, of_batch), NOISE)
    sample, log_prob, after = jax.jit(lambda p: p.train(BATCH, DRAWN))(policy)
    np.testing.assert_allclose(sample.latent, latent, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sample.action, np.tanh(latent), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_prob, density, rtol=1e-4, atol=1e-4)
    for norm, (mean, variance) in zip(after.network.norms, moved, strict=True):
        np.testing.assert_allclose(norm.mean, mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(norm.variance, variance, rtol=1e-4)
        assert float(norm.calls) == calls + 1
    back = eqx.tree_at(lambda p: p.network.norms, after, policy.network.norms)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    acting, _ = jax.jit(jax.vmap(policy.draw_with_log_prob))(BATCH, DRAWN)
    assert float(jnp.abs(acting.latent - sample.latent).max()) > 0.1, "the two ways differ"
