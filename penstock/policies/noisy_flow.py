"""Noise-augmented flow: noise at every flow step makes the path's density exact, so that entropy can be regulated."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.policies.policy import ActionSample, Capability, Policy
from penstock.policies.squash import squashed_log_prob
from penstock.policies.velocity_fields import DecodedVelocity, VelocityField

ENTROPY_PER_STEP = 0.5 * math.log(2.0 * math.pi * math.e)
"""Entropy of a standard normal number, in nats."""


class Path(NamedTuple):
    """One rollout of the flow.

    Attributes:
        latents: ``(K + 1, C * d)``: ``x_0 .. x_K``.
        log_prob: log-density of the path and its squashed end, in nats.
    """

    latents: Float[Array, "path flat"]
    log_prob: Scalar


class NoisyFlow(Policy):
    """A flow whose every step adds noise.

        x_0 ~ N(0, I),  x_{i+1} = x_i + dtau b(tau_i, x_i, s) + sigma(s) sqrt(dtau) eps_i,  a = tanh(x_K)
        b = v + (sigma^2 / 2) (tau v - x) / (1 - tau)   with drift,  v without

    The drift keeps the marginals of an ideal flow in the limit of many steps. The density of the whole path

        log p(x_0 .. x_K, a | s) = log N(x_0) + sum_i [log N(eps_i) - log(sigma sqrt(dtau))] - log det(da / dx_K)

    is exact for any velocity and any K. Source: SAC Flow, arXiv 2509.25756, appendix, equations 13 to 15.

    Attributes:
        field: the velocity.
        noise_network: ``log sigma`` as a function of the state, before it is bounded; None for a constant.
        constant_log_sigma: ``log sigma`` where there is no network.
        action_size: d.
        flow_steps: K.
        drift: whether the drift correction is on.
    """

    field: VelocityField
    noise_network: MLP | None
    action_size: int = eqx.field(static=True)
    flow_steps: int = eqx.field(static=True)
    drift: bool = eqx.field(static=True)
    constant_log_sigma: float = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        field: VelocityField,
        feature_size: int,
        action_size: int,
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
            action_size: d.
            trunk: hidden layers of the noise network. Flow-T has a linear layer on its state token in their place.
            flow_steps: K.
            drift: see the class.
            step_std: ``sigma sqrt(dtau)`` at the start: the standard deviation that one step adds to the latent.
            learn_noise: learn sigma as a function of the state, or keep it constant.
        """
        require(flow_steps >= 1, "flow_steps", flow_steps, "must be at least 1")
        self.field, self.action_size, self.flow_steps, self.drift = field, action_size, flow_steps, drift
        low, high = self.log_sigma_bounds
        log_sigma = math.log(step_std * math.sqrt(flow_steps))
        require(
            low < log_sigma < high,
            "step_std",
            step_std,
            f"sigma = step_std * sqrt(flow_steps) must lie in ({math.exp(low):.2g}, {math.exp(high):.2g})",
        )
        self.constant_log_sigma = log_sigma
        self.noise_network = None
        if learn_noise:
            token = isinstance(field, DecodedVelocity)
            inputs = field.output.in_features if token else feature_size
            network = MLP(key, inputs, action_size, Trunk(hidden=()) if token else trunk, output_gain=0.01)  # pyright: ignore
            start = math.atanh(2.0 * (log_sigma - low) / (high - low) - 1.0)
            self.noise_network = eqx.tree_at(lambda n: n.output.bias, network, jnp.full((action_size,), start))

    @property
    def log_sigma_bounds(self) -> tuple[float, float]:
        """Range of ``log sigma``. With drift, sigma above sqrt(2) would flip the sign of the last step."""
        return (-5.0, 0.0) if self.drift else (-5.0, 2.0)

    @property
    def network_evaluations(self) -> int:
        """K, the noise network not counted."""
        return self.flow_steps

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Policy.capabilities`."""
        return frozenset(
            {Capability.SAMPLE, Capability.MODE, Capability.VELOCITY, Capability.SAMPLE_WITH_PATH_LOG_PROB}
        )

    def log_sigma(self, features: Float[Array, "features"]) -> Float[Array, "flat"]:
        """``log sigma(s)`` per entry, inside its bounds."""
        if self.noise_network is None:
            return jnp.full((self.action_size,), self.constant_log_sigma)
        inputs = self.field.token(features) if isinstance(self.field, DecodedVelocity) else features
        low, high = self.log_sigma_bounds
        return low + 0.5 * (high - low) * (jnp.tanh(self.noise_network(inputs)) + 1.0)

    def _mean_step(self, condition, log_sigma, x, step):
        """``x + dtau b``, the mean of the next latent."""
        dtau = 1.0 / self.flow_steps
        tau = step * dtau
        v = self.field(condition, x, tau)
        if self.drift:
            v = v + 0.5 * jnp.exp(2.0 * log_sigma) * (tau * v - x) / (1.0 - tau)
        return x + dtau * v

    def _rollout(self, features, start, noise):
        """Latents ``x_0 .. x_K`` and the log-density of the path, squash included. ``noise`` is ``(K, flat)``."""
        condition, log_sigma = self.field.condition(features), self.log_sigma(features)
        log_std = log_sigma - 0.5 * math.log(self.flow_steps)

        def body(x, now):
            step, eps = now
            x = self._mean_step(condition, log_sigma, x, step) + jnp.exp(log_std) * eps
            return x, x

        steps = jnp.arange(self.flow_steps, dtype=start.dtype)
        end, latents = jax.lax.scan(body, start, (steps, noise), unroll=min(self.flow_steps, 4))
        log_prob = _standard_log_prob(start) + _standard_log_prob(noise) - self.flow_steps * log_std.sum()
        return Path(jnp.concatenate([start[None], latents]), squashed_log_prob(log_prob, end))

    def sample_path(self, features: Float[Array, "features"], key: Key) -> Path:
        """Draws a path, reparameterised, with its log-density."""
        noise = jax.random.normal(key, (self.flow_steps + 1, self.flat_size))
        return self._rollout(features, noise[0], noise[1:])

    def path_log_prob(self, features: Float[Array, "features"], latents: Float[Array, "path flat"]) -> Scalar:
        """Log-density of a recorded path ``x_0 .. x_K`` (and of its squashed end) under this policy."""
        condition, log_sigma = self.field.condition(features), self.log_sigma(features)
        log_std = log_sigma - 0.5 * math.log(self.flow_steps)
        steps = jnp.arange(self.flow_steps, dtype=latents.dtype)
        means = jax.vmap(lambda x, step: self._mean_step(condition, log_sigma, x, step))(latents[:-1], steps)
        noise = (latents[1:] - means) / jnp.exp(log_std)
        log_prob = _standard_log_prob(latents[0]) + _standard_log_prob(noise) - self.flow_steps * log_std.sum()
        return squashed_log_prob(log_prob, latents[-1])

    def sample_with_path_log_prob(self, features: Float[Array, "features"], key: Key) -> tuple[ActionSample, Scalar]:
        """See `Policy.sample_with_path_log_prob`."""
        path = self.sample_path(features, key)
        return ActionSample(jnp.tanh(path.latents[-1]), path.latents[-1]), path.log_prob

    def sample(self, features: Float[Array, "features"], key: Key) -> ActionSample:
        """See `Policy.sample`: base noise and the noise of every step."""
        return self.sample_with_path_log_prob(features, key)[0]

    def transport(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> ActionSample:
        """Carries base noise to an action without noise on the way. Zero noise gives the deterministic action."""
        path = self._rollout(features, noise, jnp.zeros((self.flow_steps, self.flat_size)))
        return ActionSample(jnp.tanh(path.latents[-1]), path.latents[-1])

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `Policy.velocity`."""
        return self.field(self.field.condition(features), x, tau)


def path_entropy_target(action_size: int, flow_steps: int, step_std: float) -> float:
    """Entropy of the path, before squashing, when every step adds noise of this standard deviation to every entry.

    ``H = d (c (K + 1) + K log step_std)`` with c the entropy of a standard normal number. At K = 4 a step_std of 0.1697
    gives 0.
    """
    return action_size * (ENTROPY_PER_STEP * (flow_steps + 1) + flow_steps * math.log(step_std))


def _standard_log_prob(x: Float[Array, "..."]) -> Scalar:
    return jnp.sum(-0.5 * jnp.square(x) - 0.5 * math.log(2.0 * math.pi))
