"""Noise-augmented flow: noise at every flow step makes the path's density exact, so that entropy can be regulated."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.policies.policy import Density, Draw, Policy
from penstock.policies.squash import log_tanh_derivative
from penstock.policies.velocity_fields import DecodedVelocity, VelocityField

ENTROPY_PER_STEP = 0.5 * math.log(2.0 * math.pi * math.e)
"""Entropy of a standard normal number, in nats."""


class PathPolicy(Policy):
    """A policy of K steps with noise at each, whose density is that of the whole path ``x_0 .. x_K``.

    Attributes:
        flow_steps: K.
    """

    flow_steps: eqx.AbstractVar[int]

    @property
    def density(self) -> Density:
        """That of the path."""
        return Density.PATH

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The start, then the noise of every step."""
        return (self.flow_steps + 1, self.flat_size)

    @property
    def network_evaluations(self) -> int:
        """K, networks of the noise not counted."""
        return self.flow_steps


class NoisyFlow(PathPolicy):
    """A flow whose every step adds noise.

        x_0 ~ N(0, I),  x_{i+1} = x_i + dtau b(tau_i, x_i, s) + sigma(s) sqrt(dtau) eps_i,  a = tanh(x_K)
        b = v + (sigma^2 / 2) (tau v - x) / (1 - tau)   with drift,  v without

    The drift keeps the marginals of an ideal flow in the limit of many steps. The density of the whole path

        log p(x_0 .. x_K, a | s) = log N(x_0) + sum_i [log N(eps_i) - log(sigma sqrt(dtau))] - log det(da / dx_K)

    is exact for any velocity and any K. Source: SAC Flow, arXiv 2509.25756, appendix, equations 13 to 15.

    What the entropy of a path can and cannot do: before squashing it is ``c d (K + 1) + sum_i E[log std_i]``, whatever
    the velocity is. Maximising it widens the noise; it does not keep the modes of the action apart. The entropy of the
    action does: `penstock.policies.marginal_flow.MarginalFlow`.

    Attributes:
        field: the velocity.
        noise_network: ``log sigma`` as a function of the state, before it is bounded; None for a constant.
        flat_size: entries of the latent.
        flow_steps: K.
        drift: whether the drift correction is on.
        start_log_sigma: ``log sigma`` at the start, and for ever where it is not learned.
    """

    field: VelocityField
    noise_network: MLP | None
    flat_size: int = eqx.field(static=True)
    flow_steps: int = eqx.field(static=True)
    drift: bool = eqx.field(static=True)
    start_log_sigma: float = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        field: VelocityField,
        feature_size: int,
        flat_size: int,
        trunk: Trunk,
        *,
        flow_steps: int = 4,
        drift: bool = True,
        step_std: float = 0.1697,
        learn_noise: bool = True,
    ):
        """Builds the policy around a field.

        Args:
            key: key of the noise network's weights.
            field: the velocity.
            feature_size: number of features.
            flat_size: entries of the latent.
            trunk: hidden layers of the noise network; `DecodedVelocity` has a linear layer on its state token instead.
            flow_steps: K.
            drift: see the class.
            step_std: the standard deviation that one step adds to the latent at the start.
            learn_noise: learn sigma, or keep it constant.
        """
        require(flow_steps >= 1, "flow_steps", flow_steps, "must be at least 1")
        self.field, self.flat_size, self.flow_steps, self.drift = field, flat_size, flow_steps, drift
        low, high = log_sigma_bounds(drift)
        log_sigma = math.log(step_std) + 0.5 * math.log(flow_steps)
        require(
            low < log_sigma < high,
            "target_step_std",
            step_std,
            f"with flow_steps = {flow_steps} gives sigma = {math.exp(log_sigma):.3g}, which must lie in "
            f"({math.exp(low):.2g}, {math.exp(high):.2g}). Choose another --target-step-std, or other --flow-steps",
        )
        self.start_log_sigma = log_sigma
        self.noise_network = None
        if learn_noise:
            token = isinstance(field, DecodedVelocity)
            inputs = field.output.in_features if token else feature_size
            network = MLP(key, inputs, flat_size, Trunk(hidden=()) if token else trunk, output_gain=0.01)  # pyright: ignore
            start = jnp.full((flat_size,), math.atanh(2.0 * (log_sigma - low) / (high - low) - 1.0))
            self.noise_network = eqx.tree_at(lambda n: n.output.bias, network, start)

    def log_sigma(self, features: Float[Array, "features"]) -> Float[Array, "flat"]:
        """``log sigma(s)`` per entry, inside its bounds."""
        if self.noise_network is None:
            return jnp.full((self.flat_size,), self.start_log_sigma)
        inputs = self.field.token(features) if isinstance(self.field, DecodedVelocity) else features
        low, high = log_sigma_bounds(self.drift)
        return low + 0.5 * (high - low) * (jnp.tanh(self.noise_network(inputs)) + 1.0)

    def transition(
        self,
        condition: Any,
        log_sigma: Float[Array, "flat"],
        x: Float[Array, "flat"],
        step: Float[Array, ""],
    ) -> tuple[Float[Array, "flat"], Float[Array, "flat"]]:
        """Mean and log standard deviation of ``x_{i+1}`` given ``x_i``.

        Args:
            condition: the field's condition.
            log_sigma: as `log_sigma` gives it.
            x: x_i.
            step: i, from 0 to K - 1.
        """
        dtau = 1.0 / self.flow_steps
        tau = step * dtau
        v = self.field(condition, x, tau)
        if self.drift:
            v = v + 0.5 * jnp.exp(2.0 * log_sigma) * (tau * v - x) / (1.0 - tau)
        return x + dtau * v, log_sigma + 0.5 * math.log(dtau)

    def _log_prob(self, start, noise, log_std, end):
        """Log-density of a path from its start, its noise ``(K, flat)``, the noise's scales, and its end."""
        within = standard_log_prob(start) + standard_log_prob(noise) - log_std.sum()
        return within - log_tanh_derivative(end).sum()

    def walk(
        self,
        condition: Any,
        log_sigma: Float[Array, "flat"],
        start: Float[Array, "flat"],
        noise: Float[Array, "steps flat"],
    ) -> tuple[Float[Array, "steps flat"], Float[Array, "steps flat"], Float[Array, "steps flat"]]:
        """Latents ``x_1 .. x_K``, and their means and log standard deviations.

        Args:
            condition: the field's condition.
            log_sigma: as `log_sigma` gives it.
            start: x_0.
            noise: of the K steps.
        """

        def body(x, now):
            step, eps = now
            mean, log_std = self.transition(condition, log_sigma, x, step)
            x = mean + jnp.exp(log_std) * eps
            return x, (x, mean, log_std)

        steps = jnp.arange(self.flow_steps, dtype=start.dtype)
        return jax.lax.scan(body, start, (steps, noise), unroll=min(self.flow_steps, 4))[1]

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "path flat"]) -> Draw:
        """See `Policy.draw`. The record is the path ``x_0 .. x_K``; zero noise is the flow without noise on its way."""
        return self.draw_with_log_prob(features, noise)[0]

    def draw_with_log_prob(
        self, features: Float[Array, "features"], noise: Float[Array, "path flat"]
    ) -> tuple[Draw, Scalar]:
        """See `Policy.draw_with_log_prob`; from the noise itself, which loses nothing where sigma is small."""
        start, steps = noise[0], noise[1:]
        latents, _, log_std = self.walk(self.field.condition(features), self.log_sigma(features), start, steps)
        path = jnp.concatenate([start[None], latents])
        return Draw(jnp.tanh(latents[-1]), latents[-1], path), self._log_prob(start, steps, log_std, latents[-1])

    def log_prob(self, features: Float[Array, "features"], record: Float[Array, "path flat"]) -> Scalar:
        """Log-density of a recorded path ``x_0 .. x_K`` (and of its squashed end) under this policy."""
        condition, log_sigma = self.field.condition(features), self.log_sigma(features)
        steps = jnp.arange(self.flow_steps, dtype=record.dtype)
        means, log_std = jax.vmap(lambda x, step: self.transition(condition, log_sigma, x, step))(record[:-1], steps)
        noise = (record[1:] - means) / jnp.exp(log_std)
        return self._log_prob(record[0], noise, log_std, record[-1])

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `Policy.velocity`."""
        return self.field(self.field.condition(features), x, tau)


def log_sigma_bounds(drift: bool) -> tuple[float, float]:
    """Range of ``log sigma``. With drift, sigma above sqrt(2) would flip the sign of the last step."""
    return (-5.0, 0.0) if drift else (-5.0, 2.0)


def largest_step_std(flow_steps: int, drift: bool) -> float:
    """What one step can add to the latent at most: a standard deviation."""
    return math.exp(log_sigma_bounds(drift)[1]) / math.sqrt(flow_steps)


def path_entropy_target(flat_size: int, flow_steps: int, step_std: float) -> float:
    """Entropy of the path, before squashing, when every step adds noise of this standard deviation to every entry.

    ``H = d (c (K + 1) + K log step_std)`` with c the entropy of a standard normal number. At K = 4 a step_std of 0.1697
    gives 0.
    """
    return flat_size * (ENTROPY_PER_STEP * (flow_steps + 1) + flow_steps * math.log(step_std))


def standard_log_prob(x: Float[Array, "..."]) -> Scalar:
    """Log-density of standard normal numbers, all together."""
    return jnp.sum(-0.5 * jnp.square(x) - 0.5 * math.log(2.0 * math.pi))
