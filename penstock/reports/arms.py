"""Which runs are compared as one arm, and what the arms are called.

An arm is a title (the name that the user gives, else the run's label, else its algorithm) together with the settings
that bear on learning. Runs that share both are seeds of one arm; runs that share the title alone are several arms, each
named by what differs. docs/plots.md states the rules for users.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from penstock._errors import ConfigurationError
from penstock.algorithms.registry import ALGORITHMS
from penstock.reports.runs import STEP_KEY, Run, RunError, SeedCurve, seed_curves
from penstock.training.migrations import completed

WATCHING = frozenset(
    {
        *("penstock", "label", "seed", "seeds", "log_every", "evaluate_every", "evaluation_episodes", "world"),
        *("log_info", "best_by", "best_is"),
    }
)
"""Fields of ``config.json`` that do not tell arms apart: names, seeds, and how often and how long one looks."""

SOURCES = {"algorithm": "algorithm_source", "world": "world_source", "policy": "policy_source"}
"""Fields that may name somebody's file, each with the field that holds the hash of that file."""

NOT_RECORDED = "not recorded"
"""The value of a setting that a run's ``config.json`` lacks."""

MOST_SHOWN = 3
"""A name states at most so many settings; where more differ, the fewest that tell the arms apart, and an ellipsis."""

_LONG = 40
"""Values of more characters are cut in names."""

_VERSION = re.compile(r"\d+(\.\d+)+\S*")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs, grouped for a figure and its tables.

    Attributes:
        metric: key in ``metrics.jsonl``.
        x: horizontal axis: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``.
        worlds: world, then arm, then the curves of its seeds, in the order in which the runs were given.
        settings: for each arm that has others of its title beside it, all settings in which these differ.
        shortened: arms whose name does not state all of these settings.
        plain_worlds: worlds all of whose runs took no options.
        notes: sentences for the user: what the figure does not say by itself.
    """

    metric: str
    x: str
    worlds: dict[str, dict[str, list[SeedCurve]]]
    settings: dict[str, dict[str, str]]
    shortened: frozenset[str]
    plain_worlds: frozenset[str]
    notes: tuple[str, ...]

    @property
    def arms(self) -> list[str]:
        """Names of all arms, in the order in which they appear; an arm's place fixes its colour."""
        return list(dict.fromkeys(arm for arms in self.worlds.values() for arm in arms))


def compare(runs: Sequence[Run], metric: str, x: str = STEP_KEY) -> Comparison:
    """Groups runs into worlds and arms.

    Args:
        runs: as read by `read_run`.
        metric: key in ``metrics.jsonl``.
        x: ``env_steps``, ``wall_seconds`` or ``cpu_seconds``.

    Raises:
        RunError: there are no runs; a metric is missing; a seed would count twice; or one given name stands for runs
            whose settings differ.
    """
    if not runs:
        raise RunError("There are no runs to compare. Name one run folder or more.")
    settings = _settings_of_all(runs)
    keys = [tuple(sorted((field, _text(value)) for field, value in one.items())) for one in settings]
    names, differences, shortened = _names(runs, settings, keys)
    _refuse_equal_names(runs, names, keys)
    worlds: dict[str, dict[str, list[SeedCurve]]] = {}
    members: dict[tuple[str, str], list[Run]] = {}
    for run, name in zip(runs, names, strict=True):
        arm = worlds.setdefault(run.world, {}).setdefault(name, [])
        members.setdefault((run.world, name), []).append(run)
        for curve in seed_curves(run, metric, x):
            for other in arm:
                if other.seed == curve.seed:
                    raise RunError(_twice(other, curve, name))
            arm.append(curve)
    notes = [
        note
        for (world, name), group in members.items()
        for note in [*_notes(world, name, group), *_gaps(world, name, worlds[world][name])]
    ]
    plain = {run.world for run in runs} - {run.world for run in runs if run.config.get("world_options")}
    return Comparison(metric, x, worlds, differences, frozenset(shortened), frozenset(plain), tuple(notes))


