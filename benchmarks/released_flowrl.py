"""FlowRL as its released code has it, as an algorithm that is brought to Penstock. For comparison only.

    penstock train benchmarks/released_flowrl.py:FlowRL --world dmc/walker-run

Where paper and code (bytedance/FlowRL at e26279b) contradict each other, Penstock's own FlowRL follows the paper.
`CodeWeighting` has the code's weight of the flow-matching term, one number per batch, and nothing else of it:

    w = mean( clip( lambda exp( relu(D) - mean relu(D) ), 0.001, w_max ) )

`FlowRL` has GELU in the value networks and clipped base noise too. `ConstantWeight` shows what weighting is worth.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import ConfigurationError, require
from penstock._types import Key
from penstock.algorithms import flowrl
from penstock.policies import Actor, VelocityFlow
from penstock.worlds import World

WEIGHT_FLOOR = 1e-3
"""Smallest weight of a sample, before the mean."""

NOISE_CLIP = 1.0
"""Base noise is clipped to [-1, 1]."""


class CodeWeighting(flowrl.Learner):
    """FlowRL with the released code's weight of the flow-matching term."""

    name: ClassVar[str] = "flowrl-code-weighting"
    settings: ClassVar[type[flowrl.Config]] = flowrl.Config
    presets_of: ClassVar[str] = "flowrl"

    def __init__(self, config: flowrl.Config, world: World, planned_updates: int):
        ceiling = config.weight_ceiling
        require(ceiling >= WEIGHT_FLOOR, "weight_ceiling", ceiling, f"must be at least the floor, {WEIGHT_FLOOR}")
        super().__init__(config, world, planned_updates)

    def weight(self, difference: Float[Array, "B"]) -> Float[Array, "B"]:
        """See the module's equation. The exponent is capped before `exp`."""
        scale = self.config.constraint_coefficient
        positive = jax.nn.relu(difference)
        weight = scale * jnp.exp(jnp.minimum(positive - positive.mean(), 60.0))
        # Clipping to a floor would switch a removed constraint on again.
        clipped = jnp.clip(weight, WEIGHT_FLOOR if scale else 0.0, self.config.weight_ceiling)
        return jnp.broadcast_to(clipped.mean(), difference.shape)


@dataclasses.dataclass(frozen=True)
class ReleasedConfig(flowrl.Config):
    """FlowRL's settings; the value networks have GELU."""

    value_activation: ClassVar[Literal["mish", "gelu"]] = "gelu"
    """See `flowrl.Config`."""


class FlowRL(CodeWeighting):
    """FlowRL as released: the code's weight, GELU in the value networks, clipped base noise."""

    name: ClassVar[str] = "flowrl-released"
    settings: ClassVar[type[flowrl.Config]] = ReleasedConfig

    def make_actor(self, key_encoder: Key, key_policy: Key) -> Actor:
        """See `flowrl.Learner.make_actor`."""
        actor = super().make_actor(key_encoder, key_policy)
        if not isinstance(actor.policy, VelocityFlow):
            raise ConfigurationError(
                f"policy = {self.config.policy.policy!r}: the released code clips the noise of policy = flow. Leave it "
                "out, or choose CodeWeighting in place of FlowRL."
            )
        return dataclasses.replace(actor, policy=dataclasses.replace(actor.policy, noise_clip=NOISE_CLIP))


class ConstantWeight(flowrl.Learner):
    """FlowRL in which every stored action weighs alike, lambda: better and worse ones are cloned."""

    name: ClassVar[str] = "flowrl-constant-weight"
    settings: ClassVar[type[flowrl.Config]] = flowrl.Config
    presets_of: ClassVar[str] = "flowrl"

    def __init__(self, config: flowrl.Config, world: World, planned_updates: int):
        default = flowrl.Config.weight_ceiling
        idle = "does nothing with a constant weight. Leave it out"
        require(config.weight_ceiling == default, "weight_ceiling", config.weight_ceiling, idle)
        super().__init__(config, world, planned_updates)

    def weight(self, difference: Float[Array, "B"]) -> Float[Array, "B"]:
        """The multiplier, for all alike."""
        return jnp.full_like(difference, self.config.constraint_coefficient)
