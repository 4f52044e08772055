"""What a file says of a run: flat or nested, by the names of flags, or the `config.json` of a run."""

import json
import math

import pytest

from penstock._errors import ConfigurationError
from penstock.algorithms.registry import ALGORITHMS
from penstock.storage.run_folder import RunFolder
from penstock.training.config_files import Given, given_by, read_given
from penstock.training.plan import make_plan
from penstock.training.sources import sources_of

WORLD = "classic/pendulum"


def given(text, path):
    path.write_text(text)
    return read_given(path)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "experiment.yaml"


FLAT = """
algorithm: sac
world: classic/pendulum
world-options: {mass: 2}
steps: 1_000
num-envs: 4
label: no
actor_learning_rate: 1e-4
actor-hidden: [32, 32]
target_entropy: null
video: false
"""

NESTED = """
algorithm: sac
world: classic/pendulum
world_options:
  mass: 2
steps: 1000
num_envs: 4
label: 'no'
video: false
settings:
  actor-learning-rate: 0.0001
  actor_hidden: [32, 32]
  target_entropy: ~
"""


def test_flat_and_nested_files_say_the_same(file):
    plans = [given(text, file).plan(None, {}, {}) for text in (FLAT, NESTED)]
    settings = {"actor_learning_rate": 1e-4, "actor_hidden": (32, 32), "target_entropy": None}
    fields = {"steps": 1000, "num_envs": 4, "label": "no", "world_options": {"mass": 2}}
    assert plans == [make_plan("sac", WORLD, settings=settings, **fields)] * 2
    assert given(FLAT, file).beside.video is False


def test_what_counts_more_wins_and_brings_its_kinds(file):
    own = given(f"{FLAT}policy: noisy-flow\nflow_steps: 3\npreset: light", file)
    plan = own.plan(None, {}, {})
    assert plan.settings.policy.flow_steps == 3 and plan.settings.batch_size == 128, "the preset counts less"
    plan = own.plan("", {"steps": 7, "world_options": {"length": 3.0}}, {"policy": "gaussian", "batch_size": 9})
    assert plan.settings.policy.policy == "gaussian" and plan.settings.batch_size == 9
    assert plan.steps == 7 and plan.world_options == {"mass": 2, "length": 3.0}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_s_own_config_is_such_a_file(tmp_path, algorithm):
    plan = make_plan(algorithm, WORLD, seed=3, label="arm", world_options={"mass": math.inf})
    folder = RunFolder(tmp_path / "run")
    folder.write_config({**plan.to_config(), **sources_of(plan), "world_constants": {"mass": 1}})
    assert read_given(folder.config_path).plan(None, {}, {}) == plan
    assert (
        read_given(folder.config_path).plan(None, {"world": "classic/cartpole-swingup"}, {}).settings == plan.settings
    )


def test_the_config_of_an_older_run_is_read_as_it_would_be_written_today(tmp_path):
    now = make_plan("sac", WORLD).to_config()
    older = {k: v for k, v in now.items() if k != "precision"} | {"settings": {**now["settings"], "num_critics": 2}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert read_given(tmp_path / "config.json").plan(None, {}, {}) == make_plan("sac", WORLD)


def test_a_moved_run_s_own_files_are_looked_for_beside_it_unless_another_world_is_named(tmp_path):
    config = {**make_plan("sac", WORLD).to_config(), "world": f"{tmp_path}/gone/own.py:Task", "world_source": "0" * 64}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=r"config\.json: world = '.*own\.py': there is no such file"):
        read_given(tmp_path / "run" / "config.json")
    assert read_given(tmp_path / "run" / "config.json", WORLD).fields["world"] == WORLD


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 1e6", r"steps = 1000000\.0: must be a whole number\. Write it in full: 1000000"),
        ("steps: '1000'", r"steps = '1000': must be a whole number\. This is a text: leave the quotes out"),
        ("steps: 0", "steps = 0: must be at least 1"),
        ("steps:", "steps = None: must be a whole number"),
        ("video: off", "video = 'off': must be true or false. Write false"),
        ("learn_temperature: no", "learn_temperature = 'no': must be true or false"),
        ("actor_learning_rate: 1e-4x", "actor_learning_rate = '1e-4x': must be a number"),
        ("actor_hidden: 64", r"actor_hidden = 64: must be a list, each entry a whole number\. Write \[64\]"),
        ("precision: fp16", "precision = 'fp16': must be one of 'float32', 'bfloat16'"),
        ("logger: mine.py:Lines", "logger = 'mine.py:Lines': must be a list, each entry a text.*Write"),
        ("batch_sise: 3", "unknown field 'batch_sise'. Did you mean 'batch_size'"),
        ("stepz: 3", "unknown field 'stepz'. Did you mean 'steps'"),
        ("xyzzy: 3", "unknown field 'xyzzy'. `penstock train sac --help` lists all"),
        ("past_coefficient: 3", "past_coefficient: sac has no such setting; it belongs to rfo. Leave it out"),
        ("flow_steps: 3", "flow_steps: does nothing with policy = 'gaussian'"),
        ("drift: true", "drift: is no setting any more"),
        ("grid: {batch_size: [1]}", "'grid' makes it a sweep. Use `penstock sweep --config`"),
        ("sweep: [actor_learning_rate=1e-3]", "'sweep' is no option of a file. Write --sweep behind"),
        ("settings: 3", "settings = 3: must map names to values"),
        ("settings: {steps: 3}", "'steps' is no setting of the algorithm. Write it beside `settings`"),
        ("batch_size: 1\nsettings: {batch-size: 2}", "'batch_size' is there twice, alone and below settings"),
        ("num-envs: 3\nnum_envs: 4", "'num_envs' is there twice, with hyphens and with underscores"),
        ("world_options: [mass=1]", r"world_options = \['mass=1'\]: must be a mapping of names to values"),
        ("preset: lihgt", "preset = 'lihgt': sac has no such preset"),
        ("world: classic/pendulm", "Unknown world"),
    ],
)
def test_mistakes_name_the_file_the_field_the_rule_and_what_to_do(file, text, words):
    text = f"algorithm: sac\n{text}" if "world:" in text else f"algorithm: sac\nworld: {WORLD}\n{text}"
    with pytest.raises(ConfigurationError, match=words) as caught:
        plan = given(text, file).plan(None, {}, {})
        plan.make_world()
    assert str(caught.value).startswith(str(file)) or "Unknown world" in words


def test_nobody_names_algorithm_or_world():
    for named, missing in (({}, "algorithm"), ({"algorithm": "sac"}, "world")):
        with pytest.raises(ConfigurationError, match=f"{missing} is missing. Name one, for example"):
            Given().plan(None, named, {})


def test_a_message_about_a_value_that_counts_more_does_not_blame_the_file():
    own = given_by({"algorithm": "sac", "world": WORLD, "steps": 3, "batch_size": 4}, "x.yaml")
    with pytest.raises(ConfigurationError, match=r"^steps = 0"):
        own.plan(None, {"steps": 0}, {})
    with pytest.raises(ConfigurationError, match=r"^x\.yaml: batch_size = 0"):
        given_by({**own.fields, "batch_size": 0}, "x.yaml").plan(None, {"steps": 3}, {})


def test_a_folder_is_no_file(tmp_path):
    RunFolder(tmp_path / "run").write_config(make_plan("sac", WORLD).to_config())
    with pytest.raises(ConfigurationError, match=r"run is a folder\. Name a file, for example .*run/config\.json"):
        read_given(tmp_path / "run")
