"""Velocity flow: noise carried to an action by a learned velocity field."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Key, Scalar
from penstock.networks import Trunk
from penstock.networks.mlp import HiddenLayer, orthogonal_linear
from penstock.policies.policy import ActionSample, Capability, Policy
from penstock.policies.steppers import EVALUATIONS_PER_STEP, integrate, require_scheme


class VelocityField(eqx.Module):
    """A velocity ``v(x, tau | s)``, in two calls so that the work that depends on the state alone is done once."""

    @abc.abstractmethod
    def condition(self, features: Float[Array, "features"]) -> Any:
        """What the field needs to know about the state; the same for all flow steps."""

    @abc.abstractmethod
    def __call__(self, condition: Any, x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "flat"]:
        """The velocity at latent ``x`` and flow time ``tau``."""


class MLPVelocity(VelocityField):
    """An MLP on ``concat(features, x, tau)`` with the raw scalar ``tau``; the last layer starts near zero.

    The first layer is linear in its three inputs, so the part that belongs to the features is computed once for all
    flow steps.
    """

    feature_layer: HiddenLayer
    latent_weight: Float[Array, "width flat"]
    time_weight: Float[Array, "width"]
    hidden_layers: tuple[HiddenLayer, ...]
    output: eqx.nn.Linear

    def __init__(self, key: Key, feature_size: int, flat_size: int, trunk: Trunk, output_gain: float = 0.01):
        keys = jax.random.split(key, len(trunk.hidden) + 1)
        widths = trunk.hidden
        first = HiddenLayer(keys[0], feature_size + flat_size + 1, widths[0], trunk)
        weight = first.linear.weight
        features_only = eqx.nn.Linear(feature_size, widths[0], key=keys[0])
        features_only = eqx.tree_at(
            lambda layer: (layer.weight, layer.bias), features_only, (weight[:, :feature_size], first.linear.bias)
        )
        self.feature_layer = eqx.tree_at(lambda layer: layer.linear, first, features_only)
        self.latent_weight = weight[:, feature_size:-1]
        self.time_weight = weight[:, -1]
        self.hidden_layers = tuple(HiddenLayer(keys[i], widths[i - 1], widths[i], trunk) for i in range(1, len(widths)))
        self.output = orthogonal_linear(keys[-1], widths[-1], flat_size, output_gain)

    def condition(self, features: Float[Array, "features"]) -> Float[Array, "width"]:
        """See `VelocityField.condition`."""
        return self.feature_layer.linear(features)

    def __call__(self, condition: Float[Array, "width"], x: Float[Array, "flat"], tau: Scalar) -> Float[Array, "flat"]:
        """See `VelocityField`."""
        h = self.feature_layer.after(condition + self.latent_weight @ x + self.time_weight * tau)
        for layer in self.hidden_layers:
            h = layer(h)
        return self.output(h)


class VelocityFlow(Policy):
    """``x_0 = eps ~ N(0, I)``, K fixed steps of ``dx/dtau = v(x, tau | s)``, ``a = tanh(x_K)``.

    RFO, arXiv 2602.03501. No density is available from the steps themselves; `penstock.policies.likelihood` computes
    the exact density of the continuous flow for evaluation.
    """

    field: VelocityField
    action_size: int = eqx.field(static=True)
    flow_steps: int = eqx.field(static=True)
    stepper: str = eqx.field(static=True)

    def __check_init__(self):
        require_scheme(self.flow_steps, self.stepper)

    @property
    def network_evaluations(self) -> int:
        """K times the evaluations of one step of the stepper."""
        return self.flow_steps * EVALUATIONS_PER_STEP[self.stepper]

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Policy.capabilities`."""
        return frozenset({Capability.SAMPLE, Capability.MODE, Capability.VELOCITY})

    def transport(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> ActionSample:
        """See `Policy.transport`."""
        condition = self.field.condition(features)
        latent = integrate(lambda x, tau: self.field(condition, x, tau), noise, self.flow_steps, self.stepper)
        return ActionSample(jnp.tanh(latent), latent)

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `Policy.velocity`."""
        return self.field(self.field.condition(features), x, tau)
