"""Tanh-squashed Gaussian policy, the control of every comparison."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
from jaxtyping import Array, Float

from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.networks.batch_renorm import RenormMLP
from penstock.policies.policy import ActionSample, Capability, Policy
from penstock.policies.squash import squashed_log_prob

LOG_STD_BOUNDS = (-5.0, 2.0)


class SquashedGaussian(Policy):
    """``a = tanh(mu(s) + sigma eps)``, ``eps ~ N(0, I)``.

    ``sigma`` is a function of the state (SAPO, SAC) or one global vector (SHAC, APG). Log standard deviations are
    clamped to [-5, 2]. With BatchRenorm (CrossQ) the network normalises by running statistics, and by those of the
    batch in `train_with_log_prob` alone.
    """

    network: MLP | RenormMLP
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
        renorm_warmup: int | None = None,
    ):
        """Draws the weights.

        Args:
            key: random key.
            feature_size: number of features.
            action_size: d.
            trunk: hidden layers of the network.
            state_dependent_std: see the class.
            initial_log_std: log sigma at the start.
            output_gain: gain of the last layer.
            renorm_warmup: training calls before BatchRenorm's correction begins; None has no BatchRenorm.
        """
        outputs = 2 * action_size if state_dependent_std else action_size
        if renorm_warmup is None:
            network = MLP(key, feature_size, outputs, trunk, output_gain)
        else:
            network = RenormMLP.create(key, feature_size, outputs, trunk, output_gain=output_gain, warmup=renorm_warmup)
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
        return self._parameters(self.network(features))

    def _parameters(self, output):
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
        return self._draw(self.network(features), key)

    def train_with_log_prob(
        self, features: Float[Array, "B features"], keys: jaxtyping.Key[Array, "B"]
    ) -> tuple[ActionSample, Float[Array, "B"], "SquashedGaussian"]:
        """`sample_with_log_prob` of a batch, normalised by its own statistics, for a policy with BatchRenorm.

        Also returns the policy with its running statistics moved on.
        """
        assert isinstance(self.network, RenormMLP)
        output, moved = self.network.train(features)
        sample, log_prob = jax.vmap(self._draw)(output, keys)
        return sample, log_prob, eqx.tree_at(lambda policy: policy.network, self, moved)

    def _draw(self, output, key):
        mean, log_std = self._parameters(output)
        noise = jax.random.normal(key, mean.shape)
        latent = mean + jnp.exp(log_std) * noise
        log_prob = squashed_log_prob(_normal_log_prob(noise, log_std), latent)
        return ActionSample(jnp.tanh(latent), latent), log_prob


def _normal_log_prob(standardised: Float[Array, "flat"], log_std: Float[Array, "flat"]) -> Scalar:
    return jnp.sum(-0.5 * jnp.square(standardised) - log_std - 0.5 * jnp.log(2.0 * jnp.pi))
