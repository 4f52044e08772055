"""What is remembered: a replay memory, and windows of records."""

from penstock.data.records import Records
from penstock.data.replay import Batch, Experience, Replay

__all__ = ["Batch", "Experience", "Records", "Replay"]
