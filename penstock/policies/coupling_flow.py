"""Coupling flow: an invertible network carries noise to the action, so that the action's density is exact (NFPO).

RealNVP (Dinh et al. 2017, arXiv 1605.08803), conditioned on the state. The factor ``exp(s)`` of a coupling makes its
density explode where nothing limits s: a sample with a positive advantage is made ever more likely by shrinking the
volume around it. NFPO (arXiv 2603.11470) bounds s, and with it the log-determinant.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._coupling import BASE_STD_BOUNDS, kept_entries, require_flow
from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.networks.mlp import HiddenLayer, Linear
from penstock.policies.policy import Draw, SquashedBySetting
from penstock.policies.squash import SquashName


def bounded_scale(u: Float[Array, "flat"], scale_bound: str, bound: float) -> Float[Array, "flat"]:
    """The log-scale s of a coupling from what its network says.

    Args:
        u: output of the network.
        scale_bound: ``tanh``: ``l tanh(u)`` (NFPO, read literally). ``scaled-tanh``: ``l tanh(u / l)``, of slope 1 at
            0. ``clip``: u, clipped to [-l, l], without a gradient outside. ``none``: u.
        bound: l.
    """
    match scale_bound:
        case "tanh":
            return bound * jnp.tanh(u)
        case "scaled-tanh":
            return bound * jnp.tanh(u / bound)
        case "clip":
            return jnp.clip(u, -bound, bound)
        case _:
            return u


class CouplingFlow(SquashedBySetting):
    """``x_0 = sigma eps``, ``eps ~ N(0, I)``, then K couplings, ``a = tanh(x_K)``, or ``clip(x_K)``.

    With ``b_k`` the entries that layer k keeps, and ``c(s)`` the context that is computed once for a state:

        s_k, m_k = network_k(b_k x_{k-1}, c(s)),   s_k bounded by l
        x_k      = b_k x_{k-1} + (1 - b_k) (x_{k-1} exp(s_k) + m_k)
        log pi(a | s) = log N(eps; 0, I) - sum log sigma - sum_k sum_i (1 - b_k)_i s_{k,i} - log det(da / dx_K)

    Where the latent is clipped the last term is left out: the density is that of x_K.

    Each layer scales an entry by a factor in ``[exp(-l), exp(l)]``, so ``|sum s| <= l K ceil(d / 2)``. What the bound
    does not limit: shifts may still squeeze one direction while they stretch another. The networks' last layers start
    at zero, so the policy starts as the Gaussian ``N(0, sigma^2)`` in every state. In one dimension there is nothing to
    couple: x is affine in the noise, with a scale and a shift that depend on the state, a Gaussian.

    Attributes:
        context: hidden layers on the features.
        couplings: the networks of the K layers.
        log_std: log sigma, one per entry, learned; None for sigma = 1.
        flat_size: entries of the latent.
        bound: l.
        scale_bound: how s is bounded, see `bounded_scale`.
        masks: which entries are kept in turns: ``halves``, the first half and the rest, or ``alternating``, even and
            odd ones.
        squash: how the latent becomes an action, see `penstock.policies.squash`.
    """

    context: tuple[HiddenLayer, ...]
    couplings: tuple[MLP, ...]
    log_std: Float[Array, "flat"] | None
    flat_size: int = eqx.field(static=True)
    bound: float = eqx.field(static=True)
    scale_bound: str = eqx.field(static=True)
    masks: str = eqx.field(static=True)
    squash: SquashName = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        feature_size: int,
        flat_size: int,
        trunk: Trunk,
        *,
        layers: int = 4,
        bound: float = 0.25,
        scale_bound: str = "tanh",
        masks: str = "halves",
        hidden: tuple[int, ...] = (64, 64),
        base_std: float | None = 1.0,
        squash: SquashName = "tanh",
    ):
        """Draws the weights.

        Args:
            key: random key.
            feature_size: number of features.
            flat_size: entries of the latent.
            trunk: hidden layers of the context; the couplings' are of the same kind.
            layers: K.
            bound: l.
            scale_bound: see `bounded_scale`.
            masks: ``halves`` or ``alternating``, see `CouplingFlow`.
            hidden: widths of the couplings' hidden layers.
            base_std: sigma at the start; None for sigma = 1, not learned.
            squash: how the latent becomes an action, see `penstock.policies.squash`.
        """
        require_flow(layers, scale_bound, masks, base_std)
        keys = jax.random.split(key, len(trunk.hidden) + layers)
        widths = (feature_size, *trunk.hidden)
        self.context = tuple(HiddenLayer(keys[i], widths[i], widths[i + 1], trunk) for i in range(len(trunk.hidden)))
        inside = Trunk(hidden, trunk.activation, trunk.layer_norm, trunk.gain, trunk.initializer)
        inputs = flat_size + widths[-1]
        networks = [MLP(key, inputs, 2 * flat_size, inside) for key in keys[len(trunk.hidden) :]]
        zeros = Linear(jnp.zeros((2 * flat_size, (inputs, *hidden)[-1])))
        self.couplings = tuple(eqx.tree_at(lambda network: network.output, network, zeros) for network in networks)
        self.log_std = None if base_std is None else jnp.full((flat_size,), np.log(base_std), jnp.float32)
        self.flat_size, self.bound, self.scale_bound, self.masks = flat_size, float(bound), scale_bound, masks
        self.squash = squash

    # ------------------------------------------------------------------ the flow and its inverse

    def condition(self, features: Float[Array, "features"]) -> Float[Array, "context"]:
        """c(s), the same for all layers."""
        for layer in self.context:
            features = layer(features)
        return features

    def push(
        self, condition: Float[Array, "context"], noise: Float[Array, "flat"]
    ) -> tuple[Float[Array, "flat"], Scalar]:
        """From standard normal noise to the latent: x_K, and ``log det(dx_K / d noise)``."""
        latent, scales = self._push_with_scales(condition, noise)
        return latent, self._base_log_std().sum() + scales.sum()

    def _push_with_scales(self, condition, noise):
        """x_K, and s of all layers."""
        x, scales = noise * jnp.exp(self._base_log_std()), []
        for layer in range(len(self.couplings)):
            kept, scale, shift = self._layer(layer, condition, x)
            x = jnp.where(kept, x, x * jnp.exp(scale) + shift)
            scales.append(scale)
        return x, jnp.stack(scales) if scales else jnp.zeros((0, self.flat_size))

    def pull(
        self, condition: Float[Array, "context"], latent: Float[Array, "flat"]
    ) -> tuple[Float[Array, "flat"], Scalar]:
        """The inverse of `push`: the noise that leads to a latent, and the same log-determinant."""
        log_std = self._base_log_std()
        x, log_det = latent, log_std.sum()
        for layer in reversed(range(len(self.couplings))):
            kept, scale, shift = self._layer(layer, condition, x)  # reads only what the layer kept
            x = jnp.where(kept, x, (x - shift) * jnp.exp(-scale))
            log_det += scale.sum()
        return x * jnp.exp(-log_std), log_det

    def _layer(self, layer, condition, x):
        """What a layer keeps, and s and m; both 0 where it keeps."""
        kept = kept_entries(layer, self.flat_size, self.masks)
        output = self.couplings[layer](jnp.concatenate([jnp.where(kept, x, 0.0), condition]))
        u, shift = jnp.split(output, 2)
        return kept, jnp.where(kept, 0.0, bounded_scale(u, self.scale_bound, self.bound)), shift

    def _base_log_std(self):
        if self.log_std is None:
            return jnp.zeros((self.flat_size,))
        return jnp.clip(self.log_std, *(float(np.log(bound)) for bound in BASE_STD_BOUNDS))

    # ------------------------------------------------------------------ the contract

    @property
    def network_evaluations(self) -> int:
        """One per coupling."""
        return len(self.couplings)

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> Draw:
        """See `Policy.draw`. The record is the latent."""
        latent, _ = self.push(self.condition(features), noise)
        return Draw(self.squashing.action(latent), latent, latent)

    def log_prob(self, features: Float[Array, "features"], record: Float[Array, "flat"]) -> Scalar:
        """Exact log-density of the action ``tanh(record)``, or of the record itself where it is clipped."""
        noise, log_det = self.pull(self.condition(features), record)
        return self.squashing.log_prob(_standard_normal(noise) - log_det, record)

    def draw_with_log_prob(
        self, features: Float[Array, "features"], noise: Float[Array, "flat"]
    ) -> tuple[Draw, Scalar]:
        """See `Policy.draw_with_log_prob`; from the noise itself, without the inverse."""
        latent, log_det = self.push(self.condition(features), noise)
        log_prob = self.squashing.log_prob(_standard_normal(noise) - log_det, latent)
        return Draw(self.squashing.action(latent), latent, latent), log_prob

    def diagnose(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> dict[str, Scalar]:
        """What the couplings do, without the base's sigma, and how far the inverse leads from the noise.

        Their absolute log-determinant, which the bound limits; the largest log-scale of a layer; and the mean of
        absolute log-scales as a share of l: near 1 all of them are at the bound, while the largest alone may be one.
        """
        condition = self.condition(features)
        latent, scales = self._push_with_scales(condition, noise)
        back, _ = self.pull(condition, latent)
        moved = sum((~kept_entries(layer, self.flat_size, self.masks)).sum() for layer in range(len(scales)))
        share = {} if self.scale_bound == "none" else {"scale_share": jnp.abs(scales).sum() / (self.bound * moved)}
        return {
            "log_det": jnp.abs(scales.sum()),
            "scale": jnp.abs(scales).max(),
            **share,
            "round_trip": jnp.abs(back - noise).max(),
        }


def _standard_normal(noise: Float[Array, "flat"]) -> Scalar:
    return jnp.sum(-0.5 * jnp.square(noise) - 0.5 * jnp.log(2.0 * jnp.pi))
