"""What a policy does when it is asked for one action, without noise: evaluated and filmed by the same rule.

Zero noise is the mean of a Gaussian, and its mode. For a flow it need be neither: in d dimensions standard normal noise
has a norm of about sqrt(d), so zero lies far inside the shell on which the velocity is trained, and between two equal
modes it leads to the worst action. The other rules ask the flow where it was trained.
"""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from penstock._errors import require
from penstock.policies.policy import Density, Draw, Need, Policy, require_of_policy

DeterministicName = Literal["zero", "typical", "mean", "modal", "likeliest"]

OF_SEVERAL: tuple[DeterministicName, ...] = ("mean", "modal", "likeliest")
"""Rules that ask for the actions of several fixed noises."""

FEWEST_FOR_MODES = 8
"""Fewer samples of one mode may look like several."""


@dataclasses.dataclass(frozen=True)
class DeterministicAction:
    """A rule that makes one action of a distribution over actions. The same noises are used at every state.

    Attributes:
        rule: ``zero``: the action of zero noise. ``typical``: that of one fixed noise of norm sqrt(C * d); it commits
            to one mode and keeps that noise's deviation. ``mean``: the mean of the actions of fixed noises; it
            averages over modes, and shrinks actions near the ends of the box. ``modal``: the action of the mean of x_K
            over those fixed noises whose actions `hang_together`: all of them, or one mode where there are several.
            ``likeliest``: of the fixed noises' actions the one of the highest density; for policies with a density of
            their actions, or of the latents that they clip.
        draws: how many noises the last three use: an even number, as they come in pairs z and -z.
    """

    rule: DeterministicName = "zero"
    draws: int = 8

    def __post_init__(self):
        rules = get_args(DeterministicName)
        require(self.rule in rules, "deterministic_action", self.rule, f"must be one of {', '.join(rules)}")
        even = self.draws >= 2 and self.draws % 2 == 0
        require(even, "deterministic_draws", self.draws, "must be even and at least 2")
        enough = self.rule != "modal" or self.draws >= FEWEST_FOR_MODES
        require(enough, "deterministic_draws", self.draws, f"must be at least {FEWEST_FOR_MODES} to tell modes apart")

    def __call__(self, policy: Policy, features: Float[Array, "features"]) -> Draw:
        """The action for one feature vector."""
        if self.rule == "zero":
            return policy.mode(features)
        size = math.prod(policy.noise_shape)
        if self.rule == "typical":
            return policy.draw(features, jnp.asarray(typical_noise(size)).reshape(policy.noise_shape))
        noises = jnp.asarray(fixed_noises(self.draws, size)).reshape(self.draws, *policy.noise_shape)
        if self.rule == "likeliest":
            samples, densities = jax.vmap(lambda noise: policy.draw_with_log_prob(features, noise))(noises)
            return _first_of(samples, densities == densities.max())
        samples = jax.vmap(lambda noise: policy.draw(features, noise))(noises)
        if self.rule == "mean":
            action = samples.action.mean(axis=0)
            return Draw(action, policy.squashing.latent(action))
        chosen = hang_together(samples.action).astype(samples.latent.dtype)
        latent = chosen @ samples.latent / chosen.sum()
        return Draw(policy.squashing.action(latent), latent)

    def require(self, policy: Policy) -> None:
        """Refuses a policy that the rule cannot ask.

        Raises:
            CapabilityError: it asks for a density of actions, and there is none.
        """
        if self.rule == "likeliest" and policy.density is not Density.LATENT:
            hint = "Use modal, or a policy with a density of its actions: gaussian or coupling."
            require_of_policy(policy, (Need.ACTION_DENSITY,), "deterministic_action = 'likeliest'", hint)


ZERO_NOISE = DeterministicAction("zero")


def _first_of(samples: Draw, chosen: Bool[Array, "M"]) -> Draw:
    """The first of the samples that are chosen; without an index that only the numbers know, which exports as well."""
    first = chosen & ~(jnp.tril(jnp.ones((len(chosen), len(chosen))), -1) @ chosen.astype(jnp.float32) > 0.0)
    weight = first.astype(samples.latent.dtype)
    return Draw(weight @ samples.action, weight @ samples.latent)


def hang_together(actions: Float[Array, "M flat"]) -> Bool[Array, "M"]:
    """Which of M samples belong to the mode of the first one.

    Two samples are neighbours where they are nearer to each other than a third of the largest distance between any
    two, or than 2.5 times the median distance to the nearest other; what can be reached from the first sample over
    neighbours belongs to its mode (single-linkage clustering). The first length tells modes apart, up to three on a
    line; the second keeps a cloud in several dimensions whole, where all distances are alike: of the fixed noises
    themselves, in any dimension and squashed or not, it takes up to 2.1. The mode is that of the same noise at every
    state, so that neighbouring states choose alike.
    """
    count = actions.shape[0]
    distance = jnp.sqrt(jnp.square(actions[:, None] - actions).sum(axis=2))
    nearest = jnp.where(jnp.eye(count, dtype=bool), jnp.inf, distance).min(axis=1)
    near = distance <= jnp.maximum(distance.max() / 3.0, 2.5 * jnp.median(nearest))
    for _ in range((count - 1).bit_length()):  # reach doubles: from one step over neighbours to count - 1
        near = (near.astype(actions.dtype) @ near.astype(actions.dtype)) > 0.0
    return near[0]


def fixed_noises(count: int, size: int) -> Float[np.ndarray, "{count} {size}"]:
    """Fixed normal noises in pairs of opposite sign, with mean 0 and variance 1 in every entry.

    The same on every machine: the generator is NumPy's legacy one, whose stream is promised never to change, as a
    policy must not act differently after an update of a library.
    """
    half = np.random.RandomState(0).standard_normal((count // 2, size))
    half /= np.sqrt(np.mean(half**2, axis=0))
    return np.stack([half, -half], axis=1).reshape(count, size).astype(np.float32)


def typical_noise(size: int) -> Float[np.ndarray, "{size}"]:
    """One fixed noise of norm ``sqrt(size)``."""
    noise = np.random.RandomState(0).standard_normal(size)
    return (noise * np.sqrt(size) / np.linalg.norm(noise)).astype(np.float32)
