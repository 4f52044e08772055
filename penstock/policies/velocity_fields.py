"""Velocity fields of flow policies: affine, MLP, gated (Flow-G) and decoded (Flow-T).

A K-step flow is a residual recurrent network in the latent x, so its gradient contains the product over the steps of
``I + dtau dv/dx``. A plain MLP lets that product explode; the gated field contracts toward a candidate, the decoded one
adds to a normalised token (SAC Flow, arXiv 2509.25756).

The same product is what becomes of the noise. A field whose velocities all lie in the span of its last hidden layer
(MLP, decoded) leaves the noise untouched in every latent direction beyond that layer's width; affine and gated fields
have a skip in x with a gain per entry, which shapes all of them (`VelocityField.noise_rank`).
"""

import abc
from typing import Any, Literal, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import ConfigurationError, suggest
from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.networks.mlp import HiddenLayer, LayerNorm, Linear, make_linear, orthogonal_linear

VelocityName = Literal["affine", "mlp", "gated", "decoded"]


class VelocityField(eqx.Module):
    """A velocity ``v(x, tau | s)``, in two calls so that the work that depends on the state alone is done once."""

    @property
    def noise_rank(self) -> int | None:
        """In how many latent directions the field can shape the noise, by its form; None for all of them."""
        return None

    @abc.abstractmethod
    def condition(self, features: Float[Array, "features"]) -> Any:
        """What the field needs to know about the state; the same for all flow steps."""

    @abc.abstractmethod
    def __call__(self, condition: Any, x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "flat"]:
        """The velocity at latent ``x`` and flow time ``tau``."""


class JointMLP(eqx.Module):
    """An MLP on ``concat(features, x, tau)`` with the raw scalar ``tau``.

    The first layer is linear in its three inputs, so the part that belongs to the features is computed once for all
    flow steps.
    """

    feature_layer: HiddenLayer
    latent_weight: Float[Array, "width flat"]
    time_weight: Float[Array, "width"]
    hidden_layers: tuple[HiddenLayer, ...]
    output: eqx.nn.Linear

    def __init__(
        self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01, heads: int = 1
    ):
        keys = jax.random.split(key, len(trunk.hidden) + 1)
        widths = trunk.hidden
        first = HiddenLayer(keys[0], feature_size + flat_size + 1, widths[0], trunk)
        weight = first.linear.weight
        self.feature_layer = eqx.tree_at(lambda layer: layer.linear, first, Linear(weight[:, :feature_size]))
        self.latent_weight = weight[:, feature_size:-1]
        self.time_weight = weight[:, -1]
        self.hidden_layers = tuple(HiddenLayer(keys[i], widths[i - 1], widths[i], trunk) for i in range(1, len(widths)))
        self.output = make_linear(keys[-1], widths[-1], heads * flat_size, trunk, output_gain)

    @property
    def narrowest(self) -> int:
        """Width of the narrowest hidden layer: all that the output knows of the latent has passed through it."""
        return min([len(self.latent_weight), *(len(layer.linear.weight) for layer in self.hidden_layers)])

    def condition(self, features: Float[Array, "features"]) -> Float[Array, "width"]:
        """The features' part of the first layer."""
        return self.feature_layer.linear(features)

    def __call__(
        self, condition: Float[Array, "width"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "outputs"]:
        """The rest of the network."""
        h = self.feature_layer.after(condition + self.latent_weight @ x + self.time_weight * tau)
        for layer in self.hidden_layers:
            h = layer(h)
        return self.output(h)


Network = TypeVar("Network", JointMLP, MLP)


class AffineVelocity(VelocityField):
    """``v = p(s, x, tau) + q(s, x, tau) * x``, entry by entry; p and q are two heads of one `JointMLP`.

    Over a small step the noise of an entry is scaled by ``1 + dtau q``. The gain q has a bias per entry, so that every
    entry's standard deviation can be learned under any width, as a Gaussian's can; p moves the mean and bends the law.
    The last layer starts near zero, hence the flow near the identity. Our own form: RFO's paper has the plain MLP.
    """

    network: JointMLP

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01):
        self.network = JointMLP(key, feature_size, flat_size, trunk, output_gain, heads=2)

    def condition(self, features: Float[Array, "features"]) -> Float[Array, "width"]:
        """See `VelocityField.condition`."""
        return self.network.condition(features)

    def __call__(self, condition: Float[Array, "width"], x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "flat"]:
        """See `VelocityField`."""
        output = self.network(condition, x, tau)
        shift, gain = jnp.split(output, 2)
        return shift + gain * x


