"""Action chunks: one call of the policy plans the next C actions, which then run open loop."""

import equinox as eqx
from jaxtyping import Array, Float

from penstock._errors import require
from penstock._types import Key, Scalar
from penstock.policies.policy import ActionSample, Capability, Policy


class Chunked(Policy):
    """Any policy over ``C * d`` numbers, read as C actions of d entries each, the earliest first.

    The wrapper changes nothing but the reading: every capability of the inner policy is passed on, with latents and
    densities of the whole chunk.
    """

    inner: Policy
    length: int = eqx.field(static=True)

    def __check_init__(self):
        require(self.length >= 1, "chunk_length", self.length, "must be at least 1")
        require(
            self.inner.chunk_length == 1, "chunk_length", self.inner.chunk_length, "a chunk cannot be chunked again"
        )
        require(
            self.inner.action_size % self.length == 0,
            "chunk_length",
            self.length,
            f"must divide the inner policy's action size {self.inner.action_size}",
        )

    @property
    def action_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """d: entries of one of the C actions."""
        return self.inner.action_size // self.length

    @property
    def chunk_length(self) -> int:
        """C."""
        return self.length

    @property
    def network_evaluations(self) -> int:
        """See `Policy.network_evaluations`."""
        return self.inner.network_evaluations

    @property
    def noise_rank(self) -> int:
        """See `Policy.noise_rank`."""
        return self.inner.noise_rank

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Policy.capabilities`."""
        return self.inner.capabilities

    def transport(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> ActionSample:
        """See `Policy.transport`."""
        return self.inner.transport(features, noise)

    def sample(self, features: Float[Array, "features"], key: Key) -> ActionSample:
        """See `Policy.sample`."""
        return self.inner.sample(features, key)

    def mode(self, features: Float[Array, "features"]) -> ActionSample:
        """See `Policy.mode`."""
        return self.inner.mode(features)

    def log_prob(self, features: Float[Array, "features"], latent: Float[Array, "flat"]) -> Scalar:
        """See `Policy.log_prob`."""
        return self.inner.log_prob(features, latent)

    def sample_with_log_prob(self, features: Float[Array, "features"], key: Key) -> tuple[ActionSample, Scalar]:
        """See `Policy.sample_with_log_prob`."""
        return self.inner.sample_with_log_prob(features, key)

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `Policy.velocity`."""
        return self.inner.velocity(features, x, tau)
