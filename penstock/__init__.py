"""Penstock: flow policies in reinforcement learning, with their Gaussian controls, in one harness."""

__version__ = "0.1.0"
