"""Exact density of a continuous flow, against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import CapabilityError
from penstock.networks import Trunk
from penstock.policies import MLPVelocity, SquashedGaussian, VelocityField, VelocityFlow

pytest.importorskip("diffrax")
from penstock.policies.likelihood import flow_log_prob

FEATURES = jnp.zeros(1)


class AffineField(VelocityField):
    """v(x, tau) = W x + c: carries N(0, I) to N(m, e^W e^W')."""

    W: jax.Array
    c: jax.Array

    def condition(self, features):
        return None

    def __call__(self, condition, x, tau):
        return self.W @ x + self.c


def log_volume(latent):
    """log |d tanh / dx|, summed."""
    return np.sum(np.log(1.0 - np.tanh(latent) ** 2), axis=-1)


def test_affine_field_gives_the_squashed_gaussian():
    linalg, stats = pytest.importorskip("scipy.linalg"), pytest.importorskip("scipy.stats")
    W, c = np.array([[0.3, -0.6], [0.4, -0.5]]), np.array([0.2, -0.3])
    policy = VelocityFlow(
        field=AffineField(jnp.asarray(W, jnp.float32), jnp.asarray(c, jnp.float32)),
        flat_size=2,
        flow_steps=1,
        stepper="euler",
    )
    exponential = linalg.expm(W)
    mean = np.linalg.solve(W, (exponential - np.eye(2)) @ c)
    normal = stats.multivariate_normal(mean, exponential @ exponential.T)
    latents = np.random.default_rng(0).normal(size=(6, 2))
    found = jax.jit(jax.vmap(lambda x: flow_log_prob(policy, FEATURES, x)))(jnp.asarray(latents, jnp.float32))
    np.testing.assert_allclose(found, normal.logpdf(latents) - log_volume(latents), atol=2e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_density_of_the_action_integrates_to_one(size):
    """A nonlinear field, integrated over the action box (midpoint rule in logistic coordinates)."""
    trunk = Trunk(hidden=(6,), activation="tanh", layer_norm=False)
    field = MLPVelocity(jax.random.key(1), 1, size, trunk, output_gain=1.0)
    policy = VelocityFlow(field=field, flat_size=size, flow_steps=4, stepper="euler")
    count = 400 if size == 1 else 40
    edges = np.linspace(-6.0, 6.0, count + 1)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(np.tanh(edges))
    latents = np.stack(np.meshgrid(*[middle] * size, indexing="ij"), -1).reshape(-1, size)
    cells = np.prod(np.stack(np.meshgrid(*[width] * size, indexing="ij"), -1), -1).ravel()
    found = jax.jit(jax.vmap(lambda x: flow_log_prob(policy, FEATURES, x, rtol=1e-4, atol=1e-5)))
    density = np.exp(np.asarray(found(jnp.asarray(latents, jnp.float32)), np.float64))
    np.testing.assert_allclose(density @ cells, 1.0, atol=0.01)
    assert density.std() > 0.1 * density.mean()  # not the uniform law, which would integrate to 1 by accident


def test_refuses_a_policy_without_velocity():
    policy = SquashedGaussian(jax.random.key(0), 1, 1, Trunk(hidden=(4,)))
    with pytest.raises(CapabilityError, match=r"flow_log_prob needs a velocity field.*SquashedGaussian does not offer"):
        flow_log_prob(policy, FEATURES, jnp.zeros(1))
