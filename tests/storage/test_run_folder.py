"""Run folders and configurations: F7, F10."""

import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.storage import _durable
from penstock.storage.run_folder import (
    ABSENT,
    Change,
    RunFolder,
    compare_configs,
    config_hash,
    encode_config,
    refuse_unsafe_changes,
)

CONFIG = {
    "seed": 3,
    "name": 'Größe "x"\n',
    "algorithm": {"learning_rate": 0.1 + 0.2, "sizes": (64, 32), "limit": math.inf, "low": -math.inf, "tiny": 5e-324},
    "flag": True,
    "nothing": None,
    "empty": {},
    "one": 1.0,
    "large": 2**70,
    "minus": -0.0,
}


def test_the_layout_is_created_with_missing_parents(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b" / "run")
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["checkpoints", "crash", "figures", "videos"]
    assert not folder.has_config
    folder.write_config(CONFIG)
    assert RunFolder(folder.path).has_config


def test_the_configuration_round_trips_exactly(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_config(CONFIG)
    read = folder.read_config()
    expected = {**CONFIG, "algorithm": {**CONFIG["algorithm"], "sizes": [64, 32]}}
    assert read == expected and list(read) == list(CONFIG)
    assert isinstance(read["one"], float) and isinstance(read["seed"], int) and read["flag"] is True
    assert math.copysign(1, read["minus"]) == -1 and read["algorithm"]["tiny"] == 5e-324
    before = folder.config_path.read_bytes()
    folder.write_config(read)
    assert folder.config_path.read_bytes() == before
    json.loads(before, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_random_floats_round_trip(tmp_path):
    words = np.random.default_rng(0).integers(0, 2**63, 2000).view(np.float64)
    values = [float(value) for value in words if math.isfinite(value)]
    assert len(values) > 1900
    assert json.loads(encode_config({"x": values}))["x"] == values


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, r"algorithm.rates\[1\] = nan: a setting must be a number"),
        (object, r"algorithm.rates\[1\] = .*: a type cannot be written to config.json"),
        (Path("x"), r"algorithm.rates\[1\] = .*Path cannot be written"),
        (np.float32(1), "a float32 cannot be written"),
        ({1: 2}, "the name 1 must be a text"),
    ],
)
def test_what_is_not_json_is_named(tmp_path, value, message):
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        folder.write_config({"algorithm": {"rates": [1.0, value]}})
    assert not folder.has_config


