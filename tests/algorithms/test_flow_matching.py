"""Flow matching: the loss by hand, its minimiser in closed form, and what each regularizer does to the action law.

The best velocity for noise eps ~ N(0, 1) and targets y of density p is v*(z, tau) = E[y - eps | z, tau], an integral
over y that quadrature does exactly. Sampling from v* with few steps gives the distances of the law of tanh(x_K) from
the uniform law that were computed when the algorithm was designed; they are what a perfect fit reaches, not zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from penstock.algorithms.flow_matching import flow_matching_loss
from penstock.algorithms.rfo import PlayedWindow, mean_flow_matching_loss
from penstock.networks import Normalizer, Trunk, VectorEncoder
from penstock.policies import Actor, Agent, MLPVelocity, VelocityField, VelocityFlow
from penstock.policies.squash import uniform_action_latents
from penstock.worlds import Observation

special = pytest.importorskip("scipy.special")
UNIFORM_STD = np.pi / np.sqrt(12.0)
"""Standard deviation of atanh(U(-1, 1)), the logistic law of scale 1/2: 0.907."""


def flow(field, stepper="euler", steps=4, size=1):
    return VelocityFlow(field=field, flat_size=size, flow_steps=steps, stepper=stepper)


def base_quantiles(count=2001):
    """Normal noise at equal steps of probability: in one dimension a law without sampling error."""
    return special.ndtri((np.arange(count) + 0.5) / count)


def latents_of(policy, noise):
    """x_K for each noise, at one feature vector."""
    noise = jnp.asarray(noise, jnp.float32)[:, None]
    sample = jax.jit(jax.vmap(policy.draw, in_axes=(None, 0)))(jnp.zeros(1), noise)
    return np.asarray(sample.latent[:, 0], np.float64)


def distance_to_uniform(latents):
    """Kolmogorov-Smirnov distance of tanh(x) from the uniform law on (-1, 1)."""
    p = np.sort((np.tanh(latents) + 1) / 2)
    n = len(p)
    return max(np.max(np.arange(1, n + 1) / n - p), np.max(p - np.arange(n) / n))


class BestField(VelocityField):
    """v*(z, tau) = E[y - eps | z, tau] for targets with weights on a grid, by quadrature."""

    target: jax.Array
    log_weight: jax.Array

    @classmethod
    def uniform_actions(cls):
        """Targets atanh(w), w uniform: density 1 / (2 cosh^2 y)."""
        y = np.linspace(-9.0, 9.0, 1201)
        return cls(jnp.asarray(y, jnp.float32), jnp.asarray(-2.0 * np.log(np.cosh(y)), jnp.float32))

    def condition(self, features):
        return None

    def __call__(self, condition, x, tau):
        noise = (x[0] - tau * self.target) / (1.0 - tau)
        weight = jax.nn.softmax(self.log_weight - 0.5 * noise**2)
        return jnp.sum(weight * (self.target - noise))[None]


class BestGaussianField(VelocityField):
    """The same for y ~ N(0, s^2), in closed form."""

    std: jax.Array

    def condition(self, features):
        return None

    def __call__(self, condition, x, tau):
        variance = (1.0 - tau) ** 2 + tau**2 * self.std**2
        return (tau * self.std**2 - (1.0 - tau)) / variance * x


# --- the loss ---------------------------------------------------------------------------------------------------


class ConstantField(VelocityField):
    """v = scale * x + tau * slope."""

    scale: jax.Array
    slope: jax.Array

    def condition(self, features):
        return features.sum()

    def __call__(self, condition, x, tau):
        return self.scale * x + tau * self.slope + condition


def test_loss_by_hand():
    policy = flow(ConstantField(jnp.asarray(0.7), jnp.asarray(-0.4)), size=3)
    target, features = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.1, 0.2])
    key_noise, key_time = jax.random.split(jax.random.key(0))
    noise, tau = np.asarray(jax.random.normal(key_noise, (3,))), float(jax.random.uniform(key_time))
    z = (1 - tau) * noise + tau * np.asarray(target)
    error = 0.7 * z - 0.4 * tau + 0.3 - (np.asarray(target) - noise)
    found = flow_matching_loss(policy, features, target, key_noise, key_time)
    np.testing.assert_allclose(found, np.sum(error**2), rtol=1e-5)


def test_zero_field_loses_what_the_targets_vary():
    """At v = 0 toward uniform actions: E (y - eps)^2 = 1 + pi^2 / 12 per entry."""
    policy = flow(ConstantField(jnp.zeros(()), jnp.zeros(())), size=2)
    keys = jax.random.split(jax.random.key(1), (3, 20_000))
    targets = uniform_action_latents(jax.random.key(2), (20_000, 2))
    losses = jax.jit(jax.vmap(flow_matching_loss, in_axes=(None, None, 0, 0, 0)))(
        policy, jnp.zeros(1), targets, keys[0], keys[1]
    )
    np.testing.assert_allclose(losses.mean(), 2 * (1 + np.pi**2 / 12), rtol=0.02)


def played(count=4, size=2, seed=0):
    """Two steps of ``count`` environments."""
    key_observation, key_latent = jax.random.split(jax.random.key(seed))
    vector = jax.random.normal(key_observation, (2, count, 3))
    latent = jax.random.normal(key_latent, (2, count, size))
    return PlayedWindow(Observation(vector), latent, jnp.ones((2, count), bool))


def actor(size=2, features=3, hidden=(4,), seed=0):
    field = MLPVelocity(jax.random.key(seed), features, size, Trunk(hidden=hidden), output_gain=1.0)
    return Actor(VectorEncoder(features), flow(field, size=size))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_mean_loss_is_the_average_over_valid_samples(reduction):
    data, policy = played(), actor()
    normalizer = Normalizer(jnp.array([0.5, 0.0, -0.5]), jnp.array([4.0, 1.0, 0.25]), jnp.asarray(9.0), True)
    data = PlayedWindow(data.observation, data.latent, data.valid.at[0, 1].set(False).at[1, 3].set(False))
    key_noise, key_time = jax.random.split(jax.random.key(5))
    found = mean_flow_matching_loss(policy, normalizer, data, key_noise, key_time, reduction)
    features = Agent(policy, normalizer).features(Observation(data.observation.vector.reshape(8, 3)))
    losses = np.array(
        jax.jit(jax.vmap(flow_matching_loss, in_axes=(None, 0, 0, 0, 0)))(
            policy.policy,
            features,
            data.latent.reshape(8, 2),
            jax.random.split(key_noise, 8),
            jax.random.split(key_time, 8),
        )
    )
    expected = losses[[0, 2, 3, 4, 5, 6]].mean() / (2 if reduction == "mean" else 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert losses.std() > 0.1  # samples have noise and time of their own
    nothing = PlayedWindow(data.observation, data.latent, jnp.zeros((2, 4), bool))
    assert float(mean_flow_matching_loss(policy, normalizer, nothing, key_noise, key_time, reduction)) == 0.0


def test_gradient_stops_at_observations_and_latents():
    data, normalizer = played(), Normalizer.create(3)
    key_noise, key_time = jax.random.split(jax.random.key(5))

    def loss(policy, vector, latent):
        window = PlayedWindow(Observation(vector), latent, data.valid)
        return mean_flow_matching_loss(policy, normalizer, window, key_noise, key_time, "sum")

    of_actor, of_vector, of_latent = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(
        actor(), data.observation.vector, data.latent
    )
    np.testing.assert_array_equal(of_vector, 0.0)
    np.testing.assert_array_equal(of_latent, 0.0)
    for leaf in jax.tree.leaves(of_actor):
        assert np.abs(leaf).max() > 0


def test_the_loss_is_least_at_the_conditional_mean():
    """Derivative of the expected loss at v* is zero in every direction tried, and positive curvature around it."""
    best = BestField.uniform_actions()

    class Nudged(VelocityField):
        size: jax.Array

        def condition(self, features):
            return None

        def __call__(self, condition, x, tau):
            return best(None, x, tau) + jnp.sum(self.size * jnp.stack([1.0 + 0 * tau, tau, x[0], x[0] * tau]))[None]

    keys = jax.random.split(jax.random.key(3), (2, 4000))
    targets = uniform_action_latents(jax.random.key(4), (4000, 1))

    @jax.jit
    @jax.vmap
    def slope(target, key_noise, key_time):
        def loss(size):
            return flow_matching_loss(flow(Nudged(size)), jnp.zeros(1), target, key_noise, key_time)

        return jax.grad(loss)(jnp.zeros(4))

    slopes = np.asarray(slope(targets, *keys))
    standard_error = slopes.std(0) / np.sqrt(len(slopes))
    assert (np.abs(slopes.mean(0)) < 4 * standard_error).all()
    assert (standard_error < 0.1).all()


# --- the laws that perfect fits sample --------------------------------------------------------------------------

UNIFORM_TABLE = [
    ("euler", 1, 0.500, 0.00),
    ("euler", 2, 0.157, 0.43),
    ("euler", 4, 0.076, 0.63),
    ("euler", 8, 0.037, 0.76),
    ("euler", 16, 0.019, 0.83),
    ("midpoint", 1, 0.008, 0.85),
    ("midpoint", 2, 0.005, 0.87),
]


@pytest.mark.parametrize(("stepper", "steps", "distance", "std"), UNIFORM_TABLE)
def test_perfect_fit_to_uniform_actions(stepper, steps, distance, std):
    latents = latents_of(flow(BestField.uniform_actions(), stepper, steps), base_quantiles())
    np.testing.assert_allclose(distance_to_uniform(latents), distance, atol=0.004)
    np.testing.assert_allclose(latents.std(), std, atol=0.012)


def test_the_noise_itself_is_near_uniform_actions():
    np.testing.assert_allclose(distance_to_uniform(base_quantiles()), 0.044, atol=0.002)


PAST_TABLE = [
    ("euler", 1, 1.0, 0.00),
    ("euler", 2, 1.0, 0.50),
    ("euler", 4, 1.0, 0.72),
    ("euler", 8, 1.0, 0.85),
    ("euler", 16, 1.0, 0.92),
    ("midpoint", 1, 1.0, 1.00),
    ("midpoint", 2, 1.0, 0.98),
    ("euler", 4, 0.2, 0.48),
]


@pytest.mark.parametrize(("stepper", "steps", "std", "factor"), PAST_TABLE)
def test_perfect_refit_to_its_own_samples(stepper, steps, std, factor):
    """The flow's latents have standard deviation ``std``; those of the refitted flow have ``factor`` times that."""
    latents = latents_of(flow(BestGaussianField(jnp.asarray(std)), stepper, steps), base_quantiles())
    np.testing.assert_allclose(latents.std() / std, factor, atol=0.006)


