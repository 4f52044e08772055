"""Terms of a configuration, bound to one MuJoCo model: which of its numbers change, and to what.

What is drawn always starts from the nominal numbers, never from those of the episode before. The same code draws for C
MuJoCo, with NumPy, and inside `jax.jit` for MJX.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from penstock._errors import ConfigurationError, nearest
from penstock.worlds.randomization.distributions import Array, Source, namespace
from penstock.worlds.randomization.terms import INITIAL, POSITIONS, QUANTITIES, ModelTerm, Operation, Target, matching

ELEMENTS: Mapping[Target, tuple[str, str]] = {
    "geoms": ("geom", "ngeom"),
    "pairs": ("pair", "npair"),
    "bodies": ("body", "nbody"),
    "joints": ("joint", "njnt"),
    "actuators": ("actuator", "nu"),
}
"""How MuJoCo calls one of them, and the field that counts them."""

SHIFT = "qpos_shift"
"""In place of a field of the model: what is added to ``qpos`` at the start of an episode."""

INERTIAL = frozenset({"body_mass", "body_inertia", "body_ipos", "dof_armature", "qpos0"})
"""Fields from which MuJoCo computes constants (`mj_setConst`)."""

LISTED = 12
"""Names in a message, at most."""

FREE, BALL = 0, 1
"""Values of ``jnt_type`` of joints that are not one number."""


class Change(NamedTuple):
    """One term, bound.

    Attributes:
        term: the term.
        size: how many numbers are drawn for an episode.
        places: by field of the model, for each of its entries: 0 where it stays, else 1 + the place of its number.
    """

    term: ModelTerm
    size: int
    places: dict[str, Int[np.ndarray, "..."]]


class ModelChanges:
    """Terms, bound to one model.

    Args:
        terms: in the order in which they act.
        model: a ``mujoco.MjModel``; its numbers are the nominal ones, and copied.

    Attributes:
        changes: the terms, bound.
        nominal: the numbers of every field that changes, as they were.

    Raises:
        ConfigurationError: the model lacks a name, a term would change nothing, or a number would lose its sense.
    """

    def __init__(self, terms: Sequence[ModelTerm], model: Any):
        self.changes = [_bound(term, model) for term in terms]
        fields = {field for change in self.changes for field in change.places}
        if "body_mass" in fields:
            fields |= {"body_inertia", "body_subtreemass"}
        self.nominal: dict[str, np.ndarray] = {field: _numbers(model, field) for field in sorted(fields)}
        self._above = _ancestry(np.asarray(model.body_parentid)) if "body_mass" in fields else np.zeros((0, 0))
        self._refuse_senseless(model)

    @property
    def fields(self) -> frozenset[str]:
        """Fields that change."""
        return frozenset(self.nominal)

    def draw(self, source_of: Callable[[str], Source]) -> dict[str, Array]:
        """The numbers of one episode, of every field that changes.

        Args:
            source_of: random numbers of a term, by its stream.
        """
        drawn = [change.term.distribution.draw(source_of(change.term.stream), change.size) for change in self.changes]
        return self.with_values(drawn)

    def with_values(self, drawn: Sequence[Array]) -> dict[str, Array]:
        """The numbers of every field that changes.

        Args:
            drawn: one array ``(size,)`` for each of the first terms; further terms are left out.
        """
        fields: dict[str, Array] = dict(self.nominal)
        for change, values in zip(self.changes, drawn, strict=False):
            for field, places in change.places.items():
                now = _operated(change.term.operation, fields[field], values[np.maximum(places - 1, 0)])
                fields[field] = namespace(values).where(places > 0, now, fields[field])
        if "body_mass" in fields:
            mass, nominal = fields["body_mass"], self.nominal["body_mass"]
            # A body of another mass is one of another density: its inertia follows.
            ratio = mass / np.where(nominal > 0, nominal, 1.0)
            fields["body_inertia"] = fields["body_inertia"] * ratio[:, None]
            fields["body_subtreemass"] = self._above @ mass
        return fields

    def _refuse_senseless(self, model: Any) -> None:
        """Refuses what takes a mass, or another number that has a sign, where it makes no sense."""
        lowest = [np.full((change.size,), change.term.distribution.low) for change in self.changes]
        for count, change in enumerate(self.changes, 1):
            term, quantity = change.term, QUANTITIES[change.term.name]
            if term.name in POSITIONS or term.operation == "scale":
                continue
            fields = self.with_values(lowest[:count])
            for field, places in change.places.items():
                bad = (places > 0) & (fields[field] <= 0 if quantity.positive else fields[field] < 0)
                if bad.any():
                    place = tuple(np.argwhere(bad)[0].tolist())
                    raise ConfigurationError(
                        f"{_spelt(term)}: {_owner(field, place[0], model)} has {self.nominal[field][place]:g} "
                        f"{quantity.unit} in the model and could get {fields[field][place]:g}, which must "
                        f"{'stay above 0' if quantity.positive else 'not be negative'}. Narrow the range, or leave it "
                        "out."
                    )


def names_of(target: Target, model: Any) -> list[str]:
    """Names of all geoms, bodies, ... of a model, in its order; ``geom3`` where one has none."""
    element, count = ELEMENTS[target]
    return [getattr(model, element)(index).name or f"{element}{index}" for index in range(getattr(model, count))]


def chosen(patterns: Sequence[str], names: Sequence[str], where: str, what: str) -> list[int]:
    """Places of the names that patterns mean.

    Raises:
        ConfigurationError: a pattern means none; says which there are.
    """
    found, idle = matching(patterns, names)
    if idle:
        near = nearest(idle[0], names)
        more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
        there = ", ".join(names[:LISTED]) + more if names else "none"
        hint = f"Did you mean '{near}'? " if near is not None else ""
        raise ConfigurationError(f"{where} = {idle[0]!r}: there is no such name. {hint}The {what} are: {there}.")
    return found


def _bound(term: ModelTerm, model: Any) -> Change:
    names = names_of(term.target, model)
    fits, lack = _fitting(term, model)
    if term.names:
        places = chosen(term.names, names, f"{term.stream}.{term.target}", f"{term.target} of the model")
        unfit = [names[place] for place in places if not fits[place]]
        if unfit:
            raise ConfigurationError(f"{term.stream}.{term.target} = {unfit[0]!r}: {lack}. Leave it out.")
    else:
        places = np.flatnonzero(fits).tolist()
        if not places:
            raise ConfigurationError(f"{term.stream}: changes nothing: each of the {term.target} {lack}.")
    width = 3 if term.name == "center_of_mass" else 1
    index: dict[str, np.ndarray] = {}
    for order, place in enumerate(places):
        first = 1 + (0 if term.shared else order * width)
        for field, entry, column in _entries(term.name, term.target, place, model):
            index.setdefault(field, np.zeros(_numbers(model, field).shape, int))[entry] = first + column
    if term.operation == "scale" and not any(
        (_numbers(model, field)[at > 0] != 0).any() for field, at in index.items()
    ):
        raise ConfigurationError(
            f"{_spelt(term)}: changes nothing, because all of these {term.target} have 0 in the model. Write add in "
            "place of scale, or leave it out."
        )
    return Change(term, width * (1 if term.shared else len(places)), index)


def _fitting(term: ModelTerm, model: Any) -> tuple[Bool[np.ndarray, "n"], str]:
    """Which geoms, bodies, ... a term can change, and what those lack that it cannot."""
    everything = np.ones((getattr(model, ELEMENTS[term.target][1]),), bool)
    if term.name == "friction" and term.target == "geoms":
        collides = (np.asarray(model.geom_contype) | np.asarray(model.geom_conaffinity)) != 0
        return collides, "collides with nothing, or in pairs alone; those are named by pairs"
    if term.target == "bodies":
        return np.asarray(model.body_mass) > 0, "has no mass"
    if term.target == "joints":
        numbers = np.asarray(model.jnt_type)
        if term.name in ("joint_offset", INITIAL):
            return ~np.isin(numbers, (FREE, BALL)), "is a free or ball joint, whose position is no single number"
        return numbers != FREE, "is a free joint"
    if term.target == "actuators":
        return _fitting_actuators(term.name, model)
    return everything, "is none"


def _fitting_actuators(name: str, model: Any) -> tuple[Bool[np.ndarray, "n"], str]:
    linear = np.isin(np.asarray(model.actuator_gaintype), (0, 1)) & np.isin(np.asarray(model.actuator_biastype), (0, 1))
    gain, bias = np.asarray(model.actuator_gainprm), np.asarray(model.actuator_biasprm)
    servo = linear & (bias[:, 1] != 0) & (gain[:, 0] == -bias[:, 1])
    if name == "kp":
        return servo, "is no position servo; a motor's force is scaled by motor_strength"
    if name == "kd":
        velocity = linear & (bias[:, 1] == 0) & (gain[:, 0] == -bias[:, 2])
        has_damping = (servo | velocity) & (bias[:, 2] != 0)
        return has_damping, "has no damping of its own; that of joints is joint_damping"
    return linear, "is a muscle, or of another kind whose force is no linear function of control and state"


def _entries(name: str, target: Target, place: int, model: Any) -> list[tuple[str, Any, int]]:
    """Fields, entries of them, and which of the numbers of one geom, body, ... each of them takes."""
    if target == "geoms":
        return [("geom_friction", (place, 0), 0)]
    if target == "pairs":
        return [("pair_friction", (place, slice(0, 2)), 0)]
    if name == "mass":
        return [("body_mass", place, 0)]
    if name == "center_of_mass":
        return [("body_ipos", (place, axis), axis) for axis in range(3)]
    if target == "joints":
        if name in ("joint_offset", INITIAL):
            return [("qpos0" if name == "joint_offset" else SHIFT, int(model.jnt_qposadr[place]), 0)]
        field = {"armature": "dof_armature", "joint_damping": "dof_damping", "joint_friction": "dof_frictionloss"}[name]
        first = int(model.jnt_dofadr[place])
        return [(field, slice(first, first + (3 if model.jnt_type[place] == BALL else 1)), 0)]
    gain, bias = "actuator_gainprm", "actuator_biasprm"
    if name == "kp":
        return [(gain, (place, 0), 0), (bias, (place, 1), 0)]
    if name == "kd":
        of_velocity = [(gain, (place, 0), 0)] if model.actuator_biasprm[place, 1] == 0 else []
        return [(bias, (place, 2), 0), *of_velocity]
    parts = slice(0, 3)
    return [(gain, (place, parts), 0), (bias, (place, parts), 0), ("actuator_forcerange", place, 0)]


def _numbers(model: Any, field: str) -> np.ndarray:
    """A copy of a field of the model."""
    return np.zeros((model.nq,)) if field == SHIFT else np.array(getattr(model, field), float)


def _operated(operation: Operation, before: Array, value: Array) -> Array:
    if operation == "scale":
        return before * value
    return before + value if operation == "add" else value


def _ancestry(parents: Int[np.ndarray, "bodies"]) -> np.ndarray:
    """``(bodies, bodies)``: 1 where a body (row) carries another (column), or is it."""
    carries = np.eye(len(parents))
    for body in range(len(parents) - 1, 0, -1):  # parents come before their children
        carries[parents[body]] += carries[body]
    return carries


def _spelt(term: ModelTerm) -> str:
    return f"{term.stream}.{term.operation} = [{term.distribution.low:g}, {term.distribution.high:g}]"


def _owner(field: str, place: int, model: Any) -> str:
    """Whose number an entry of a field is."""
    if field.startswith("dof_"):
        place, field = int(model.dof_jntid[place]), "joint"
    element = field.partition("_")[0]
    return f"{element} '{getattr(model, element)(place).name or f'{element}{place}'}'"