def test_a_kill_while_writing_leaves_the_old_configuration(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_config({"a": 1})

    class Killed(BaseException):
        pass

    def kill(name):
        assert name == "file-written"
        raise Killed

    monkeypatch.setattr(_durable, "_phase", kill)
    with pytest.raises(Killed):
        folder.write_config({"a": 2})
    assert folder.read_config() == {"a": 1}


def test_damaged_and_missing_configurations(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigurationError, match=r"does not exist: .* holds no run"):
        folder.read_config()
    for content in ['{"a": 1', '{"a": NaN}', '{"a": 1, "a": 2}', "", "\xff"]:
        folder.config_path.write_bytes(content.encode("latin-1"))
        with pytest.raises(ConfigurationError, match=r"cannot be read: .* Restore the file"):
            folder.read_config()
    folder.config_path.write_text("[]")
    with pytest.raises(ConfigurationError, match=r"does not hold a JSON object"):
        folder.read_config()


def test_the_hash_depends_on_values_only():
    reordered = dict(reversed(CONFIG.items()))
    as_read = json.loads(encode_config(CONFIG))
    assert config_hash(CONFIG) == config_hash(reordered) == config_hash(as_read)
    assert len(config_hash(CONFIG)) == 64
    for change in [{"seed": 4}, {"seed": 3.0}, {"flag": 1}, {"minus": 0.0}, {"new": None}, {"nothing": "None"}]:
        assert config_hash({**CONFIG, **change}) != config_hash(CONFIG)
    assert config_hash({**CONFIG, "seed": 4}, ignore={"seed"}) == config_hash(CONFIG, ignore={"seed"})
    changed = {**CONFIG, "algorithm": {**CONFIG["algorithm"], "limit": 1.0}}
    assert config_hash(changed, ["algorithm.limit"]) == config_hash(CONFIG, ["algorithm.limit"])


def test_f7_changed_fields_are_listed_and_only_safe_ones_pass(tmp_path):
    old = {"total_steps": 100, "algorithm": {"name": "rfo", "rate": 0.1, "old": 1}, "log_interval": 5}
    new = {"total_steps": 200, "algorithm": {"name": "rfo", "rate": 0.2, "new": 2}, "log_interval": 5}
    changes = compare_configs(old, new, safe_fields={"total_steps", "log_interval"})
    assert changes == [
        Change("total_steps", 100, 200, True),
        Change("algorithm.rate", 0.1, 0.2, False),
        Change("algorithm.new", ABSENT, 2, False),
        Change("algorithm.old", 1, ABSENT, False),
    ]
    with pytest.raises(ConfigurationError) as caught:
        refuse_unsafe_changes(changes, tmp_path, "--allow-config-change")
    message = str(caught.value)
    assert "algorithm.rate: 0.1 -> 0.2; algorithm.new: (absent) -> 2; algorithm.old: 1 -> (absent)" in message
    assert "--allow-config-change" in message and "total_steps" not in message
    refuse_unsafe_changes(changes[:1], tmp_path, "--allow-config-change")
    assert compare_configs({"a": (1, 2), "b": {}}, {"b": {}, "a": [1, 2]}) == []
    constants = [{"constants": {"package": {"version": text}}, "constant": 1} for text in ("1.0.1", "1.0.2")]
    assert [change.safe for change in compare_configs(*constants, safe_fields={"constants"})] == [True]
    assert config_hash(constants[0], {"constants"}) == config_hash(constants[1], {"constants"})
    assert [change.safe for change in compare_configs({"constant": 1}, {"constant": 2}, {"constants"})] == [False]
    assert compare_configs({"a": 1}, {"a": True}) and compare_configs({"a": {}}, {"a": {"b": 1}})


def test_f10_the_path_is_a_file_or_goes_through_one(tmp_path):
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigurationError, match=r"run folder = .*is a file. Choose another folder"):
            RunFolder(path)
    assert (tmp_path / "file").read_text() == "precious"


def test_f10_a_folder_with_something_else_in_it(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigurationError, match=r"holds 'thesis.tex' and no config.json"):
        RunFolder(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_f10_a_run_killed_before_its_configuration_was_written_may_start_again(tmp_path):
    RunFolder(tmp_path)
    (tmp_path / "run.lock").write_text("")
    (tmp_path / ".tmp-config.json-1234").write_text("{")
    RunFolder(tmp_path)


def test_f10_long_and_foreign_names(tmp_path):
    folder = RunFolder(tmp_path / "Läufe 流れ 🌊" / ("x" * 200))
    folder.write_config({"a": 1})
    assert folder.read_config() == {"a": 1}
    with pytest.raises(ConfigurationError, match=r"[Ff]ile name too long"):
        RunFolder(tmp_path / ("x" * 300))


def test_f10_read_only(tmp_path, monkeypatch):
    run, parent = tmp_path / "run", tmp_path / "parent"
    RunFolder(run).write_config({"a": 1})
    parent.mkdir()
    if os.geteuid() == 0:  # permissions do not bind root: let the system calls answer as they would for others
        real_mkdir = os.mkdir

        def mkdir(path, *args, **kwargs):
            if Path(path).parent == parent:
                raise PermissionError(13, "Permission denied", str(path))
            return real_mkdir(path, *args, **kwargs)

        monkeypatch.setattr(os, "mkdir", mkdir)
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run)
    else:
        run.chmod(stat.S_IRUSR | stat.S_IXUSR)
        parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ConfigurationError, match=r"it is read-only. Make it writable"):
        RunFolder(run)
    with pytest.raises(ConfigurationError, match=r"no permission to write there"):
        RunFolder(parent / "run")
    run.chmod(0o700)
    parent.chmod(0o700)
