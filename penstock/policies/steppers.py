"""Fixed-step integration of ``dx/dtau = v(x, tau)`` from tau = 0 (noise) to tau = 1 (action).

A stepper advances one step of size ``dtau``; `integrate` runs K of them. Gradients pass through the steps themselves
("discretise, then optimise"). Orders: Euler 1, midpoint 2, Heun 2, RK4 4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import ConfigurationError, require, suggest
from penstock._types import Scalar

Velocity = Callable[[Float[Array, "flat"], Scalar], Float[Array, "flat"]]


def euler(v: Velocity, x: Float[Array, "flat"], tau: Scalar, dtau: float) -> Float[Array, "flat"]:
    """Explicit Euler: one evaluation per step."""
    return x + dtau * v(x, tau)


def midpoint(v: Velocity, x: Float[Array, "flat"], tau: Scalar, dtau: float) -> Float[Array, "flat"]:
    """Explicit midpoint rule: two evaluations per step."""
    return x + dtau * v(x + 0.5 * dtau * v(x, tau), tau + 0.5 * dtau)


def heun(v: Velocity, x: Float[Array, "flat"], tau: Scalar, dtau: float) -> Float[Array, "flat"]:
    """Heun's rule (explicit trapezoid): two evaluations per step."""
    first = v(x, tau)
    second = v(x + dtau * first, tau + dtau)
    return x + 0.5 * dtau * (first + second)


def rk4(v: Velocity, x: Float[Array, "flat"], tau: Scalar, dtau: float) -> Float[Array, "flat"]:
    """Classical Runge-Kutta: four evaluations per step."""
    k1 = v(x, tau)
    k2 = v(x + 0.5 * dtau * k1, tau + 0.5 * dtau)
    k3 = v(x + 0.5 * dtau * k2, tau + 0.5 * dtau)
    k4 = v(x + dtau * k3, tau + dtau)
    return x + (dtau / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


STEPPERS = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}
EVALUATIONS_PER_STEP = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def require_scheme(steps: int, stepper: str) -> None:
    """Refuses an unknown stepper, or fewer than one step.

    Raises:
        ConfigurationError: it is refused.
    """
    if stepper not in STEPPERS:
        raise ConfigurationError(f"stepper = {stepper!r}: unknown.{suggest(stepper, STEPPERS)}")
    require(steps >= 1, "flow_steps", steps, "must be at least 1")


def integrate(v: Velocity, noise: Float[Array, "flat"], steps: int, stepper: str) -> Float[Array, "flat"]:
    """Carries ``noise`` along ``v`` with ``steps`` equal steps.

    Raises:
        ConfigurationError: unknown stepper, or fewer than one step.
    """
    require_scheme(steps, stepper)
    dtau = 1.0 / steps
    advance = STEPPERS[stepper]

    def body(x, k):
        return advance(v, x, k * dtau, dtau), None

    x, _ = jax.lax.scan(body, noise, jnp.arange(steps, dtype=noise.dtype), unroll=min(steps, 4))
    return x
