"""Penstock's coupling flow inside rsl_rl 5: the only room that imports torch, and it imports no JAX.

In a configuration of rsl_rl, ``"class_name": "penstock.rsl_rl:CouplingFlowDistribution"``. Weights of a Penstock policy
come by `penstock.rsl_rl.weights`, which needs both frameworks.
"""

from penstock._extras import extra

extra("rsl_rl.modules.distribution", "rsl_rl")

from penstock.rsl_rl.distribution import CouplingFlowDistribution  # noqa: E402

__all__ = ["CouplingFlowDistribution"]
