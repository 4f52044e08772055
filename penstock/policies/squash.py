"""The squashing function ``a = tanh(x)`` and what it does to densities."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key, Scalar


def log_tanh_derivative(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``log(1 - tanh(x)^2)``, exact also where tanh saturates: ``2 (log 2 - x - softplus(-2 x))``."""
    return 2.0 * (jnp.log(2.0) - x - jax.nn.softplus(-2.0 * x))


def squashed_log_prob(latent_log_prob: Scalar, latent: Float[Array, "flat"]) -> Scalar:
    """Log-density of ``tanh(x)`` from the log-density of ``x`` (change of variables)."""
    return latent_log_prob - log_tanh_derivative(latent).sum()


def uniform_action_latents(key: Key, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Latents whose squashed actions are uniform in the box (-1, 1): ``atanh(U(-1, 1))``, i.e. Logistic(0, 1/2).

    The underlying probability is clipped to [1e-6, 1 - 1e-6], hence ``|y| <= 6.91``.
    """
    p = jnp.clip(jax.random.uniform(key, shape), 1e-6, 1.0 - 1e-6)
    return 0.5 * (jnp.log(p) - jnp.log1p(-p))
