"""The velocity flow policy: gradients of the sampler, closed forms, and the split first layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from penstock._errors import CapabilityError
from penstock.networks import Trunk
from penstock.policies import Density, MLPVelocity, Need, VelocityField, VelocityFlow
from penstock.policies.steppers import EVALUATIONS_PER_STEP, STEPPERS

TRUNK = Trunk(hidden=(5, 4))


class AffineField(VelocityField):
    """v(x, tau | s) = W x + U s + b."""

    W: jax.Array
    U: jax.Array
    b: jax.Array

    def condition(self, features):
        return self.U @ features + self.b

    def __call__(self, condition, x, tau):
        return self.W @ x + condition


def flow(stepper="euler", steps=4, trunk=TRUNK, output_gain=1.0, size=2, features=3, seed=0):
    field = MLPVelocity(jax.random.key(seed), features, size, trunk, output_gain)
    return VelocityFlow(field=field, flat_size=size, flow_steps=steps, stepper=stepper)


def as_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


SMALL = Trunk(hidden=(3,), activation="tanh", layer_norm=False)  # the matrix of schemes compiles in seconds with it
SCHEMES = [(stepper, steps, SMALL) for stepper in STEPPERS for steps in (1, 2)] + [("euler", 4, Trunk(hidden=(4,)))]


@pytest.mark.parametrize(("stepper", "steps", "trunk"), SCHEMES)
def test_gradient_of_the_sampler_equals_finite_differences(stepper, steps, trunk):
    """With respect to parameters, features, noise, each alone and all together, along random directions."""
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        policy = as_float64(flow(stepper, steps, trunk))
        point = (policy, generator.normal(size=3), generator.normal(size=2))
        flat, unflatten = ravel_pytree(point)

        def scalar(flat):
            policy, features, noise = unflatten(flat)
            return policy.draw(features, noise).action @ jnp.array([1.0, -0.7])

        scalar = jax.jit(jax.value_and_grad(scalar))
        flat = np.asarray(flat)
        _, gradient = scalar(flat)
        step, parameters = 1e-5, flat.size - 5
        for part in (slice(parameters), slice(parameters, -2), slice(-2, None), slice(None)):
            direction = np.zeros(flat.size)
            direction[part] = generator.normal(size=direction[part].size)
            difference = (scalar(flat + step * direction)[0] - scalar(flat - step * direction)[0]) / (2 * step)
            assert abs(difference) > 1e-4  # a direction that says something
            np.testing.assert_allclose(np.asarray(gradient) @ direction, difference, rtol=1e-6, atol=1e-9)


def test_gradient_reaches_every_parameter():
    features, noise = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.3, -0.2])
    gradient = jax.jit(jax.grad(lambda p: p.draw(features, noise).action.sum()))(
        flow(steps=2, trunk=Trunk(hidden=(4,)))
    )
    for leaf in jax.tree.leaves(gradient):
        assert np.abs(leaf).max() > 0


def test_zero_field_is_the_base_distribution():
    policy = flow(output_gain=0.0)
    keys = jax.random.split(jax.random.key(3), 16)
    sample = jax.vmap(policy.sample, in_axes=(None, 0))(jnp.ones(3), keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    np.testing.assert_array_equal(sample.latent, noise)
    np.testing.assert_array_equal(sample.action, jnp.tanh(noise))
    np.testing.assert_array_equal(policy.mode(jnp.ones(3)).action, jnp.zeros(2))


def test_new_policy_is_near_the_base_distribution():
    policy = flow(output_gain=0.01)
    noise = jnp.array([1.0, -1.0])
    latent = policy.draw(jnp.ones(3), noise).latent
    np.testing.assert_allclose(latent, noise, atol=0.05)
    assert np.abs(latent - noise).max() > 0


def test_one_euler_step_of_an_affine_field_is_an_affine_map():
    generator = np.random.default_rng(1)
    W, U, b = generator.normal(size=(2, 2)), generator.normal(size=(2, 3)), generator.normal(size=2)
    features, noise = generator.normal(size=3), generator.normal(size=2)
    with jax.enable_x64(True):
        field = AffineField(jnp.asarray(W), jnp.asarray(U), jnp.asarray(b))
        policy = VelocityFlow(field=field, flat_size=2, flow_steps=1, stepper="euler")
        sample = policy.draw(jnp.asarray(features), jnp.asarray(noise))
    np.testing.assert_allclose(sample.latent, (np.eye(2) + W) @ noise + U @ features + b, rtol=1e-13)
    np.testing.assert_allclose(sample.action, np.tanh(sample.latent), rtol=1e-13)


def test_many_steps_of_an_affine_field_are_the_matrix_exponential():
    linalg = pytest.importorskip("scipy.linalg")
    W = np.array([[0.3, -1.2], [0.8, -0.5]])
    noise = np.array([0.4, -1.1])
    with jax.enable_x64(True):
        field = AffineField(jnp.asarray(W), jnp.zeros((2, 1)), jnp.zeros(2))
        policy = VelocityFlow(field=field, flat_size=2, flow_steps=20, stepper="rk4")
        latent = policy.draw(jnp.zeros(1), jnp.asarray(noise)).latent
    np.testing.assert_allclose(latent, linalg.expm(W) @ noise, rtol=1e-5)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_split_first_layer_is_the_plain_network_on_the_concatenation(layer_norm):
    policy = flow(trunk=Trunk(hidden=(5, 4), layer_norm=layer_norm))
    field = policy.field
    features, x, tau = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.3, -0.2]), jnp.asarray(0.25)

    def layer(weight, bias, h, norm):
        h = weight @ h + bias
        if norm is not None:
            h = (h - h.mean()) / np.sqrt(h.var() + 1e-5) * norm.weight + norm.bias
        return h / (1.0 + np.exp(-h))

    field = field.network
    first = field.feature_layer
    weight = np.concatenate([first.linear.weight, field.latent_weight, field.time_weight[:, None]], axis=1)
    h = layer(weight, first.linear.bias, np.concatenate([features, x, tau[None]]), first.norm)
    for hidden in field.hidden_layers:
        h = layer(np.asarray(hidden.linear.weight), hidden.linear.bias, h, hidden.norm)
    expected = field.output.weight @ h + field.output.bias
    np.testing.assert_allclose(policy.velocity(features, x, tau), expected, rtol=1e-5, atol=1e-6)
    # One orthogonal matrix was drawn for the concatenation, so its rows (5 of length 6) are orthonormal.
    np.testing.assert_allclose(weight @ weight.T, np.eye(5), atol=1e-5)
    assert first.linear.weight.shape == (5, 3) and field.latent_weight.shape == (5, 2)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_states_its_cost_and_what_it_can_do(stepper):
    policy = flow(stepper, steps=3)
    assert policy.network_evaluations == 3 * EVALUATIONS_PER_STEP[stepper]
    assert [need for need in Need if policy.offers(need)] == [Need.VELOCITY, Need.ACTION_GRADIENT]
    assert policy.density is Density.NONE and policy.flat_size == 2 and policy.noise_shape == (2,)
    with pytest.raises(CapabilityError, match=r"VelocityFlow does not offer a log-density"):
        policy.log_prob(jnp.ones(3), jnp.ones(2))
    with pytest.raises(CapabilityError, match=r"VelocityFlow does not offer a log-density"):
        policy.draw_with_log_prob(jnp.ones(3), jnp.ones(2))


def test_float32_agrees_with_float64():
    features, noise = np.array([0.5, -1.0, 2.0], np.float32), np.array([0.3, -0.2], np.float32)
    policy = flow(steps=2)
    single = policy.draw(jnp.asarray(features), jnp.asarray(noise)).action
    with jax.enable_x64(True):
        features64, noise64 = jnp.asarray(features, jnp.float64), jnp.asarray(noise, jnp.float64)
        double = as_float64(policy).draw(features64, noise64).action
        assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, atol=2e-6)


def test_arrays_alone_are_leaves():
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(flow()))