# --- the same with a network that the loss has trained ----------------------------------------------------------


def train(targets, steps=400):
    """Fits the velocity network to ``targets(key) -> (1, B, 1)`` with RFO's loss; a new policy of scale 0.01."""
    field = MLPVelocity(jax.random.key(0), 1, 1, Trunk(hidden=(32, 32)))
    start = Actor(VectorEncoder(1), flow(field))
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    normalizer = Normalizer.create(1, enabled=False)

    def step(carry, key):
        actor, state = carry
        key_target, key_noise, key_time = jax.random.split(key, 3)
        latent = targets(key_target)
        data = PlayedWindow(Observation(jnp.zeros_like(latent)), latent, jnp.ones(latent.shape[:2], bool))
        gradient = jax.grad(mean_flow_matching_loss)(actor, normalizer, data, key_noise, key_time, "sum")
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(actor, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    (trained, _), _ = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), keys))(start)
    return trained.policy.field


def test_training_toward_uniform_actions_spreads_as_computed():
    """One trained field, sampled by three schemes. The untrained law has distance 0.044 and standard deviation 1."""
    field = train(lambda key: uniform_action_latents(key, (1, 256, 1)))
    noise = base_quantiles()
    fine, coarse = latents_of(flow(field, "midpoint", 2), noise), latents_of(flow(field, "euler", 4), noise)
    assert distance_to_uniform(fine) <= 0.03
    np.testing.assert_allclose(fine.std(), 0.87, atol=0.05)
    assert 0.05 <= distance_to_uniform(coarse) <= 0.10
    np.testing.assert_allclose(coarse.std(), 0.63, atol=0.05)
    assert distance_to_uniform(latents_of(flow(field, "euler", 16), noise)) <= 0.03
    assert distance_to_uniform(latents_of(flow(field, "euler", 1), noise)) > 0.4


def test_training_toward_own_samples_keeps_the_law_as_computed():
    """A new policy's latents are nearly its noise, of standard deviation 1."""
    field = train(lambda key: jax.random.normal(key, (1, 256, 1)))
    noise = base_quantiles()
    np.testing.assert_allclose(latents_of(flow(field, "midpoint", 2), noise).std(), 0.98, atol=0.05)
    np.testing.assert_allclose(latents_of(flow(field, "euler", 4), noise).std(), 0.72, atol=0.05)
