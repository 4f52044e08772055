"""Penstock: flow policies in reinforcement learning, with their Gaussian controls, in one harness.

    run = penstock.train("rfo", "soft/jumper-mini", steps=60_000, seeds=3)
    agent = penstock.load("runs/quickstart").agent()
    action = agent.act(observation)

Importing this module imports its errors alone; JAX comes with the first use of a verb (``penstock.api``).
"""

from typing import TYPE_CHECKING, Any

from penstock._errors import CapabilityError, ConfigurationError, PenstockError

if TYPE_CHECKING:
    from penstock.api import Run, TrainedAgent, load, make_world, resume, train

__version__ = "0.1.0"
__all__ = [
    "CapabilityError",
    "ConfigurationError",
    "PenstockError",
    "Run",
    "TrainedAgent",
    "__version__",
    "load",
    "make_world",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'penstock' has no attribute '{name}'")
    from penstock import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
