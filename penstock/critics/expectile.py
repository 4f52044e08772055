"""Expectile regression."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def expectile_loss(error: Float[Array, "*batch"], level: float) -> Float[Array, "*batch"]:
    """``|kappa - 1(u < 0)| u^2`` of the error ``u = target - prediction``.

    Level 0.5 gives half the squared error, hence the mean; a level near 1 approaches the maximum of the targets.
    Source: implicit Q-learning (Kostrikov et al. 2021), as used by FlowRL (arXiv 2506.12811).
    """
    return jnp.where(error < 0, 1.0 - level, level) * jnp.square(error)
