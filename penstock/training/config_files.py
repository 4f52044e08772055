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

from penstock._errors import ConfigurationError, PenstockError, nearest, require, suggest, warn
from penstock._field_types import convert_fields
from penstock._mapping_files import parse_mapping, read_mapping
from penstock._own_code import resolved_spec
from penstock.algorithms.registry import AlgorithmEntry, algorithm_entry, refuse_settings_of_others
from penstock.storage.run_folder import CONFIG_NAME
from penstock.training.migrations import completed
from penstock.training.plan import NOT_OF_THE_PLAN, RunPlan, make_plan
from penstock.training.sources import found_again

STANDARD_INPUT = "-"
"""In place of a file: what comes from standard input."""


@dataclasses.dataclass(frozen=True)
class Beside:
    """What a file may say beside the plan, as options of the command that trains.

    Attributes:
        preset: settings by name.
        run_dir: the run folder; None: by the plan.
        video: film the trained policy; `penstock.train` films none.
        film_seconds: length of that film at most.
        tensorboard: write for TensorBoard.
        wandb: a project of Weights & Biases; empty for none.
        logger: loggers in files, ``path/to/file.py:Name``.
    """

    preset: str = ""
    run_dir: str | None = None
    video: bool = True
    film_seconds: float = 10.0
    tensorboard: bool = False
    wandb: str = ""
    logger: tuple[str, ...] = ()


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

    def without(self, *names: str) -> "Given":
        """The same without some names, where something that counts more says them."""
        return dataclasses.replace(
            self,
            fields={name: value for name, value in self.fields.items() if name not in names},
            settings={name: value for name, value in self.settings.items() if name not in names},
        )

    @property
    def plan_fields(self) -> dict[str, Any]:
        """What is given of the plan but for its settings."""
        return {name: value for name, value in self.fields.items() if name in PLAN_FIELDS}

    @property
    def beside(self) -> Beside:
        """What is given beside the plan."""
        return Beside(**{name: value for name, value in self.fields.items() if name in BESIDE})

    def settings_of(self, entry: AlgorithmEntry, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that are given, of an algorithm.

        Args:
            entry: the algorithm.
            chosen: settings that count more. Where one of them chooses another kind of a part, settings of the kind
                that is given here are left out.

        Raises:
            ConfigurationError: naming the file: a name that the algorithm does not have.
        """
        with told_of(self.where):
            self._refuse_unknown(entry)
        parts = [part for part in entry.config.choices() if part in self.settings]
        mine = {**self.settings, **{part: resolved_spec(str(self.settings[part])) for part in parts}}
        return entry.config.applicable(mine, chosen) if chosen else mine

    def plan(self, preset: str | None, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> RunPlan:
        """The plan of what is given, and of what counts more.

        Args:
            preset: name of a preset; None leaves it to the file.
            fields: of the plan.
            settings: of the algorithm.

        Raises:
            ConfigurationError: see `make_plan`; or nobody names algorithm and world.
        """
        rest = self.without(*fields, *settings)
        options = {**self.fields.get("world_options", {}), **fields.get("world_options", {})}
        merged = {**self.plan_fields, **fields, "world_options": options}
        for name, example in (("algorithm", "sac"), ("world", "classic/pendulum")):
            if name not in merged:
                raise ConfigurationError(f"{name} is missing. Name one, for example '{example}'.")
        entry = algorithm_entry(merged["algorithm"])
        choosing = (*entry.config.choices(), *entry.config.choosing(settings))
        chosen = {name: settings[name] for name in choosing if name in settings}
        name = self.beside.preset if preset is None else preset
        with rest.told():
            return make_plan(**merged, preset=name, settings={**rest.settings_of(entry, chosen), **settings})

    def _refuse_unknown(self, entry: AlgorithmEntry) -> None:
        names = {*entry.config.all_names(), *entry.config.switches}
        if any(":" in str(self.settings.get(part, "")) for part in entry.config.choices()):
            return  # what a part in somebody's file has, only that file says
        refuse_settings_of_others(entry, self.settings)
        for name in self.settings:
            if name in names or name in entry.config.former:
                continue
            if name in ("base", "grid", "runs"):
                raise ConfigurationError(f"'{name}' makes it a sweep. Use `penstock sweep --config`.")
            if name == "sweep":
                raise ConfigurationError(
                    "'sweep' is no option of a file. Write --sweep behind `penstock train`, or `grid:` in the file and "
                    "`penstock sweep --config`."
                )
            known = {*names, *PLAN_FIELDS, *BESIDE} - {*entry.config.former}
            hint = suggest(name, known) if nearest(name, known) else f" `penstock train {entry.name} --help` lists all."
            raise ConfigurationError(f"unknown field '{name}'.{hint}")

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
    except PenstockError as error:
        if not where:
            raise
        raise type(error)(f"{where}: {error}") from error


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
                raise ConfigurationError(f"'{name}' is no setting of the algorithm. Write it beside `settings`.")
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
