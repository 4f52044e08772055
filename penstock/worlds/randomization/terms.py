"""What can be randomised: the terms of a configuration, in the field's words and units."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from penstock.worlds.randomization.distributions import Distribution

Operation = Literal["scale", "add", "set"]
"""What is done with a drawn number: the model's own times it, plus it, or it in place of the model's."""

Target = Literal["geoms", "pairs", "bodies", "joints", "actuators"]
"""What of a model is named."""

Per = Literal["episode", "step"]
"""How long a drawn number holds."""

Evaluated = Literal["randomized", "nominal"]
"""The world in which a policy is evaluated: the one that it is trained in, or the model as it is, undisturbed."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A kind of number in a MuJoCo model that can be randomised.

    Attributes:
        targets: what it belongs to; the first is meant where nothing is named.
        operations: what can be done with it.
        unit: of the number that is added or set.
        positive: whether 0 is too small; nothing but positions may be negative.
    """

    targets: tuple[Target, ...]
    operations: tuple[Operation, ...]
    unit: str
    positive: bool = False


QUANTITIES: dict[str, Quantity] = {
    "friction": Quantity(("geoms", "pairs"), ("scale", "add", "set"), "1"),
    "mass": Quantity(("bodies",), ("scale", "add", "set"), "kg", positive=True),
    "center_of_mass": Quantity(("bodies",), ("add",), "m"),
    "armature": Quantity(("joints",), ("scale", "add", "set"), "kg m^2"),
    "joint_damping": Quantity(("joints",), ("scale", "add", "set"), "N m s/rad"),
    "joint_friction": Quantity(("joints",), ("scale", "add", "set"), "N m"),
    "joint_offset": Quantity(("joints",), ("add",), "rad or m"),
    "kp": Quantity(("actuators",), ("scale",), "1"),
    "kd": Quantity(("actuators",), ("scale",), "1"),
    "motor_strength": Quantity(("actuators",), ("scale",), "1"),
    "initial_joint_position": Quantity(("joints",), ("add",), "rad or m"),
}
"""All of them, by the name of their term."""

INITIAL = "initial_joint_position"
"""The one that changes the state at the start of an episode, not the model."""

POSITIONS = frozenset({"center_of_mass", "joint_offset", INITIAL})
"""Those that may be negative."""


@dataclasses.dataclass(frozen=True)
class ModelTerm:
    """One number per named part of the model and episode.

    Attributes:
        name: a name of `QUANTITIES`.
        target: what of the model is named.
        names: patterns with ``*`` and ``?``; empty means all.
        operation: what is done with the number.
        distribution: of the number.
        shared: whether all of them get one and the same number.
        stream: tells its random numbers from those of other terms.
    """

    name: str
    target: Target
    names: tuple[str, ...]
    operation: Operation
    distribution: Distribution
    shared: bool = False
    stream: str = ""


@dataclasses.dataclass(frozen=True)
class ActionLatency:
    """Actions arrive late.

    Attributes:
        least: control steps.
        most: control steps.
        interpolate: whether the latency may lie between two whole numbers; the action is then interpolated.
        per: how long one latency holds.
    """

    least: float
    most: float
    interpolate: bool = False
    per: Per = "episode"


@dataclasses.dataclass(frozen=True)
class Push:
    """Somebody pushes a body, again and again.

    Attributes:
        interval: seconds from one push to the next.
        kind: a change of velocity (m/s, at once) or a force (N, for ``duration``).
        magnitude: of it.
        axes: of the world, between which the direction is drawn.
        body: which; empty: the first that moves freely.
        duration: seconds that a force acts.
        stream: see `ModelTerm`.
    """

    interval: Distribution
    kind: Literal["velocity", "force"]
    magnitude: Distribution
    axes: tuple[int, ...] = (0, 1)
    body: str = ""
    duration: float = 0.0
    stream: str = ""


@dataclasses.dataclass(frozen=True)
class ObservationNoise:
    """Observed numbers are off by something.

    Attributes:
        names: patterns with ``*`` and ``?``; empty means all.
        indices: places in the observed vector, in place of names.
        distribution: of what is added, independently to each.
        per: how long it holds: a step (noise), or an episode (a bias).
        stream: see `ModelTerm`.
    """

    distribution: Distribution
    names: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    per: Per = "step"
    stream: str = ""


@dataclasses.dataclass(frozen=True)
class Randomization:
    """A whole configuration.

    Attributes:
        model: what changes the model, in this order.
        initial: what changes the state at the start of an episode.
        latency: of actions.
        pushes: all of them act.
        noise: all of them add up.
        evaluation: where policies are evaluated.
    """

    model: tuple[ModelTerm, ...] = ()
    initial: tuple[ModelTerm, ...] = ()
    latency: ActionLatency | None = None
    pushes: tuple[Push, ...] = ()
    noise: tuple[ObservationNoise, ...] = ()
    evaluation: Evaluated = "randomized"

    @property
    def needing_model(self) -> list[str]:
        """Names of terms that need a MuJoCo model."""
        names = [term.name for term in (*self.model, *self.initial)] + ["pushes"] * bool(self.pushes)
        return list(dict.fromkeys(names))


def matching(patterns: Sequence[str], names: Iterable[str]) -> tuple[list[int], list[str]]:
    """Places of the names that fit one of some patterns, and the patterns that fit none.

    ``*`` stands for any text and ``?`` for one character; brackets, which occur in names, stand for themselves.
    """
    names = list(names)
    found: set[int] = set()
    idle: list[str] = []
    for pattern in patterns:
        expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
        hits = [place for place, name in enumerate(names) if re.fullmatch(expression, name)]
        found.update(hits)
        if not hits:
            idle.append(pattern)
    return sorted(found), idle
