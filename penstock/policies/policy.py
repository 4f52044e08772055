"""The policy contract: noise in, action out, and the density of what was drawn where there is one.

A policy is a pytree and a pure function of features and explicit noise. It acts on one feature vector; callers
`jax.vmap`. What it can do follows from the methods that it implements:

    draw(features, noise)          everything begins here: samples, modes and export are this function
    log_prob(features, record)     the log-density of what was drawn: of the action, or of the path that led to it
    velocity(features, x, tau)     the velocity field of a flow

The latent ``x`` is the action before squashing, ``a = tanh(x)`` or, where a policy is told so, ``clip(x)``. A policy
emits ``flat_size`` numbers; an agent that plans ahead reads them as C actions of d entries (`penstock.policies.agent`).
"""

import abc
import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import CapabilityError
from penstock._types import Key, Scalar
from penstock.policies.squash import SQUASHINGS, Clip, Squashing, SquashName


class Density(enum.Enum):
    """Whose log-density `Policy.log_prob` is."""

    NONE = "none"
    ACTION = "action"
    LATENT = "latent"
    PATH = "path"


class Need(enum.Enum):
    """What an objective may need of a policy beside `Policy.draw`. The value is the sentence fragment of errors."""

    ACTION_DENSITY = "the log-density of its actions (`log_prob`)"
    DENSITY = "a log-density, of its actions or of the paths that lead to them (`log_prob`)"
    VELOCITY = "a velocity field that flow matching can train (`velocity`)"
    ACTION_GRADIENT = "a gradient of its actions, also at the ends of their box"


class Draw(NamedTuple):
    """What a policy made of noise.

    Attributes:
        action: the squashed latent, in [-1, 1], ``(flat,)``.
        latent: pre-squash action ``x_K``, ``(flat,)``. Kept, because an action loses it in saturation.
        record: what `Policy.log_prob` needs to know of this draw: the latent, or the path ``x_0 .. x_K``; None for a
            policy without a density.
    """

    action: Float[Array, "flat"]
    latent: Float[Array, "flat"]
    record: Any = None


class Policy(eqx.Module):
    """A distribution over actions given features.

    Attributes:
        flat_size: numbers that a draw emits: C * d.
    """

    flat_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def draw(self, features: Float[Array, "features"], noise: Float[Array, "*noise"]) -> Draw:
        """Carries standard normal noise of shape `noise_shape` to an action.

        Differentiable in parameters, features and noise.
        """

    def log_prob(self, features: Float[Array, "features"], record: Any) -> Scalar:
        """Log-density, in nats, of what was drawn, under this policy: of the action, or of what `density` says.

        Args:
            features: of one state.
            record: of a draw, of this policy or of another of its kind.

        Raises:
            CapabilityError: the policy has no density.
        """
        del features, record
        raise CapabilityError(f"{type(self).__name__} does not offer {Need.DENSITY.value}.")

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """Velocity of the flow at latent ``x`` and flow time ``tau`` in [0, 1].

        Raises:
            CapabilityError: the policy is not a velocity flow.
        """
        del features, x, tau
        raise CapabilityError(f"{type(self).__name__} does not offer {Need.VELOCITY.value}.")

    # ------------------------------------------------------------------ what follows

    @property
    def density(self) -> Density:
        """Whose density `log_prob` is: the action's, unless the policy says that it is another's."""
        return Density.NONE if type(self).log_prob is Policy.log_prob else Density.ACTION

    @property
    def has_velocity(self) -> bool:
        """Whether there is a velocity field."""
        return type(self).velocity is not Policy.velocity

    def offers(self, need: Need) -> bool:
        """Whether the policy has what an objective needs."""
        match need:
            case Need.ACTION_DENSITY:
                return self.density is Density.ACTION
            case Need.DENSITY:
                return self.density is not Density.NONE
            case Need.VELOCITY:
                return self.has_velocity
            case Need.ACTION_GRADIENT:
                return not isinstance(self.squashing, Clip)

    @property
    def squashing(self) -> Squashing:
        """How the latent becomes an action: by tanh, unless the policy says otherwise."""
        return SQUASHINGS["tanh"]

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one draw."""
        return (self.flat_size,)

    def diagnose(self, features: Float[Array, "features"], noise: Float[Array, "*noise"]) -> dict[str, Scalar]:
        """Numbers that tell early whether the policy is about to break, at one state; logged with their largest."""
        del features, noise
        return {}

    @property
    def network_evaluations(self) -> int:
        """Calls of the network per draw: 1 for a Gaussian, K for a K-step Euler flow."""
        return 1

    @property
    def noise_rank(self) -> int:
        """In how many directions of the latent, of ``flat_size``, the form of the policy lets it shape its noise."""
        return self.flat_size

    def base_noise(self, noise: Float[Array, "*batch flat"]) -> Float[Array, "*batch flat"]:
        """The noise at which a velocity flow starts, from standard normal noise: the same, unless the policy clips."""
        return noise

    def noise(self, key: Key) -> Float[Array, "*noise"]:
        """Standard normal noise for one draw."""
        return jax.random.normal(key, self.noise_shape)

    def sample(self, features: Float[Array, "features"], key: Key) -> Draw:
        """`draw` of fresh noise."""
        return self.draw(features, self.noise(key))

    def mode(self, features: Float[Array, "features"]) -> Draw:
        """`draw` of zero noise: for a Gaussian, the squashed mean. See `DeterministicAction` for other rules."""
        return self.draw(features, jnp.zeros(self.noise_shape))

    def draw_with_log_prob(
        self, features: Float[Array, "features"], noise: Float[Array, "*noise"]
    ) -> tuple[Draw, Scalar]:
        """A draw and its own log-density, both differentiable. A policy may know a cheaper or steadier way than this.

        Raises:
            CapabilityError: the policy has no density.
        """
        drawn = self.draw(features, noise)
        return drawn, self.log_prob(features, drawn.record)

    def train(
        self, features: Float[Array, "B features"], noise: Float[Array, "B *noise"]
    ) -> tuple[Draw, Float[Array, "B"], "Policy"]:
        """`draw_with_log_prob` of a batch, for a loss; also the policy, with its running statistics moved on.

        Layers that normalise by the batch (BatchRenorm) do so here alone; in all other methods by running statistics.
        """
        drawn, log_prob = jax.vmap(self.draw_with_log_prob)(features, noise)
        return drawn, log_prob, self


class SquashedBySetting(Policy):
    """A policy with an exact density, whose way from latent to action is a setting.

    Attributes:
        squash: how the latent becomes an action, see `penstock.policies.squash`.
    """

    squash: eqx.AbstractVar[SquashName]

    @property
    def squashing(self) -> Squashing:
        """See `Policy.squashing`."""
        return SQUASHINGS[self.squash]

    @property
    def density(self) -> Density:
        """See `Policy.density`."""
        return Density.ACTION if self.squash == "tanh" else Density.LATENT


def require_of_policy(policy: Policy, needs: Iterable[Need], algorithm: str, hint: str) -> None:
    """Refuses a policy that lacks something an algorithm needs, in one sentence that names both.

    Raises:
        CapabilityError: at least one need is not met.
    """
    missing = [need for need in needs if not policy.offers(need)]
    if missing == [Need.ACTION_GRADIENT]:
        hint = "Where it clips there is none: take one that squashes by tanh."
    if missing:
        raise CapabilityError(
            f"{algorithm} needs {' and '.join(need.value for need in missing)}, which {type(policy).__name__} does not "
            f"offer. {hint}"
        )
