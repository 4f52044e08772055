"""``penstock train ALGORITHM --world W``: trains, then draws the curve and films the body."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from tyro.conf import Suppress

from penstock._errors import ConfigurationError
from penstock._jax_setup import set_up_jax
from penstock._own_code import resolved_spec
from penstock.cli._arguments import parse

ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True)
class TrainOptions(Generic[ConfigT]):
    """Trains an algorithm on a world. If the run folder holds the same run already, continues it."""

    settings: ConfigT
    """Settings of the algorithm. Defaults are the preset of the chosen world."""
    world: str
    """Name of the world (see `penstock worlds`), or your own: path/to/file.py:Task or package.module:Task."""
    world_option: tuple[str, ...] = ()
    """Options of the world, as name=value, for example observation=points."""
    preset: str = ""
    """Settings by name in place of the world's: light (small and fast, for a CPU)."""
    seed: int = 0
    """First seed."""
    seeds: int = 1
    """Number of seeds, trained in one program: seed, seed + 1, ..."""
    steps: int = 200_000
    """Environment steps per seed, all environments together."""
    num_envs: int = 32
    """N, environments that step together."""
    run_dir: Path | None = None
    """Run folder; by default runs/ALGORITHM-WORLD-SEED."""
    log_every: int = 10
    """Iterations per line of metrics.jsonl."""
    evaluate_every: int = 20_000
    """Environment steps between evaluations; 0 for none."""
    evaluation_episodes: int = 16
    """Episodes per evaluation, for the stochastic and for the deterministic policy."""
    log_info: tuple[str, ...] = ()
    """Entries of a hosted environment's info that are logged beside success, by name: numbers, or flags."""
    best_by: str = "eval/return_deterministic"
    """Metric of evaluations by which the best checkpoint is kept, for example eval/success_rate."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Whether its highest or its lowest value is the best."""
    deterministic_action: Literal["zero", "typical", "mean", "modal"] | None = None
    """Of a flow, the action without noise, for evaluation and films: that of zero noise, of one fixed typical noise,
    the mean over a few fixed noises, or modal: the middle of one mode of those. None: zero with FlowRL, else modal."""
    deterministic_draws: int = 8
    """Fixed noises of mean and modal. An even number."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Off-policy: factors of the large matrix products of gradient steps: float32, or bfloat16, quicker on accelerators
    and CPUs that multiply bfloat16 matrices in hardware. All else is float32: convolutions, acting, evaluation."""
    label: str = ""
    """Name of the arm in comparisons; by default the algorithm."""
    video: bool = True
    """Film the trained policy at the end."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder (pip install 'penstock[tensorboard]')."""
    allow_config_change: bool = False
    """Continue a run although settings differ from those it was started with."""
    algorithm: Suppress[str] = ""
    """Name of the algorithm."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    set_up_jax()
    from penstock.algorithms.registry import ALGORITHMS, algorithm_entry

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
    if arguments[0].startswith("-"):
        raise ConfigurationError(f"name the algorithm first: penstock train rfo {' '.join(arguments)}")
    entry = algorithm_entry(arguments[0])
    options = parse_train_options(entry, arguments[1:])
    return train_and_report(options)


def parse_train_options(entry: Any, arguments: list[str]) -> TrainOptions:
    """Reads the options; their defaults are the preset of the world that they name."""
    from penstock.training.presets import preset
    from penstock.worlds.registry import refuse_unknown

    world = _peek(arguments, "--world")
    if world is None:
        if "--help" in arguments or "-h" in arguments:
            world = "soft/jumper-mini"
        else:
            raise ConfigurationError(f"--world is missing: penstock train {entry.name} --world soft/jumper-mini")
    if ":" not in world and not world.endswith(".py"):  # my_world.py:MyTask is loaded when the plan is made
        refuse_unknown(world)
    arguments = _without_switches(entry, arguments)
    if not {"-h", "--help"} & set(arguments):
        refuse_options_of_others(entry, arguments)
    name = _peek(arguments, "--preset") or ""
    run_fields, settings = preset(entry.name, world, name, _peek(arguments, "--velocity") or "")
    chosen = _chosen_kinds(entry, arguments)
    default = TrainOptions(
        settings=entry.config.preset(settings, **chosen), world=world, preset=name, algorithm=entry.name, **run_fields
    )
    if "policy" in chosen:
        # The last one holds. One in a file was named from here; the plan names it so that it is found from anywhere.
        arguments = [*arguments, "--policy", chosen["policy"]]
    return parse(TrainOptions[entry.config], arguments, f"penstock train {entry.name}", default)


def _without_switches(entry: Any, arguments: list[str]) -> list[str]:
    """The arguments with settings in place of switches, as ``--no-learn-temperature``."""
    for name in entry.config.switches:
        flags = {f"--{name}": True, f"--no_{name}": False}
        given = [flags[flag] for text in arguments if (flag := _underscored(text)) in flags]
        if not given:
            continue
        chosen = entry.config.spelled({name: given[-1]})
        typed = {setting: _peek(arguments, f"--{setting.replace('_', '-')}") for setting in chosen}
        for setting, value in typed.items():
            if value is not None:
                entry.config.spelled({name: given[-1], setting: None if value == "None" else value})
        arguments = [text for text in arguments if _underscored(text) not in flags]
        for setting, value in chosen.items():
            arguments += [f"--{setting.replace('_', '-')}", str(value)]
    return arguments


def _underscored(argument: str) -> str:
    return f"--{argument[2:].replace('-', '_')}" if argument.startswith("--") else argument


def refuse_options_of_others(entry: Any, arguments: list[str]) -> None:
    """Says whose an option is that other algorithms have and this one has not."""
    from penstock.algorithms.registry import ALGORITHMS

    chosen = _chosen_kinds(entry, arguments)
    here = {field.name for field in dataclasses.fields(TrainOptions)} | set(entry.config.of(**chosen).flat())
    for argument in arguments:
        flag = argument.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_").removeprefix("no_")
        if not flag.startswith("--") or name in here:
            continue
        if name in entry.config.all_names():
            entry.config.of(**{**chosen, name: None})  # says to which kind it belongs
        if name in entry.config.former:
            entry.config.of(**{**chosen, name: None})  # says what to do now
        owners = [o.name for o in ALGORITHMS.values() if name in {*o.config.all_names(), *o.config.switches}]
        if owners:
            raise ConfigurationError(
                f"{flag}: {entry.name} has no such setting; it belongs to {', '.join(owners)}. Leave it out; "
                f"`penstock train {entry.name} --world WORLD --help` lists what {entry.name} has."
            )


def _chosen_kinds(entry: Any, arguments: list[str]) -> dict[str, str]:
    """Kinds of the configuration's parts that the command names: they decide which further options there are."""
    chosen = {part: _peek(arguments, f"--{part}") for part in entry.config.choices()}
    return {part: resolved_spec(kind) for part, kind in chosen.items() if kind is not None}


def _peek(arguments: list[str], flag: str) -> str | None:
    """The value of an option; where it is given twice, the last, as for all others."""
    found = None
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
    return found


def train_and_report(options: TrainOptions) -> int:
    """Trains as the options say; draws and films what came out."""
    from penstock.cli._run import plan_from_options, train_run
    from penstock.training.plan import default_run_dir

    plan = plan_from_options(options)
    return train_run(
        plan,
        options.run_dir or default_run_dir(plan),
        video=options.video,
        tensorboard=options.tensorboard,
        allow_config_change=options.allow_config_change,
    )
