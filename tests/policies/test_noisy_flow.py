"""The density of a noisy path against integrals, histograms and identities (sac_flow, tests T1 to T13)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.networks import Trunk
from penstock.policies import Density, GatedVelocity, MarginalFlow, MLPVelocity, NoisyFlow, VelocityField
from penstock.policies.noisy_flow import log_sigma_bounds, path_entropy_target

TRUNK = Trunk((16,), "silu", False)
NOTHING = jnp.zeros((1,))


class Smooth(VelocityField):
    """v = sin(2 x) - tau + 0.3: an analytic field."""

    def condition(self, features):
        return features

    def __call__(self, condition, x, tau):
        return jnp.sin(2.0 * x) - tau + 0.3


class ToGaussian(VelocityField):
    """The exact velocity of the straight path from N(0, 1) to N(m, s^2)."""

    mean: float = 0.5
    std: float = 0.3

    def condition(self, features):
        return features

    def __call__(self, condition, x, tau):
        spread = (1 - tau) ** 2 + (tau * self.std) ** 2
        return self.mean + (tau * self.std**2 - (1 - tau)) / spread * (x - tau * self.mean)


def path_of(flow, features, key):
    """A drawn path ``x_0 .. x_K`` and its log-density."""
    drawn, log_prob = flow.draw_with_log_prob(features, flow.noise(key))
    return drawn.record, log_prob


def policy(field=None, size=1, *, key=0, **settings):
    return NoisyFlow(jax.random.key(key), field or Smooth(), 1, size, TRUNK, **settings)


@pytest.mark.parametrize("drift", [True, False])
def test_t1_density_integrates_to_one(drift):
    """One step: the integral of exp(log p) over x_0 and a, on a grid, with da = (1 - tanh^2) dx_1."""
    flow = policy(flow_steps=1, step_std=0.34, drift=drift, learn_noise=False)
    grid = jnp.linspace(-9.0, 9.0, 1801)
    width = float(grid[1] - grid[0])

    @jax.jit
    def mass(start):
        densities = jax.vmap(lambda end: jnp.exp(flow.log_prob(NOTHING, jnp.array([[start], [end]]))))(grid)
        return jnp.sum(densities * (1.0 - jnp.tanh(grid) ** 2)) * width

    total = float(jnp.sum(jax.lax.map(lambda x: mass(x), grid)) * width)
    assert abs(total - 1.0) < 1e-3


def test_t2_density_matches_a_histogram():
    flow = policy(flow_steps=1, step_std=0.34, learn_noise=False)
    actions = np.sort(np.asarray(jax.jit(jax.vmap(flow.sample, (None, 0)))(
        NOTHING, jax.random.split(jax.random.key(1), 200_000)).action[:, 0]))  # fmt: skip
    starts = jnp.linspace(-8.0, 8.0, 801)
    ends = jnp.arctanh(jnp.linspace(-0.9999, 0.9999, 2001))

    @jax.jit
    def marginal(end):
        logs = jax.vmap(lambda start: flow.log_prob(NOTHING, jnp.stack([start[None], end[None]])))(starts)
        return jnp.sum(jnp.exp(logs)) * (starts[1] - starts[0])

    density = np.asarray(jax.lax.map(marginal, ends))
    grid = np.tanh(np.asarray(ends))
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
    empirical = np.searchsorted(actions, grid) / actions.size
    assert np.abs(cumulative - empirical).max() < 0.005


@pytest.mark.parametrize("drift", [True, False])
@pytest.mark.parametrize("make", [pytest.param(GatedVelocity, marks=pytest.mark.slow), MLPVelocity])
def test_t3_a_recorded_path_has_the_density_it_was_drawn_with(make, drift):
    field = make(jax.random.key(3), 1, 2, TRUNK, output_gain=1.0)
    flow = policy(field, 2, drift=drift)
    path, log_prob = eqx.filter_jit(path_of)(flow, jnp.array([0.4]), jax.random.key(5))
    again = eqx.filter_jit(flow.log_prob)(jnp.array([0.4]), path)
    np.testing.assert_allclose(again, log_prob, rtol=1e-4, atol=1e-3)


def test_t4_the_mean_ratio_of_two_policies_is_one():
    old = policy(size=1, learn_noise=False, step_std=0.3)
    new = policy(ToGaussian(0.2, 0.9), learn_noise=False, step_std=0.31)
    keys = jax.random.split(jax.random.key(6), 40_000)

    @jax.jit
    def ratio(key):
        path, log_prob = path_of(old, NOTHING, key)
        return jnp.exp(new.log_prob(NOTHING, path) - log_prob)

    ratios = np.asarray(jax.jit(jax.vmap(ratio))(keys))
    assert ratios.std() > 0.1
    assert abs(ratios.mean() - 1.0) < 3 * ratios.std() / math.sqrt(ratios.size)


@pytest.mark.parametrize(("std", "entropy"), [(0.02, -8.5534), (0.05, -4.8882), (0.10, -2.1156), (0.16971, 0.0)])
def test_t5_entropy_of_constant_noise(std, entropy):
    """Before squashing, mean(-log p) / d = c (K + 1) + K log std, whatever the velocity."""
    flow = policy(size=3, step_std=std, learn_noise=False, drift=False)

    def unsquashed(key):
        path, log_prob = path_of(flow, NOTHING, key)
        squash = 2.0 * (jnp.log(2.0) - path[-1] - jax.nn.softplus(-2.0 * path[-1]))
        return -(log_prob + squash.sum()) / 3

    values = np.asarray(jax.jit(jax.vmap(unsquashed))(jax.random.split(jax.random.key(7), 20_000)))
    assert abs(values.mean() - entropy) < 3 * values.std() / math.sqrt(values.size) + 1e-3
    assert abs(path_entropy_target(3, 4, std) / 3 - entropy) < 1e-3


def test_t7_keys_decide_the_noise():
    flow = policy(size=2)
    first, same, other = (flow.sample(NOTHING, jax.random.key(k)).latent for k in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(np.asarray(first - other)).min() > 1e-4
    # The same start, other noise on the way.
    start = jnp.array([0.3, -0.2])
    noise = jax.random.normal(jax.random.key(2), (2, 4, 2))
    ends = [flow.draw(NOTHING, jnp.concatenate([start[None], n])).latent for n in noise]
    assert np.abs(np.asarray(ends[0] - ends[1])).min() > 1e-4


def test_t10_drift_in_its_other_form():
    """((1 - tau + tau sigma^2 / 2) / (1 - tau)) v - sigma^2 / (2 (1 - tau)) x; nothing without noise; finite at 0."""
    flow = policy(learn_noise=False, step_std=0.25)
    log_sigma = flow.log_sigma(NOTHING)
    square = float(jnp.exp(2 * log_sigma[0]))
    for step in range(4):
        x, tau = jnp.array([0.8]), step / 4
        v = flow.field(NOTHING, x, tau)
        b = (1 - tau + tau * square / 2) / (1 - tau) * v - square / (2 * (1 - tau)) * x
        got = flow.transition(NOTHING, log_sigma, x, jnp.asarray(float(step)))[0]
        np.testing.assert_allclose(got, x + 0.25 * b, rtol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize(("drift", "std"), [(True, 0.299), pytest.param(False, 0.380, marks=pytest.mark.slow)])
def test_t11_drift_keeps_the_marginal_of_an_ideal_flow(drift, std):
    flow = policy(ToGaussian(), flow_steps=400, step_std=0.34 / 20.0, drift=drift, learn_noise=False)
    ends = jax.jit(jax.vmap(flow.sample, (None, 0)))(NOTHING, jax.random.split(jax.random.key(9), 60_000)).latent
    np.testing.assert_allclose(np.std(np.asarray(ends)), std, rtol=0.01)


def test_t12_entropy_gradient_reaches_the_noise():
    """d/d log sigma of the unsquashed mean log p is -K for every entry."""
    flow = policy(size=2, drift=False)

    def unsquashed(flow):
        path, log_prob = path_of(flow, NOTHING, jax.random.key(9))
        squash = 2.0 * (jnp.log(2.0) - path[-1] - jax.nn.softplus(-2.0 * path[-1]))
        return log_prob + squash.sum()

    gradient = jax.jit(jax.grad(unsquashed))(flow).noise_network.output.bias
    low, high = log_sigma_bounds(flow.drift)
    slope = 0.5 * (high - low) * (1 - jnp.tanh(flow.noise_network.output.bias) ** 2)  # d log sigma / d bias
    np.testing.assert_allclose(gradient / slope, [-4.0, -4.0], rtol=1e-3)


def test_noise_starts_where_it_should_and_stays_in_bounds():
    flow = policy(size=2, step_std=0.1697)
    np.testing.assert_allclose(jnp.exp(flow.log_sigma(NOTHING)) / 2.0, [0.1697] * 2, rtol=0.02)
    wild = eqx.tree_at(lambda f: f.noise_network.output.bias, flow, jnp.array([100.0, -100.0]))
    np.testing.assert_allclose(wild.log_sigma(NOTHING), [0.0, -5.0], atol=1e-6)
    with pytest.raises(ConfigurationError, match=r"step_std = 0\.6"):
        policy(step_std=0.6)  # sigma = 1.2 > 1 with drift


def test_deterministic_action_has_no_noise():
    flow = policy(size=2)
    x = jnp.zeros(2)
    for step in range(4):
        x = flow.transition(flow.field.condition(NOTHING), flow.log_sigma(NOTHING), x, jnp.asarray(float(step)))[0]
    np.testing.assert_allclose(flow.mode(NOTHING).latent, x, rtol=1e-6)


# ------------------------------------------------------------------------------ the released code's noise and terms


def test_the_noise_that_reaches_the_latent_by_hand():
    flow = policy(drift=False, step_std=0.2)
    _, log_std = flow.transition(NOTHING, jnp.log(jnp.array([0.3])), jnp.zeros(1), jnp.asarray(2.0))
    np.testing.assert_allclose(log_std, [math.log(0.3) - 0.5 * math.log(4.0)], rtol=1e-5)
    np.testing.assert_allclose(
        flow.transition(NOTHING, flow.log_sigma(NOTHING), jnp.zeros(1), jnp.asarray(2.0))[1], math.log(0.2), atol=0.05
    )


def test_the_log_det_of_the_squash_does_not_saturate():
    """One path twice, its end moved far out: the densities differ by the tail of log(1 - tanh^2), to which an epsilon
    would put an end."""
    flow = policy(flow_steps=1, learn_noise=False, drift=False, step_std=0.9)
    start, dtau_mean = jnp.zeros(1), float(jnp.sin(0.0) + 0.3)
    near, far = 0.5, 20.0

    def squash(end):
        noise = (end - dtau_mean) / 0.9
        normal = -0.5 * noise**2 - math.log(2.0 * math.pi) - math.log(0.9)
        return normal - float(flow.log_prob(NOTHING, jnp.stack([start, jnp.array([end])])))

    for end in (near, far):
        np.testing.assert_allclose(squash(end), 2 * (math.log(2) - end - math.log1p(math.exp(-2 * end))), rtol=1e-3)


def test_the_drift_vanishes_with_the_noise():
    """sigma = 0 makes the flag irrelevant: the difference of the two means falls with sigma squared."""
    gap = []
    for std in (0.04, 0.02):
        means = [
            policy(drift=drift, learn_noise=False, step_std=std).transition(
                NOTHING, jnp.log(jnp.array([2 * std])), jnp.array([0.8]), jnp.asarray(3.0)
            )[0]
            for drift in (True, False)
        ]
        gap.append(float(jnp.abs(means[0] - means[1])[0]))
    np.testing.assert_allclose(gap[0] / gap[1], 4.0, rtol=0.01)


@pytest.mark.parametrize("drift", [True, False])
def test_the_entropy_of_a_path_says_nothing_about_the_velocity(drift):
    """Before squashing it is c d (K + 1) + K E[log std]: no slope in the field, so it keeps no modes apart."""
    flow = policy(MLPVelocity(jax.random.key(3), 1, 2, TRUNK, 1.0), 2, drift=drift)

    def unsquashed(flow):
        path, log_prob = path_of(flow, NOTHING, jax.random.key(9))
        return log_prob + 2.0 * (jnp.log(2.0) - path[-1] - jax.nn.softplus(-2.0 * path[-1])).sum()

    gradient = jax.jit(jax.grad(unsquashed))(flow)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient.field)) < 1e-5
    assert float(jnp.abs(gradient.noise_network.output.bias).min()) > 0.1


def action_of(flow, key, other_paths):
    """An action and the estimate of its own log-density."""
    marginal = MarginalFlow(flow, other_paths)
    return marginal.draw_with_log_prob(NOTHING, marginal.noise(key))


def marginal_on_a_grid(flow, ends):
    """p(a | s) at ``a = tanh(end)``, for two steps of a flow of one entry: x_0 and x_1 integrated out on grids."""
    x = jnp.linspace(-7.0, 7.0, 561)
    width = float(x[1] - x[0])

    def paths(end):
        def density(start, middle):
            return jnp.exp(flow.log_prob(NOTHING, jnp.stack([start, middle, end])[:, None]))

        return jax.vmap(lambda start: jax.vmap(lambda middle: density(start, middle))(x))(x).sum() * width**2

    return jax.lax.map(paths, ends)


@pytest.mark.parametrize("drift", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_density_of_an_action_is_its_paths_integrated_out(drift):
    """Estimated with 20,000 other paths, against the integral over x_0 and x_1."""
    flow = policy(flow_steps=2, step_std=0.25, drift=drift, learn_noise=False)
    keys = jax.random.split(jax.random.key(3), 6)
    sample, log_prob = jax.lax.map(lambda key: action_of(flow, key, 20_000), keys)
    exact = jnp.log(marginal_on_a_grid(flow, sample.latent[:, 0]))
    np.testing.assert_allclose(log_prob, exact, atol=0.05)


@pytest.mark.parametrize("other_paths", [1, 3])
def test_where_all_paths_end_alike_the_density_of_an_action_is_exact(other_paths):
    """One step that carries every start to 0: the mixture's parts are equal, however few there are."""

    class Home(VelocityField):
        def condition(self, features):
            return features

        def __call__(self, condition, x, tau):
            return -x

    flow = policy(Home(), flow_steps=1, step_std=0.3, drift=False, learn_noise=False)
    sample, log_prob = action_of(flow, jax.random.key(5), other_paths)
    x = np.asarray(sample.latent, np.float64)
    normal = -0.5 * np.square(x / 0.3) - math.log(0.3) - 0.5 * math.log(2.0 * math.pi)
    np.testing.assert_allclose(log_prob, (normal - np.log(1.0 - np.tanh(x) ** 2)).sum(), rtol=1e-4)