def settings_that_count(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that bear on what it learns, by flat names, from the content of its ``config.json``.

    Older files are read as they would be written today. `WATCHING` is left out; so are the planned ``steps`` where no
    schedule depends on them. A user's own file counts by its name and its hash, not by the folder in which it lay.
    Unknown fields count.
    """
    config = _of_today(config)
    nested = ("settings", "world_options", "world_constants")
    settings = {name: value for name, value in config.items() if name not in WATCHING | {*nested, *SOURCES.values()}}
    if not _schedule_depends_on_steps(config):
        settings.pop("steps", None)
    own = config.get("settings")
    if isinstance(own, Mapping):
        settings |= own
    elif own is not None:
        settings["settings"] = own
    options = config.get("world_options")
    if isinstance(options, Mapping):
        settings |= {f"world option {name}": value for name, value in options.items()}
    elif options is not None:
        settings["world_options"] = options
    for field, source in SOURCES.items():
        spec = config.get("world") if field == "world" else settings.get(field)
        if not isinstance(spec, str) or ":" not in spec:
            continue
        if source in config:
            settings[source] = str(config[source])[:12]
            place, _, attribute = spec.rpartition(":")
            spec = f"{place.replace(chr(92), '/').rpartition('/')[2]}:{attribute}"
        settings[field] = spec
    return settings


def _of_today(config: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = config.get("settings")
    if not isinstance(config.get("algorithm"), str) or not isinstance(settings, Mapping):
        return config
    if ":" in str(settings.get("policy", "")):
        return config  # a policy in a file would be loaded, and a figure should not run code
    try:
        return completed(config)
    except (ConfigurationError, TypeError, ValueError, KeyError, AttributeError):
        return config  # what cannot be continued, or was edited by hand, is compared as it is


def _schedule_depends_on_steps(config: Mapping[str, Any]) -> bool:
    """Whether two plans of different length would learn differently from the first step on.

    Learning rates of the pathwise algorithms decay over the planned steps, unless the final rate is the initial one.
    The others have no schedule. What somebody's own algorithm does is not known, so that its steps count.
    """
    entry = ALGORITHMS.get(config["algorithm"]) if isinstance(config.get("algorithm"), str) else None
    if entry is None:
        return True
    settings = config.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    final = settings.get("final_learning_rate")
    rates = [settings.get("actor_learning_rate"), settings.get("critic_learning_rate")]
    if entry.family != "pathwise":
        return False
    return final is None or any(rate is not None and rate != final for rate in rates)


def _settings_of_all(runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = []
    for run in runs:
        settings = settings_that_count(run.config)
        if not run.config and not run.name:
            settings["folder"] = str(run.folder)  # nobody knows whether two such runs are the same
        found.append(settings)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault((run.world, run.title), []).append(index)
    for indices in groups.values():
        # What a world consists of follows from its options and from Penstock's version. Where every run recorded a
        # constant it must agree; versions of packages may differ, and are told instead.
        constants = [_constants(runs[index]) for index in indices]
        shared = [name for name in constants[0] if all(name in other for other in constants)]
        for index, own in zip(indices, constants, strict=True):
            found[index] |= {f"world constant {name}": own[name] for name in shared if not _is_version(name, own[name])}
    return found


def _constants(run: Run) -> Mapping[str, Any]:
    constants = run.config.get("world_constants")
    return constants if isinstance(constants, Mapping) else {}


def _is_version(name: str, value: Any) -> bool:
    return name == "environment" or (isinstance(value, str) and _VERSION.fullmatch(value) is not None)


def _names(
    runs: Sequence[Run], settings: Sequence[Mapping[str, Any]], keys: Sequence[tuple[tuple[str, str], ...]]
) -> tuple[list[str], dict[str, dict[str, str]], set[str]]:
    """The name of each run's arm; what differs between arms of one title; and which names do not say all of it."""
    names = [run.title for run in runs]
    differences: dict[str, dict[str, str]] = {}
    shortened: set[str] = set()
    for title in dict.fromkeys(names):
        mine = [index for index, run in enumerate(runs) if run.title == title]
        worlds: dict[str, dict[Any, int]] = {}
        for index in mine:
            worlds.setdefault(runs[index].world, {}).setdefault(keys[index], index)
        crowded = [list(arms.values()) for arms in worlds.values() if len(arms) > 1]
        if not crowded:
            continue
        fields = list(
            dict.fromkeys(field for arms in crowded for field in _differing([settings[index] for index in arms]))
        )
        if any(runs[index].name for index in mine):
            first, second = next(arms for arms in crowded)[:2]
            raise RunError(_one_name_for_two(runs[first], runs[second], settings[first], settings[second]))
        shown = fields
        if len(fields) > MOST_SHOWN:
            shown = _fewest([[settings[index] for index in arms] for arms in crowded], fields)
        short = {field: _shortened({_value(settings[index], field) for index in mine}) for field in shown}
        for index in mine:
            values = {field: _value(settings[index], field) for field in fields}
            stated = "".join(f", {field} = {short[field][values[field]]}" for field in shown)
            names[index] = f"{title}{stated}{', …' if len(shown) < len(fields) else ''}"
            differences[names[index]] = values
            if len(shown) < len(fields) or any(values[field] != short[field][values[field]] for field in shown):
                shortened.add(names[index])
    return names, differences, shortened


def _refuse_equal_names(runs: Sequence[Run], names: Sequence[str], keys: Sequence[tuple[tuple[str, str], ...]]) -> None:
    """The last guard against pooling: somebody's label may read like a name that was made here."""
    owners: dict[tuple[str, str], int] = {}
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        first = owners.setdefault((run.world, name), index)
        if (runs[first].title, keys[first]) != (run.title, keys[index]):
            raise RunError(
                f"{runs[first].folder} and {run.folder} have different settings, and both would be called '{name}'. "
                f"Give one a name of its own: 'NAME={run.folder}'."
            )


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Fields in which not all agree, in the order of the first that has them."""
    fields = dict.fromkeys(field for one in settings for field in one)
    return [field for field in fields if len({_key(one, field) for one in settings}) > 1]


def _fewest(groups: Sequence[Sequence[Mapping[str, Any]]], fields: Sequence[str]) -> list[str]:
    """Few fields that tell all members of each group apart: time and again the one that splits most.

    Of those that split alike, one that all members have: ``policy`` rather than a setting that one policy alone has.
    """
    chosen: list[str] = []
    shared = {field for field in fields if all(field in one for group in groups for one in group)}

    def told_apart(candidates: Sequence[str]) -> int:
        return sum(len({tuple(_key(one, field) for field in candidates) for one in group}) for group in groups)

    while told_apart(chosen) < sum(map(len, groups)):
        chosen.append(
            max(
                (field for field in fields if field not in chosen),
                key=lambda f: (told_apart([*chosen, f]), f in shared),
            )
        )
    return sorted(chosen, key=fields.index)


def _key(settings: Mapping[str, Any], field: str) -> str:
    return _text(settings[field]) if field in settings else ""


def _value(settings: Mapping[str, Any], field: str) -> str:
    """A setting for people, in the words of ``config.json``."""
    if field not in settings:
        return NOT_RECORDED
    value = settings[field]
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _shortened(values: Set[str]) -> dict[str, str]:
    """A text for each value, long ones cut behind or, where that would make two alike, in front."""
    texts: dict[str, str] = {}
    for cut in (lambda text: f"{text[: _LONG - 1]}…", lambda text: f"…{text[1 - _LONG :]}", str):
        texts = {value: value if len(value) <= _LONG else cut(value) for value in values}
        if len(set(texts.values())) == len(values):
            break
    return texts


def _text(value: Any) -> str:
    """A text that equal values share: 1 and 1.0 are equal, 1 and true are not."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        is_whole = isinstance(value, float) and value.is_integer()
        return int(value) if is_whole else value

    return json.dumps(plain(value), sort_keys=True)


def _one_name_for_two(
    first: Run, second: Run, first_settings: Mapping[str, Any], second_settings: Mapping[str, Any]
) -> str:
    field, *more = _differing([first_settings, second_settings])
    others = f", and in {len(more)} more settings" if len(more) > 1 else f", and in {more[0]}" if more else ""
    return (
        f"'{first.title}' names runs whose settings differ: {field} = {_value(first_settings, field)} in "
        f"{first.folder} and {_value(second_settings, field)} in {second.folder}{others}. An arm has one setting: give "
        f"them different names, for example '{first.title} 2={second.folder}', or none, and they are named by what "
        "differs."
    )


def _twice(first: SeedCurve, second: SeedCurve, name: str) -> str:
    if first.folder.resolve() == second.folder.resolve():
        return f"{second.folder} is given twice: seed {second.seed} of '{name}' would count twice. Leave one out."
    return (
        f"{first.folder} and {second.folder} both hold seed {second.seed} of '{name}', with the same settings: one "
        f"seed would count twice. Leave one out, or give one a name of its own: 'NAME={second.folder}'."
    )


def _place(world: str, name: str) -> str:
    return f"'{name}'" + (f" on {world}" if world else "")


def _gaps(world: str, name: str, curves: Sequence[SeedCurve]) -> list[str]:
    """A word about values that are missing: where a seed has none, there is no mean."""
    broken = [curve.seed for curve in curves if not np.isfinite(curve.values).all()]
    if not broken:
        return []
    seeds = f"seed {broken[0]}" if len(broken) == 1 else f"seeds {', '.join(broken)}"
    return [f"{_place(world, name)}: values of {seeds} are missing or not finite; there is no mean at these steps."]


def _notes(world: str, name: str, runs: Sequence[Run]) -> list[str]:
    """What the runs of one arm do not share although it does not tell arms apart."""
    notes = []
    where = _place(world, name)
    episodes = list(dict.fromkeys(run.config.get("evaluation_episodes") for run in runs).keys() - {None})
    if len(episodes) > 1:
        counts = " and ".join(sorted(map(str, episodes), key=lambda text: (len(text), text)))
        notes.append(f"{where}: its seeds were evaluated over {counts} episodes; they count as one arm.")
    for field in dict.fromkeys(field for run in runs for field in _constants(run)):
        versions = {
            str(_constants(run)[field])
            for run in runs
            if field in _constants(run) and _is_version(field, _constants(run)[field])
        }
        if len(versions) > 1:
            notes.append(
                f"{where}: its seeds ran with {field} {' and '.join(sorted(versions))}; they count as one arm."
            )
    return notes
