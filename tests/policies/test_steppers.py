"""Fixed-step integrators: their orders, and the gradient through their steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.policies.steppers import EVALUATIONS_PER_STEP, STEPPERS, integrate

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def pendulum_with_wind(x, tau):
    """Nonlinear, coupled, and explicitly dependent on flow time."""
    return jnp.stack([x[1] + jnp.cos(3.0 * tau), -jnp.sin(x[0]) + tau * x[1]])


def adaptive_solution(start):
    """The same field, written again in NumPy and solved by SciPy to 1e-12."""
    scipy_integrate = pytest.importorskip("scipy.integrate")

    def field(tau, x):
        return [x[1] + np.cos(3.0 * tau), -np.sin(x[0]) + tau * x[1]]

    return scipy_integrate.solve_ivp(field, (0.0, 1.0), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]


@pytest.mark.parametrize("stepper", STEPPERS)
def test_error_shrinks_with_the_order(stepper):
    start = [0.7, -0.4]
    exact = adaptive_solution(start)
    with jax.enable_x64(True):
        errors = [
            np.abs(np.asarray(integrate(pendulum_with_wind, jnp.asarray(start), steps, stepper)) - exact).max()
            for steps in (8, 16, 32)
        ]
    orders = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    np.testing.assert_allclose(orders, ORDERS[stepper], atol=0.3)


@pytest.mark.parametrize("stepper", STEPPERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_linear_field_multiplies_by_the_stability_polynomial(stepper, steps):
    """dx/dtau = lambda x: every K-step scheme of order p (p stages) multiplies by (sum_{i<=p} (lambda/K)^i / i!)^K."""
    rate = -0.9
    z = rate / steps
    terms = [1.0, z, z**2 / 2, z**3 / 6, z**4 / 24]
    factor = sum(terms[: ORDERS[stepper] + 1]) ** steps
    with jax.enable_x64(True):
        x = integrate(lambda x, tau: rate * x, jnp.array([2.0, -1.0]), steps, stepper)
    np.testing.assert_allclose(x, factor * np.array([2.0, -1.0]), rtol=1e-13)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_time_alone_is_integrated_by_the_schemes_quadrature(stepper):
    """v = tau^p: left rectangles, midpoints, trapezoids, Simpson. Pins the flow times at which v is asked."""
    steps, edges = 4, np.arange(4) / 4
    p = 3
    rule = {
        "euler": np.mean(edges**p),
        "midpoint": np.mean((edges + 0.125) ** p),
        "heun": np.mean(0.5 * (edges**p + (edges + 0.25) ** p)),
        "rk4": np.mean((edges**p + 4 * (edges + 0.125) ** p + (edges + 0.25) ** p) / 6),
    }[stepper]
    with jax.enable_x64(True):
        x = integrate(lambda x, tau: jnp.full_like(x, tau**p), jnp.zeros(1), steps, stepper)
    np.testing.assert_allclose(x[0], rule, rtol=1e-13)


@pytest.mark.parametrize("stepper", STEPPERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_network_evaluations_are_counted_right(stepper, steps):
    def field(x, tau):
        jax.debug.callback(lambda: calls.append(1))
        return -x

    calls = []
    jax.block_until_ready(integrate(field, jnp.ones(2), steps, stepper))
    jax.effects_barrier()
    assert len(calls) == steps * EVALUATIONS_PER_STEP[stepper]


@pytest.mark.parametrize("stepper", STEPPERS)
def test_zero_field_leaves_the_noise_alone(stepper):
    noise = jnp.array([0.3, -2.0, 1.0])
    np.testing.assert_array_equal(integrate(lambda x, tau: jnp.zeros_like(x), noise, 7, stepper), noise)


def test_gradient_through_many_steps_approaches_the_continuous_adjoint():
    """Gradient of the K-step sampler, against differences of an adaptive solution of the same field."""
    start, h = np.array([0.7, -0.4]), 1e-4
    exact = np.array(
        [(adaptive_solution(start + h * e)[0] - adaptive_solution(start - h * e)[0]) / (2 * h) for e in np.eye(2)]
    )
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda x: integrate(pendulum_with_wind, x, 40, "rk4")[0]))(jnp.asarray(start))
        coarse = jax.jit(jax.grad(lambda x: integrate(pendulum_with_wind, x, 1, "euler")[0]))(jnp.asarray(start))
    np.testing.assert_allclose(gradient, exact, rtol=1e-5)
    assert np.abs(np.asarray(coarse) - exact).max() > 1e-2  # and with one Euler step it is another map's gradient


def test_errors_are_sentences():
    with pytest.raises(ConfigurationError, match=r"stepper = 'midpiont'.*Did you mean 'midpoint'"):
        integrate(lambda x, tau: x, jnp.ones(1), 2, "midpiont")
    with pytest.raises(ConfigurationError, match=r"flow_steps = 0: must be at least 1"):
        integrate(lambda x, tau: x, jnp.ones(1), 0, "euler")
