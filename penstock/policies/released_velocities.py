"""SAC Flow's velocity networks as its released from-scratch code has them: BatchRenorm inside. For comparison only.

Everything else about that code is a setting of `penstock.policies.noisy_flow.NoisyFlow`. Source: Elessar123/SAC-FLOW at
3df8b9d. Training normalises by the statistics of the batch at each flow step, so these fields have a second form of
both calls, for use inside a `jax.vmap` over the batch; all other uses normalise by running statistics.
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import ConfigurationError
from penstock._types import Key, Scalar
from penstock.networks import MLP, Trunk
from penstock.networks.batch_renorm import BatchRenorm
from penstock.networks.mlp import make_linear
from penstock.policies.velocity_fields import (
    PostNormBlock,
    VelocityField,
    VelocityName,
    open_gate,
    refuse_second_head,
    unknown_velocity,
)

TIME_FEATURES = 32
"""Width of Flow-G's time embedding."""

Normalise = Callable[[str, Array], Array]
"""Applies the norm of this name to a vector ``(n,)``."""


class BatchNormedVelocity(VelocityField):
    """A velocity field with BatchRenorm layers.

    Attributes:
        norms: the layers, by name. Arrays are ``(n,)``; ``(K, n)`` for a layer of its own at every flow step.
        flow_steps: K.
    """

    norms: eqx.AbstractVar[dict[str, BatchRenorm]]
    flow_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def encode(self, normalise: Normalise, features: Array) -> Any:
        """`condition` of features ``(features,)``, with norms applied by ``normalise``."""

    @abc.abstractmethod
    def evaluate(self, normalise: Normalise, condition: Any, x: Array, tau: Array) -> Array:
        """`__call__` at ``x`` ``(flat,)`` and scalar ``tau``, with norms applied by ``normalise``."""

    def condition(self, features: Float[Array, "features"]) -> Any:
        """See `VelocityField.condition`."""
        return self.encode(lambda name, x: self._norm(name, 0)(x), features)

    def __call__(self, condition: Any, x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "outputs"]:
        """See `VelocityField`."""
        step = jnp.round(tau * self.flow_steps).astype(int)
        return self.evaluate(lambda name, x: self._norm(name, step)(x), condition, x, tau)

    def train_condition(self, features: Float[Array, "features"], axis: str) -> tuple[Any, "BatchNormedVelocity"]:
        """`condition` by the statistics of the batch along the mapped axis; also the field, its running ones moved."""
        return self._trained(jnp.asarray(0), axis, lambda normalise: self.encode(normalise, features))

    def train(
        self, condition: Any, x: Float[Array, "flat"], tau: Scalar, axis: str
    ) -> tuple[Float[Array, "outputs"], "BatchNormedVelocity"]:
        """`__call__` by the statistics of the batch along the mapped axis; also the field, its running ones moved."""
        step = jnp.round(tau * self.flow_steps).astype(int)
        return self._trained(step, axis, lambda normalise: self.evaluate(normalise, condition, x, tau))

    def _trained(self, step, axis, evaluate):
        norms = dict(self.norms)

        def normalise(name, x):
            y, moved = self._norm(name, step, norms).train_within(x, axis)
            if norms[name].scale.ndim == 2:
                moved = jax.tree.map(lambda all_steps, one: all_steps.at[step].set(one), norms[name], moved)
            norms[name] = moved
            return y

        y = evaluate(normalise)
        return y, eqx.tree_at(lambda field: field.norms, self, norms)

    def _norm(self, name: str, step, norms=None) -> BatchRenorm:
        layer = (norms or self.norms)[name]
        return layer if layer.scale.ndim == 1 else jax.tree.map(lambda a: a[step], layer)


class ReleasedMLP(BatchNormedVelocity):
    """``v = MLP(BN(concat(s, x, tau)))``."""

    norms: dict[str, BatchRenorm]
    network: MLP
    flow_steps: int = eqx.field(static=True)

    def __init__(
        self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, flow_steps: int, heads: int, warmup: int
    ):
        inputs = feature_size + flat_size + 1
        self.norms = {"input": BatchRenorm(inputs, warmup=warmup)}
        self.network = MLP(key, inputs, heads * flat_size, trunk)
        self.flow_steps = flow_steps

    def encode(self, normalise: Normalise, features: Array) -> Array:
        """The features."""
        return features

    def evaluate(self, normalise: Normalise, condition: Array, x: Array, tau: Array) -> Array:
        """See the class."""
        return self.network(normalise("input", jnp.concatenate([condition, x, tau[None]])))


