"""Velocity flow: noise carried to an action by a learned velocity field."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._types import Scalar
from penstock.policies.policy import Draw, Policy
from penstock.policies.steppers import EVALUATIONS_PER_STEP, integrate, require_scheme
from penstock.policies.velocity_fields import VelocityField


class VelocityFlow(Policy):
    """``x_0 = eps ~ N(0, I)``, K fixed steps of ``dx/dtau = v(x, tau | s)``, ``a = tanh(x_K)``.

    RFO, arXiv 2602.03501. No density is available from the steps themselves; `penstock.policies.likelihood` computes
    the exact density of the continuous flow for evaluation.
    """

    field: VelocityField
    flat_size: int = eqx.field(static=True)
    flow_steps: int = eqx.field(static=True)
    stepper: str = eqx.field(static=True)
    noise_clip: float | None = eqx.field(static=True, default=None)
    """Base noise is clipped to [-noise_clip, noise_clip] (FlowRL's released code: 1); None for none."""

    def __check_init__(self):
        require_scheme(self.flow_steps, self.stepper)

    @property
    def network_evaluations(self) -> int:
        """K times the evaluations of one step of the stepper."""
        return self.flow_steps * EVALUATIONS_PER_STEP[self.stepper]

    @property
    def noise_rank(self) -> int:
        """That of the field, or C * d."""
        limit = self.field.noise_rank
        return self.flat_size if limit is None else min(limit, self.flat_size)

    def base_noise(self, noise: Float[Array, "*batch flat"]) -> Float[Array, "*batch flat"]:
        """The noise at which the flow starts: standard normal noise, clipped where the policy says so."""
        return noise if self.noise_clip is None else jnp.clip(noise, -self.noise_clip, self.noise_clip)

    def draw(self, features: Float[Array, "features"], noise: Float[Array, "flat"]) -> Draw:
        """See `Policy.draw`."""
        condition = self.field.condition(features)
        latent = integrate(
            lambda x, tau: self.field(condition, x, tau), self.base_noise(noise), self.flow_steps, self.stepper
        )
        return Draw(jnp.tanh(latent), latent)

    def velocity(
        self, features: Float[Array, "features"], x: Float[Array, "flat"], tau: Scalar
    ) -> Float[Array, "flat"]:
        """See `Policy.velocity`."""
        return self.field(self.field.condition(features), x, tau)
