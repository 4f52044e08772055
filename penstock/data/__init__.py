"""Replay memory."""

from penstock.data.replay import Batch, Experience, Replay

__all__ = ["Batch", "Experience", "Replay"]
