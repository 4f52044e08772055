"""The policy contract: what a policy can do is stated as capabilities, never as a mean and a standard deviation.

Policies act on one feature vector; callers `jax.vmap`. The latent ``x`` is the action before squashing, ``a =
tanh(x)``. A policy that plans ahead emits ``chunk_length`` actions at once, flattened: latent and action then have
``chunk_length * action_size`` entries.
"""

import abc
import enum
from collections.abc import Iterable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import CapabilityError
from penstock._types import Key, Scalar


class Capability(enum.Enum):
    """Something an objective may need from a policy. The value is the sentence fragment used in errors."""

    SAMPLE = "reparameterised samples (`transport`)"
    MODE = "a deterministic action (`mode`)"
    LOG_PROB = "the exact log-density of a given latent action (`log_prob`)"
    SAMPLE_WITH_LOG_PROB = "samples with their exact log-density (`sample_with_log_prob`)"
    SAMPLE_WITH_PATH_LOG_PROB = "samples with the exact log-density of their path (`sample_with_path_log_prob`)"
    VELOCITY = "a velocity field that flow matching can train (`velocity`)"


class ActionSample(NamedTuple):
    """An action and the latent it was squashed from.

    Attributes:
        action: ``tanh(latent)``, flattened over the chunk: ``(C * d,)``.
        latent: pre-squash action ``x_K``, ``(C * d,)``. Kept, because ``atanh(action)`` loses it in saturation.
    """

    action: Float[Array, "flat"]
    latent: Float[Array, "flat"]


class Policy(eqx.Module):
    """A distribution over actions given features.

    Attributes:
        action_size: d, entries of one action.
    """

    action_size: eqx.AbstractVar[int]

    @property
    def chunk_length(self) -> int:
        """C, actions emitted per call: 1, except in a `penstock.policies.chunked.Chunked` policy."""
        return 1

    @property
    def network_evaluations(self) -> int:
        """Calls of the network per emitted chunk: 1 for a Gaussian, K for a K-step Euler flow."""
        return 1

    @property
    def noise_rank(self) -> int:
        """In how many directions of the latent, of C * d, the form of the policy lets it shape its noise."""
        return self.flat_size

    @property
    @abc.abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this policy offers."""

    @property
    def flat_size(self) -> int:
        """Entries of the latent: C * d. Also the size of the base noise."""
        return self.chunk_length * self.action_size

    @abc.abstractmethod
    def transport(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> ActionSample:
        """Carries base noise to an action. Differentiable in parameters, features and noise."""

    def sample(self, features: Float[Array, "features"], key: Key) -> ActionSample:
        """Draws a reparameterised action: `transport` of standard normal noise."""
        return self.transport(features, jax.random.normal(key, (self.flat_size,)))

    def mode(self, features: Float[Array, "features"]) -> ActionSample:
        """`transport` of zero noise: for a Gaussian, the squashed mean. See `DeterministicAction` for other rules."""
        return self.transport(features, jnp.zeros((self.flat_size,)))

    def log_prob(self, features: Float[Array, "features"], latent: Float[Array, "flat"]) -> Scalar:
        """Exact log-density of the action ``tanh(latent)``, in nats.

        Raises:
            CapabilityError: the policy has no exact density.
        """
        del features, latent
        raise CapabilityError(f"{type(self).__name__} does not offer {Capability.LOG_PROB.value}.")

    def sample_with_log_prob(self, features: Float[Array, "features"], key: Key) -> tuple[ActionSample, Scalar]:
        """A reparameterised action and its exact log-density.

        Raises:
            CapabilityError: the policy has no exact density.
        """
        del features, key
        raise CapabilityError(f"{type(self).__name__} does not offer {Capability.SAMPLE_WITH_LOG_PROB.value}.")

    def sample_with_path_log_prob(self, features: Float[Array, "features"], key: Key) -> tuple[ActionSample, Scalar]:
        """A reparameterised action and the exact log-density of the path that led to it.

        Raises:
            CapabilityError: the policy does not make its actions along a noisy path.
        """
        del features, key
        raise CapabilityError(f"{type(self).__name__} does not offer {Capability.SAMPLE_WITH_PATH_LOG_PROB.value}.")

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """Velocity of the flow at latent ``x`` and flow time ``tau`` in [0, 1].

        Raises:
            CapabilityError: the policy is not a velocity flow.
        """
        del features, x, tau
        raise CapabilityError(f"{type(self).__name__} does not offer {Capability.VELOCITY.value}.")


def require_capabilities(policy: Policy, needed: Iterable[Capability], algorithm: str, hint: str) -> None:
    """Refuses a policy that lacks something an algorithm needs, in one sentence that names both.

    Raises:
        CapabilityError: at least one capability is missing.
    """
    missing = [capability for capability in needed if capability not in policy.capabilities]
    if missing:
        raise CapabilityError(
            f"{algorithm} needs {' and '.join(c.value for c in missing)}, which {type(policy).__name__} does not "
            f"offer. {hint}"
        )
