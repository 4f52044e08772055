"""Squashed Gaussian policy, the control of every comparison."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.networks.batch_renorm import RenormMLP
from penstock.policies.policy import Draw, Policy, SquashedBySetting
from penstock.policies.squash import SquashName

LOG_STD_BOUNDS = (-5.0, 2.0)


class SquashedGaussian(SquashedBySetting):
    """``a = tanh(mu(s) + sigma eps)``, ``eps ~ N(0, I)``; or ``clip`` in the place of tanh, with the latent's density.

    ``sigma`` is a function of the state (SAPO, SAC) or one global vector (SHAC, APG). Log standard deviations are
    clamped to [-5, 2]. With BatchRenorm (CrossQ) the network normalises by running statistics, and by those of the
    batch in `train` alone.
    """

    network: MLP | RenormMLP
    global_log_std: Float[Array, "flat"] | None
    flat_size: int = eqx.field(static=True)
    squash: SquashName = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        feature_size: int,
        flat_size: int,
        trunk: Trunk,
        *,
        state_dependent_std: bool = True,
        initial_log_std: float = -1.0,
        output_gain: float = 0.01,
        squash: SquashName = "tanh",
    ):
        """Draws the weights.

        Args:
            key: random key.
            feature_size: number of features.
            flat_size: entries of the latent.
            trunk: hidden layers of the network.
            state_dependent_std: see the class.
            initial_log_std: log sigma at the start.
            output_gain: gain of the last layer.
            squash: how the latent becomes an action, see `penstock.policies.squash`.
        """
        outputs = 2 * flat_size if state_dependent_std else flat_size
        if trunk.renorm_warmup is None:
            network = MLP(key, feature_size, outputs, trunk, output_gain)
        else:
            network = RenormMLP.create(
                key, feature_size, outputs, trunk, output_gain=output_gain, warmup=trunk.renorm_warmup
            )
        if state_dependent_std:
            assert network.output.bias is not None
            bias = network.output.bias.at[flat_size:].set(initial_log_std)
            network = eqx.tree_at(lambda n: n.output.bias, network, bias)
        self.network = network
        self.global_log_std = None if state_dependent_std else jnp.full((flat_size,), initial_log_std)
        self.flat_size = flat_size
        self.squash = squash

    def mean_and_log_std(self, features: Float[Array, "features"]) -> tuple[Float[Array, "flat"], Float[Array, "flat"]]:
        """Parameters of the latent Gaussian."""
        return self._parameters(self.network(features))

    def _parameters(self, output):
        if self.global_log_std is None:
            mean, log_std = jnp.split(output, 2)
        else:
            mean, log_std = output, self.global_log_std
        return mean, jnp.clip(log_std, *LOG_STD_BOUNDS)

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> Draw:
        """See `Policy.draw`. The record is the latent."""
        return self._draw(self.network(features), noise)[0]

    def log_prob(self, features: Float[Array, "features"], record: Float[Array, "flat"]) -> Scalar:
        """Exact log-density of the action ``tanh(record)``, or of the record itself where it is clipped."""
        mean, log_std = self.mean_and_log_std(features)
        return self.squashing.log_prob(_normal_log_prob((record - mean) / jnp.exp(log_std), log_std), record)

    def draw_with_log_prob(
        self, features: Float[Array, "features"], noise: Float[Array, "flat"]
    ) -> tuple[Draw, Scalar]:
        """See `Policy.draw_with_log_prob`; from the noise itself, which loses nothing where sigma is small."""
        return self._draw(self.network(features), noise)

    def train(
        self, features: Float[Array, "B features"], noise: Float[Array, "B flat"]
    ) -> tuple[Draw, Float[Array, "B"], Policy]:
        """See `Policy.train`."""
        if not isinstance(self.network, RenormMLP):
            return super().train(features, noise)
        output, moved = self.network.train(features)
        drawn, log_prob = jax.vmap(self._draw)(output, noise)
        return drawn, log_prob, eqx.tree_at(lambda policy: policy.network, self, moved)

    def _draw(self, output, noise):
        mean, log_std = self._parameters(output)
        latent = mean + jnp.exp(log_std) * noise
        log_prob = self.squashing.log_prob(_normal_log_prob(noise, log_std), latent)
        return Draw(self.squashing.action(latent), latent, latent), log_prob


def _normal_log_prob(standardised: Float[Array, "flat"], log_std: Float[Array, "flat"]) -> Scalar:
    return jnp.sum(-0.5 * jnp.square(standardised) - log_std - 0.5 * jnp.log(2.0 * jnp.pi))
