"""Reads a configuration of domain randomisation from a file or a mapping. docs/domain_randomization.md is for users."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError, require, suggest
from penstock._field_types import convert
from penstock._mapping_files import read_mapping
from penstock.worlds.randomization.distributions import Distribution
from penstock.worlds.randomization.terms import (
    INITIAL,
    POSITIONS,
    QUANTITIES,
    ActionLatency,
    Evaluated,
    ModelTerm,
    ObservationNoise,
    Per,
    Push,
    Randomization,
    Target,
)

OTHERS = ("action_latency", "pushes", "observation_noise", "evaluation")
"""Terms beside those of `QUANTITIES`."""

KINDS = ("uniform", "log_uniform", "normal")
AXES = ("x", "y", "z")


def read_randomization(given: str | Mapping[str, Any], field: str = "randomize") -> Randomization:
    """What a file, or a mapping in place of one, says.

    Args:
        given: the path of a YAML or JSON file, or its content.
        field: the setting that holds it, for messages.

    Raises:
        ConfigurationError: names the term, its value, the rule, and what there is.
    """
    content = read_mapping(Path(given)) if isinstance(given, str) else given
    try:
        return _read(_mapping(content, "what randomises"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{given if isinstance(given, str) else field}: {error}") from error


def _read(content: Mapping[str, Any]) -> Randomization:
    known = (*QUANTITIES, *OTHERS)
    for name in content:
        if name not in known:
            raise ConfigurationError(f"unknown term '{name}'.{suggest(name, known)}")
    if not {*content} - {"evaluation"}:
        raise ConfigurationError(f"nothing is randomised. Name a term; there are {', '.join(known)}.")
    terms = [
        _model_term(name, where, entry)
        for name in content
        if name in QUANTITIES
        for where, entry in _entries(content[name], name)
    ]
    return Randomization(
        model=tuple(term for term in terms if term.name != INITIAL),
        initial=tuple(term for term in terms if term.name == INITIAL),
        latency=_latency(content["action_latency"]) if "action_latency" in content else None,
        pushes=tuple(_push(*pair) for pair in _entries(content.get("pushes", []), "pushes")),
        noise=tuple(_noise(*pair) for pair in _entries(content.get("observation_noise", []), "observation_noise")),
        evaluation=convert(content.get("evaluation", Randomization.evaluation), Evaluated, "evaluation"),
    )


# ---------------------------------------------------------------------- one term


def _model_term(name: str, where: str, entry: Mapping[str, Any]) -> ModelTerm:
    quantity = QUANTITIES[name]
    _refuse_unknown(where, entry, (*quantity.operations, *quantity.targets, "shared"))
    operation = _one_of(where, entry, quantity.operations)
    distribution = read_distribution(entry[operation], f"{where}.{operation}")
    named: list[Target] = [target for target in quantity.targets if target in entry]
    if len(named) > 1:
        raise ConfigurationError(f"{where}: names {' and '.join(named)}. Write an entry of its own for each.")
    smallest = distribution.low
    if operation == "scale":
        require(smallest > 0, f"{where}.scale", entry[operation], f"factors must stay above 0{_reach(distribution)}")
    elif operation == "set" and name not in POSITIONS:
        fits = smallest > 0 if quantity.positive else smallest >= 0
        rule = "must stay above 0" if quantity.positive else "must not be negative"
        require(fits, f"{where}.set", entry[operation], f"{rule}{_reach(distribution)}")
    neutral = {"scale": 1.0, "add": 0.0}.get(operation)
    idle = neutral is not None and distribution.low == distribution.high == neutral
    require(not idle, f"{where}.{operation}", entry[operation], "changes nothing; leave it out, or write a wider range")
    target = named[0] if named else quantity.targets[0]
    names = _names(entry[target], f"{where}.{target}") if named else ()
    shared = convert(entry.get("shared", False), bool, f"{where}.shared")
    return ModelTerm(name, target, names, operation, distribution, shared, where)


def _latency(value: Any) -> ActionLatency:
    where = "action_latency"
    entry = _mapping(value, where)
    _refuse_unknown(where, entry, ("steps", "interpolate", "per"))
    _require_entry(where, entry, "steps")
    interpolate = convert(entry.get("interpolate", False), bool, f"{where}.interpolate")
    least, most = convert(entry["steps"], tuple[float, float] if interpolate else tuple[int, int], f"{where}.steps")
    rule = "must be [least, most] control steps, 0 or more, with least <= most"
    require(0 <= least <= most < 10_000, f"{where}.steps", entry["steps"], rule)
    require(most > 0, f"{where}.steps", entry["steps"], "changes nothing; leave it out, or allow at least one step")
    return ActionLatency(
        float(least), float(most), interpolate, convert(entry.get("per", "episode"), Per, f"{where}.per")
    )


def _push(where: str, entry: Mapping[str, Any]) -> Push:
    _refuse_unknown(where, entry, ("interval", "velocity", "force", "duration", "axes", "body"))
    kind = _one_of(where, entry, ("velocity", "force"))
    _require_entry(where, entry, "interval")
    interval = read_distribution(entry["interval"], f"{where}.interval")
    require(interval.low > 0, f"{where}.interval", entry["interval"], f"seconds must stay above 0{_reach(interval)}")
    magnitude = read_distribution(entry[kind], f"{where}.{kind}")
    rule = f"a magnitude must not be negative{_reach(magnitude)}; directions are drawn"
    require(magnitude.low >= 0, f"{where}.{kind}", entry[kind], rule)
    require(magnitude.high > 0, f"{where}.{kind}", entry[kind], "changes nothing; leave it out")
    duration = 0.0
    if kind == "force":
        _require_entry(where, entry, "duration", " A force acts for a time, in seconds.")
        duration = convert(entry["duration"], float, f"{where}.duration")
        rule = f"must lie above 0 s and not above the shortest interval, {interval.low:g} s"
        require(0 < duration <= interval.low, f"{where}.duration", duration, rule)
    elif "duration" in entry:
        raise ConfigurationError(
            f"{where}.duration = {entry['duration']!r}: does nothing with velocity, which changes at once. Leave it "
            "out, or write force."
        )
    axes = convert(entry.get("axes", ["x", "y"]), tuple[str, ...], f"{where}.axes")
    fits = bool(axes) and set(axes) <= set(AXES) and len(set(axes)) == len(axes)
    require(fits, f"{where}.axes", list(axes), "must name some of x, y and z, each once")
    body = convert(entry.get("body", ""), str, f"{where}.body")
    return Push(interval, kind, magnitude, tuple(AXES.index(axis) for axis in axes), body, duration, where)


def _noise(where: str, entry: Mapping[str, Any]) -> ObservationNoise:
    _refuse_unknown(where, entry, ("names", "indices", "add", "per"))
    _require_entry(where, entry, "add")
    distribution = read_distribution(entry["add"], f"{where}.add")
    idle = distribution.low == distribution.high == 0
    require(not idle, f"{where}.add", entry["add"], "changes nothing; leave it out, or write a wider range")
    if "names" in entry and "indices" in entry:
        raise ConfigurationError(f"{where}: has names and indices. Write an entry of its own for each.")
    names = _names(entry["names"], f"{where}.names") if "names" in entry else ()
    indices = convert(entry.get("indices", []), tuple[int, ...], f"{where}.indices")
    fits = "indices" not in entry or (bool(indices) and min(indices) >= 0 and len(set(indices)) == len(indices))
    require(fits, f"{where}.indices", list(indices), "must be places in the observed vector, from 0, each once")
    return ObservationNoise(distribution, names, indices, convert(entry.get("per", "step"), Per, f"{where}.per"), where)


# ---------------------------------------------------------------------- parts of terms


def read_distribution(value: Any, where: str) -> Distribution:
    """``[low, high]`` (uniform), or a mapping of ``uniform``, ``log_uniform`` or ``normal`` to its numbers.

    Raises:
        ConfigurationError: another form, or an empty range.
    """
    if isinstance(value, Mapping):
        kind, inner = next(iter(value.items())) if len(value) == 1 else ("", None)
        if kind not in KINDS:
            raise ConfigurationError(
                f"{where} = {dict(value)!r}: must be [low, high], or name one distribution: uniform: [low, high], "
                "log_uniform: [low, high], normal: {mean: 0.0, std: 0.1}."
            )
        if kind == "normal":
            entry = _mapping(inner, f"{where}.normal")
            _refuse_unknown(f"{where}.normal", entry, ("mean", "std"))
            for needed in ("mean", "std"):
                _require_entry(f"{where}.normal", entry, needed)
            mean, std = (_finite(entry[part], f"{where}.normal.{part}") for part in ("mean", "std"))
            require(std > 0, f"{where}.normal.std", std, "must be above 0")
            return Distribution("normal", mean, std)
        where = f"{where}.{kind}"
    else:
        kind, inner = "uniform", value
    low, high = convert(inner, tuple[float, float], where)
    low, high = _finite(low, where), _finite(high, where)
    require(low <= high, where, inner, "the range is empty: write [low, high] with low <= high")
    if kind == "log_uniform":
        require(low > 0, where, inner, "logarithms need a range above 0")
        return Distribution("log_uniform", low, high)
    return Distribution("uniform", low, high)


def _finite(value: Any, where: str) -> float:
    number = convert(value, float, where)
    require(abs(number) < float("inf"), where, value, "must be finite")
    return number


def _reach(distribution: Distribution) -> str:
    """How far a distribution reaches, where that is not plain."""
    if distribution.kind != "normal":
        return ""
    return f" (a normal distribution reaches to four standard deviations: from {distribution.low:g} here)"


def _entries(value: Any, name: str) -> list[tuple[str, dict[str, Any]]]:
    """A term's entries, one or a list of them, each with its name for messages."""
    if isinstance(value, list | tuple):
        return [(f"{name}[{index}]", _mapping(entry, f"{name}[{index}]")) for index, entry in enumerate(value)]
    return [(name, _mapping(value, name))]


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping with underscores in its names."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} = {value!r}: must map names to values, for example scale: [0.8, 1.2].")
    renamed: dict[str, Any] = {}
    for name, entry in value.items():
        plain = str(name).replace("-", "_")
        if plain in renamed:
            raise ConfigurationError(f"{where}: '{name}' is there twice, with hyphens and with underscores.")
        renamed[plain] = entry
    return renamed


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = convert([value] if isinstance(value, str) else value, tuple[str, ...], where)
    require(bool(names) and all(names), where, value, "must name at least one; leave it out for all")
    return names


def _one_of(where: str, entry: Mapping[str, Any], choices: Sequence[Any]) -> Any:
    given = [choice for choice in choices if choice in entry]
    if len(given) != 1:
        has = f"has {' and '.join(given)}" if given else "lacks a range"
        rule = f"exactly one of {', '.join(choices)}" if len(choices) > 1 else f"{choices[0]}: [low, high]"
        raise ConfigurationError(f"{where}: {has}. Write {rule}.")
    return given[0]


def _require_entry(where: str, entry: Mapping[str, Any], name: str, why: str = "") -> None:
    if name not in entry:
        raise ConfigurationError(f"{where}: '{name}' is missing.{why}")


def _refuse_unknown(where: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in entry:
        if name not in known:
            raise ConfigurationError(f"{where}: unknown entry '{name}'. Its entries are {', '.join(known)}.")