class ReleasedGated(BatchNormedVelocity):
    """``v = sigmoid(z(u)) (c(u) - x)`` with ``u = concat(BN(concat(s, x)), e(tau))``; e begins with sines of tau."""

    norms: dict[str, BatchRenorm]
    time_encoder: MLP
    gate: MLP
    candidate: MLP
    candidate_bound: float | None = eqx.field(static=True)
    flow_steps: int = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        feature_size: int,
        flat_size: int,
        trunk: Trunk,
        flow_steps: int,
        candidate_bound: float | None,
        warmup: int,
    ):
        key_time, key_gate, key_candidate = jax.random.split(key, 3)
        inputs = feature_size + flat_size
        self.norms = {"input": BatchRenorm(inputs, warmup=warmup)}
        time_trunk = Trunk((2 * TIME_FEATURES,), "silu", False, initializer="lecun")
        self.time_encoder = MLP(key_time, TIME_FEATURES, TIME_FEATURES, time_trunk)
        self.gate = open_gate(MLP(key_gate, inputs + TIME_FEATURES, flat_size, trunk))
        candidate = MLP(key_candidate, inputs + TIME_FEATURES, flat_size, trunk)
        # A bound multiplies the output, so the last layer is made smaller by as much: the slope at 0 stays.
        weight = candidate.output.weight / (candidate_bound or 1.0)
        self.candidate = eqx.tree_at(lambda network: network.output.weight, candidate, weight)
        self.candidate_bound = candidate_bound
        self.flow_steps = flow_steps

    def encode(self, normalise: Normalise, features: Array) -> Array:
        """The features."""
        return features

    def evaluate(self, normalise: Normalise, condition: Array, x: Array, tau: Array) -> Array:
        """See the class."""
        half = TIME_FEATURES // 2
        angles = tau * jnp.exp(-math.log(10_000.0) / (half - 1) * jnp.arange(half))
        time = self.time_encoder(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))
        u = jnp.concatenate([normalise("input", jnp.concatenate([condition, x])), time])
        candidate = self.candidate(u)
        if self.candidate_bound is not None:
            candidate = self.candidate_bound * jnp.tanh(candidate)
        return jax.nn.sigmoid(self.gate(u)) * (candidate - x)


class ReleasedDecoder(BatchNormedVelocity):
    """The post-norm decoder of one token (`PostNormBlock`) with BatchRenorm: on state, latent and each residual sum.

    The latent's norm is a layer of its own at every flow step; the others are shared by all steps.
    """

    norms: dict[str, BatchRenorm]
    state_encoder: MLP
    latent_encoder: eqx.nn.Linear
    time_encoder: MLP
    blocks: tuple[PostNormBlock, ...]
    output: eqx.nn.Linear
    flow_steps: int = eqx.field(static=True)

    def __init__(
        self,
        key: Key,
        feature_size: int,
        flat_size: int,
        width: int,
        flow_steps: int,
        heads: int,
        warmup: int,
        layers: int = 2,
    ):
        if width % 4:
            raise ConfigurationError(f"width = {width}: the decoded velocity needs a multiple of 4.")
        keys = jax.random.split(key, 4 + layers)

        def trunk(*hidden):
            return Trunk(hidden, "silu", False, initializer="lecun")

        def norm(size):
            return BatchRenorm(size, warmup=warmup)

        self.norms = {
            "state": norm(feature_size),
            "latent": jax.tree.map(lambda a: jnp.tile(a, (flow_steps, *[1] * a.ndim)), norm(flat_size)),
            **{_block_norm(block, part): norm(width) for block in range(layers) for part in range(3)},
        }
        self.state_encoder = MLP(keys[0], feature_size, width, trunk(width // 2))
        self.latent_encoder = make_linear(keys[1], flat_size, width, trunk(), 1.0)
        self.time_encoder = MLP(keys[2], 1, width, trunk(width // 4, width // 2))
        self.blocks = tuple(PostNormBlock(k, width, initializer="lecun", layer_norm=False) for k in keys[4:])
        self.output = make_linear(keys[3], width, heads * flat_size, trunk(), 1.0)
        self.flow_steps = flow_steps

    def encode(self, normalise: Normalise, features: Array) -> Array:
        """What each block adds for the state, ``(L, D)``."""
        token = self.state_encoder(normalise("state", features))
        return jnp.stack([block.state_bias(token) for block in self.blocks])

    def evaluate(self, normalise: Normalise, condition: Array, x: Array, tau: Array) -> Array:
        """See the class."""
        y = self.latent_encoder(normalise("latent", x)) + self.time_encoder(tau[None])
        for index, (block, bias) in enumerate(zip(self.blocks, condition, strict=True)):
            names = [_block_norm(index, part) for part in range(3)]
            y = block.apply(y, bias, [lambda h, name=name: normalise(name, h) for name in names])
        return self.output(y)


def _block_norm(block: int, part: int) -> str:
    return f"block {block}, sum {part}"


def make_released_velocity(
    key: Key,
    name: VelocityName,
    feature_size: int,
    flat_size: int,
    hidden: tuple[int, ...],
    *,
    flow_steps: int,
    heads: int = 1,
    candidate_bound: float | None = None,
    renorm_warmup: int = 100_000,
) -> BatchNormedVelocity:
    """Builds a field by name.

    Args:
        key: key of the weights.
        name: mlp, gated or decoded.
        feature_size: number of features.
        flat_size: entries of the latent.
        hidden: widths; decoded takes its first as D.
        flow_steps: K, for which the field is made.
        heads: 2 for a second output per entry, as mlp and decoded have it.
        candidate_bound: see `penstock.policies.GatedVelocity`.
        renorm_warmup: calls of a norm before its correction begins.

    Raises:
        ConfigurationError: unknown name, a width that does not fit, or a second head on a gated field.
    """
    if name == "mlp":
        trunk = Trunk(hidden, "relu", False, initializer="lecun")
        return ReleasedMLP(key, feature_size, flat_size, trunk, flow_steps, heads, renorm_warmup)
    if name == "gated":
        refuse_second_head(heads)
        trunk = Trunk(hidden, "silu", False, initializer="lecun")
        return ReleasedGated(key, feature_size, flat_size, trunk, flow_steps, candidate_bound, renorm_warmup)
    if name == "decoded":
        return ReleasedDecoder(key, feature_size, flat_size, hidden[0], flow_steps, heads, renorm_warmup)
    raise unknown_velocity(name)
