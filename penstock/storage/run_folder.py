"""The folder of a run: where everything is, and the configuration that made it."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError
from penstock.storage._durable import TEMPORARY, clean_leftovers, make_directory, replace_file, strict_json

CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
LOCK_NAME = "run.lock"
OUTPUT_NAME = "output.txt"
WANDB_IDS_NAME = "wandb.json"
BEST = "best"
DIRECTORIES = ("checkpoints", "figures", "videos", "crash")
_FILES = (CONFIG_NAME, METRICS_NAME, LOCK_NAME, OUTPUT_NAME, WANDB_IDS_NAME)
_OWN_NAMES = {*_FILES, "tensorboard", "wandb", "source", *DIRECTORIES}


class RunFolder:
    """A run folder, created with its layout if it does not exist.

    Attributes:
        path: the folder.
        config_path: ``config.json``.
        metrics_path: ``metrics.jsonl``.
        lock_path: ``run.lock``.
        checkpoints: directory of checkpoints.
        best: directory of the best checkpoints, within ``checkpoints``; exists once there is one.
        figures: directory of figures.
        videos: directory of videos.
        crash: directory of crash dumps.
    """

    def __init__(self, path: Path):
        """Creates what is missing.

        Args:
            path: the folder. Missing parents are created.

        Raises:
            ConfigurationError: the path is a file, cannot be written, or holds something that is not a run.
        """
        self.path = path
        self.config_path = path / CONFIG_NAME
        self.metrics_path = path / METRICS_NAME
        self.lock_path = path / LOCK_NAME
        self.checkpoints, self.figures, self.videos, self.crash = (path / name for name in DIRECTORIES)
        self.best = self.checkpoints / BEST
        try:
            _refuse_foreign(path)
            for directory in (self.checkpoints, self.figures, self.videos, self.crash):
                make_directory(directory)
            # Creating a directory that exists succeeds on a read-only disk: ask for the right to write, too.
            writable = os.access(path, os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigurationError(f"run folder = {str(path)!r}: {_reason(error)}") from error
        if not writable:
            raise ConfigurationError(
                f"run folder = {str(path)!r}: it is read-only. Make it writable, or choose another folder."
            )

    def clean_leftovers(self) -> None:
        """Removes what killed runs left unfinished anywhere in the folder. Call it only under the run's lock."""
        for directory in (self.path, self.checkpoints, self.best, self.crash):
            clean_leftovers(directory)

    @property
    def has_config(self) -> bool:
        """Whether a run was started here."""
        return holds_a_run(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes ``config.json`` in one step: a kill leaves the old file or the new one.

        Raises:
            ConfigurationError: naming the field that is NaN or not JSON.
        """
        content = encode_config(config)
        try:
            replace_file(self.config_path, content.encode())
        except OSError as error:
            raise ConfigurationError(f"{self.config_path}: {_reason(error)}") from error

    def read_config(self) -> dict[str, Any]:
        """Reads ``config.json``. See `read_config`."""
        return read_config(self.path)


def holds_a_run(path: Path) -> bool:
    """Whether a run was started in a folder; False also where the path can be none, as one that is too long."""
    try:
        return (path / CONFIG_NAME).is_file()
    except OSError:
        return False


def read_config(run_dir: Path) -> dict[str, Any]:
    """Reads ``config.json`` exactly: floats have every bit, tuples have become lists. Changes nothing in the folder.

    Raises:
        ConfigurationError: the file is missing or was damaged.
    """
    path = run_dir / CONFIG_NAME
    try:
        content = strict_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(f"{path} does not exist: {run_dir} holds no run.") from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Restore the file, or start a new run.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} does not hold a JSON object. Restore it, or start a new run.")
    return content


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise NotADirectoryError
    if not path.is_dir() or (path / CONFIG_NAME).exists():
        return
    foreign = sorted(
        entry.name for entry in path.iterdir() if entry.name not in _OWN_NAMES and not entry.name.startswith(TEMPORARY)
    )
    if foreign:
        raise ConfigurationError(
            f"run folder = {str(path)!r}: it holds {foreign[0]!r} and no {CONFIG_NAME}, so it is not a run. "
            "Choose a new or an empty folder."
        )


def _reason(error: OSError) -> str:
    match error:
        case NotADirectoryError() | FileExistsError():
            return "it, or a part of it, is a file. Choose another folder."
        case PermissionError():
            return "no permission to write there. Make it writable, or choose another folder."
    text = error.strerror or str(error)
    return f"{text[:1].lower()}{text[1:]}. Choose another folder."


def encode_config(config: Mapping[str, Any]) -> str:
    """The text of ``config.json``: JSON with one field per line, in the given order.

    Numbers round-trip exactly. Infinity, which JSON has no word for, is written as ``1e999``, a number that every
    JSON reader turns into infinity.

    Raises:
        ConfigurationError: naming the field that is NaN or not JSON.
    """
    return _encode(config, "", indent="\n") + "\n"


def _encode(value: Any, field: str = "", indent: str = "") -> str:
    """JSON with one name per line behind ``indent``; without one on a single line, with its names in order."""
    match value:
        case None | bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            return int.__repr__(value)
        case float():
            if math.isnan(value):
                raise ConfigurationError(f"{field} = nan: a setting must be a number.")
            return float.__repr__(value) if math.isfinite(value) else ("1e999" if value > 0 else "-1e999")
        case Mapping():
            for name in value:
                if not isinstance(name, str):
                    raise ConfigurationError(f"{field or 'config'}: the name {name!r} must be a text.")
            deeper = indent and indent + "  "
            parts = [
                f"{json.dumps(name, ensure_ascii=False)}: {_encode(value[name], _join(field, name), deeper)}"
                for name in (value if indent else sorted(value))
            ]
            if not parts or not indent:
                return "{" + ", ".join(parts) + "}"
            return "{" + deeper + f",{deeper}".join(parts) + indent + "}"
        case list() | tuple():
            return "[" + ", ".join(_encode(item, f"{field}[{i}]") for i, item in enumerate(value)) + "]"
    raise ConfigurationError(f"{field} = {value!r}: a {type(value).__name__} cannot be written to {CONFIG_NAME}.")


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def config_hash(config: Mapping[str, Any], ignore: Collection[str] = ()) -> str:
    """SHA-256 of a configuration, independent of the order of its fields.

    Args:
        config: as given to `RunFolder.write_config`, or as read back: both have the same hash.
        ignore: dotted names of fields that do not count, with all that lies below them.
    """
    flat = {name: value for name, value in _flatten(config).items() if not _is_among(name, ignore)}
    return hashlib.sha256(_encode(flat).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Change:
    """One field that differs between two configurations.

    Attributes:
        field: dotted name.
        old: value of the run so far; `ABSENT` where the field is new.
        new: value now; `ABSENT` where the field is gone.
        safe: whether the run may continue with the new value without being told so.
    """

    field: str
    old: Any
    new: Any
    safe: bool

    def sentence(self) -> str:
        """``algorithm.learning_rate: 0.001 -> 0.002``."""
        if _is_hash(self.old) and _is_hash(self.new):
            return f"{self.field}: a file, or one that it needs, was edited ({self.old[:8]}... -> {self.new[:8]}...)"
        return f"{self.field}: {self.old!r} -> {self.new!r}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()
"""Stands for the value of a field that one of two configurations does not have."""


def compare_configs(old: Mapping[str, Any], new: Mapping[str, Any], safe_fields: Collection[str] = ()) -> list[Change]:
    """Lists every field that differs, by dotted name, in the order of ``new``, then of ``old``.

    Args:
        old: configuration of the run so far.
        new: configuration now.
        safe_fields: dotted names that may change, with all that lies below them, for example ``{"steps", "label"}``.
    """
    before, after = _flatten(old), _flatten(new)
    changes: list[Change] = []
    for field in [*after, *(name for name in before if name not in after)]:
        old_value, new_value = before.get(field, ABSENT), after.get(field, ABSENT)
        if _differ(old_value, new_value):
            changes.append(Change(field, old_value, new_value, _is_among(field, safe_fields)))
    return changes


def refuse_unsafe_changes(changes: Collection[Change], folder: Path, flag: str) -> None:
    """Raises `ConfigurationError` listing the changes that are not safe, if there are any.

    Args:
        changes: from `compare_configs`.
        folder: the run folder, for the sentence.
        flag: the option that allows such changes, for example ``--allow-config-change``.
    """
    unsafe = [change.sentence() for change in changes if not change.safe]
    other = next((change for change in changes if change.field == "algorithm"), None)
    if other is not None:
        raise ConfigurationError(
            f"The folder {folder} holds a run of {other.old}; {other.new} cannot continue it. Choose another folder."
        )
    if unsafe:
        raise ConfigurationError(
            f"The run in {folder} was started with another configuration: {'; '.join(unsafe)}. "
            f"Use the old values, choose another folder, or pass {flag} to continue with the new ones."
        )


def refuse_lasting_changes(changes: Collection[Change], folder: Path, fields: Collection[str]) -> None:
    """Raises `ConfigurationError` if one of these fields changed: no option allows that.

    Args:
        changes: from `compare_configs`.
        folder: the run folder, for the sentence.
        fields: dotted names.
    """
    lasting = [
        change.sentence() for change in changes if change.field in fields and ABSENT not in (change.old, change.new)
    ]
    if lasting:
        raise ConfigurationError(
            f"The run in {folder} keeps what it was started with: {'; '.join(lasting)}. Use the old "
            f"{'value' if len(lasting) == 1 else 'values'}, or choose another folder."
        )


def _is_among(field: str, names: Collection[str]) -> bool:
    """Whether a dotted name, or one that it lies below, is among ``names``."""
    parts = field.split(".")
    return any(".".join(parts[:depth]) in names for depth in range(1, len(parts) + 1))


def _differ(old: Any, new: Any) -> bool:
    if old is ABSENT or new is ABSENT:
        return True
    # As text, 1 and 1.0 and True differ, as they may for a program; -0.0 and 0.0 differ, too.
    return _encode(old) != _encode(new)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        field = _join(prefix, str(name))
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, field))
        else:
            flat[field] = value
    return flat
