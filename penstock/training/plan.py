"""What a run is: algorithm, world, seeds, budget. Everything in ``config.json`` comes from here."""

import ast
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import penstock
from penstock._errors import ConfigurationError, require, suggest
from penstock._field_types import convert, convert_fields
from penstock._own_code import resolved_spec
from penstock._own_sources import with_absolute_files
from penstock.algorithms.learner import Batches, DifferentiableWindow, Learner
from penstock.algorithms.registry import algorithm_entry, refuse_settings_of_others
from penstock.networks.precision import SHORTEST_SIDE, Precision
from penstock.policies import DeterministicAction
from penstock.policies.deterministic_action import OF_SEVERAL, DeterministicName
from penstock.training.best import BestIs, Criterion
from penstock.training.presets import NUM_ENVS
from penstock.training.presets import preset as preset_of
from penstock.worlds import FunctionalWorld, World
from penstock.worlds.check import refuse_faulty
from penstock.worlds.history import HistoryTask
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.loading import load_world
from penstock.worlds.registry import is_own, of_family, option_types

SAFE_TO_CHANGE = frozenset(
    {
        *("steps", "label", "log_every", "evaluate_every", "evaluation_episodes"),
        *("deterministic_action", "deterministic_draws", "penstock", "world_constants"),
        *("log_info", "best_by", "best_is"),
    }
)
"""Fields in which a continued run may differ from the run so far. ``world_constants`` follow from the others."""


KEPT_FOR_LIFE = frozenset({"num_envs", "seeds", "history", "settings.collect_steps", "settings.window"})
"""Fields that a run keeps whatever is allowed: they give its state a shape, or its steps a count."""

RUN_FIELDS = ("deterministic_action", "deterministic_draws", "precision")
"""Fields of the plan that were settings of the algorithm: they say how a run is computed and evaluated."""

