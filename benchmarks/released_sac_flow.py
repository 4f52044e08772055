"""SAC Flow as its released from-scratch code has it, as a policy that is brought to Penstock. For comparison only.

    penstock train sac-flow --policy benchmarks/released_sac_flow.py:Gated --world gym/HalfCheetah-v5

or, with all other settings of the released scripts too, `reference_code`. What differs from the paper, and from
`penstock.policies.NoisyFlow`: BatchRenorm inside all networks, and Flax's initial weights; no drift; where the noise
enters (sigma, or with Flow-T sigma dtau, not sigma sqrt(dtau)) and what its scale depends on (the latent and flow time
too, by a second output of MLP and Flow-T); Flow-T's density without the scale of the noise; the squash's epsilon;
Flow-G's linear candidate and embedding of time; H = 0 literally. Source: Elessar123/SAC-FLOW at 3df8b9d.

Training normalises by the statistics of the batch at each flow step, so the fields have a second form of both calls,
for use inside a `jax.vmap` over the batch; all other uses normalise by running statistics.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Key, Scalar
from penstock.algorithms import sac_flow
from penstock.networks import MLP, Trunk
from penstock.networks.batch_renorm import BatchRenorm
from penstock.networks.mlp import make_linear
from penstock.policies import Draw, Policy, PolicySettings, VelocityField
from penstock.policies.noisy_flow import PathPolicy, standard_log_prob
from penstock.policies.velocity_fields import open_gate

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
    """``v, u = MLP(BN(concat(s, x, tau)))``; u scales the noise."""

    norms: dict[str, BatchRenorm]
    network: MLP
    flow_steps: int = eqx.field(static=True)

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, flow_steps: int, warmup: int):
        inputs = feature_size + flat_size + 1
        self.norms = {"input": BatchRenorm(inputs, warmup=warmup)}
        self.network = MLP(key, inputs, 2 * flat_size, trunk)
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
    flow_steps: int = eqx.field(static=True)

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, flow_steps: int, warmup: int):
        key_time, key_gate, key_candidate = jax.random.split(key, 3)
        inputs = feature_size + flat_size
        self.norms = {"input": BatchRenorm(inputs, warmup=warmup)}
        time_trunk = Trunk((2 * TIME_FEATURES,), "silu", False, initializer="lecun")
        self.time_encoder = MLP(key_time, TIME_FEATURES, TIME_FEATURES, time_trunk)
        self.gate = open_gate(MLP(key_gate, inputs + TIME_FEATURES, flat_size, trunk))
        self.candidate = MLP(key_candidate, inputs + TIME_FEATURES, flat_size, trunk)
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
        return jax.nn.sigmoid(self.gate(u)) * (self.candidate(u) - x)


class PostNormBlock(eqx.Module):
    """One post-norm decoder block for a single token: self-attention, the state's bias, feed-forward.

    With one query and one key every softmax is 1, so both attentions are linear maps of the value.
    """

    self_value: eqx.nn.Linear
    self_out: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, key: Key, width: int):
        keys = jax.random.split(key, 6)
        trunk = Trunk(initializer="lecun")
        square = [make_linear(k, width, width, trunk, 1.0) for k in keys[:4]]
        self.self_value, self.self_out, self.value, self.out = square
        self.widen = make_linear(keys[4], width, 4 * width, trunk, 1.0)
        self.narrow = make_linear(keys[5], 4 * width, width, trunk, 1.0)

    def state_bias(self, token: Float[Array, "D"]) -> Float[Array, "D"]:
        """``k(s) = Wo (Wv m + bv) + bo``."""
        return self.out(self.value(token))

    def __call__(
        self, y: Float[Array, "D"], state_bias: Float[Array, "D"], norms: Sequence[Callable[[Array], Array]]
    ) -> Float[Array, "D"]:
        """``y <- N(y + S(y));  y <- N(y + k(s));  y <- N(y + FFN(y))``, each sum with a norm of its own."""
        after_self, after_state, after_network = norms
        y = after_self(y + self.self_out(self.self_value(y)))
        y = after_state(y + state_bias)
        return after_network(y + self.narrow(jax.nn.gelu(self.widen(y))))


class ReleasedDecoder(BatchNormedVelocity):
    """Flow-T's decoder of one token (`PostNormBlock`) with BatchRenorm on state, latent and each residual sum.

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
        warmup: int,
        layers: int = 2,
    ):
        require(width % 4 == 0, "actor_hidden", width, "the decoder needs a multiple of 4")
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
        self.blocks = tuple(PostNormBlock(k, width) for k in keys[4:])
        self.output = make_linear(keys[3], width, 2 * flat_size, trunk(), 1.0)
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
            y = block(y, bias, [lambda h, name=name: normalise(name, h) for name in names])
        return self.output(y)


