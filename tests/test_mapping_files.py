"""YAML and JSON by one set of rules, and what is wrong with a file in a sentence with its line."""

import json
import math

import pytest
import yaml

from penstock._errors import ConfigurationError
from penstock._mapping_files import parse_mapping, read_mapping


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("+.5", 0.5),
        ("3.", 3.0),
        ("200_000", 200000),
        ("2_0", "2_0"),
        ("-3", -3),
        ("010", 10),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("'1e-4'", "1e-4"),
        ("[64, 64]", [64, 64]),
        ("{a: 1}", {"a": 1}),
        ("my_world.py:Task", "my_world.py:Task"),
        ("classic/pendulum  # comment", "classic/pendulum"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    (read,) = parse_mapping(f"value: {text}", "x.yaml", "YAML").values()
    assert read == value and type(read) is type(value)


def test_names_are_texts_and_merges_work():
    assert parse_mapping("on: 1\n3: 2\nnull: 3", "x.yaml", "YAML") == {"on": 1, "3": 2, "null": 3}
    merged = parse_mapping("a: &a {x: 1, y: 1}\nb:\n  <<: *a\n  y: 2", "x.yaml", "YAML")
    assert merged["b"] == {"x": 1, "y": 2}


def test_yaml_reads_what_json_writes():
    content = {"a": 1e-4, "b": [1, 2.5, None, True, "no"], "c": {"d": 1e300, "e": "ä\n\"'"}, "f": {}}
    assert parse_mapping(json.dumps(content), "x.yaml", "YAML") == content
    assert parse_mapping(json.dumps(content), "x.json", "JSON") == content
    assert parse_mapping('{"a": 1e999}', "x.json", "JSON") == {"a": math.inf}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml, line 3: 'a' is there already, in line 1. Leave one out"),
        ("a:\n  b: 1\n  b: 1", "x.yaml, line 3: 'b' is there already, in line 2"),
        ("a: 1\n\tb: 1", "x.yaml, line 2: a tab. YAML is indented by spaces"),
        ("a:\n\tb: 1", "x.yaml, line 2: a tab"),
        ("", "x.yaml is empty. Write names and values, for example steps: 100000"),
        ("# nothing", "x.yaml is empty"),
        ("- a: 1", "x.yaml holds a list. It must map names to values"),
        ("steps:1000", r"x.yaml is the text 'steps:1000'.*a colon, then a space"),
        ("3", "x.yaml holds a int"),
        ("a: 1\nsteps:1000\nb: 2", "x.yaml, line 3: no YAML: could not find expected ':'. Correct the line"),
        ("a: b: c", "x.yaml, line 1: no YAML: mapping values are not allowed here.*quote texts with ': '"),
        ("a: [1, 2", "x.yaml, line 1: no YAML: expected ',' or ']'"),
        ("a: 1\n---\nb: 2", r"x.yaml, line 2: a second document \('---'\) begins"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor for the tag.*leave the tag out"),
        ("a: !!binary aGk=", "could not determine a constructor"),
        ("a: *b", "undefined alias 'b'"),
        ("[1]: 2", "a name must be a text"),
        ("a: \x01", "special characters are not allowed"),
        ("a: " + "[" * 2000, "too deep"),
    ],
)
def test_pitfalls_of_yaml_are_sentences(text, words):
    with pytest.raises(ConfigurationError, match=words):
        parse_mapping(text, "x.yaml", "YAML")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "a": 2}', "x.json: 'a' is there twice"),
        ('{"a": 1,\n}', "x.json, line 2, column 1: no JSON: "),
        ('{"a": NaN}', "holds NaN, and a setting must be a number"),
        ("", 'x.json is empty. Write names and values, for example {"steps": 100000}'),
        ("[1]", "x.json holds a list"),
        ("[" * 100_000, "too deep"),
    ],
)
def test_pitfalls_of_json_are_sentences(text, words):
    with pytest.raises(ConfigurationError, match=words):
        parse_mapping(text, "x.json", "JSON")


def test_files(tmp_path):
    (tmp_path / "a.YML").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_mapping(tmp_path / "a.YML") == {"a": 1, "b": 2}
    (tmp_path / "b.yaml").write_bytes(b"a: \xff")
    (tmp_path / "c.toml").write_text("a = 1")
    (tmp_path / "d.yaml").mkdir()
    for name, words in (
        ("b.yaml", "is no text in UTF-8"),
        ("c.toml", "must end in .yaml, .yml or .json"),
        ("d.yaml", "cannot be read: is a directory"),
        ("e.yaml", "There is no file"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            read_mapping(tmp_path / name)


def test_the_loader_of_the_package_is_as_it_was():
    assert yaml.safe_load("a: yes\nb: 1e-4") == {"a": True, "b": "1e-4"}
