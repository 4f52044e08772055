"""What a policy does when it is asked for one action, without noise: evaluated, filmed and exported by the same rule.

Zero noise is the mean of a Gaussian, and its mode. For a flow it is neither: in d dimensions standard normal noise has
a norm of about sqrt(d), so zero lies far inside the shell on which the velocity is trained, and between two equal modes
it leads to the worst action. The other rules ask the flow where it was trained.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require
from penstock.policies.policy import ActionSample, Policy

DeterministicName = Literal["zero", "typical", "mean"]

LARGEST_ACTION = 1.0 - 2.0**-24
"""Latents of averaged actions stay finite in float32."""


@dataclasses.dataclass(frozen=True)
class DeterministicAction:
    """A rule that turns a distribution over actions into one action.

    Attributes:
        rule: ``zero``: the action of zero noise. ``typical``: that of one fixed noise of typical norm; it commits to
            one mode. ``mean``: the mean of ``tanh(x_K)`` over ``draws`` fixed noises of typical norm; it averages
            modes.
        draws: for ``mean``, an even number: noises come in pairs z and -z.
    """

    rule: DeterministicName = "zero"
    draws: int = 8

    def __post_init__(self):
        rules = ("zero", "typical", "mean")
        require(self.rule in rules, "deterministic_action", self.rule, f"must be one of {', '.join(rules)}")
        even = self.draws >= 2 and self.draws % 2 == 0
        require(even, "deterministic_draws", self.draws, "must be even and at least 2")

    def __call__(self, policy: Policy, features: Float[Array, "features"]) -> ActionSample:
        """The action for one feature vector."""
        if self.rule == "zero":
            return policy.mode(features)
        transport: Callable[..., ActionSample] = lambda noise: policy.transport(features, noise)  # noqa: E731
        if self.rule == "typical":
            return transport(jnp.asarray(typical_noises(2, policy.flat_size)[0]))
        action = jax.vmap(transport)(jnp.asarray(typical_noises(self.draws, policy.flat_size))).action.mean(axis=0)
        return ActionSample(action, jnp.arctanh(jnp.clip(action, -LARGEST_ACTION, LARGEST_ACTION)))


ZERO_NOISE = DeterministicAction("zero")


def typical_noises(count: int, size: int) -> Float[np.ndarray, "{count} {size}"]:
    """Fixed noises of norm ``sqrt(size)``, in random directions, in pairs of opposite sign. The same on every machine.

    The generator is NumPy's legacy one, whose stream is promised never to change: a policy must not act differently
    after an update of a library.
    """
    half = np.random.RandomState(2602_03501 % 2**32).standard_normal((-(-count // 2), size))
    half *= np.sqrt(size) / np.linalg.norm(half, axis=1, keepdims=True)
    return np.stack([half, -half], axis=1).reshape(-1, size)[:count].astype(np.float32)
