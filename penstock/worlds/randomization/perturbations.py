"""What happens beside the model: actions that arrive late, pushes, noise on what is observed."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from penstock._errors import ConfigurationError, require
from penstock.worlds.randomization.distributions import Array, Source, namespace
from penstock.worlds.randomization.model_changes import FREE, chosen, names_of
from penstock.worlds.randomization.terms import ActionLatency, ObservationNoise, Push

# ---------------------------------------------------------------------- latency

LATENCY = "action_latency"
"""The stream of random numbers for latencies."""


def actions_kept(latency: ActionLatency) -> int:
    """How many actions must be remembered, the newest among them."""
    return int(np.ceil(latency.most)) + 1


def drawn_latency(latency: ActionLatency, source: Source) -> Array:
    """A latency in control steps, one number: every whole number of the range is as likely, or any between them."""
    unit = source.random(())
    if latency.interpolate:
        return latency.least + (latency.most - latency.least) * unit
    choices = latency.most - latency.least + 1
    return latency.least + namespace(unit).floor(choices * unit)


def late_action(kept: Array, steps: Array) -> Array:
    """The action of so many control steps ago.

    Args:
        kept: ``(actions_kept, d)``, the newest first.
        steps: a latency; between two whole numbers the action is interpolated.
    """
    xp = namespace(steps) if isinstance(kept, np.ndarray) else namespace(kept)
    whole = xp.floor(steps).astype(int)
    share = steps - whole
    after = xp.minimum(whole + 1, kept.shape[0] - 1)
    return (1.0 - share) * kept[whole] + share * kept[after]


# ---------------------------------------------------------------------- pushes


@dataclasses.dataclass(frozen=True)
class BoundPush:
    """A push of one model's body.

    Attributes:
        push: the term.
        body: number of the body.
        dof: of a push by velocity, the first of the body's free joint.
        timestep: seconds per control step.
    """

    push: Push
    body: int
    dof: int
    timestep: float

    @property
    def lasting(self) -> int:
        """Control steps that a force acts; at least one."""
        return max(1, round(self.push.duration / self.timestep))

    def wait(self, source: Source) -> Array:
        """Control steps until the next push, a whole number of at least 1."""
        seconds = self.push.interval.draw(source, ())
        xp = namespace(seconds)
        return xp.maximum(xp.round(seconds / self.timestep), 1).astype(int)

    def draw(self, source: Source) -> Array:
        """``(3,)``: a change of velocity in m/s, or a force in N, in a direction that is uniform between the axes."""
        size = self.push.magnitude.draw(source, ())
        toward = source.standard_normal((len(self.push.axes),))
        xp = namespace(toward)
        toward = toward / xp.maximum(xp.sqrt((toward**2).sum()), 1e-12)
        return size * (toward @ np.eye(3)[list(self.push.axes)])


def bound_pushes(pushes: Sequence[Push], model: Any, timestep: float) -> list[BoundPush]:
    """Pushes of the bodies of a ``mujoco.MjModel``.

    Raises:
        ConfigurationError: there is no such body, or one whose velocity is not its own.
    """
    names = names_of("bodies", model)
    free = {int(model.jnt_bodyid[joint]): joint for joint in range(model.njnt) if model.jnt_type[joint] == FREE}
    found = []
    for push in pushes:
        if push.body:
            places = chosen([push.body], names, f"{push.stream}.body", "bodies of the model")
            rule = "must name one body"
            require(len(places) == 1, f"{push.stream}.body", push.body, rule)
            body = places[0]
            require(body > 0, f"{push.stream}.body", push.body, "is the world, which nothing moves")
        elif free:
            body = min(free)
        else:
            raise ConfigurationError(
                f"{push.stream}: no body of the model moves freely, so name the one that is pushed: body: "
                f"{names[min(1, len(names) - 1)]}."
            )
        if push.kind == "velocity" and body not in free:
            raise ConfigurationError(
                f"{push.stream}.velocity: '{names[body]}' has no free joint, so its velocity is not its own. Write "
                "force and duration in place of velocity."
            )
        dof = int(model.jnt_dofadr[free[body]]) if body in free else -1
        found.append(BoundPush(push, body, dof, timestep))
    return found


# ---------------------------------------------------------------------- noise


@dataclasses.dataclass(frozen=True)
class BoundNoise:
    """Noise on some numbers of one observed vector.

    Attributes:
        noise: the term.
        places: where in the vector.
        size: of the vector.
    """

    noise: ObservationNoise
    places: tuple[int, ...]
    size: int

    def draw(self, source: Source) -> Array:
        """``(size,)`` what is added to the vector."""
        values = self.noise.distribution.draw(source, len(self.places))
        if len(self.places) == self.size:
            return values
        if isinstance(values, np.ndarray):
            spread = np.zeros((self.size,))
            spread[self._where] = values
            return spread
        return jnp.zeros((self.size,)).at[self._where].set(values)

    @functools.cached_property
    def _where(self) -> np.ndarray:
        return np.asarray(self.places)


def bound_noise(
    noise: Sequence[ObservationNoise], names: Sequence[str], discrete: Sequence[int] = ()
) -> list[BoundNoise]:
    """Noise on an observed vector.

    Args:
        noise: the terms.
        names: of all numbers of the vector, in order.
        discrete: places of numbers that stand for choices, to which nothing can be added.

    Raises:
        ConfigurationError: there is no such name or place, or nothing is left.
    """
    found = []
    for term in noise:
        if term.indices:
            for index in term.indices:
                rule = f"the observed vector has {len(names)} numbers: places are 0 to {len(names) - 1}"
                require(index < len(names), f"{term.stream}.indices", index, rule)
            places = sorted(term.indices)
        elif term.names:
            places = chosen(term.names, names, f"{term.stream}.names", "observed numbers")
        else:
            places = [place for place in range(len(names)) if place not in set(discrete)]
            require(bool(places), term.stream, "all", "nothing that is observed is a number with a fraction")
        for place in places:
            rule = "stands for a choice, or is a whole number: nothing with a fraction can be added. Leave it out"
            require(place not in set(discrete), f"{term.stream}: observed number", names[place], rule)
        found.append(BoundNoise(term, tuple(places), len(names)))
    return found
