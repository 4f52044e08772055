"""What a file says of a run: fields of the plan and settings of its algorithm, by the names that flags have.

The file is YAML or JSON, or the ``config.json`` of a run. docs/experiments.md states the rules for users.
"""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError, require, suggest, warn
from penstock._field_types import convert_fields
from penstock._mapping_files import parse_mapping, read_mapping
from penstock._own_code import resolved_spec
from penstock._settings import Settings
from penstock.algorithms.registry import AlgorithmEntry, owners_of
from penstock.storage.run_folder import CONFIG_NAME
from penstock.training.migrations import completed
from penstock.training.plan import NOT_OF_THE_PLAN, RunPlan
from penstock.training.presets import preset as preset_of
from penstock.training.sources import found_again

STANDARD_INPUT = "-"
"""In place of a file: what comes from standard input."""


@dataclasses.dataclass(frozen=True)
class Beside:
    """What a file may say beside the plan, as options of the command that trains."""

    preset: str = ""
    run_dir: str | None = None
    video: bool = True
    tensorboard: bool = False


PLAN_FIELDS = tuple(field.name for field in dataclasses.fields(RunPlan) if field.name != "settings")
BESIDE = tuple(field.name for field in dataclasses.fields(Beside))


@dataclasses.dataclass(frozen=True)
class Given:
    """What somebody says of a run, as far as anything is said.

    Attributes:
        where: the file, for messages.
        fields: of the plan but for its settings, and of `Beside`; of their types.
        settings: of the algorithm, by flat names; of any type yet.
    """

    where: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def plan_fields(self) -> dict[str, Any]:
        """Fields of the plan that are no names of things to find: all but algorithm and world."""
        return {name: self.fields[name] for name in PLAN_FIELDS[2:] if name in self.fields}

    def without_setting(self, *names: str) -> "Given":
        """The same without some settings, where something else that counts more says them."""
        return dataclasses.replace(self, settings={k: v for k, v in self.settings.items() if k not in names})

    def configure(
        self, entry: AlgorithmEntry, world: str, preset: str, chosen: Mapping[str, Any], velocity: str | None = None
    ) -> tuple[dict[str, Any], Settings]:
        """Fields of the plan, and the algorithm's configuration: the preset's, and over them what is given here.

        Args:
            entry: the algorithm.
            world: the world.
            preset: name of a preset in place of the world's.
            chosen: settings that count more than those given here. Where one of them chooses another kind of a part,
                settings of the kind given here are left out.
            velocity: a velocity field that counts more, where a preset depends on it.

        Raises:
            ConfigurationError: naming the file: a name that is unknown or does nothing, a value of the wrong type.
        """
        with told_of(self.where):
            self._refuse_unknown(entry)
            kinds = {part: self.settings[part] for part in entry.config.choices() if part in self.settings}
            mine = {**self.settings, **{part: resolved_spec(str(kind)) for part, kind in kinds.items()}}
            mine = {**entry.config.applicable(mine, chosen), **chosen} if chosen else mine
            velocity = str(mine.get("velocity") or "") if velocity is None else velocity
            run_fields, preset_settings = preset_of(entry.name, world, preset, velocity)
            return {**run_fields, **self.plan_fields}, entry.config.preset(preset_settings, **mine)

    def _refuse_unknown(self, entry: AlgorithmEntry) -> None:
        known = {*entry.config.all_names(), *entry.config.switches, *entry.config.former}
        if any(":" in str(self.settings.get(part, "")) for part in entry.config.choices()):
            return  # what a part in somebody's file has, only that file says
        for name in self.settings:
            if name in known:
                continue
            if owners := owners_of(name):
                raise ConfigurationError(
                    f"{name}: {entry.name} has no such setting; it belongs to {', '.join(owners)}. Leave it out."
                )
            raise ConfigurationError(f"unknown field '{name}'.{suggest(name, {*known, *PLAN_FIELDS, *BESIDE})}")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Lets messages about values that are given here begin with the name of the file."""
        try:
            yield
        except ConfigurationError as error:
            name = re.match(r"\w+(?=[ :.])", str(error))
            if self.where and name is not None and name[0] in {*self.fields, *self.settings}:
                raise type(error)(f"{self.where}: {error}") from error
            raise


@contextlib.contextmanager
def told_of(where: str) -> Iterator[None]:
    """Lets messages begin with where the settings come from; nothing is added where that is empty."""
    try:
        yield
    except ConfigurationError as error:
        raise type(error)(f"{where}: {error}" if where else str(error)) from error


def read_given(path: Path | str, world: str = "") -> Given:
    """Reads what a file says of a run.

    Args:
        path: of a YAML or JSON file, of the ``config.json`` of a run, or `STANDARD_INPUT`.
        world: one that counts more than the file's, so that files of that one need not be there any more.

    Raises:
        ConfigurationError: naming the file, and what is wrong with it.
    """
    path = Path(path)
    if str(path) == STANDARD_INPUT:
        return given_by(parse_mapping(sys.stdin.read(), "standard input", "JSON"), "standard input")
    if path.is_dir():
        inside = path / CONFIG_NAME
        raise ConfigurationError(
            f"{path} is a folder. Name a file, for example {inside if inside.is_file() else 'experiment.yaml'}."
        )
    content = read_mapping(path)
    if "penstock" in content:
        content = _of_a_run(content, path, world)
    return given_by(content, str(path))


def _of_a_run(config: Mapping[str, Any], path: Path, world: str) -> dict[str, Any]:
    """The plan in a run's own ``config.json``, as it would be written today, with its files where they are now."""
    with told_of(str(path)):
        config = dict(completed(config))
        if world:
            config = {name: value for name, value in config.items() if name not in ("world_source", "world_files")}
            config["world"] = resolved_spec(world)
        config = found_again(config, path.parent, warn)
    return {name: value for name, value in config.items() if name not in NOT_OF_THE_PLAN}


def given_by(content: Mapping[str, Any], where: str) -> Given:
    """Sorts names and values into fields and settings; hyphens in names are underscores.

    Raises:
        ConfigurationError: a name is there twice, or a field has a value of the wrong type.
    """
    with told_of(where):
        content = _underscored(content)
        nested = content.pop("settings", None)
        require(nested is None or isinstance(nested, Mapping), "settings", nested, "must map names to values")
        settings = _underscored(nested or {})
        for name in {*content} & {*settings}:
            raise ConfigurationError(f"'{name}' is there twice, alone and below settings. Leave one out.")
        for name in settings:
            if name in PLAN_FIELDS or name in BESIDE:
                raise ConfigurationError(f"settings: '{name}' is no setting of the algorithm. Write it beside settings.")
        if content.get("world_options", 0) is None:
            del content["world_options"]
        fields = {name: content.pop(name) for name in (*PLAN_FIELDS, *BESIDE) if name in content}
        fields |= convert_fields({name: fields[name] for name in PLAN_FIELDS if name in fields}, RunPlan)
        fields |= convert_fields({name: fields[name] for name in BESIDE if name in fields}, Beside)
        if "world_options" in fields:
            fields["world_options"] = _underscored(fields["world_options"])
        return Given(where, fields, {**content, **settings})


def _underscored(content: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in content.items():
        other = name.replace("-", "_")
        if other in renamed:
            raise ConfigurationError(f"'{name}' is there twice, with hyphens and with underscores. Leave one out.")
        renamed[other] = value
    return renamed
