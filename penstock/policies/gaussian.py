"""Tanh-squashed Gaussian policy, the control of every comparison."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.policies.policy import ActionSample, Capability, Policy
from penstock.policies.squash import squashed_log_prob

LOG_STD_BOUNDS = (-5.0, 2.0)


class SquashedGaussian(Policy):
    """``a = tanh(mu(s) + sigma eps)``, ``eps ~ N(0, I)``.

    ``sigma`` is a function of the state (SAPO, SAC) or one global vector (SHAC, APG). Log standard deviations are
    clamped to [-5, 2].
    """

    network: MLP
    global_log_std: Float[Array, "flat"] | None
    action_size: int = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        feature_size: int,
        action_size: int,
        trunk: Trunk,
        *,
        state_dependent_std: bool = True,
        initial_log_std: float = -1.0,
        output_gain: float = 0.01,
    ):
        outputs = 2 * action_size if state_dependent_std else action_size
        network = MLP(key, feature_size, outputs, trunk, output_gain)
        if state_dependent_std:
            assert network.output.bias is not None
            bias = network.output.bias.at[action_size:].set(initial_log_std)
            network = eqx.tree_at(lambda n: n.output.bias, network, bias)
        self.network = network
        self.global_log_std = None if state_dependent_std else jnp.full((action_size,), initial_log_std)
        self.action_size = action_size

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Policy.capabilities`."""
        return frozenset({Capability.SAMPLE, Capability.MODE, Capability.LOG_PROB, Capability.SAMPLE_WITH_LOG_PROB})

    def mean_and_log_std(self, features: Float[Array, "features"]) -> tuple[Float[Array, "flat"], Float[Array, "flat"]]:
        """Parameters of the latent Gaussian."""
        output = self.network(features)
        if self.global_log_std is None:
            mean, log_std = jnp.split(output, 2)
        else:
            mean, log_std = output, self.global_log_std
        return mean, jnp.clip(log_std, *LOG_STD_BOUNDS)

    def transport(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> ActionSample:
        """See `Policy.transport`."""
        mean, log_std = self.mean_and_log_std(features)
        latent = mean + jnp.exp(log_std) * noise
        return ActionSample(jnp.tanh(latent), latent)

    def log_prob(self, features: Float[Array, "features"], latent: Float[Array, "flat"]) -> Scalar:
        """See `Policy.log_prob`."""
        mean, log_std = self.mean_and_log_std(features)
        return squashed_log_prob(_normal_log_prob((latent - mean) / jnp.exp(log_std), log_std), latent)

    def sample_with_log_prob(self, features: Float[Array, "features"], key: Key) -> tuple[ActionSample, Scalar]:
        """See `Policy.sample_with_log_prob`."""
        mean, log_std = self.mean_and_log_std(features)
        noise = jax.random.normal(key, mean.shape)
        latent = mean + jnp.exp(log_std) * noise
        log_prob = squashed_log_prob(_normal_log_prob(noise, log_std), latent)
        return ActionSample(jnp.tanh(latent), latent), log_prob


def _normal_log_prob(standardised: Float[Array, "flat"], log_std: Float[Array, "flat"]) -> Scalar:
    return jnp.sum(-0.5 * jnp.square(standardised) - log_std - 0.5 * jnp.log(2.0 * jnp.pi))