class MLPVelocity(VelocityField):
    """A `JointMLP`, RFO's literal form; its last layer starts near zero."""

    network: JointMLP

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01):
        self.network = JointMLP(key, feature_size, flat_size, trunk, output_gain)

    @property
    def noise_rank(self) -> int:
        """Width of the narrowest hidden layer."""
        return self.network.narrowest

    def condition(self, features: Float[Array, "features"]) -> Float[Array, "width"]:
        """See `VelocityField.condition`."""
        return self.network.condition(features)

    def __call__(self, condition: Float[Array, "width"], x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "flat"]:
        """See `VelocityField`."""
        return self.network(condition, x, tau)


def open_gate(network: Network) -> Network:
    """The network with zero weights and bias 5 in its last layer: the gate starts at sigmoid(5) = 0.99331."""
    output = network.output
    return eqx.tree_at(
        lambda n: (n.output.weight, n.output.bias),
        network,
        (jnp.zeros_like(output.weight), jnp.full((output.weight.shape[0],), 5.0)),
    )


CANDIDATE_BOUND = 50.0
"""Largest entry of the candidate of `GatedVelocity`."""


class GatedVelocity(VelocityField):
    """Flow-G: ``v = g * (c(s, x, tau) - x)`` with a gate ``g = sigmoid(z(s, x, tau))`` in (0, 1).

    A step is ``x' = (1 - dtau g) x + dtau g c``: a contraction toward the candidate c. The gate's last layer starts
    with zero weights and bias 5, so g = 0.99331 and the flow follows the candidate.
    ``c = 50 tanh(.)``. Source: arXiv 2509.25756.
    """

    gate: JointMLP
    candidate: JointMLP

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01):
        key_gate, key_candidate = jax.random.split(key)
        self.gate = open_gate(JointMLP(key_gate, feature_size, flat_size, trunk))
        # The bound multiplies the output, so the last layer is made smaller by as much.
        self.candidate = JointMLP(key_candidate, feature_size, flat_size, trunk, output_gain / CANDIDATE_BOUND)

    def condition(self, features: Float[Array, "features"]) -> tuple[Float[Array, "width"], Float[Array, "width"]]:
        """See `VelocityField.condition`."""
        return self.gate.condition(features), self.candidate.condition(features)

    def __call__(
        self, condition: tuple[Float[Array, "width"], Float[Array, "width"]], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `VelocityField`."""
        gate = jax.nn.sigmoid(self.gate(condition[0], x, tau))
        candidate = CANDIDATE_BOUND * jnp.tanh(self.candidate(condition[1], x, tau))
        return gate * (candidate - x)


class DecoderBlock(eqx.Module):
    """One pre-norm block of `DecodedVelocity`: the state's additive bias, and a residual feed-forward network.

    Attributes:
        context_norm: LayerNorm of the state token.
        value: value projection of the cross-attention.
        out: its output projection. Kept apart from ``value``, as training them apart is not training their product.
        norm: LayerNorm before the feed-forward network.
        widen: its first layer, D to 4 D.
        narrow: its second, 4 D to D.
    """

    context_norm: eqx.nn.LayerNorm
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, key: Key, width: int):
        keys = jax.random.split(key, 4)
        self.context_norm, self.norm = LayerNorm(width), LayerNorm(width)
        self.value = orthogonal_linear(keys[0], width, width, 1.0)
        self.out = orthogonal_linear(keys[1], width, width, 1.0)
        self.widen = orthogonal_linear(keys[2], width, 4 * width, 1.0)
        self.narrow = orthogonal_linear(keys[3], 4 * width, width, 1.0)

    def state_bias(self, token: Float[Array, "D"]) -> Float[Array, "D"]:
        """``k(s) = Wo (Wv LN(m) + bv) + bo``: cross-attention to a single token, whose softmax is 1."""
        return self.out(self.value(self.context_norm(token)))

    def __call__(self, y: Float[Array, "D"], state_bias: Float[Array, "D"]) -> Float[Array, "D"]:
        """``y <- y + k(s);  y <- y + FFN(LN(y))``."""
        y = y + state_bias
        return y + self.narrow(jax.nn.gelu(self.widen(self.norm(y))))


class DecodedVelocity(VelocityField):
    """Flow-T: a transformer decoder on one action-time token, with one state token as context.

    With one query and one key every softmax is 1, so the decoder is, exactly, a residual network with a bias per layer
    that depends on the state alone; the biases are computed once for all flow steps. ``y_0 = E_A(x) + E_tau(tau)``,
    ``v = W_out LN(y_L)``. Width 64, 2 layers. Source: arXiv 2509.25756; the tests hold the attention form.
    """

    state_encoder: tuple[eqx.nn.Linear, eqx.nn.Linear]
    latent_encoder: eqx.nn.Linear
    time_encoder: tuple[eqx.nn.Linear, eqx.nn.Linear, eqx.nn.Linear]
    blocks: tuple[DecoderBlock, ...]
    final_norm: eqx.nn.LayerNorm
    output: eqx.nn.Linear

    def __init__(
        self,
        key: Key,
        feature_size: int,
        flat_size: int,
        width: int = 64,
        layers: int = 2,
        output_gain: float = 0.01,
    ):
        if width % 4:
            raise ConfigurationError(f"width = {width}: the decoded velocity needs a multiple of 4.")
        keys = iter(jax.random.split(key, 7 + layers))

        def linear(inputs, outputs, gain=1.0):
            return orthogonal_linear(next(keys), inputs, outputs, gain)

        self.state_encoder = (linear(feature_size, width // 2), linear(width // 2, width))
        self.latent_encoder = linear(flat_size, width)
        self.time_encoder = (linear(1, width // 4), linear(width // 4, width // 2), linear(width // 2, width))
        self.blocks = tuple(DecoderBlock(next(keys), width) for _ in range(layers))
        self.final_norm = LayerNorm(width)
        self.output = linear(width, flat_size, output_gain)

    @property
    def noise_rank(self) -> int:
        """D - 1: the last LayerNorm takes the mean away."""
        return self.output.weight.shape[1] - 1

    def token(self, features: Float[Array, "features"]) -> Float[Array, "D"]:
        """The state token m."""
        first, second = self.state_encoder
        return second(jax.nn.silu(first(features)))

    def condition(self, features: Float[Array, "features"]) -> Float[Array, "L D"]:
        """See `VelocityField.condition`."""
        token = self.token(features)
        return jnp.stack([block.state_bias(token) for block in self.blocks])

    def __call__(self, condition: Float[Array, "L D"], x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "flat"]:
        """See `VelocityField`."""
        h = jnp.reshape(tau, (1,))
        for layer in self.time_encoder[:-1]:
            h = jax.nn.silu(layer(h))
        y = self.latent_encoder(x) + self.time_encoder[-1](h)
        for block, bias in zip(self.blocks, condition, strict=True):
            y = block(y, bias)
        return self.output(self.final_norm(y))


def make_velocity(
    key: Key, name: VelocityName, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01
) -> VelocityField:
    """Builds a field by name.

    Args:
        key: key of the weights.
        name: affine, mlp, gated (Flow-G) or decoded (Flow-T).
        feature_size: number of features.
        flat_size: entries of the latent.
        trunk: shape of the networks of affine, mlp and gated; decoded takes its first width as D.
        output_gain: gain of the last layer.

    Raises:
        ConfigurationError: unknown name, or a width that does not fit.
    """
    match name:
        case "affine":
            return AffineVelocity(key, feature_size, flat_size, trunk, output_gain)
        case "mlp":
            return MLPVelocity(key, feature_size, flat_size, trunk, output_gain)
        case "gated":
            return GatedVelocity(key, feature_size, flat_size, trunk, output_gain)
        case "decoded":
            return DecodedVelocity(key, feature_size, flat_size, trunk.hidden[0], output_gain=output_gain)
    raise ConfigurationError(f"velocity = {name!r}: unknown.{suggest(name, get_args(VelocityName))}")