NOT_OF_THE_PLAN = ("penstock", "world_constants", "world_source", "world_files", "algorithm_source", "policy_source")
"""What ``config.json`` records beside the plan."""


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """One run, completely described.

    Attributes:
        algorithm: name of the algorithm.
        world: name of the world.
        world_options: keyword arguments of the world.
        seed: first seed.
        seeds: K: seeds ``seed .. seed + K - 1`` are trained in one program.
        steps: environment steps per seed, all environments together.
        num_envs: N.
        history: K: observation vectors of the last K control steps are seen as one, the oldest first.
        log_every: iterations per line of metrics.
        evaluate_every: environment steps between evaluations; 0 for none at all.
        evaluation_episodes: episodes per evaluation, for the stochastic and the deterministic policy each.
        log_info: entries of a hosted environment's ``info`` that are logged beside success, by name; those inside of
            dictionaries with dots.
        best_by: metric of evaluations by which the best checkpoint is kept.
        best_is: whether its highest or its lowest value is the best.
        deterministic_action: of policies that have several rules (flows), the action without noise that is evaluated
            and filmed; None leaves it to algorithm and policy.
        deterministic_draws: fixed noises of the rules that use several.
        precision: of algorithms that learn from a replay memory, factors of the large matrix products of updates:
            float32 or bfloat16.
        label: name of the arm in comparisons.
        settings: the algorithm's configuration.
    """

    algorithm: str
    world: str
    settings: Any
    world_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    seeds: int = 1
    steps: int = 200_000
    num_envs: int = NUM_ENVS
    history: int = 1
    log_every: int = 10
    evaluate_every: int = 20_000
    evaluation_episodes: int = 16
    log_info: tuple[str, ...] = ()
    best_by: str = Criterion.metric
    best_is: BestIs = Criterion.best_is
    deterministic_action: DeterministicName | None = None
    deterministic_draws: int = DeterministicAction.draws
    precision: Precision = "float32"
    label: str = ""

    def __post_init__(self):
        # Where a plan is made by hand, nothing else has looked at the types.
        convert_fields(vars(self), RunPlan)
        type(self.settings).of(**self.settings.flat())
        for field in ("seeds", "steps", "num_envs", "history", "log_every", "evaluation_episodes"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1")
        require(self.evaluate_every >= 0, "evaluate_every", self.evaluate_every, "must be at least 0 (0: never)")
        require(0 <= self.seed < 2**31 - self.seeds, "seed", self.seed, "must lie in [0, 2^31)")
        require(self.steps < 2**31, "steps", self.steps, "must be smaller than 2^31")
        criterion = self.criterion
        if self.evaluate_every == 0 and criterion != Criterion():
            field = "best_by" if self.best_by != Criterion.metric else "best_is"
            require(False, field, getattr(self, field), "does nothing without evaluations (evaluate_every = 0)")
        self.deterministic()  # refuses what does nothing

    def make_world(self) -> World:
        """Builds the world.

        Raises:
            ConfigurationError: unknown world, or an option that it does not take or that has the wrong type.
            MissingPackageError: a hosted world needs a package that is not installed.
        """
        try:
            world = load_world(self.world, self.num_envs, **self.world_options)
        except ConfigurationError:
            self._refuse_bad_options()
            raise
        if isinstance(world, FunctionalWorld):
            self._refuse_bad_option_types(option_types(world.task))
        world = world.with_history(self.history)
        return world.with_info(self.log_info) if self.log_info and isinstance(world, HostedWorld) else world

    def refuse_unmeasurable(self, world: World) -> None:
        """Refuses entries of ``info``, and a metric of the best checkpoint, that this world cannot bring.

        Raises:
            ConfigurationError: says which there are.
        """
        told = isinstance(world, HostedWorld) or not self.log_info
        require(told, "log_info", list(self.log_info), "is of hosted worlds; others log all of their diagnostics")
        self.criterion.refuse_unknown(world)

    def _refuse_bad_options(self) -> None:
        """Says more precisely why a world did not take its options, where names or types are the reason."""
        if is_own(self.world) or of_family(self.world):
            return  # what a user's own factory takes, its own signature says; families tell it themselves
        try:
            world = load_world(self.world, 1)
        except ConfigurationError:
            return
        types = option_types(world.task) if isinstance(world, FunctionalWorld) else {}
        for name in self.world_options:
            if types and name not in types:
                raise ConfigurationError(f"world '{self.world}': unknown option '{name}'.{suggest(name, types)}")
        self._refuse_bad_option_types(types)

    def _refuse_bad_option_types(self, types: Mapping[str, Any]) -> None:
        for name, value in self.world_options.items():
            convert(value, types.get(name, Any), f"world_options.{name}")

    def make_learner(self, world: World) -> Learner:
        """Builds the learner, bound to the world and to this plan's number of iterations."""
        own = world.task if is_own(self.world) and isinstance(world, FunctionalWorld) else None
        own = own.inner if isinstance(own, HistoryTask) else own
        if own is not None:  # JAX would tell its faults in a long traceback
            refuse_faulty(own, self.world, differentiated=False)
        learner = algorithm_entry(self.algorithm).learner(self.settings, world, self.updates)
        if own is not None and isinstance(learner.data, DifferentiableWindow):
            refuse_faulty(own, self.world, differentiated=True)
        if self.precision != "float32":
            self._require_large_products(learner)
        learner.precision, learner.deterministic = self.precision, self.deterministic()
        return learner

    def deterministic(self) -> DeterministicAction | None:
        """What the policy does without noise; None leaves it to algorithm and policy.

        Raises:
            ConfigurationError: the policy has no choice of rules, or the rule uses no fixed noises.
        """
        action, draws = self.deterministic_action, self.deterministic_draws
        chosen = {"deterministic_action": (action, None), "deterministic_draws": (draws, DeterministicAction.draws)}
        changed = {field: value for field, (value, default) in chosen.items() if value != default}
        if not changed:
            return None
        policy = getattr(self.settings, "policy", None)
        for field, value in changed.items():
            if not getattr(policy, "has_rules", False):
                name = getattr(policy, "policy", "none")
                raise ConfigurationError(
                    f"{field} = {value!r}: does nothing with policy = {name!r}, which has one action without noise. "
                    "Leave it out, or choose a policy that has several: --policy flow, or coupling under PPO."
                )
        rule = DeterministicAction(self.settings.deterministic().rule if action is None else action, draws)
        if "deterministic_draws" in changed and rule.rule not in OF_SEVERAL:
            raise ConfigurationError(
                f"deterministic_draws = {draws}: does nothing with deterministic_action = {rule.rule!r}. Leave it out, "
                f"or choose one of {', '.join(OF_SEVERAL)}."
            )
        return rule

    def _require_large_products(self, learner: Learner) -> None:
        """Refuses a precision in which nothing would be computed."""
        need, precision = learner.data, f"precision = {self.precision!r}"
        if not isinstance(need, Batches):
            raise ConfigurationError(
                f"{precision}: is of updates from a replay memory, and {self.title} learns from none: all of its "
                "updates are float32. Leave it out."
            )
        for field, side in (("batch_size", need.batch_size), ("the widest hidden layer", self.settings.widest_layer)):
            fits = side is None or side >= SHORTEST_SIDE
            require(fits, field, side, f"must be at least {SHORTEST_SIDE} with {precision}: smaller products stay "
                    "float32")  # fmt: skip

    @property
    def criterion(self) -> Criterion:
        """What makes a checkpoint the best."""
        return Criterion(self.best_by, self.best_is)

    @property
    def title(self) -> str:
        """How people call the algorithm."""
        return algorithm_entry(self.algorithm).title

    @property
    def updates(self) -> int:
        """Iterations: the smallest number that uses at least ``steps`` environment steps."""
        return -(-self.steps // (self.num_envs * self.settings.iteration_steps))

    def to_config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"penstock": penstock.__version__, **_plain({**fields, "settings": self.settings.flat()})}


def from_config(config: Mapping[str, Any]) -> RunPlan:
    """Reads a plan back from the content of ``config.json``.

    Raises:
        ConfigurationError: unknown or missing fields; names the nearest valid one.
    """
    content = {name: value for name, value in config.items() if name not in NOT_OF_THE_PLAN}
    _refuse_unknown(content, RunPlan, "config.json")
    if "algorithm" not in content or "world" not in content:
        raise ConfigurationError("config.json: 'algorithm' and 'world' must be given.")
    settings = content.pop("settings", {})
    require(isinstance(settings, Mapping), "config.json: settings", settings, "must map names to values")
    content = convert_fields(content, RunPlan, "config.json: ")
    config_class = algorithm_entry(content["algorithm"]).config
    return RunPlan(settings=config_class.read(settings, "config.json: settings."), **content)


def make_plan(
    algorithm: str, world: str, *, preset: str = "", settings: Mapping[str, Any] | None = None, **fields: Any
) -> RunPlan:
    """A plan from the preset of (algorithm, world), with some values replaced.

    Args:
        algorithm: name of the algorithm.
        world: name of the world.
        preset: name of a preset in place of the world's: ``light`` or, on-policy, ``rsl-rl``.
        settings: fields of the algorithm's configuration.
        **fields: fields of `RunPlan`.

    Raises:
        ConfigurationError: an unknown name (the nearest is suggested), a setting of other algorithms, a value of the
            wrong type or out of range.
    """
    convert_fields({"algorithm": algorithm, "world": world}, RunPlan)
    entry = algorithm_entry(algorithm)
    run_fields, preset_settings = preset_of(algorithm, world, preset, settings or {}, fields.get("num_envs"))
    _refuse_unknown(fields, RunPlan, "run")
    for name in settings or {}:
        if name in RUN_FIELDS:
            raise ConfigurationError(
                f"settings: '{name}' is a field of the run, not of the algorithm. Pass it beside settings."
            )
    refuse_settings_of_others(entry, settings or {})
    if isinstance(fields.get("world_options"), Mapping):
        fields["world_options"] = with_absolute_files(fields["world_options"])
    return RunPlan(
        algorithm=resolved_spec(algorithm),
        world=resolved_spec(world),
        settings=entry.config.preset(preset_settings, **(settings or {})),
        **convert_fields({**run_fields, **fields}, RunPlan),
    )


def default_run_dir(plan: RunPlan) -> Path:
    """Where a run goes that nobody gave a folder: ``runs/ALGORITHM-WORLD-SEED``."""
    return Path("runs") / f"{plan.title}-{world_text(plan.world)}-{plan.seed}"


def world_text(world: str) -> str:
    """The name of a world in the name of a folder."""
    place, _, attribute = world.rpartition(":")
    return (f"{Path(place).stem}-{attribute}" if place else world).replace("/", "-")


def parse_world_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """Reads ``name=value`` texts; values are spelt as in JSON or Python, and plain text where they are neither.

    Raises:
        ConfigurationError: a text without ``=``.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--world-option {text!r}: write name=value, for example observation=points")
        options[name.replace("-", "_")] = _spelt(value)
    return options


def _spelt(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _refuse_unknown(given: Mapping[str, Any], dataclass_type: type[Any], where: str) -> None:
    known = [field.name for field in dataclasses.fields(dataclass_type)]
    for name in given:
        if name not in known:
            raise ConfigurationError(f"{where}: unknown field '{name}'.{suggest(name, known)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
