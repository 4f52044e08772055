"""Plans and settings: round trip, types, ranges, suggestions, documentation (F26, F27)."""

import ast
import dataclasses
import inspect
import itertools
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from penstock._errors import ConfigurationError
from penstock._field_types import convert
from penstock.algorithms.former_settings import FORMER_SETTINGS
from penstock.algorithms.registry import ALGORITHMS, family
from penstock.cli._groups import EvaluationOptions, FilmOptions, LoggerOptions, MetricOptions
from penstock.cli.train import TrainOptions
from penstock.policies import DeterministicAction
from penstock.storage.run_folder import RunFolder, compare_configs
from penstock.training.migrations import completed
from penstock.training.plan import (
    SAFE_TO_CHANGE,
    RunPlan,
    default_run_dir,
    from_config,
    make_plan,
    parse_world_options,
)
from penstock.worlds import world_entries

ROOT = Path(__file__).parents[2]
WORLD = "classic/double-integrator"


def fails(call, *words):
    with pytest.raises(ConfigurationError) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


# ------------------------------------------------------------------------------------------------- round trip (F27)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("world", [entry.name for entry in world_entries()])
def test_config_round_trips_through_the_file(tmp_path, algorithm, world):
    settings = {"actor_hidden": (7, 5)}
    if algorithm in family("pathwise"):
        settings["gradient_limit"] = 0.3
    plan = make_plan(algorithm, world, seed=3, seeds=2, label="arm", settings=settings)
    folder = RunFolder(tmp_path / "run")
    folder.write_config({**plan.to_config(), "world_constants": {"anything": 1}})
    assert from_config(folder.read_config()) == plan


def test_round_trip_keeps_every_bit_and_infinity(tmp_path):
    plan = make_plan(
        "rfo", WORLD, settings={"actor_learning_rate": 0.1 + 0.2, "gradient_limit": math.inf}, world_options={"axes": 2}
    )
    folder = RunFolder(tmp_path / "run")
    folder.write_config(plan.to_config())
    back = from_config(folder.read_config())
    assert back == plan
    assert (
        back.settings.optimizer.actor_learning_rate == 0.30000000000000004 and back.settings.gradient_limit == math.inf
    )


def test_a_number_or_nothing_is_no_text():
    fails(lambda: make_plan("sac", WORLD, settings={"target_entropy": "1"}), "target_entropy = '1'", "a number or None")


def test_python_numbers_become_what_the_field_holds():
    settings = make_plan("rfo", WORLD, settings={"discount": 1, "actor_hidden": [8, 4]}).settings
    assert type(settings.discount) is float and settings.actor_hidden == (8, 4)


# ------------------------------------------------------------------------------------------------- documented (F27)


def field_docs(owner):
    """Names of the fields of a class that have a text below them, its bases included."""
    documented = set()
    for base in owner.__mro__:
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for node, after in itertools.pairwise(body):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(node, ast.AnnAssign) and isinstance(text, str) and len(text.split()) >= 2:
                documented.add(node.target.id)
    return documented


GROUPS = (EvaluationOptions, FilmOptions, MetricOptions, LoggerOptions)
PARTS = dict.fromkeys(type(part) for entry in ALGORITHMS.values() for part in entry.config.all_parts())


@pytest.mark.parametrize("owner", [*(entry.config for entry in ALGORITHMS.values()), *PARTS, TrainOptions, *GROUPS])
def test_every_field_is_documented(owner):
    missing = {field.name for field in dataclasses.fields(owner)} - field_docs(owner)
    assert not missing, f"{owner.__module__}: no text below {sorted(missing)}"


def test_every_plan_field_is_documented_and_an_option():
    attributes = inspect.getdoc(RunPlan).split("Attributes:")[1]
    options = TrainOptions.names() | {"world_options"}
    for field in dataclasses.fields(RunPlan):
        assert f"{field.name}: " in attributes, field.name
        assert field.name in options, f"{field.name} cannot be chosen on the command line"


# ------------------------------------------------------------------------------------------------- refused (F26)


