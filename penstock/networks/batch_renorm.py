"""Batch renormalisation: batch statistics, corrected toward running statistics; and networks made of it."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from penstock._types import Key, Scalar
from penstock.networks.mlp import ACTIVATIONS, Trunk, make_linear

T = TypeVar("T")


class BatchRenorm(eqx.Module):
    """Normalises features over a batch, so that training and inference agree.

        r = clip(sigma_B / sigma_R, 1/3, 3),  q = clip((mu_B - mu_R) / sigma_R, -5, 5)      (constants)
        y = scale * ((x - mu_B) / sigma_B * r + q) + offset

    For the first ``warmup`` calls r = 1 and q = 0: plain batch normalisation. Inference uses the running statistics.
    Source: Ioffe 2017; constants of CrossQ (Bhatt et al., ICLR 2024).

    Attributes:
        scale: learned.
        offset: learned.
        mean: running mean mu_R, not learned.
        variance: running variance sigma_R^2 (without epsilon), not learned.
        calls: number of training calls so far.
        warmup: training calls before renormalisation begins.
    """

    scale: Float[Array, "n"]
    offset: Float[Array, "n"]
    mean: Float[Array, "n"]
    variance: Float[Array, "n"]
    calls: Scalar
    warmup: int = eqx.field(static=True)

    def __init__(self, size: int, warmup: int = 100_000):
        self.scale, self.offset = jnp.ones(size), jnp.zeros(size)
        self.mean, self.variance = jnp.zeros(size), jnp.ones(size)
        self.calls = jnp.zeros(())
        self.warmup = warmup

    def train(self, x: Float[Array, "B n"]) -> tuple[Float[Array, "B n"], "BatchRenorm"]:
        """Normalises a batch by its own statistics; also returns the layer with its running statistics moved on."""
        mean = x.mean(axis=0)
        centred = x - mean
        return self._train(centred, mean, jnp.square(centred).mean(axis=0))

    def train_within(self, x: Float[Array, "n"], axis: str) -> tuple[Float[Array, "n"], "BatchRenorm"]:
        """`train` for one sample inside a `jax.vmap` whose ``axis_name`` is ``axis``: the batch is that axis."""
        mean = jax.lax.pmean(x, axis)
        centred = x - mean
        return self._train(centred, mean, jax.lax.pmean(jnp.square(centred), axis))

    def _train(self, centred, mean, variance):
        running = jax.lax.stop_gradient((self.mean, self.variance))
        seen_mean, seen_variance = jax.lax.stop_gradient((mean, variance))
        deviation = jnp.sqrt(running[1] + EPSILON)
        r = jnp.clip(jnp.sqrt(seen_variance + EPSILON) / deviation, 1.0 / R_MAX, R_MAX)
        q = jnp.clip((seen_mean - running[0]) / deviation, -Q_MAX, Q_MAX)
        renormalise = self.calls >= self.warmup
        r, q = jnp.where(renormalise, r, 1.0), jnp.where(renormalise, q, 0.0)
        # Everything that a feature has once is multiplied first: two operations a sample are left.
        y = centred * (self.scale * r * jax.lax.rsqrt(variance + EPSILON)) + (self.offset + self.scale * q)

        def blend(old, new):
            return MOMENTUM * old + (1.0 - MOMENTUM) * new

        moved = eqx.tree_at(
            _statistics,
            self,
            (blend(running[0], seen_mean), blend(running[1], seen_variance), self.calls + 1.0),
        )
        return y, moved

    def __call__(self, x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Normalises by the running statistics."""
        mean, variance = jax.lax.stop_gradient((self.mean, self.variance))
        return (x - mean) * (self.scale * jax.lax.rsqrt(variance + EPSILON)) + self.offset


def _statistics(layer: BatchRenorm):
    return layer.mean, layer.variance, layer.calls


class RenormMLP(eqx.Module):
    """CrossQ's networks: ``BN, [Linear, activation, BN] ..., Linear``. Actor and critics have this one shape.

    Source: CrossQ (Bhatt et al., ICLR 2024).
    """

    linears: tuple[eqx.nn.Linear, ...]
    norms: tuple[BatchRenorm, ...]
    output: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    @classmethod
    def create(
        cls, key: Key, inputs: int, outputs: int, trunk: Trunk, *, output_gain: float = 1.0, warmup: int = 100_000
    ) -> "RenormMLP":
        """Draws the weights.

        Args:
            key: random key.
            inputs: entries of the input.
            outputs: entries of the output.
            trunk: hidden layers; its LayerNorm is not read.
            output_gain: gain of the last layer.
            warmup: see `BatchRenorm`.
        """
        widths = (inputs, *trunk.hidden)
        keys = jax.random.split(key, len(widths))
        return cls(
            linears=tuple(
                make_linear(keys[i], widths[i], widths[i + 1], trunk, trunk.gain) for i in range(len(widths) - 1)
            ),
            norms=tuple(BatchRenorm(width, warmup=warmup) for width in widths),
            output=make_linear(keys[-1], widths[-1], outputs, trunk, output_gain),
            activation=trunk.activation,
        )

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        """Applies the network with running statistics."""
        h = self.norms[0](x)
        for linear, norm in zip(self.linears, self.norms[1:], strict=True):
            h = norm(ACTIVATIONS[self.activation](linear(h)))
        return self.output(h)

    def train(self, x: Float[Array, "B inputs"]) -> tuple[Float[Array, "B outputs"], "RenormMLP"]:
        """Applies it with the statistics of this batch; also returns it with its running statistics moved on."""
        h, first = self.norms[0].train(x)
        moved = [first]
        for linear, norm in zip(self.linears, self.norms[1:], strict=True):
            h, after = norm.train(ACTIVATIONS[self.activation](jax.vmap(linear)(h)))
            moved.append(after)
        return jax.vmap(self.output)(h), eqx.tree_at(lambda network: network.norms, self, tuple(moved))


def with_statistics(model: T, seen: T, unless: Bool[Array, ""]) -> T:
    """``model`` with the running statistics of ``seen``, which has the same structure; what is learned stays.

    Args:
        model: anything that has `BatchRenorm` layers; without one it is returned as it is.
        seen: where the statistics come from.
        unless: True keeps the old ones: a batch that was refused leaves nothing behind.
    """

    def one(layer, other):
        if not isinstance(layer, BatchRenorm):
            return layer
        moved = jax.tree.map(lambda old, new: jnp.where(unless, old, new), _statistics(layer), _statistics(other))
        return eqx.tree_at(_statistics, layer, moved)

    return jax.tree.map(one, model, seen, is_leaf=lambda node: isinstance(node, BatchRenorm))


EPSILON = 1e-3
MOMENTUM = 0.99
"""Weight of the old running statistics."""
R_MAX = 3.0
Q_MAX = 5.0
