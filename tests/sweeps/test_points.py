"""What a sweep consists of: grids, lists, files, names of folders."""

import math
import re

import pytest

from penstock._errors import ConfigurationError
from penstock.sweeps.points import LONGEST_NAME, Sweep, file_name, parse_grid, point_name, read_sweep, value_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "1e-4"),
        (0.0003, "3e-4"),
        (0.00033, "3.3e-4"),
        (0.01, "0.01"),
        (0.99, "0.99"),
        (1.0, "1"),
        (0.0, "0"),
        (-0.0003, "-3e-4"),
        (1e6, "1e6"),
        (123456.0, "123456"),
        (0.1 + 0.2, "0.30000000000000004"),
        (5e-324, "5e-324"),
        (math.inf, "inf"),
        (64, "64"),
        (True, "true"),
        (None, "none"),
        ([64, 64], "64x64"),
        ("noisy-flow", "noisy-flow"),
        ({"b": 1.0, "a": "x"}, "b=1+a=x"),
    ],
)
def test_values_in_the_shortest_words(value, text):
    assert value_text(value) == text
    if isinstance(value, float):
        assert float(text) == value


def test_names_are_names_of_folders_everywhere():
    assert point_name({"actor_learning_rate": 1e-4, "policy": "flow"}) == "actor_learning_rate=1e-4,policy=flow"
    assert point_name({"world": "classic/pendulum", "world_options.mass": 2}) == "world=classic-pendulum,mass=2"
    assert point_name({}) == "base"
    assert file_name("../../etc/$(rm) 'x'") == "etc-rm-x"
    assert file_name("--") == "run"
    long = [file_name("a" * 300 + end) for end in "xy"]
    assert long[0] != long[1] and all(len(name) <= LONGEST_NAME for name in long)
    assert len(file_name("ü" * 300).encode()) <= LONGEST_NAME


def test_a_grid_on_the_command_line_is_read_as_yaml_reads_a_list():
    assert parse_grid(
        ["actor-learning-rate=1e-4,3e-4", "policy=gaussian,flow", "settings.actor_hidden=[64,64],[8]"]
    ) == {
        "actor_learning_rate": [1e-4, 3e-4],
        "policy": ["gaussian", "flow"],
        "actor_hidden": [[64, 64], [8]],
    }
    assert parse_grid(["policy=my.py:Mine,flow", "target_entropy=None,-1", "world_option.mass=1"]) == {
        "policy": ["my.py:Mine", "flow"],
        "target_entropy": [None, -1],
        "world_options.mass": [1],
    }


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a"], "grid = 'a': write name=value,value"),
        (["a="], "grid = 'a=': write name=value,value"),
        (["a=1", "a=2"], "'a' is there twice"),
        (["a=1,1.0"], "the value 1 is there twice"),
        (["a=[1,2"], "no YAML"),
        (["run_dir=a,b"], "'run_dir' cannot be varied"),
        (["world_options=1,2"], r"'world_options' cannot be varied. Name world_options\.NAME"),
    ],
)
def test_a_grid_that_is_none_is_refused(texts, words):
    with pytest.raises(ConfigurationError, match=words):
        parse_grid(texts)


FILE = """
base:
  algorithm: sac
  world: classic/pendulum
  world_options: {mass: 2.0, length: 1.5}
  actor_learning_rate: 1e-4
grid:
  batch-size: [32, 64]
runs:
  - name: light pole
    world_options: {mass: 0.5}
  - policy: noisy-flow
    settings: {flow-steps: 2}
"""


def test_a_file_with_a_base_a_grid_and_a_list(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE)
    points = read_sweep(path).points()
    assert [point.name for point in points] == [
        "light-pole,batch_size=32",
        "light-pole,batch_size=64",
        "policy=noisy-flow,flow_steps=2,batch_size=32",
        "policy=noisy-flow,flow_steps=2,batch_size=64",
    ]
    first, last = points[0].given, points[-1].given
    assert first.fields["world_options"] == {"mass": 0.5, "length": 1.5}, "options of the base stay that no point has"
    assert last.fields["world_options"] == {"mass": 2.0, "length": 1.5} and last.fields["algorithm"] == "sac"
    assert last.settings == {"actor_learning_rate": 1e-4, "policy": "noisy-flow", "flow_steps": 2, "batch_size": 64}
    assert str(path) in last.where and points[-1].name in last.where


def test_a_file_of_one_run_is_a_base(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("algorithm: sac\nbatch_size: 8\n")
    sweep = read_sweep(path)
    with pytest.raises(ConfigurationError, match=r"nothing is varied\. Name a grid"):
        sweep.points()
    (one, two) = sweep.with_grid({"policy": ["gaussian", "flow"]}).points()
    assert one.given.settings == {"batch_size": 8, "policy": "gaussian"} and two.name == "policy=flow"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("base: {}\ngrid: {a: [1]}\nsteps: 3", r"unknown field 'steps'.*what all runs share belongs below base"),
        ("base: [1]\ngrid: {a: [1]}", r"base = \[1\]: must map names to values"),
        ("grid: [1]", r"grid = \[1\]: must map names to lists"),
        ("grid: {a: 1}", r"grid: a = 1: must be a list of values, as in \[1\]"),
        ("grid: {a: []}", r"grid: a = \[\]: must hold one value or more"),
        ("runs: {a: 1}", r"runs = .* must be a list"),
        ("runs: [a]", r"runs = \['a'\]: must be a list, and each entry map"),
        ("runs: [{a: 1}, {a: 1}]", "two runs would be called 'a=1'"),
        ("runs: [{name: x, a: 1}, {name: x, a: 2}]", "two runs would be called 'x'. Give each a `name`"),
        ("runs: [{run_dir: x}]", "'run_dir' cannot be varied"),
        ("base: {steps: x}\ngrid: {a: [1]}", r"base: steps = 'x': must be a whole number"),
        ("grid: {steps: [x]}", r"steps=x: steps = 'x': must be a whole number"),
        ("runs: [{a: 1, settings: {a: 2}}]", "'a' is there twice in one entry"),
    ],
)
def test_what_is_no_sweep_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "sweep.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_sweep(path).points()
    assert str(path) in str(caught.value)


def test_nothing_varied_is_no_sweep():
    with pytest.raises(ConfigurationError, match=re.escape("--grid actor_learning_rate=1e-4,3e-4")):
        Sweep().points()
    with pytest.raises(ConfigurationError, match="'a' is in the grid and in the list of runs"):
        Sweep(runs=[{"a": 1}], grid={"a": [1, 2]}).points()
