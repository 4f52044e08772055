"""Conditional flow matching: pull the flow at given states toward given latent actions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key, Scalar
from penstock.policies import Policy


def flow_matching_loss(
    policy: Policy,
    features: Float[Array, "features"],
    target: Float[Array, "flat"],
    key_noise: Key,
    key_time: Key,
) -> Scalar:
    """Squared error of the velocity on the straight path from fresh noise to ``target``, for one state.

        eps ~ N(0, I),  tau ~ U(0, 1),  z = (1 - tau) eps + tau y
        l = || v(z, tau | s) - (y - eps) ||^2            summed over the C * d entries

    Source: rectified flow / CFM with independent coupling, as used by RFO (arXiv 2602.03501). ``target`` is a
    constant; gradient reaches the policy's parameters and, through ``features``, the encoder's.
    """
    y = jax.lax.stop_gradient(target)
    noise = jax.random.normal(key_noise, y.shape)
    tau = jax.random.uniform(key_time)
    z = (1.0 - tau) * noise + tau * y
    return jnp.sum(jnp.square(policy.velocity(features, z, tau) - (y - noise)))
