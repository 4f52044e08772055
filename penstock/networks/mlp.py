"""Multi-layer perceptrons: Linear, LayerNorm, activation."""

import dataclasses
import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import ConfigurationError, suggest
from penstock._processor import padded_rows
from penstock._types import Key
from penstock.networks.activations import ACTIVATIONS

INITIALIZERS = {
    "xavier": jax.nn.initializers.glorot_uniform(),
    "lecun": jax.nn.initializers.lecun_normal(in_axis=-1, out_axis=-2),
}
"""Of weights ``(outputs, inputs)``."""


@dataclasses.dataclass(frozen=True)
class Trunk:
    """How the hidden layers of a network are made.

    Attributes:
        hidden: width of each hidden layer.
        activation: ``silu`` (SAPO, RFO), ``elu`` (SHAC, APG), ``relu`` (SAC, TD3), ``gelu``, ``mish`` (FlowRL),
            ``tanh`` or ``identity``.
        layer_norm: LayerNorm after every hidden linear layer, before its activation.
        gain: gain of the orthogonal initialisation of the hidden layers. Biases start at zero.
        initializer: weights of hidden and output layers: ``orthogonal``, or, without a gain, ``xavier`` (uniform) or
            ``lecun`` (normal).
        output_gain: gain of the last layer of a policy; None leaves it to the policy, which starts it near zero.
        renorm_warmup: for BatchRenorm on the input and after every activation (CrossQ): training calls before its
            correction begins. None for no BatchRenorm.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "silu"
    layer_norm: bool = True
    gain: float = 1.0
    initializer: str = "orthogonal"
    output_gain: float | None = None
    renorm_warmup: int | None = None

    def __post_init__(self):
        for field, known in (("activation", ACTIVATIONS), ("initializer", ("orthogonal", *INITIALIZERS))):
            value = getattr(self, field)
            if value not in known:
                raise ConfigurationError(f"{field} = {value!r}: unknown.{suggest(value, known)}")


@functools.partial(jax.jit, static_argnums=(1, 2))
def orthogonal_matrix(key: Key, rows: int, columns: int) -> Float[Array, "{rows} {columns}"]:
    """A random matrix with orthonormal rows or columns, whichever are fewer, drawn from the Haar measure.

    The polar factor of a Gaussian matrix, by Newton-Schulz iteration ``X <- X (3 I - X^T X) / 2``. Matrix products
    alone, on purpose: LAPACK's QR inside a compiled CPU program has been seen to wait for ever on a busy machine with
    two cores (JAX 0.10.2).
    """
    tall, narrow = max(rows, columns), min(rows, columns)
    x = jax.random.normal(key, (tall, narrow)) / (tall**0.5 + narrow**0.5)  # largest singular value about 1
    identity = jnp.eye(narrow)

    def unfinished(carry):
        iteration, x = carry
        return (iteration < 60) & (jnp.abs(x.T @ x - identity).max() > 1e-5)

    def improve(carry):
        iteration, x = carry
        return iteration + 1, 1.5 * x - 0.5 * x @ (x.T @ x)

    _, x = jax.lax.while_loop(unfinished, improve, (0, x))
    return x if rows >= columns else x.T


PAGE, PADDING = 1024, 8
"""Float32 numbers in a page of memory, and how many zeros keep rows from being whole pages apart."""


class Linear(eqx.nn.Linear):
    """Equinox's linear layer, written so that compiled CPU programs keep the batch in the rows of every product.

    ``weight @ x`` under `vmap` puts the batch into the columns, and copies transpose it back. The gradient of a weight
    matrix with few inputs is formed up to ten times faster as ``(inputs, outputs)``; the barrier keeps XLA from turning
    it round again. Where the rows of both factors of that gradient are whole pages apart, all of them compete for the
    same few lines of the cache on some processors (`penstock._processor`): there the product is formed of matrices with
    a few more columns, of zeros, in half the time. `benchmarks/update_speed.py` shows the cost.
    """

    def __init__(self, weight: Float[Array, "outputs inputs"]):
        """A layer with these weights and zero bias."""
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias, self.use_bias = weight, jnp.zeros(weight.shape[0]), True

    def __call__(self, x: Float[Array, "inputs"], *, key: Key | None = None) -> Float[Array, "outputs"]:
        """Applies the layer. ``key`` is ignored."""
        outputs, inputs = self.weight.shape
        if outputs % PAGE == 0 and inputs % PAGE == 0 and padded_rows():
            weight = jax.lax.optimization_barrier(jnp.pad(self.weight, (0, PADDING)))
            y = (jnp.pad(x, (0, PADDING)) @ weight.T)[:outputs]
        elif inputs < outputs:
            y = x @ jax.lax.optimization_barrier(self.weight.T)
        else:
            y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class LayerNorm(eqx.nn.LayerNorm):
    """Equinox's LayerNorm of a vector, in fewer passes forward and backward."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__(width, eps=eps)

    def __call__(self, x: Float[Array, "width"]) -> Float[Array, "width"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalises, scales and shifts."""
        assert self.weight is not None and self.bias is not None
        return _standardized(x, self.eps) * self.weight + self.bias


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _standardized(x, epsilon):
    """``(x - mean x) / sqrt(var x + epsilon)``.

    Its derivative is stated, so that a backward pass has two sums that do not wait for each other, and one result.
    """
    centred = x - x.mean()
    return centred * jax.lax.rsqrt(jnp.square(centred).mean() + epsilon)


@_standardized.defjvp
def _standardized_derivative(epsilon, primals, tangents):
    (x,), (dx,) = primals, tangents
    centred = x - x.mean()
    scale = jax.lax.rsqrt(jnp.square(centred).mean() + epsilon)
    y = centred * scale
    return y, scale * (dx - dx.mean() - y * (y * dx).mean())


def orthogonal_linear(key: Key, inputs: int, outputs: int, gain: float) -> Linear:
    """A linear layer with orthogonal weights of the given gain and zero bias."""
    return Linear(gain * orthogonal_matrix(key, outputs, inputs))


def make_linear(key: Key, inputs: int, outputs: int, trunk: Trunk, gain: float) -> Linear:
    """A linear layer with zero bias and weights as ``trunk.initializer`` says."""
    if trunk.initializer == "orthogonal":
        return orthogonal_linear(key, inputs, outputs, gain)
    return Linear(_initial_weight(trunk.initializer, key, (outputs, inputs)))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _initial_weight(initializer, key, shape):
    return INITIALIZERS[initializer](key, shape)


class HiddenLayer(eqx.Module):
    """Linear, optional LayerNorm, activation. The linear part may be split over several inputs (see `before`)."""

    linear: eqx.nn.Linear
    norm: LayerNorm | None
    activation: str = eqx.field(static=True)

    def __init__(self, key: Key, inputs: int, outputs: int, trunk: Trunk):
        self.linear = make_linear(key, inputs, outputs, trunk, trunk.gain)
        self.norm = LayerNorm(outputs) if trunk.layer_norm else None
        self.activation = trunk.activation

    def after(self, pre_activation: Float[Array, "width"]) -> Float[Array, "width"]:
        """LayerNorm and activation of a linear output that was computed elsewhere."""
        if self.norm is not None:
            pre_activation = self.norm(pre_activation)
        return ACTIVATIONS[self.activation](pre_activation)

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "width"]:
        """Applies the layer."""
        return self.after(self.linear(x))


class MLP(eqx.Module):
    """Hidden layers and a linear output layer, for one input vector ``(inputs,) -> (outputs,)``."""

    layers: tuple[HiddenLayer, ...]
    output: eqx.nn.Linear

    def __init__(self, key: Key, inputs: int, outputs: int, trunk: Trunk, output_gain: float = 1.0):
        widths: Sequence[int] = (inputs, *trunk.hidden)
        keys = jax.random.split(key, len(trunk.hidden) + 1)
        self.layers = tuple(HiddenLayer(keys[i], widths[i], widths[i + 1], trunk) for i in range(len(trunk.hidden)))
        self.output = make_linear(keys[-1], widths[-1], outputs, trunk, output_gain)

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        """Applies the network."""
        for layer in self.layers:
            x = layer(x)
        return self.output(x)
