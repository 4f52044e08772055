"""From a latent to an action in [-1, 1], by ``tanh(x)`` or by ``clip(x)``, and what that does to densities."""

import abc
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from penstock._types import Key, Scalar

SquashName = Literal["tanh", "clip"]

LARGEST_ACTION = 1.0 - 2.0**-24
"""Latents of averaged actions stay finite in float32."""


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


class Squashing(abc.ABC):
    """How a policy brings its latent into the box, entry by entry; for any leading axes."""

    @abc.abstractmethod
    def action(self, latent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The action, in [-1, 1]."""

    @abc.abstractmethod
    def latent(self, action: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """A finite latent of an action."""

    @abc.abstractmethod
    def log_prob(self, latent_log_prob: Scalar, latent: Float[Array, "flat"]) -> Scalar:
        """The log-density on which an objective learns, from that of the latent."""

    @abc.abstractmethod
    def saturated(self, action: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
        """Where the action hardly depends on the latent any more."""


class Tanh(Squashing):
    """``a = tanh(x)``; the density is that of the action. Saturated beyond 0.99."""

    def action(self, latent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `Squashing.action`."""
        return jnp.tanh(latent)

    def latent(self, action: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `Squashing.latent`."""
        return jnp.arctanh(jnp.clip(action, -LARGEST_ACTION, LARGEST_ACTION))

    def log_prob(self, latent_log_prob: Scalar, latent: Float[Array, "flat"]) -> Scalar:
        """See `Squashing.log_prob`."""
        return squashed_log_prob(latent_log_prob, latent)

    def saturated(self, action: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
        """See `Squashing.saturated`."""
        return jnp.abs(action) > 0.99


class Clip(Squashing):
    """``a = clip(x)``; the density is that of the latent before it, as if nothing were clipped. Saturated: clipped.

    A clipped entry has no gradient. The action itself has no density: its ends have probabilities.
    """

    def action(self, latent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `Squashing.action`."""
        return jnp.clip(latent, -1.0, 1.0)

    def latent(self, action: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `Squashing.latent`."""
        return action

    def log_prob(self, latent_log_prob: Scalar, latent: Float[Array, "flat"]) -> Scalar:
        """See `Squashing.log_prob`."""
        del latent
        return latent_log_prob

    def saturated(self, action: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
        """See `Squashing.saturated`."""
        return jnp.abs(action) >= 1.0


SQUASHINGS: dict[str, Squashing] = {"tanh": Tanh(), "clip": Clip()}
"""By the name in settings."""
