"""``penstock train ALGORITHM --world W``: trains, then draws the curve and films the body."""

import dataclasses
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from tyro.conf import Suppress, arg

from penstock._errors import ConfigurationError
from penstock._jax_setup import set_up_jax
from penstock._own_code import resolved_spec
from penstock.cli._arguments import parse
from penstock.cli._filming import require_film_seconds
from penstock.cli._groups import EvaluationOptions, FilmOptions, Grouped, LoggerOptions, MetricOptions

if TYPE_CHECKING:
    from penstock.training.config_files import Given

ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True)
class TrainOptions(Grouped, Generic[ConfigT]):
    """Trains an algorithm on a world. If the run folder holds the same run already, continues it."""

    settings: Annotated[ConfigT, arg(name="algorithm")]
    """Settings of the algorithm. Defaults are the preset of the chosen world."""
    world: str
    """Name of the world (see `penstock worlds`), or your own: path/to/file.py:Task or package.module:Task."""
    world_option: tuple[str, ...] = ()
    """Options of the world, as name=value, for example observation=points."""
    preset: str = ""
    """Settings by name in place of the world's: light (small and fast, for a CPU), or rsl-rl (on-policy: rsl_rl's)."""
    steps: int = 200_000
    """Environment steps per seed, all environments together."""
    num_envs: int = 32
    """N, environments that step together."""
    history: int = 1
    """K: observation vectors of the last K control steps are seen as one, the oldest first (docs/policies.md)."""
    seed: int = 0
    """First seed."""
    seeds: int = 1
    """Number of seeds, trained in one program: seed, seed + 1, ..."""
    sweep: Annotated[tuple[str, ...], arg(metavar="RATE=VALUE,VALUE ...")] = ()
    """Learning rates to train side by side with all seeds, as rows of one program: actor_learning_rate=1e-4,3e-4. Every
    combination has a folder of its own in the run folder, and no film. All else is varied by `penstock sweep`."""
    run_dir: Path | None = None
    """Run folder; by default runs/ALGORITHM-WORLD-SEED."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """File with any of these options, YAML or JSON, or the config.json of a run (docs/experiments.md). Options here win
    over it."""
    allow_config_change: bool = False
    """Continue a run although settings differ from those it was started with."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Off-policy: factors of the large matrix products of gradient steps: float32, or bfloat16, quicker on accelerators
    and CPUs that multiply bfloat16 matrices in hardware. All else is float32: convolutions, acting, evaluation."""
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
    """When and how the policy is evaluated, and which checkpoint counts as the best."""
    film: FilmOptions = dataclasses.field(default_factory=FilmOptions)
    """The film of the trained policy."""
    metrics: Annotated[MetricOptions, arg(name="metric")] = dataclasses.field(default_factory=MetricOptions)
    """What is written into metrics.jsonl, and how figures call the run."""
    loggers: Annotated[LoggerOptions, arg(name="logger")] = dataclasses.field(default_factory=LoggerOptions)
    """Where metrics are sent beside the run folder."""
    algorithm: Suppress[str] = ""
    """Name of the algorithm."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    set_up_jax()
    from penstock.algorithms.registry import ALGORITHMS, algorithm_entry
    from penstock.training.config_files import told_of

    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [
            "usage: penstock train ALGORITHM --world WORLD [options]",
            "",
            *(f"  {name:<8}  {entry.summary}" for name, entry in ALGORITHMS.items()),
            "",
            "Example: penstock train rfo --world soft/jumper-mini --run-dir runs/first",
            "`penstock worlds` lists the worlds.",
            "`penstock train ALGORITHM --world WORLD --help` lists all options with their values for that world.",
            "Your own algorithm: penstock train path/to/file.py:Name (docs/add_an_algorithm.md).",
        ]
        print("\n".join(lines), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, rest, given = command_line(arguments)
    with told_of(given.where if name == given.fields.get("algorithm") else ""):
        entry = algorithm_entry(name)
    options = parse_train_options(entry, rest, given)
    with given.without(*typed_names(rest)).told():
        return train_and_report(options, typed_names(rest))


def command_line(arguments: list[str]) -> tuple[str, list[str], "Given"]:
    """The algorithm, the options behind it, and what the file that they name says.

    Raises:
        ConfigurationError: neither the command nor the file names the algorithm; or something is wrong with the file.
    """
    from penstock.training.config_files import Given, read_given

    file = _peek(arguments, "--config")
    given = Given() if file is None else read_given(file, _peek(arguments, "--world") or "")
    if not arguments[0].startswith("-"):
        return arguments[0], arguments[1:], given
    if "algorithm" in given.fields:
        return given.fields["algorithm"], arguments, given
    if given.where:
        raise ConfigurationError(f"{given.where} names no algorithm. Write `algorithm: sac` there, or behind `train`.")
    raise ConfigurationError(f"name the algorithm first: penstock train rfo {' '.join(arguments)}")


def parse_train_options(entry: Any, arguments: list[str], given: "Given | None" = None) -> TrainOptions:
    """Reads the options; their defaults are what a file gives, and the preset of the world that they name.

    Args:
        entry: the algorithm.
        arguments: options as they were typed.
        given: what a file says of the run.
    """
    from penstock.training.config_files import Given, told_of
    from penstock.training.presets import preset
    from penstock.worlds.registry import refuse_unknown

    given = given or Given()
    world = _peek(arguments, "--world") or given.fields.get("world")
    if world is None:
        if "--help" in arguments or "-h" in arguments:
            world = "soft/jumper-mini"
        else:
            raise ConfigurationError(f"--world is missing: penstock train {entry.name} --world soft/jumper-mini")
    if ":" not in world and not world.endswith(".py"):  # my_world.py:MyTask is loaded when the plan is made
        with told_of(given.where if _peek(arguments, "--world") is None else ""):
            refuse_unknown(world)
    arguments, given = _without_switches(entry, arguments, given)
    given = given.without(*typed_names(arguments))
    chosen = _chosen_kinds(entry, arguments)
    name = _peek(arguments, "--preset")
    name = given.fields.get("preset", "") if name is None else name
    with given.told():
        own = {**given.settings_of(entry, chosen), **chosen}
        velocity = _peek(arguments, "--velocity") or own.get("velocity")
        num_envs = _peek(arguments, "--num-envs") or given.fields.get("num_envs")
        run_fields, settings = preset(entry.name, world, name, {**own, "velocity": velocity}, _whole(num_envs))
        configured = entry.config.preset(settings, **own)
    if not {"-h", "--help"} & set(arguments):
        refuse_options_of_others(entry, arguments, configured)
    named = {"settings": configured, "world": world, "preset": name, "algorithm": entry.name}
    default = TrainOptions.of(**{**run_fields, **_defaults(given), **named})
    for option, value in given.fields.get("world_options", {}).items():  # each counts that is not typed, too
        arguments = ["--world-option", f"{option}={json.dumps(value)}", *arguments]
    if "policy" in chosen:
        # The last one holds. One in a file was named from here; the plan names it so that it is found from anywhere.
        arguments = [*arguments, "--policy", chosen["policy"]]
    return parse(TrainOptions[entry.config], arguments, f"penstock train {entry.name}", default)


def _whole(number: Any) -> int | None:
    """A number of environments that is one; others are refused where all options are read."""
    return int(number) if str(number).isdecimal() and int(number) > 0 else None


def _defaults(given: "Given") -> dict[str, Any]:
    """Options by what the file gives, but for those of the world."""
    fields = {name: value for name, value in given.fields.items() if name != "world_options"}
    return {**fields, "run_dir": Path(fields["run_dir"])} if fields.get("run_dir") is not None else fields


def typed_names(arguments: list[str]) -> set[str]:
    """Names of the options that were typed; flags without ``no``."""
    typed = {_underscored(text.partition("=")[0]).removeprefix("--") for text in arguments if text.startswith("--")}
    return typed | {name.removeprefix("no_") for name in typed}


def _without_switches(entry: Any, arguments: list[str], given: "Given") -> tuple[list[str], "Given"]:
    """The arguments with settings in place of switches, as ``--no-learn-temperature``; they win over the file's."""
    for name in entry.config.switches:
        flags = {f"--{name}": True, f"--no_{name}": False}
        typed_flags = [flags[flag] for text in arguments if (flag := _underscored(text)) in flags]
        if not typed_flags:
            continue
        chosen = entry.config.spelled({name: typed_flags[-1]})
        typed = {setting: _peek(arguments, f"--{setting.replace('_', '-')}") for setting in chosen}
        for setting, value in typed.items():
            if value is not None:
                entry.config.spelled({name: typed_flags[-1], setting: None if value == "None" else value})
        arguments = [text for text in arguments if _underscored(text) not in flags]
        for setting, value in chosen.items():
            arguments += [f"--{setting.replace('_', '-')}", str(value)]
        setting = entry.config.switches[name]
        given = given.without(name, *([setting] if given.settings.get(setting, 0) is None else []))
    return arguments, given


def _underscored(argument: str) -> str:
    return f"--{argument[2:].replace('-', '_')}" if argument.startswith("--") else argument


def refuse_options_of_others(entry: Any, arguments: list[str], settings: Any) -> None:
    """Says whose an option is that other algorithms have and this one has not.

    Args:
        entry: the algorithm.
        arguments: options as they were typed.
        settings: its settings, of the kinds that were chosen.
    """
    from penstock.algorithms.registry import owners_of

    chosen = {part: settings.flat()[part] for part in entry.config.choices()}
    here = TrainOptions.names() | set(settings.flat())
    for argument in arguments:
        flag = argument.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_").removeprefix("no_")
        if not flag.startswith("--") or name in here:
            continue
        if name in entry.config.all_names():
            entry.config.of(**{**chosen, name: None})  # says to which kind it belongs
        if name in entry.config.former:
            entry.config.of(**{**chosen, name: None})  # says what to do now
        owners = owners_of(name)
        if owners:
            raise ConfigurationError(
                f"{flag}: {entry.name} has no such setting; it belongs to {', '.join(owners)}. Leave it out; "
                f"`penstock train {entry.name} --world WORLD --help` lists what {entry.name} has."
            )


def _chosen_kinds(entry: Any, arguments: list[str]) -> dict[str, Any]:
    """What the command says of the kinds of the configuration's parts: they decide which further options there are."""
    chosen = {part: _peek(arguments, f"--{part}") for part in entry.config.choices()}
    kinds = {part: resolved_spec(kind) for part, kind in chosen.items() if kind is not None}
    return {**kinds, **entry.config.choosing(sorted(typed_names(arguments)))}


def _peek(arguments: list[str], flag: str) -> str | None:
    """The value of an option; where it is given twice, the last, as for all others."""
    found = None
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
    return found


def train_and_report(options: TrainOptions, typed: Collection[str]) -> int:
    """Trains as the options say; draws and films what came out.

    Args:
        options: as parsed.
        typed: names of those that were typed.
    """
    from penstock.cli._run import loggers_from_options, plan_from_options, train_run
    from penstock.training.plan import default_run_dir

    require_film_seconds(options.film.film_seconds)
    if "film_seconds" in typed and not options.film.video:
        raise ConfigurationError("film_seconds: does nothing with --no-video. Leave one of the two out.")
    plan = plan_from_options(options)
    if options.sweep:
        from penstock.cli._rows import train_rows

        return train_rows(plan, options, typed)
    return train_run(
        plan,
        options.run_dir or default_run_dir(plan),
        film=options.film,
        loggers=loggers_from_options(options.loggers),
        allow_config_change=options.allow_config_change,
    )