def test_the_entropy_of_an_action_is_bounded_from_below_and_the_bound_closes():
    """One step of no velocity: x_1 ~ N(0, 1 + sigma^2), whose entropy is known; squash taken out again."""

    class Still(VelocityField):
        def condition(self, features):
            return features

        def __call__(self, condition, x, tau):
            return jnp.zeros_like(x)

    flow = policy(Still(), flow_steps=1, step_std=0.3, drift=False, learn_noise=False)

    def estimate(other_paths):
        def one(key):
            sample, log_prob = action_of(flow, key, other_paths)
            return -(log_prob + 2.0 * (jnp.log(2.0) - sample.latent - jax.nn.softplus(-2.0 * sample.latent)).sum())

        values = np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(4), 20_000), batch_size=2_000))
        return values.mean(), values.std() / math.sqrt(values.size)

    entropy = 0.5 * math.log(2.0 * math.pi * math.e * (1.0 + 0.3**2))
    means, errors = zip(*(estimate(m) for m in (1, 4, 16, 128)), strict=True)
    for smaller, larger, error in zip(means, means[1:], errors, strict=False):
        assert smaller + 3 * error < larger
    assert means[-1] < entropy + 3 * errors[-1]
    assert entropy - means[-1] < 0.03


@pytest.mark.slow
def test_the_entropy_of_an_action_has_a_slope_in_the_velocity():
    """What the entropy of a path lacks. Finite differences of the same draws, in the strength of the field."""

    class Pull(VelocityField):
        strength: jax.Array

        def condition(self, features):
            return features

        def __call__(self, condition, x, tau):
            return -self.strength * x

    def entropy(strength):
        flow = policy(Pull(strength), drift=False, learn_noise=False, step_std=0.2)
        keys = jax.random.split(jax.random.key(5), 64)
        return -jax.vmap(lambda key: action_of(flow, key, 16)[1])(keys).mean()

    with jax.enable_x64(True):
        at = jnp.asarray(1.0)
        slope = float(jax.jit(jax.grad(entropy))(at))
        difference = float(entropy(at + 1e-5) - entropy(at - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-5)
    assert slope < -0.1


def test_t18_a_further_step_adds_the_entropy_of_its_noise():
    """K -> K + 1 adds d numbers of this standard deviation: d log(std sqrt(2 pi e)). At K = 0 the path is N(0, I)."""
    d, std, unit = 3, 0.2, math.sqrt(2.0 * math.pi * math.e)
    found = [path_entropy_target(d, steps, std) for steps in range(6)]
    np.testing.assert_allclose(found[0], d * math.log(unit))
    np.testing.assert_allclose(np.diff(found), d * math.log(std * unit))


@pytest.mark.parametrize("other_paths", [1, 5])
def test_a_recorded_action_has_the_density_it_was_drawn_with(other_paths):
    flow = policy(MLPVelocity(jax.random.key(3), 1, 2, TRUNK, 1.0), 2)
    marginal = MarginalFlow(flow, other_paths)
    noise = marginal.noise(jax.random.key(4))
    drawn, log_prob = eqx.filter_jit(marginal.draw_with_log_prob)(NOTHING, noise)
    np.testing.assert_allclose(eqx.filter_jit(marginal.log_prob)(NOTHING, drawn.record), log_prob, rtol=1e-4, atol=1e-4)
    alone = eqx.filter_jit(marginal.draw)(NOTHING, noise)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), drawn, alone)
    np.testing.assert_array_equal(alone.latent, eqx.filter_jit(flow.draw)(NOTHING, noise[0]).latent)
    assert (flow.density, marginal.density) == (Density.PATH, Density.ACTION)
    assert flow.has_velocity and marginal.has_velocity
    with pytest.raises(ConfigurationError, match="other_paths = 0"):
        MarginalFlow(flow, 0)
