"""Named shapes, used everywhere.

``N`` environments, ``H`` window length, ``d`` action dimension. Environment time is ``t``, flow time ``tau``.
"""

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Key = PRNGKeyArray
"""One random key. One key serves one purpose and is never used twice."""

Actions = Float[Array, "N d"]
"""One action per environment, inside the box [-1, 1]^d."""

PerEnv = Float[Array, "N"]
"""One number per environment."""

GradientProbe = Float[Array, "2 N"]
"""Zeros whose gradient tells, per environment, what a gradient firewall did: cut at all, and lost (not finite)."""

PerEnvFlag = Bool[Array, "N"]
"""One flag per environment."""

PerEnvCount = Int[Array, "N"]
"""One counter per environment."""

Scalar = Float[Array, ""]
"""One number."""
