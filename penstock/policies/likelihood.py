"""Exact density of a velocity flow, for evaluation: the instantaneous change of variables, solved by Diffrax.

The density is that of the *continuous* flow. A sampler with few Euler steps draws from a slightly different law.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from penstock._errors import PenstockError
from penstock._types import Scalar
from penstock.policies.policy import Need, Policy, require_of_policy
from penstock.policies.squash import squashed_log_prob


def flow_log_prob(
    policy: Policy,
    features: Float[Array, "features"],
    latent: Float[Array, "flat"],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> Scalar:
    """Log-density, in nats, of the action ``tanh(latent)`` under the continuous flow.

    Solves ``d/dtau (x, l) = (v, -div v)`` from tau = 1 back to 0 with the exact divergence (d Jacobian columns), then
    ``log p(x_1) = log N(x_0; 0, I) + l(1) - l(0)`` (Chen et al. 2018, arXiv 1806.07366, Eq. 8), and squashes.

    Args:
        policy: a policy with a velocity field.
        features: features of one state.
        latent: pre-squash action ``(flat,)``.
        rtol: relative tolerance of the adaptive solver (Tsitouras 5/4).
        atol: absolute tolerance.

    Raises:
        CapabilityError: the policy is not a velocity flow.
        PenstockError: Diffrax is not installed.
    """
    require_of_policy(policy, [Need.VELOCITY], "flow_log_prob", "Use the policy's own `log_prob`.")
    try:
        import diffrax
    except ImportError as error:
        raise PenstockError("The exact flow density needs Diffrax: pip install 'penstock[likelihood]'.") from error

    def augmented(tau, state, _):
        x, _ = state

        def v(y):
            return policy.velocity(features, y, jnp.asarray(tau, y.dtype))

        return v(x), -jnp.trace(jax.jacfwd(v)(x))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(augmented),
        diffrax.Tsit5(),
        t0=1.0,
        t1=0.0,
        dt0=-0.05,
        y0=(latent, jnp.zeros((), latent.dtype)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
    )
    assert solution.ys is not None
    noise, change = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    # Integrating backwards accumulates -(l(1) - l(0)).
    base = jnp.sum(-0.5 * jnp.square(noise) - 0.5 * jnp.log(2.0 * jnp.pi))
    return squashed_log_prob(base - change, latent)
