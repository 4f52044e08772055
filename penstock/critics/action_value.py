"""Action-value networks Q(s, a)."""

from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key
from penstock.networks import MLP, Encoder, Trunk, make_encoder
from penstock.networks.batch_renorm import BatchRenorm, RenormMLP
from penstock.networks.mlp import HiddenLayer, make_linear
from penstock.observation import Observation, ObservationSpec


class Head(Protocol):
    """Anything that maps one input vector to one number."""

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "1"]:
        """Returns the value."""
        ...


class ActionCritic(eqx.Module):
    """An ensemble of E independently initialised networks ``Q(s, a)``, or ``V(s)``, over one encoder."""

    encoder: Encoder
    networks: Head
    size: int = eqx.field(static=True)

    def __init__(self, key: Key, encoder: Encoder, make_head, size: int):
        """Builds the ensemble. ``make_head(key)`` builds one member."""
        self.encoder = encoder
        self.networks = eqx.filter_vmap(make_head)(jax.random.split(key, size))
        self.size = size

    def values(self, observation: Observation, action: Float[Array, "B d"] | None = None) -> Float[Array, "E B"]:
        """Value estimates of B pairs by each member; of B states where no action is given."""
        inputs = jax.vmap(self.encoder)(observation.for_critics())
        if action is not None:
            inputs = jnp.concatenate([inputs, action], axis=-1)

        def member(network):
            return jax.vmap(network)(inputs)[:, 0]

        if self.size == 1:  # sums over a batch are slow on CPUs where a batch of one network stands before it
            return member(jax.tree.map(lambda leaf: leaf[0], self.networks))[None]
        return eqx.filter_vmap(member)(self.networks)


def make_action_critic(key: Key, spec: ObservationSpec, action_size: int, trunk: Trunk, size: int) -> ActionCritic:
    """An ensemble of MLPs on features and action. ``action_size`` 0 gives state values."""
    key_encoder, key_networks = jax.random.split(key)
    encoder = make_encoder(key_encoder, spec.for_critics(), trunk)
    return ActionCritic(key_networks, encoder, lambda k: MLP(k, encoder.size + action_size, 1, trunk), size)


class NormedHead(eqx.Module):
    """FlowRL's value network: Linear, LN, [Linear, LN, activation] ..., Linear, LN, Linear.

    No activation after the first layer, and LayerNorm directly before the last: it takes at least three widths. Source:
    released code of arXiv 2506.12811.

    As nothing but a number per input stands between the first two linear maps, they can be multiplied once per call for
    a whole batch. Where the inputs are few, that *folded* form is the same function without the first of its wide
    products.
    """

    layers: tuple[HiddenLayer, ...]
    output: eqx.nn.Linear
    folded: bool = eqx.field(static=True)

    def __init__(self, key: Key, inputs: int, widths: tuple[int, ...], activation: str, layer_norm: bool = True):
        keys = jax.random.split(key, len(widths) + 1)
        sizes = (inputs, *widths)
        kinds = ("identity", *(activation,) * (len(widths) - 2), "identity")[: len(widths)]
        self.layers = tuple(
            HiddenLayer(keys[i], sizes[i], sizes[i + 1], Trunk(widths, kind, layer_norm, initializer="xavier"))
            for i, kind in enumerate(kinds)
        )
        self.output = make_linear(keys[-1], widths[-1], 1, Trunk(widths, initializer="xavier"), 1.0)
        self.folded = len(widths) > 1 and kinds[0] == "identity" and 4 * inputs <= widths[0]

    def __call__(self, x: Float[Array, "inputs"]) -> Float[Array, "1"]:
        """Applies the network."""
        layers = self.layers
        if self.folded:
            x, layers = layers[1].after(self._first_two_linears(x)), layers[2:]
        for layer in layers:
            x = layer(x)
        return self.output(x)

    def _first_two_linears(self, x):
        """``W2 LN(W1 x + b1) + b2``, with the LayerNorm's centring and gain made part of the weights."""
        first, norm, second = self.layers[0].linear, self.layers[0].norm, self.layers[1].linear
        assert first.bias is not None and second.bias is not None
        weight, bias = first.weight.T, first.bias
        if norm is None:
            product = jax.lax.optimization_barrier(jnp.vstack([weight, bias]) @ second.weight.T)
            return x @ product[:-1] + product[-1] + second.bias
        assert norm.weight is not None and norm.bias is not None
        weight, bias = weight - weight.mean(axis=1, keepdims=True), bias - bias.mean()
        scale = jax.lax.rsqrt(jnp.square(x @ jax.lax.optimization_barrier(weight) + bias).mean() + norm.eps)
        rows = jnp.vstack([weight * norm.weight, bias * norm.weight, norm.bias])
        product = jax.lax.optimization_barrier(rows @ second.weight.T)
        return scale * (x @ product[:-2] + product[-2]) + product[-1] + second.bias


class RenormCritic(eqx.Module):
    """CrossQ's ensemble of `RenormMLP`, whose parts are stacked: it needs no target network.

    Source: CrossQ (Bhatt et al., ICLR 2024).
    """

    encoder: Encoder
    linears: tuple[eqx.nn.Linear, ...]
    norms: tuple[BatchRenorm, ...]
    output: eqx.nn.Linear
    activation: str = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self, key: Key, spec: ObservationSpec, action_size: int, trunk: Trunk, size: int, *, warmup: int = 100_000
    ):
        key_encoder, key_networks = jax.random.split(key)
        self.encoder = make_encoder(key_encoder, spec.for_critics(), trunk)
        inputs = self.encoder.size + action_size

        def member(key):
            return RenormMLP.create(key, inputs, 1, trunk, warmup=warmup)

        stacked = eqx.filter_vmap(member)(jax.random.split(key_networks, size))
        self.linears, self.norms, self.output = stacked.linears, stacked.norms, stacked.output
        self.activation = trunk.activation
        self.size = size

    def _inputs(self, observation, action):
        return jnp.concatenate([jax.vmap(self.encoder)(observation.for_critics()), action], axis=-1)

    @property
    def _members(self) -> RenormMLP:
        return RenormMLP(self.linears, self.norms, self.output, self.activation)

    def values(self, observation: Observation, action: Float[Array, "B d"]) -> Float[Array, "E B"]:
        """Value estimates with running statistics."""
        inputs = self._inputs(observation, action)

        return eqx.filter_vmap(lambda network: jax.vmap(network)(inputs)[:, 0])(self._members)

    def train_values(
        self, observation: Observation, action: Float[Array, "B d"]
    ) -> tuple[Float[Array, "E B"], tuple[BatchRenorm, ...]]:
        """Value estimates with the statistics of this batch, and the layers with their statistics moved on."""
        inputs = self._inputs(observation, action)

        def member(network):
            values, moved = network.train(inputs)
            return values[:, 0], moved.norms

        return eqx.filter_vmap(member)(self._members)