def test_unknown_and_misspelt_names():
    fails(lambda: make_plan("rof", WORLD), "Unknown algorithm 'rof'", "Did you mean 'rfo'")
    fails(lambda: make_plan("rfo", WORLD, settings={"windw": 3}), "'windw'", "Did you mean 'window'")
    fails(lambda: make_plan("ppo", WORLD, settings={"chunk_length": 2}), "chunk_length: ppo has no such", "to apg, ")
    fails(lambda: make_plan("rfo", WORLD, num_env=3), "'num_env'", "Did you mean 'num_envs'")
    fails(lambda: make_plan("rfo", WORLD, world_options={"forse": 1}).make_world(), "'forse'", "Did you mean 'force'")
    fails(lambda: make_plan("rfo", "classic/pendulun").make_world(), "Did you mean 'classic/pendulum'")
    config = make_plan("rfo", WORLD).to_config()
    fails(lambda: from_config({**config, "sede": 1}), "config.json", "'sede'", "Did you mean 'seed'")
    fails(lambda: from_config({**config, "settings": {"windw": 3}}), "config.json: settings", "Did you mean 'window'")
    fails(lambda: from_config({"world": WORLD}), "'algorithm' and 'world' must be given")


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("window", "16", "a whole number"),
        ("window", 16.0, "a whole number"),
        ("window", True, "a whole number"),
        ("discount", "0.9", "a number"),
        ("discount", None, "a number"),
        ("layer_norm", 1, "true or false"),
        ("activation", 3, "a text"),
        ("stepper", "eulr", "one of 'euler'"),
        ("actor_hidden", 64, "a list"),
        ("actor_hidden", [64, "64"], "a list"),
        ("adam_betas", [0.9], "a list of 2"),
    ],
)
def test_wrong_types_of_settings(field, value, rule):
    fails(lambda: make_plan("rfo", WORLD, settings={field: value}), field, repr(value), rule)
    config = make_plan("rfo", WORLD).to_config()
    changed = {**config, "settings": {**config["settings"], field: value}}
    fails(lambda: from_config(changed), f"config.json: settings.{field}", repr(value), rule)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", "1"), ("seeds", 1.5), ("steps", "1e6"), ("num_envs", None), ("label", 3), ("world_options", [1])],
)
def test_wrong_types_of_run_fields(field, value):
    fails(lambda: make_plan("rfo", WORLD, **{field: value}), field, repr(value), "must be")
    fails(lambda: from_config({**make_plan("rfo", WORLD).to_config(), field: value}), "config.json", field)


def test_wrong_types_of_world_options():
    fails(lambda: make_plan("rfo", WORLD, world_options={"axes": 1.5}).make_world(), "world_options.axes", "whole")
    fails(lambda: make_plan("rfo", WORLD, world_options={"force": "abc"}).make_world(), "world_options.force", "number")
    fails(lambda: make_plan("rfo", WORLD, world_options={"force": math.nan}).make_world(), "force", "number")
    fails(lambda: make_plan("rfo", "soft/jumper-mini", world_options={"substeps": "a"}).make_world(), "substeps", "'a'")


BY_HAND = """
from penstock._errors import ConfigurationError
from penstock.algorithms.rfo import Config
from penstock.training.plan import RunPlan, make_plan

for make in (
    lambda: RunPlan("rfo", "classic/pendulum", Config(), seeds="1"),
    lambda: RunPlan("rfo", "classic/pendulum", Config(layer_norm=1)),
    lambda: make_plan("rfo", "classic/double-integrator", world_options={"axes": 1.5}).make_world(),
):
    try:
        make()
    except ConfigurationError as error:
        print(error)
"""


