"""Groups of options, as ``--help`` shows them; on the command line and in files their names are flat.

A group is a field of the options whose value is a `Group`. Its name and the text below it are the heading.
"""

import dataclasses
from typing import Annotated, Any, Literal, TypeVar

from tyro.conf import UseAppendAction, arg

OptionsT = TypeVar("OptionsT", bound="Grouped")


@dataclasses.dataclass(frozen=True)
class Group:
    """Options that stand together."""


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Base of options with groups; subclasses are frozen dataclasses."""

    @classmethod
    def names(cls) -> set[str]:
        """Names of all options."""
        own = {field.name for field in dataclasses.fields(cls)}
        groups = cls._groups()
        return (own - set(groups)).union(*(_names(group) for group in groups.values()))

    @classmethod
    def of(cls: type[OptionsT], **flat: Any) -> OptionsT:
        """Makes options from flat names."""
        made = {}
        for name, group in cls._groups().items():
            made[name] = group(**{option: flat.pop(option) for option in _names(group) if option in flat})
        return cls(**flat, **made)

    def flat(self) -> dict[str, Any]:
        """All options by their flat names."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            found |= vars(value) if isinstance(value, Group) else {field.name: value}
        return found

    @classmethod
    def _groups(cls) -> dict[str, type[Group]]:
        factories = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        return {name: made for name, made in factories.items() if isinstance(made, type) and issubclass(made, Group)}


def _names(group: type[Group]) -> list[str]:
    return [field.name for field in dataclasses.fields(group)]


@dataclasses.dataclass(frozen=True)
class EvaluationOptions(Group):
    """When and how the policy is evaluated, and which checkpoint counts as the best."""

    evaluate_every: int = 20_000
    """Environment steps between evaluations; 0 for none."""
    evaluation_episodes: int = 16
    """Episodes per evaluation, for the stochastic and for the deterministic policy."""
    best_by: str = "eval/return_deterministic"
    """Metric of evaluations by which the best checkpoint is kept, for example eval/success_rate."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Whether its highest or its lowest value is the best."""
    deterministic_action: Literal["zero", "typical", "mean", "modal", "likeliest"] | None = None
    """Of a flow, the action without noise, for evaluation and films: that of zero noise, of one fixed typical noise,
    the mean over a few fixed noises, modal: the middle of one mode of those, or likeliest: that of the highest density.
    None: zero with FlowRL and coupling flows, else modal."""
    deterministic_draws: int = 8
    """Fixed noises of mean, modal and likeliest. An even number."""


@dataclasses.dataclass(frozen=True)
class FilmOptions(Group):
    """The film of the trained policy."""

    video: bool = True
    """Film the trained policy at the end."""
    film_seconds: float = 10.0
    """Length of that film at most, in seconds of the environment's time. `penstock video RUN` films whole episodes."""


@dataclasses.dataclass(frozen=True)
class MetricOptions(Group):
    """What is written into metrics.jsonl, and how figures call the run."""

    log_every: int = 10
    """Iterations per line of metrics.jsonl."""
    log_info: tuple[str, ...] = ()
    """Entries of a hosted environment's info that are logged beside success, by name: numbers, or flags."""
    label: str = ""
    """Name of the arm in comparisons; by default the algorithm."""


@dataclasses.dataclass(frozen=True)
class LoggerOptions(Group):
    """Where metrics are sent beside the run folder."""

    tensorboard: bool = False
    """Also write TensorBoard events into the run folder (pip install 'penstock[tensorboard]')."""
    wandb: Annotated[str, arg(metavar="PROJECT")] = ""
    """Also send metrics to this project of Weights & Biases (pip install 'penstock[wandb]')."""
    logger: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE.PY:NAME")] = ()
    """Also send metrics to a logger of your own: path/to/file.py:Name (docs/logging.md)."""
