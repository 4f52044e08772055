"""What a policy does when it is asked for one action, without noise: evaluated, filmed and exported by the same rule.

Zero noise is the mean of a Gaussian, and its mode. For a flow it need be neither: in d dimensions standard normal noise
has a norm of about sqrt(d), so zero lies far inside the shell on which the velocity is trained, and between two equal
modes it leads to the worst action. The other rules ask the flow where it was trained.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from penstock._errors import require
from penstock.policies.policy import ActionSample, Policy

DeterministicName = Literal["zero", "typical", "mean", "modal"]

LARGEST_ACTION = 1.0 - 2.0**-24
"""Latents of averaged actions stay finite in float32."""

SHIFTS = 4
"""Steps of the mean shift. Among so few samples it has nearly always come to rest by then."""


@dataclasses.dataclass(frozen=True)
class DeterministicAction:
    """A rule that makes one action of a distribution over actions. The same noises are used at every state.

    Attributes:
        rule: ``zero``: the action of zero noise. ``typical``: that of one fixed noise of norm sqrt(C * d); it commits
            to one mode and keeps that noise's deviation. ``mean``: the mean of ``tanh(x_K)`` over fixed noises; it
            averages over modes. ``modal``: the same, or the mean of one mode where there are several, by
            `modal_mean`.
        draws: how many noises the last two use: an even number, as they come in pairs z and -z.
    """

    rule: DeterministicName = "zero"
    draws: int = 8

    def __post_init__(self):
        rules = get_args(DeterministicName)
        require(self.rule in rules, "deterministic_action", self.rule, f"must be one of {', '.join(rules)}")
        even = self.draws >= 2 and self.draws % 2 == 0
        require(even, "deterministic_draws", self.draws, "must be even and at least 2")

    def __call__(self, policy: Policy, features: Float[Array, "features"]) -> ActionSample:
        """The action for one feature vector."""
        if self.rule == "zero":
            return policy.mode(features)
        if self.rule == "typical":
            return policy.transport(features, jnp.asarray(typical_noise(policy.flat_size)))
        noises = jnp.asarray(fixed_noises(self.draws, policy.flat_size))
        actions = jax.vmap(lambda noise: policy.transport(features, noise).action)(noises)
        action = actions.mean(axis=0) if self.rule == "mean" else modal_mean(actions)
        return ActionSample(action, jnp.arctanh(jnp.clip(action, -LARGEST_ACTION, LARGEST_ACTION)))


ZERO_NOISE = DeterministicAction("zero")


def modal_mean(actions: Float[Array, "M flat"]) -> Float[Array, "flat"]:
    """The mean of M samples, or, where it lies in a valley between modes, the mean of one mode.

    The mode is that of the first sample, so that neighbouring states choose alike: the half of the samples that a mean
    shift from there comes to rest at, ``c <- mean of the M / 2 samples nearest to c`` (Fukunaga and Hostetler 1975,
    with a bandwidth that always holds half). It is taken where those M / 2 samples lie twice as close around their
    mean, in mean square distance, as the M / 2 samples nearest to the mean of all lie around that: of one mode neither
    is so much closer; two narrow ones leave nothing near the mean of both.
    """
    half = actions.shape[0] // 2

    def nearest(center):
        distance = jnp.square(actions - center).sum(axis=1)
        closeness, index = jax.lax.top_k(-distance, half)
        return actions[index], -closeness.mean()

    def shift(center, _):
        return nearest(center)[0].mean(axis=0), None

    whole = actions.mean(axis=0)
    center = jax.lax.scan(shift, actions[0], None, length=SHIFTS)[0]
    return jnp.where(nearest(center)[1] < 0.5 * nearest(whole)[1], center, whole)


def fixed_noises(count: int, size: int) -> Float[np.ndarray, "{count} {size}"]:
    """Fixed standard normal noises in pairs of opposite sign, the same on every machine.

    The generator is NumPy's legacy one, whose stream is promised never to change: a policy must not act differently
    after an update of a library.
    """
    half = np.random.RandomState(0).standard_normal((count // 2, size))
    return np.stack([half, -half], axis=1).reshape(count, size).astype(np.float32)


def typical_noise(size: int) -> Float[np.ndarray, "{size}"]:
    """One fixed noise of norm ``sqrt(size)``."""
    noise = fixed_noises(2, size)[0]
    return noise * np.float32(np.sqrt(size) / np.linalg.norm(noise))
