"""Files of somebody's own that a run is made of: hashed, copied into its folder, and found again after a move.

A run may name a world, an algorithm or a policy in a file (``path/to/file.py:Name``), and files in the options of its
world (a model, a mesh). What matters is what they hold, not where they lie: the same content under another path is no
change, and other content under the same path is one.
"""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock._errors import ConfigurationError, Report
from penstock._own_sources import file_hash, names_file, source_files, source_hash
from penstock.training.plan import RunPlan

COPIES = "source"
"""Folder of a run with copies of the files that it is made of."""

PARTS = ("world", "algorithm", "policy")
"""What may come from a file."""


def sources_of(plan: RunPlan) -> dict[str, Any]:
    """Hashes of files that a run comes from, for ``config.json``: it must not go on with others under the same name."""
    sources: dict[str, Any] = {}
    for part in PARTS:
        path = _own_file(_named(plan, part))
        if path is not None:
            sources[f"{part}_source"] = source_hash(path)
    files = {name: file_hash(path) for name, path in _option_files(plan).items()}
    return {**sources, "world_files": files} if files else sources


def keep_copies(plan: RunPlan, run_dir: Path) -> None:
    """Copies the files that a run comes from into its folder, where they are not yet."""
    for part in PARTS:
        path = _own_file(_named(plan, part))
        for file in source_files(path) if path is not None else ():
            assert path is not None
            _copy(file, run_dir / COPIES / part / file.relative_to(path.parent))
    for name, path in _option_files(plan).items():
        _copy(path, run_dir / COPIES / "world_files" / name / path.name)


def with_names_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration ``old`` under the names of ``new``, wherever both name files of the same content."""
    old = {**old, **{group: {**old.get(group, {})} for group in ("settings", "world_options")}}
    for part in PARTS:
        holder, other = (old, new) if part != "policy" else (old["settings"], new.get("settings", {}))
        before, now = (str(place.get(part, "")) for place in (holder, other))
        source = f"{part}_source"
        path = _own_file(now)
        if path is not None and source in old and old[source] == file_hash(path):
            old[source] = new.get(source)  # written when a file's neighbours did not count
        if source in old and old[source] == new.get(source) and _attribute(before) == _attribute(now):
            holder[part] = other[part]
    for name, hashed in (old.get("world_files") or {}).items():
        if hashed == (new.get("world_files") or {}).get(name):
            old["world_options"][name] = new["world_options"][name]
    return old


def found_again(config: Mapping[str, Any], run_dir: Path, report: Report, use_copies: bool = False) -> dict[str, Any]:
    """A configuration that names the files of the run where they are now.

    They are looked for where they were, and at the same place beside the run folder, if both were moved together; only
    what holds the same counts. The run's own copies are code in a folder that may come from anywhere, and are executed
    only where that is asked for.

    Args:
        config: the content of ``config.json``.
        run_dir: the run folder.
        report: told where another file than the named one is used, or one that was edited.
        use_copies: use the run's own copies where nothing else holds the same.

    Raises:
        ConfigurationError: a file is gone.
    """
    config = {**config, **{group: {**config.get(group, {})} for group in ("settings", "world_options")}}
    for part in PARTS:
        holder = config["settings"] if part == "policy" else config
        place, _, attribute = str(holder.get(part, "")).rpartition(":")
        if place.endswith(".py"):
            copies = run_dir / COPIES / part
            found = _found(part, Path(place), config.get(f"{part}_source"), copies, run_dir, report, use_copies)
            holder[part] = f"{found}:{attribute}"
    for name, hashed in (config.get("world_files") or {}).items():
        path = Path(str(config["world_options"].get(name, "")))
        copies = run_dir / COPIES / "world_files" / name
        config["world_options"][name] = str(_found(name, path, hashed, copies, run_dir, report, use_copies))
    return config


def _found(
    field: str, path: Path, hashed: str | None, copies: Path, run_dir: Path, report: Report, use_copies: bool
) -> Path:
    """The file that holds what the run was made of; the named one, with a word, where nothing does and it is there."""
    copy = copies / path.name
    candidates = [path, *_beside(path, run_dir), *([copy] if use_copies else [])]
    found = next((c for c in candidates if hashed is not None and _holds(c, hashed)), None)
    if found is not None:
        if found != path:
            what = "the run's own copy" if found == copy else str(found)
            report(f"{path} {'has changed since' if path.is_file() else 'is not there'}; {what} is used.")
        return found if found == path else found.resolve()
    other = " Pass --use-copies for the copy that the run keeps." if copy.is_file() else ""
    if path.is_file():
        if hashed is not None:
            report(f"{path} has changed since the run was made; what follows is of the new version.{other}")
        return path
    instead = ", or name another one with --world" if field == "world" else ""
    raise ConfigurationError(f"{field} = '{path}': there is no such file. Put it back{instead}.{other}")


def _named(plan: RunPlan, part: str) -> str:
    return str(plan.settings.flat().get("policy", "") if part == "policy" else getattr(plan, part))


def _attribute(spec: str) -> str:
    return spec.rpartition(":")[2]


def _own_file(spec: str) -> Path | None:
    """The file of ``file.py:name`` or ``module:name`` (``gym/module:Id`` too); None for what is installed or ours."""
    place = spec.rpartition(":")[0].removeprefix("gym/")
    if place.endswith(".py"):
        return Path(place).resolve() if Path(place).is_file() else None
    if not place or place.partition(".")[0] == "penstock":
        return None
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = Path(found.origin).resolve() if found is not None and found.origin else None
    if origin is None or not origin.is_file() or "site-packages" in origin.parts:
        return None
    return origin


def _holds(path: Path, hashed: str) -> bool:
    return path.is_file() and hashed in (source_hash(path) if path.suffix == ".py" else "", file_hash(path))


def _beside(path: Path, run_dir: Path) -> list[Path]:
    """Where a file lies if its project was moved together with the run: at each end of its path, from above the run."""
    ends = [Path(*path.parts[-length:]) for length in range(1, len(path.parts))]
    return [parent / end for parent in list(run_dir.resolve().parents)[:4] for end in ends if (parent / end).is_file()]


def _option_files(plan: RunPlan) -> dict[str, Path]:
    return {name: Path(value) for name, value in plan.world_options.items() if names_file(value)}


def _copy(source: Path, target: Path) -> None:
    if not target.is_file() or file_hash(target) != file_hash(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
