"""The coupling flow: its inverse, its determinant, its density, and what the bound of its scales bounds."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._coupling import kept_entries
from penstock._errors import ConfigurationError
from penstock.networks import Trunk
from penstock.policies import CouplingFlow, CouplingSettings, Density, DeterministicAction, Need
from penstock.policies.coupling_flow import bounded_scale
from tests.drawn_weights import drawn_anew

FEATURES = jnp.array([0.5, -1.0, 0.3])
BOUNDS = ("tanh", "scaled-tanh", "clip", "none")


def policy_of(size, weights=1.0, seed=0, **settings):
    """A policy all of whose weights are drawn anew, so that nothing starts at zero."""
    policy = CouplingFlow(jax.random.key(seed), 3, size, Trunk(hidden=(8,), layer_norm=False), hidden=(8,), **settings)
    return drawn_anew(policy, weights, seed + 1)


@functools.partial(jax.jit, static_argnums=0)
def _arrays(static, arrays, noise):
    policy = eqx.combine(arrays, static)
    condition = policy.condition(FEATURES)
    latent, log_det = policy.push(condition, noise)
    back, again = policy.pull(condition, latent)
    jacobian = jax.jacobian(lambda noise: policy.push(condition, noise)[0])(noise)
    return latent, log_det, back, again, jnp.linalg.slogdet(jacobian)[1]


def passed_through(policy, noise):
    arrays, static = eqx.partition(policy, eqx.is_array)
    return _arrays(static, arrays, noise)


@pytest.mark.parametrize("scale_bound", BOUNDS)
@pytest.mark.parametrize(("size", "layers", "masks"), [(1, 2, "halves"), (2, 4, "alternating"), (5, 3, "halves")])
def test_the_inverse_and_the_determinant_of_the_jacobian(size, layers, masks, scale_bound):
    policy = policy_of(size, layers=layers, masks=masks, scale_bound=scale_bound, bound=0.7)
    noise = jax.random.normal(jax.random.key(3), (size,))
    latent, log_det, back, again, jacobian = passed_through(policy, noise)
    assert float(jnp.abs(latent - noise).max()) > 1e-2, "the flow does something"
    np.testing.assert_allclose(back, noise, atol=1e-4)
    np.testing.assert_allclose(log_det, jacobian, atol=1e-4)
    np.testing.assert_allclose(again, log_det, atol=1e-5)


def test_one_layer_by_hand():
    """In NumPy, from the equations: an entry that is kept, one that is scaled and shifted."""
    policy = policy_of(2, layers=1, bound=0.5, base_std=None)
    noise = np.array([0.3, -1.2])
    silu = lambda x: x / (1.0 + np.exp(-x))  # noqa: E731
    layer = lambda linear, x: np.asarray(linear.weight, float) @ x + np.asarray(linear.bias, float)  # noqa: E731
    context = silu(layer(policy.context[0].linear, np.asarray(FEATURES, float)))
    network = policy.couplings[0]
    output = layer(network.output, silu(layer(network.layers[0].linear, np.concatenate([[0.3, 0.0], context]))))
    scale, shift = 0.5 * np.tanh(output[1]), output[3]
    latent = np.array([0.3, -1.2 * np.exp(scale) + shift])
    drawn, log_prob = policy.draw_with_log_prob(FEATURES, jnp.asarray(noise, jnp.float32))
    np.testing.assert_allclose(drawn.latent, latent, atol=1e-5)
    np.testing.assert_allclose(drawn.action, np.tanh(latent), atol=1e-5)
    normal = -0.5 * noise @ noise - np.log(2.0 * np.pi)
    expected = normal - scale - np.log(1.0 - np.tanh(latent) ** 2).sum()
    np.testing.assert_allclose(log_prob, expected, atol=1e-4)


def test_the_density_of_the_action_integrates_to_one():
    """Over the box of actions, on a grid that is refined towards its ends by a = tanh(u)."""
    policy = policy_of(2, weights=0.7)
    line = np.linspace(-9.0, 9.0, 401)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    log_probs = jax.jit(jax.vmap(policy.log_prob, in_axes=(None, 0)))(FEATURES, jnp.asarray(grid, jnp.float32))
    with np.errstate(divide="ignore"):
        inside = np.asarray(log_probs, float) + np.log1p(-(np.tanh(grid) ** 2)).sum(axis=1)
    density = np.exp(inside).reshape(len(line), -1)
    np.testing.assert_allclose(np.trapezoid(np.trapezoid(density, line), line), 1.0, atol=5e-3)


def test_a_draw_knows_its_own_density():
    policy = policy_of(3)
    noise = jax.random.normal(jax.random.key(5), (64, 3))
    drawn, log_prob = jax.vmap(policy.draw_with_log_prob, in_axes=(None, 0))(FEATURES, noise)
    recorded = jax.vmap(policy.log_prob, in_axes=(None, 0))(FEATURES, drawn.record)
    np.testing.assert_allclose(log_prob, recorded, atol=1e-3)
    assert policy.density is Density.ACTION and policy.offers(Need.ACTION_DENSITY) and not policy.has_velocity
    np.testing.assert_array_equal(drawn.action, jax.vmap(policy.draw, in_axes=(None, 0))(FEATURES, noise).action)


@pytest.mark.parametrize("base_std", [None, 0.8])
def test_it_starts_as_one_gaussian_in_every_state(base_std):
    stats = pytest.importorskip("scipy.stats")
    policy = CouplingFlow(jax.random.key(0), 3, 4, Trunk(hidden=(8,)), base_std=base_std)
    latent = np.random.default_rng(0).normal(size=4)
    normal = stats.norm(scale=1.0 if base_std is None else base_std).logpdf(latent).sum()
    expected = normal - np.log(1.0 - np.tanh(latent) ** 2).sum()
    for state in (FEATURES, -3.0 * FEATURES):
        np.testing.assert_allclose(policy.log_prob(state, jnp.asarray(latent, jnp.float32)), expected, rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(FEATURES).action, np.zeros(4))


@pytest.mark.parametrize(("size", "layers"), [(4, 4), (5, 3), (1, 2), (12, 8)])
@pytest.mark.parametrize("scale_bound", BOUNDS[:3])
def test_the_bound_holds_under_weights_of_any_size(size, layers, scale_bound):
    policy = policy_of(size, weights=100.0, layers=layers, bound=0.5, scale_bound=scale_bound, base_std=None)
    noise = jax.random.normal(jax.random.key(7), (256, size))
    log_det = jax.vmap(lambda noise: policy.push(policy.condition(FEATURES), noise)[1])(noise)
    largest = 0.5 * layers * math.ceil(size / 2)
    assert float(jnp.abs(log_det).max()) <= largest * (1 + 1e-6)
    biases = lambda p: [network.output.bias for network in p.couplings]  # noqa: E731
    upwards = jnp.repeat(jnp.array([1e4, 0.0]), size)  # all scales, no shifts
    mild = policy_of(size, layers=layers, bound=0.5, scale_bound=scale_bound, base_std=None)
    all_up = eqx.tree_at(biases, mild, [upwards] * layers)
    changed = sum(int((~kept_entries(layer, size, "halves")).sum()) for layer in range(layers))
    reached = all_up.push(all_up.condition(FEATURES), noise[0])[1]
    np.testing.assert_allclose(reached, 0.5 * changed, rtol=1e-6)
    assert changed * 0.5 <= largest


def test_without_the_bound_the_same_weights_overflow():
    policy = policy_of(4, weights=100.0, scale_bound="none")
    noise = jax.random.normal(jax.random.key(7), (256, 4))
    latent = jax.vmap(lambda noise: policy.push(policy.condition(FEATURES), noise)[0])(noise)
    assert not bool(jnp.isfinite(latent).all())


def test_a_learned_spread_of_the_noise_is_clamped():
    policy = policy_of(2)
    for log_std, expected in ((-9.0, 0.05), (9.0, 2.0), (math.log(0.3), 0.3)):
        wide = eqx.tree_at(lambda p: p.log_std, policy, jnp.full((2,), log_std))
        flat = eqx.tree_at(lambda p: p.couplings, wide, ())
        np.testing.assert_allclose(flat.draw(FEATURES, jnp.ones(2)).latent, expected, rtol=1e-5)


def test_bounds_of_the_scale_by_hand():
    u = jnp.array([0.0, 0.3, -8.0])
    np.testing.assert_allclose(bounded_scale(u, "tanh", 2.0), 2.0 * np.tanh(u), rtol=1e-6)
    np.testing.assert_allclose(bounded_scale(u, "scaled-tanh", 2.0), 2.0 * np.tanh(u / 2.0), rtol=1e-6)
    np.testing.assert_allclose(bounded_scale(u, "clip", 2.0), [0.0, 0.3, -2.0], rtol=1e-6)
    np.testing.assert_allclose(bounded_scale(u, "none", 2.0), u)
    slopes = {kind: float(jax.grad(lambda x, k=kind: bounded_scale(x, k, 2.0).sum())(u)[2]) for kind in BOUNDS}
    assert slopes["clip"] == 0.0 and slopes["scaled-tanh"] > 0.0 and slopes["none"] == 1.0


def test_the_kept_entries_are_complementary():
    assert kept_entries(0, 5, "halves").tolist() == [True, True, True, False, False]
    assert kept_entries(1, 5, "halves").tolist() == [False, False, False, True, True]
    assert kept_entries(2, 4, "alternating").tolist() == [True, False, True, False]
    assert kept_entries(3, 1, "halves").tolist() == [False]


def test_all_layers_learn():
    """Gradients in float64 against central differences, for a weight of each layer."""
    with jax.enable_x64(True):
        policy = eqx.tree_at(lambda p: p.log_std, policy_of(3), jnp.array([-0.5, 0.0, 0.3]))
        policy = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_array(x) else x, policy)
        latent = jnp.array([0.4, -0.2, 1.1])
        features = FEATURES.astype(jnp.float64)

        def log_prob(policy):
            return policy.log_prob(features, latent)

        found = eqx.filter_jit(eqx.filter_grad(log_prob))(policy)
        where = [lambda p, k=k: p.couplings[k].layers[0].linear.weight for k in range(4)]
        where += [lambda p: p.context[0].linear.weight, lambda p: p.log_std]
        value = eqx.filter_jit(log_prob)
        for part in where:
            weight = part(policy)
            spot = (-1,) * weight.ndim  # of a coupling: one that reads the context
            up, down = (eqx.tree_at(part, policy, weight.at[spot].add(step)) for step in (1e-6, -1e-6))
            slope = (float(value(up)) - float(value(down))) / 2e-6
            assert slope != 0.0
            np.testing.assert_allclose(float(part(found)[spot]), slope, rtol=1e-5, atol=1e-8)


def test_deterministic_actions():
    policy = policy_of(2)
    zero = DeterministicAction("zero")(policy, FEATURES)
    np.testing.assert_array_equal(zero.latent, policy.push(policy.condition(FEATURES), jnp.zeros(2))[0])
    modal = DeterministicAction("modal")(policy, FEATURES)
    assert bool(jnp.isfinite(modal.latent).all()) and not np.array_equal(modal.latent, zero.latent)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"coupling_layers": 0}, "coupling_layers = 0: must be at least 1"),
        ({"bound": 0.0}, "bound = 0.0: must be finite and greater than 0"),
        ({"scale_bound": "none", "bound": 2.0}, "bound = 2.0: does nothing with scale_bound = none"),
    ],
)
def test_settings_that_make_no_flow_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        CouplingSettings(**settings)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"base_std": 3.0}, r"base_std = 3.0: must lie in \[0.05, 2\], or be None"),
        ({"masks": "thirds"}, "masks = 'thirds': must be one of halves, alternating"),
        ({"scale_bound": "hard"}, "scale_bound = 'hard': must be one of tanh, scaled-tanh, clip, none"),
    ],
)
def test_what_makes_no_flow_is_refused(arguments, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        CouplingFlow(jax.random.key(0), 3, 2, Trunk(hidden=(8,)), **arguments)


@pytest.mark.parametrize("scale_bound", BOUNDS)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_it_says_of_itself_is_of_the_couplings_alone(size, scale_bound):
    """A narrow base is no scale of a coupling. Where all weights are huge every scale is at the bound, or has none."""
    policy = policy_of(size, weights=100.0, layers=3, bound=0.1, scale_bound=scale_bound)
    policy = eqx.tree_at(lambda p: p.log_std, policy, jnp.full((size,), -3.0))
    said = policy.diagnose(FEATURES, jnp.ones((size,)))
    if scale_bound == "none":
        assert "scale_share" not in said
    else:
        assert float(said["log_det"]) <= 0.1 * 3 * ((size + 1) // 2) * (1 + 1e-5)
        assert 0.7 < float(said["scale_share"]) <= 1 + 1e-5 and float(said["scale"]) == pytest.approx(0.1)
