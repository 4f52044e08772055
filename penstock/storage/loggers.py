"""Where metrics go beside ``metrics.jsonl``: TensorBoard, Weights & Biases, or something of the user's own."""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from penstock._errors import ConfigurationError, PenstockError, raised, require
from penstock._extras import extra
from penstock._own_code import load_own
from penstock.storage._durable import replace_file
from penstock.storage.run_folder import WANDB_IDS_NAME


class LoggerError(PenstockError):
    """A logger asks for something that the user can mend before the run begins."""


@runtime_checkable
class Logger(Protocol):
    """Somewhere else that metrics go. It may fail: training does not notice.

    What must be there before anything else (a package, a name that is well formed) is looked for when it is made.
    """

    def begin(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """The run begins, or goes on.

        Args:
            run_dir: the run folder. What shall be known when the run goes on is kept in there.
            config: the content of ``config.json``: plain texts, numbers, lists and mappings.

        Raises:
            LoggerError: a sentence for the user, who can mend it at once: the run does not begin. After any exception
                that is no `PenstockError` it begins without this logger.
        """

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes one line of metrics of one seed: ``env_steps``, ``seed``, and what docs/metrics.md lists.

        Rows of one seed come in the order of their ``env_steps``. When a run goes on, those after its last checkpoint
        come again.
        """

    def close(self) -> None:
        """The run ends, or stops: sends what is left."""


class TensorBoard(Logger):
    """Files for TensorBoard in the run folder's ``tensorboard/``, through the package tensorboardX.

    When a run resumes, rows after its checkpoint are hidden by those written again.
    """

    def __init__(self):
        """Prepares.

        Raises:
            MissingExtraError: tensorboardX is not installed.
        """
        self._package = extra("tensorboardX", "tensorboard")
        self._directory = Path()
        self._writers: dict[Any, Any] = {}

    def begin(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Names the folder; files appear with the first row."""
        self._directory = run_dir / "tensorboard"

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds each number of the row as a scalar at its ``env_steps``. Each ``seed`` has a directory of its own."""
        step, seed = int(row["env_steps"]), row.get("seed")
        if seed not in self._writers:
            directory = self._directory if seed is None else self._directory / f"seed-{seed}"
            self._writers[seed] = self._package.SummaryWriter(str(directory), purge_step=step)
        for name, value in numbers(row).items():
            self._writers[seed].add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases(Logger):
    """A run of Weights & Biases for each seed, through the package wandb; seeds of one run folder form a group.

    Their ids are kept in the run folder, so that a run that goes on continues them. The package's own variables hold:
    ``WANDB_MODE=offline`` writes to the run folder's ``wandb/``, for ``wandb sync`` later.
    """

    def __init__(self, project: str):
        """Prepares.

        Args:
            project: where the runs go.

        Raises:
            MissingExtraError: wandb is not installed.
        """
        self._package = extra("wandb", "wandb")
        self._project = project
        self._runs: dict[Any, Any] = {}

    def begin(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Opens a run for each seed, or goes on with it.

        Raises:
            LoggerError: nobody is logged in, or the project's name is refused.
        """
        ids = _kept_ids(run_dir / WANDB_IDS_NAME)
        first, count = int(config["seed"]), int(config["seeds"])
        mine = ids.setdefault(self._project, {})
        for seed in range(first, first + count):
            mine.setdefault(str(seed), secrets.token_hex(4))
        replace_file(run_dir / WANDB_IDS_NAME, json.dumps(ids, indent=1).encode())
        name = run_dir.resolve().name
        for seed in range(first, first + count):
            several = {"name": f"{name}-seed-{seed}", "group": name} if count > 1 else {"name": name}
            try:
                self._runs[seed] = self._package.init(
                    project=self._project,
                    id=mine[str(seed)],
                    resume="allow",
                    reinit="create_new",
                    dir=str(run_dir),
                    config={**config, "seed": seed},
                    allow_val_change=True,
                    settings=self._package.Settings(console="off", quiet=True, finish_timeout=FINISH_SECONDS),
                    **several,
                )
            except self._package.errors.UsageError as error:
                raise LoggerError(
                    f"wandb = {self._project!r}: {error} Or set WANDB_MODE=offline, and use `wandb sync` later."
                ) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Sends the numbers of the row at its ``env_steps``. What the service has already is not sent again."""
        run, step = self._runs[row["seed"]], int(row["env_steps"])
        if step >= run.starting_step:
            run.log({**numbers(row), "env_steps": step}, step=step)

    def close(self) -> None:
        """Sends what is left; what cannot be sent soon stays in the run folder."""
        for run in self._runs.values():
            run.finish()


FINISH_SECONDS = 60
"""So long a run of Weights & Biases may take to send what is left when training has ended."""


def make_loggers(tensorboard: bool, wandb: str, own: Sequence[str]) -> list[Logger]:
    """The loggers that a command names.

    Args:
        tensorboard: whether to write for TensorBoard.
        wandb: a project of Weights & Biases; empty for none.
        own: loggers in files or modules, ``path/to/file.py:Name``.

    Raises:
        PenstockError: a package is missing, or what is named is no logger.
    """
    loggers: list[Logger] = [TensorBoard()] if tensorboard else []
    loggers += [WeightsAndBiases(wandb)] if wandb else []
    return [*loggers, *map(_own_logger, own)]


def _own_logger(spec: str) -> Logger:
    factory = load_own(spec, "logger", callable)
    require(callable(factory), "logger", spec, "must be a class, or a function, that makes a logger (docs/logging.md)")
    try:
        made = factory()
    except PenstockError:
        raise
    except Exception as error:
        raise ConfigurationError(f"logger = {spec!r}: making it failed: {raised(error)}") from error
    missing = [name for name in ("begin", "write", "close") if not callable(getattr(made, name, None))]
    if missing:
        raise ConfigurationError(
            f"logger = {spec!r}: a {type(made).__name__} has no {', '.join(missing)}. A logger has "
            "begin(run_dir, config), write(row) and close() (docs/logging.md)."
        )
    return made


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row can be drawn over ``env_steps``: all that is one number, but for the steps and the seed."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in ("env_steps", "seed") and np.ndim(value) == 0 and not isinstance(value, str | None)
    }


def _kept_ids(path: Path) -> dict[str, dict[str, str]]:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