def _block_norm(block: int, part: int) -> str:
    return f"block {block}, sum {part}"


LOG_SIGMA_BOUNDS = (-5.0, 2.0)


class ReleasedFlow(PathPolicy):
    """``x_{i+1} = x_i + dtau v + std eps_i``, and the density of that path, as the released code has them.

    Attributes:
        field: the velocity; MLP and Flow-T put out ``log sigma`` too, before it is bounded.
        noise_network: the same as a function of the state; Flow-G's. None with the other two.
        through_velocity: the noise is added to the velocity (std = sigma dtau), and log p leaves out ``-log std``:
            Flow-T's. Otherwise std = sigma.
        start: ``log sigma`` where the network puts out 0.
    """

    field: BatchNormedVelocity
    noise_network: MLP | None
    flat_size: int = eqx.field(static=True)
    flow_steps: int = eqx.field(static=True)
    through_velocity: bool = eqx.field(static=True)
    start: float = eqx.field(static=True)

    def moments(
        self, outputs: Float[Array, "outputs"], features: Float[Array, "features"], x: Float[Array, "flat"]
    ) -> tuple[Float[Array, "flat"], Float[Array, "flat"]]:
        """Mean and log standard deviation of ``x_{i+1}``, given what the field puts out at ``x_i``."""
        low, high = LOG_SIGMA_BOUNDS
        if self.noise_network is None:
            v, u = jnp.split(outputs, 2)
            u = u + math.atanh(2.0 * (self.start - low) / (high - low) - 1.0)
        else:
            v, u = outputs, self.noise_network(features)
        log_std = low + 0.5 * (high - low) * (jnp.tanh(u) + 1.0)
        if self.through_velocity:
            log_std = log_std - math.log(self.flow_steps)
        return x + v / self.flow_steps, log_std

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "path flat"]) -> Draw:
        """See `Policy.draw`. The record is the path ``x_0 .. x_K``."""
        return self.draw_with_log_prob(features, noise)[0]

    def draw_with_log_prob(
        self, features: Float[Array, "features"], noise: Float[Array, "path flat"]
    ) -> tuple[Draw, Scalar]:
        """See `Policy.draw_with_log_prob`."""
        condition = self.field.condition(features)

        def body(x, now):
            tau, eps = now
            mean, log_std = self.moments(self.field(condition, x, tau), features, x)
            x = mean + jnp.exp(log_std) * eps
            return x, (x, log_std)

        _, (latents, log_std) = jax.lax.scan(body, noise[0], (self._times(noise), noise[1:]))
        return self._drawn(noise, latents, log_std)

    def log_prob(self, features: Float[Array, "features"], record: Float[Array, "path flat"]) -> Scalar:
        """See `Policy.log_prob`; of a path, as the released code counts it."""
        condition = self.field.condition(features)

        def one(x, tau):
            return self.moments(self.field(condition, x, tau), features, x)

        means, log_std = jax.vmap(one)(record[:-1], self._times(record))
        noise = jnp.concatenate([record[:1], (record[1:] - means) / jnp.exp(log_std)])
        return self._log_prob(noise, log_std, record[-1])

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `Policy.velocity`."""
        return self.field(self.field.condition(features), x, tau)[: self.flat_size]

    def train(
        self, features: Float[Array, "B features"], noise: Float[Array, "B path flat"]
    ) -> tuple[Draw, Float[Array, "B"], Policy]:
        """See `Policy.train`: normalised by the batch, and the running statistics are moved on by every flow step."""

        def one(features, noise):
            condition, field = self.field.train_condition(features, "batch")

            def body(carry, now):
                x, norms = carry
                tau, eps = now
                here = eqx.tree_at(lambda f: f.norms, field, norms)
                outputs, moved = here.train(condition, x, tau, "batch")
                mean, log_std = self.moments(outputs, features, x)
                x = mean + jnp.exp(log_std) * eps
                return (x, moved.norms), (x, log_std)

            carry, steps = (noise[0], field.norms), (self._times(noise), noise[1:])
            (_, norms), (latents, log_std) = jax.lax.scan(body, carry, steps)
            return *self._drawn(noise, latents, log_std), eqx.tree_at(lambda p: p.field.norms, self, norms)

        return jax.vmap(one, axis_name="batch", out_axes=(0, 0, None))(features, noise)

    def _times(self, like):
        return jnp.arange(self.flow_steps, dtype=like.dtype) / self.flow_steps

    def _drawn(self, noise, latents, log_std):
        path, end = jnp.concatenate([noise[:1], latents]), latents[-1]
        return Draw(jnp.tanh(end), end, path), self._log_prob(noise, log_std, end)

    def _log_prob(self, noise, log_std, end):
        log_prob = standard_log_prob(noise) - jnp.log(1.0 - jnp.square(jnp.tanh(end)) + 1e-6).sum()
        return log_prob if self.through_velocity else log_prob - log_std.sum()


@dataclasses.dataclass(frozen=True)
class Released(PolicySettings):
    """What the three released actors have in common."""

    flow_steps: int = 4
    """K, steps from noise to action."""
    initial_log_sigma: float = -1.5
    """Log of the noise scale at the start."""
    renorm_calls: int = 100_000
    """Training calls of a BatchRenorm layer before its correction begins; most are called K times per actor step."""

    def __post_init__(self):
        require(self.flow_steps >= 1, "flow_steps", self.flow_steps, "must be at least 1")
        low, high = LOG_SIGMA_BOUNDS
        inside = low < self.initial_log_sigma < high
        require(inside, "initial_log_sigma", self.initial_log_sigma, f"must lie in ({low:g}, {high:g})")

    def entropy_target(self, action_size: int) -> float:
        """H = 0, literally."""
        del action_size
        return 0.0

    def entropy_bound(self, action_size: int) -> tuple[float, str]:
        """None is known: Flow-T's density is not one."""
        del action_size
        return math.inf, ""

    def _flow(self, field: BatchNormedVelocity, flat_size: int, **changes: Any) -> ReleasedFlow:
        own = {"noise_network": None, "through_velocity": False, **changes}
        return ReleasedFlow(
            field=field, flat_size=flat_size, flow_steps=self.flow_steps, start=self.initial_log_sigma, **own
        )


