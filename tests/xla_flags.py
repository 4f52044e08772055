"""Flags of XLA that make compilation in tests cheaper, where this version has them: an unknown one ends the process."""

from importlib.metadata import version

_VERSION = tuple(map(int, version("jaxlib").split(".")[:2]))

OLDER_EMITTER = "--xla_cpu_use_fusion_emitters=false" if _VERSION < (0, 11) else ""
"""XLA's older emitter of fused loops compiles the small programs of these tests in four fifths of the time."""
