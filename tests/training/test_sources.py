"""Files of somebody's own: other content is another run, another place is not, and a run folder can be moved."""

import shutil

import pytest

from penstock._errors import ConfigurationError
from penstock._own_sources import source_files, source_hash
from penstock.storage.run_folder import compare_configs
from penstock.training.plan import make_plan
from penstock.training.sources import found_again, keep_copies, sources_of, with_names_of

WORLD = """
from helpers import physics
from helpers.deep import *
import numpy as np


def make():
    import late
    open("log.csv", "a").write("1")
    return "model.xml", late
"""


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    (folder / "helpers").mkdir(parents=True)
    for name, text in {
        "env.py": WORLD,
        "late.py": "from other import thing\n",
        "other.py": "thing = 1\n",
        "unused.py": "x = 1\n",
        "model.xml": "<mujoco/>",
        "log.csv": "0",
        "helpers/__init__.py": "",
        "helpers/physics.py": "GAIN = 1.0\n",
        "helpers/deep.py": "from . import physics\nfrom .deeper import y\n",
        "helpers/deeper.py": "y = 2\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def plan_of(folder, **options):
    return make_plan("sac", f"{folder}/env.py:make", world_options=options)


def config_of(plan):
    return {**plan.to_config(), **sources_of(plan)}


def test_a_file_consists_of_what_it_imports_and_names(project):
    names = {str(path.relative_to(project)) for path in source_files(project / "env.py")}
    helpers = {f"helpers/{name}.py" for name in ("__init__", "physics", "deep", "deeper")}
    assert names == {"env.py", "late.py", "other.py", "model.xml", *helpers}


@pytest.mark.parametrize("edited", ["env.py", "late.py", "other.py", "model.xml", "helpers/deeper.py"])
def test_an_edit_anywhere_is_another_source(project, edited):
    before = sources_of(plan_of(project))
    (project / edited).write_text((project / edited).read_text() + " ")
    assert sources_of(plan_of(project)) != before
    assert list(before) == ["world_source"]


def test_what_is_not_needed_does_not_count_and_the_place_does_not(project, tmp_path):
    before = source_hash(project / "env.py")
    (project / "unused.py").write_text("x = 2\n")
    (project / "log.csv").write_text("01")  # what a world writes is no part of it
    shutil.copytree(project, tmp_path / "elsewhere")
    assert source_hash(tmp_path / "elsewhere" / "env.py") == before == source_hash(project / "env.py")


def test_files_in_options_are_absolute_and_count(project, monkeypatch):
    monkeypatch.chdir(project)
    plan = plan_of(project, xml_file="./model.xml", size=3, name="model.txt")
    assert plan.world_options == {"xml_file": str(project / "model.xml"), "size": 3, "name": "model.txt"}
    before = sources_of(plan)
    (project / "model.xml").write_text("<mujoco model='other'/>")
    after = sources_of(plan)
    assert before["world_files"].keys() == {"xml_file"} and before["world_files"] != after["world_files"]


def test_the_same_content_at_another_place_is_no_change(project, tmp_path):
    old = config_of(plan_of(project, xml_file=str(project / "model.xml")))
    moved = tmp_path / "moved"
    shutil.move(project, moved)
    new = config_of(plan_of(moved, xml_file=str(moved / "model.xml")))
    assert compare_configs(with_names_of(old, new), new) == []
    (moved / "helpers" / "physics.py").write_text("GAIN = 2.0\n")
    (moved / "model.xml").write_text("<mujoco model='other'/>")
    new = config_of(plan_of(moved, xml_file=str(moved / "model.xml")))
    changed = {change.field for change in compare_configs(with_names_of(old, new), new)}
    assert changed == {"world", "world_source", "world_options.xml_file", "world_files.xml_file"}


def test_a_run_of_before_neighbours_counted_goes_on(project):
    new = config_of(plan_of(project))
    (project / "alone.py").write_text((project / "env.py").read_text())
    import hashlib

    old = {**new, "world_source": hashlib.sha256((project / "env.py").read_bytes()).hexdigest()}
    assert old["world_source"] != new["world_source"]
    assert compare_configs(with_names_of(old, new), new) == []


def check_that_copies_wait(config, run, how):
    """Code that came with a run folder is executed by nobody who did not ask for it."""
    if how == "copy":
        with pytest.raises(ConfigurationError, match=r"no such file.*--world.*--use-copies for the copy"):
            found_again(config, run, print)
        return
    told = []
    assert found_again(config, run, told.append)["world"] == config["world"]
    assert "has changed since the run was made; what follows is of the new version. Pass --use-copies" in told[0]


@pytest.mark.parametrize("how", ["there", "together", "copy", "edited"])
def test_a_run_finds_its_files(project, tmp_path, how):
    plan = plan_of(project, xml_file=str(project / "model.xml"))
    config, run, told = config_of(plan), project / "runs" / "one", []
    keep_copies(plan, run)
    if how == "together":
        shutil.move(project, tmp_path / "moved")
        run = tmp_path / "moved" / "runs" / "one"
    elif how == "copy":
        shutil.move(run, tmp_path / "alone")
        shutil.rmtree(project)
        run = tmp_path / "alone"
    elif how == "edited":
        (project / "other.py").write_text("thing = 2\n")
    if how in ("copy", "edited"):
        check_that_copies_wait(config, run, how)
    found = found_again(config, run, told.append, use_copies=True)
    place = {
        "there": project / "env.py",
        "together": tmp_path / "moved" / "env.py",
        "copy": tmp_path / "alone" / "source" / "world" / "env.py",
        "edited": run / "source" / "world" / "env.py",
    }[how]
    assert found["world"] == f"{place}:make" and source_hash(place) == config["world_source"]
    sentences = {
        "there": [],
        "together": ["is not there; ", "is not there; "],
        "copy": ["is not there; the run's own copy is used."] * 2,
        "edited": ["has changed since; the run's own copy is used."],
    }[how]
    assert len(told) == len(sentences) and all(part in line for part, line in zip(sentences, told, strict=True))
    assert found["world_options"]["xml_file"].endswith("model.xml") and config["world"] == plan.world


def test_a_world_that_is_gone_is_told(project, tmp_path):
    config = config_of(plan_of(project))
    shutil.rmtree(project)
    with pytest.raises(
        ConfigurationError, match=r"there is no such file\. Put it back, or name another one with --world\.$"
    ):
        found_again(config, tmp_path / "run", print)