@dataclasses.dataclass(frozen=True)
class MLPFlow(Released):
    """``Naive_sac_flow_jax.py``."""

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> ReleasedFlow:
        """See `PolicySettings.build`."""
        shape = Trunk(trunk.hidden, "relu", False, initializer="lecun")
        field = ReleasedMLP(_field_key(key), feature_size, flat_size, shape, self.flow_steps, self.renorm_calls)
        return self._flow(field, flat_size)


@dataclasses.dataclass(frozen=True)
class Gated(Released):
    """``SAC_flow_gru_jax.py``."""

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> ReleasedFlow:
        """See `PolicySettings.build`."""
        shape = Trunk(trunk.hidden, "silu", False, initializer="lecun")
        field = ReleasedGated(_field_key(key), feature_size, flat_size, shape, self.flow_steps, self.renorm_calls)
        key_noise = jax.random.split(key)[1]
        network = MLP(key_noise, feature_size, flat_size, Trunk((512, 512), "relu", False, initializer="lecun"), 0.01)
        low, high = LOG_SIGMA_BOUNDS
        start = math.atanh(2.0 * (self.initial_log_sigma - low) / (high - low) - 1.0)
        network = eqx.tree_at(lambda n: n.output.bias, network, jnp.full((flat_size,), start))
        return self._flow(field, flat_size, noise_network=network)


@dataclasses.dataclass(frozen=True)
class Decoded(Released):
    """``SAC_flow_transformer_jax.py``. The decoder takes the first width as its own."""

    def build(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk) -> ReleasedFlow:
        """See `PolicySettings.build`."""
        width = trunk.hidden[0]
        field = ReleasedDecoder(_field_key(key), feature_size, flat_size, width, self.flow_steps, self.renorm_calls)
        return self._flow(field, flat_size, through_velocity=True)


ACTORS: dict[str, tuple[type[Released], tuple[int, ...]]] = {
    "mlp": (MLPFlow, (512, 512)),
    "gated": (Gated, (512,)),
    "decoded": (Decoded, (96,)),
}
"""Each script's actor, and its widths."""


def reference_code(velocity: str = "gated", **changes: Any) -> sac_flow.Config:
    """All settings of a released script.

    Args:
        velocity: mlp, gated or decoded: which script.
        **changes: settings to replace, by flat name.
    """
    settings, widths = ACTORS[velocity]
    own = {"policy": f"{__file__}:{settings.__name__}", "actor_hidden": widths, "warmup_steps": 50_000}
    return sac_flow.Config.of(**{**own, **changes})


def _field_key(key: Key) -> Key:
    return jax.random.split(key)[0]