def test_wrong_types_without_the_type_checker_of_the_tests():
    """These tests run with beartype, which refuses before Penstock can. Users do not have it."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BY_HAND], capture_output=True, text=True, check=True
    )
    assert finished.stdout.splitlines() == [
        "seeds = '1': must be a whole number. This is a text: leave the quotes out.",
        "layer_norm = 1: must be true or false.",
        "world_options.axes = 1.5: must be a whole number.",
    ]


def numeric_settings():
    for name, entry in ALGORITHMS.items():
        for field, default in entry.config().flat().items():
            if isinstance(default, int | float) and not isinstance(default, bool):
                yield name, field


@pytest.mark.parametrize(("algorithm", "field"), list(numeric_settings()))
def test_nan_and_nonsense_are_refused_in_every_number(algorithm, field):
    fails(lambda: make_plan(algorithm, WORLD, settings={field: math.nan}), field, "nan")
    if field == "target_entropy":
        return
    if field == "initial_log_std":
        fails(lambda: make_plan(algorithm, WORLD, settings={field: 2.5}), field, "[-5, 2]")
    else:
        fails(lambda: make_plan(algorithm, WORLD, settings={field: -1}), field, "-1")


@pytest.mark.parametrize("field", ["seeds", "steps", "num_envs", "log_every", "evaluation_episodes"])
def test_run_fields_out_of_range(field):
    fails(lambda: make_plan("rfo", WORLD, **{field: 0}), f"{field} = 0", "at least 1")


def test_seed_and_steps_have_limits():
    fails(lambda: make_plan("rfo", WORLD, seed=-1), "seed = -1")
    fails(lambda: make_plan("rfo", WORLD, steps=2**31), "steps")
    fails(lambda: make_plan("rfo", WORLD, seed=2**31 - 1, seeds=2), "seed")


def test_an_action_without_noise_is_chosen_where_there_is_a_choice():
    """It says how a run is evaluated; so it is no setting of the algorithm, and may change."""
    plan = make_plan("rfo", WORLD, deterministic_action="mean", deterministic_draws=4)
    learner = plan.make_learner(plan.make_world())
    assert learner.deterministic == plan.deterministic() == DeterministicAction("mean", 4)
    assert make_plan("rfo", WORLD, deterministic_draws=10).deterministic() == DeterministicAction("modal", 10)
    assert make_plan("rfo", WORLD).deterministic() is None
    assert make_plan("flowrl", WORLD).settings.deterministic() == DeterministicAction("zero")
    changes = compare_configs(make_plan("rfo", WORLD).to_config(), plan.to_config(), SAFE_TO_CHANGE)
    assert len(changes) == 2 and all(change.safe for change in changes)
    for algorithm, policy in (("shac", "gaussian"), ("td3", "deterministic"), ("sac-flow", "noisy-flow")):
        words = ("deterministic_action = 'zero'", f"policy = '{policy}'", "one action without noise")
        fails(lambda algorithm=algorithm: make_plan(algorithm, WORLD, deterministic_action="zero"), *words)
        fails(lambda algorithm=algorithm: make_plan(algorithm, WORLD, deterministic_draws=4), "deterministic_draws = 4")
    fails(lambda: make_plan("flowrl", WORLD, deterministic_draws=4), "draws = 4: does nothing with", "'zero'")
    fails(lambda: make_plan("rfo", WORLD, deterministic_draws=9), "deterministic_draws = 9: must be even")
    fails(lambda: make_plan("rfo", WORLD, deterministic_action="median"), "deterministic_action", "'median'")
    fails(lambda: make_plan("rfo", WORLD, settings={"deterministic_action": "zero"}), "a field of the run", "beside")


def test_a_precision_in_which_nothing_would_be_computed_is_refused():
    def learner(algorithm="sac", **settings):
        plan = make_plan(algorithm, WORLD, precision="bfloat16", settings=settings)
        return plan.make_learner(plan.make_world())

    assert learner().precision == "bfloat16"
    fails(lambda: learner(batch_size=8), "batch_size = 8: must be at least 16 with precision = 'bfloat16'")
    fails(lambda: learner(actor_hidden=(8,), critic_hidden=(8,)), "the widest hidden layer = 8: must be at least 16")
    fails(lambda: learner("shac2"), "precision = 'bfloat16'", "shac2 learns from none", "Leave it out")


def test_a_temperature_is_learned_at_a_rate_or_not_at_all():
    """learn_temperature is another spelling of the rate None."""
    for algorithm in ("sac", "sapo", "crossq", "sac-flow"):
        constant = make_plan(algorithm, WORLD, settings={"learn_temperature": False})
        assert constant == make_plan(algorithm, WORLD, settings={"temperature_learning_rate": None})
        assert constant.settings.temperature_learning_rate is None
        assert make_plan(algorithm, WORLD, settings={"learn_temperature": True}) == make_plan(algorithm, WORLD)
        changed = make_plan(algorithm, WORLD).settings.changed(learn_temperature=False)
        assert changed == constant.settings
    words = ("temperature_learning_rate = 0.1: contradicts learn_temperature = False", "one of the two")
    fails(
        lambda: make_plan("sac", WORLD, settings={"learn_temperature": False, "temperature_learning_rate": 0.1}), *words
    )
    fails(lambda: make_plan("sac", WORLD, settings={"learn_temperature": 1}), "learn_temperature = 1: must be true")
    light = make_plan("sac", "dmc/walker-run", preset="light", settings={"learn_temperature": False})
    assert light.settings.temperature_learning_rate is None  # the preset's rate yields
    now = constant.to_config()
    older = {**now, "settings": {**now["settings"], "learn_temperature": False, "temperature_learning_rate": 1e-3}}
    assert compare_configs(completed(older), now) == []
    older = make_plan("sac", WORLD).to_config()
    older["settings"]["learn_temperature"] = True
    assert compare_configs(completed(older), make_plan("sac", WORLD).to_config()) == []


def test_a_former_setting_is_refused_with_what_to_do_now():
    fails(lambda: make_plan("rfo", WORLD, settings={"stagger_episodes": True}), "stagger_episodes: is no setting any")
    fails(lambda: make_plan("flowrl", WORLD, settings={"weighting": "code"}), "weighting: is no", "released_flowrl.py")
    fails(lambda: make_plan("sac-flow", WORLD, settings={"entropy": "action"}), "entropy: is no", "marginal-flow")
    current = {name for entry in ALGORITHMS.values() for name in entry.config.all_names()}
    assert not current & set(FORMER_SETTINGS)


def test_rates_do_not_grow():
    fails(lambda: make_plan("rfo", WORLD, settings={"final_learning_rate": 0.1}), "actor_learning_rate = 0.002")


def test_a_world_in_a_file_is_found_from_any_directory(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from penstock.worlds.classic import Pendulum\n")
    monkeypatch.chdir(tmp_path)
    plan = make_plan("rfo", "mine.py:Pendulum")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert from_config(plan.to_config()).make_world().episode_length == 200


def test_a_run_has_one_folder_whatever_its_world_is_called():
    plan = make_plan("sac", "classic/pendulum")
    names = {"gym/metaworld:Meta-World/MT1": "sac-metaworld-Meta-World-MT1-0", "gym/a/B-v0": "sac-gym-a-B-v0-0"}
    for world, name in names.items():
        assert default_run_dir(dataclasses.replace(plan, world=world)) == Path("runs") / name


def test_contradictory_sizes_name_both_numbers():
    def learner(**settings):
        plan = make_plan("rfo", WORLD, num_envs=3, settings=settings)
        return plan.make_learner(plan.make_world())

    fails(lambda: learner(window=5, critic_minibatches=4), "critic_minibatches = 4", "15")
    fails(lambda: learner(window=200), "window = 200", "100")
    fails(lambda: learner(window=6, chunk_length=4), "chunk_length = 4", "window = 6")


def test_world_options_from_text():
    texts = ("a=1", "b-c=0.5", "d=points", "e=true", "f=[1, 2]", "g=x=y")
    expected = {"a": 1, "b_c": 0.5, "d": "points", "e": True, "f": [1, 2], "g": "x=y"}
    assert parse_world_options(texts) == expected
    fails(lambda: parse_world_options(("abc",)), "'abc'", "name=value")
    fails(lambda: parse_world_options(("=3",)), "name=value")


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, 1.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ((1, 2.5), tuple[float, float], (1.0, 2.5)),
        (None, float | None, None),
        (3, float | None, 3.0),
        ({"a": 1}, dict[str, int], {"a": 1}),
    ],
)
def test_convert(value, hint, expected):
    converted = convert(value, hint, "x")
    assert converted == expected and type(converted) is type(expected)


# ------------------------------------------------------------------------------------------------- sizes


def settings_of_every_pair():
    for algorithm, entry in ALGORITHMS.items():
        for part in entry.config.choices():
            for kind in type(getattr(entry.config(), part)).kinds():
                yield algorithm, {part: kind}


@pytest.mark.parametrize(("algorithm", "chosen"), [("apg", {}), *settings_of_every_pair()])
def test_no_algorithm_has_more_settings_than_people_can_look_over(algorithm, chosen):
    names = ALGORITHMS[algorithm].config.of(**chosen).flat()
    assert len(names) <= 25, f"{algorithm} with {chosen}: {len(names)} settings: {', '.join(names)}"


def test_updates_use_at_least_the_budget():
    plan = make_plan("rfo", WORLD, num_envs=4, steps=100, settings={"window": 16})
    assert plan.updates == 2
    assert make_plan("rfo", WORLD, num_envs=4, steps=128, settings={"window": 16}).updates == 2
    assert json.loads(json.dumps(plan.to_config()))["steps"] == 100
