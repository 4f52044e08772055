"""A noisy flow whose regulated entropy is that of the action: the paths that lead to it are integrated out."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Scalar
from penstock.policies.noisy_flow import NoisyFlow, standard_log_prob
from penstock.policies.policy import Draw, Policy
from penstock.policies.squash import log_tanh_derivative


class MarginalFlow(Policy):
    """The actions of a `NoisyFlow`, with an estimate of their own log-density.

    Given ``x_{K-1}`` the last latent is Gaussian, so the policy is a mixture of Gaussians over the paths that lead to
    their last step. With M other paths of the same state, drawn independently,

        log p^(a | s) = log[ sum_{j=0..M} N(x_K; mean_j, std_j) / (M + 1) ] - log det(da / dx_K)

    where j = 0 is the path of ``a`` itself. ``E[-log p^]`` is a lower bound of the action's entropy for every M and
    reaches it as M grows; unlike a path's entropy it has a slope in the velocity. It tells apart at most
    ``log(M + 1)`` nats of spread beyond the last step's noise. Source: Yin and Zhou 2018 (semi-implicit variational
    inference, arXiv 1805.11183).

    Attributes:
        flow: the noisy flow.
        other_paths: M, at least 1.
    """

    flow: NoisyFlow
    other_paths: int = eqx.field(static=True)
    flat_size: int = eqx.field(static=True)

    def __init__(self, flow: NoisyFlow, other_paths: int):
        require(other_paths >= 1, "other_paths", other_paths, "must be at least 1")
        self.flow, self.other_paths, self.flat_size = flow, other_paths, flow.flat_size

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """The noise of the action's own path, then of the others."""
        return (self.other_paths + 1, *self.flow.noise_shape)

    @property
    def network_evaluations(self) -> int:
        """Of the action's own path."""
        return self.flow.network_evaluations

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "paths steps flat"]) -> Draw:
        """See `Policy.draw`. The record is the action's own path, and the noise of the others."""
        drawn = self.flow.draw(features, noise[0])
        return drawn._replace(record=(drawn.record, noise[1:]))

    def log_prob(
        self, features: Float[Array, "features"], record: tuple[Float[Array, "path flat"], Float[Array, "..."]]
    ) -> Scalar:
        """The estimate of a recorded action's log-density under this policy: its own path's part as recorded."""
        path, others = record
        condition, log_sigma = self.flow.field.condition(features), self.flow.log_sigma(features)
        last = jnp.asarray(self.flow.flow_steps - 1, path.dtype)
        mean, log_std = self.flow.transition(condition, log_sigma, path[-2], last)
        means, log_stds = jax.vmap(lambda noise: self._last_step(condition, log_sigma, noise))(others)
        return self._mixture(path[-1], jnp.concatenate([mean[None], means]), jnp.concatenate([log_std[None], log_stds]))

    def draw_with_log_prob(
        self, features: Float[Array, "features"], noise: Float[Array, "paths steps flat"]
    ) -> tuple[Draw, Scalar]:
        """See `Policy.draw_with_log_prob`; all paths at once."""
        condition, log_sigma = self.flow.field.condition(features), self.flow.log_sigma(features)
        latents, means, log_std = jax.vmap(lambda n: self.flow.walk(condition, log_sigma, n[0], n[1:]))(noise)
        end = latents[0, -1]
        path = jnp.concatenate([noise[0, :1], latents[0]])
        return Draw(jnp.tanh(end), end, (path, noise[1:])), self._mixture(end, means[:, -1], log_std[:, -1])

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """That of the flow."""
        return self.flow.velocity(features, x, tau)

    def _last_step(self, condition, log_sigma, noise):
        _, means, log_std = self.flow.walk(condition, log_sigma, noise[0], noise[1:])
        return means[-1], log_std[-1]

    def _mixture(self, end, mean, log_std):
        within = jax.vmap(lambda mean, log_std: standard_log_prob((end - mean) / jnp.exp(log_std)) - log_std.sum())
        count = math.log(self.other_paths + 1)
        return jax.nn.logsumexp(within(mean, log_std)) - count - log_tanh_derivative(end).sum()
