"""What is refused before the first run of a sweep starts, and in which folder a run goes on."""

import pytest
from pretended import sweep_run

from penstock._errors import ConfigurationError
from penstock.storage.run_folder import RunFolder
from penstock.sweeps.runs import checked
from penstock.training.continuation import recorded_config
from penstock.training.plan import RunPlan


def begin(run):
    RunFolder(run.folder).write_config(recorded_config(run.plan, run.plan.make_world()))


def test_points_that_figures_would_not_tell_apart_are_refused(tmp_path):
    def pair(first, second):
        return [sweep_run(tmp_path, "one", **first), sweep_run(tmp_path, "two", **second)]

    with pytest.raises(ConfigurationError, match="'one' and 'two' are the same run: all of their settings are equal"):
        checked(pair({"discount": 0.9}, {"discount": 0.9}))
    with pytest.raises(
        ConfigurationError, match=r"differ in seeds alone, by which no figure tells runs apart.*`label`"
    ):
        checked(pair({"seeds": 1}, {"seeds": 2}))
    for other in ({"discount": 0.8}, {"seed": 1}, {"label": "other"}):
        runs = pair({}, other)
        assert checked(runs) == runs
    assert list(tmp_path.iterdir()) == [], "a check writes nothing"


def test_what_a_run_would_refuse_is_refused_before_any_starts(tmp_path):
    runs = [sweep_run(tmp_path, "good"), sweep_run(tmp_path, "long", window=500)]
    with pytest.raises(ConfigurationError, match="long: window = 500"):
        checked(runs)


def test_each_run_is_checked_in_its_own_world(tmp_path, monkeypatch):
    learners = []
    make = RunPlan.make_learner
    monkeypatch.setattr(RunPlan, "make_learner", lambda plan, world: learners.append(make(plan, world)))
    checked([sweep_run(tmp_path, str(length), history=length) for length in (1, 3)])
    assert [learner.world.observation_spec.history for learner in learners] == [1, 3]


def test_a_folder_with_another_run_is_refused_unless_that_is_allowed(tmp_path):
    begin(sweep_run(tmp_path, "one", discount=0.9))
    runs = [sweep_run(tmp_path, "one", discount=0.8)]
    with pytest.raises(ConfigurationError, match=r"one: The run in .* settings\.discount: 0\.9 -> 0\.8"):
        checked(runs)
    assert checked(runs, allow_config_change=True) == runs
    longer = [sweep_run(tmp_path, "one", discount=0.9, steps=128)]
    assert checked(longer) == longer


def test_a_run_that_was_begun_under_another_name_goes_on_there(tmp_path):
    begin(sweep_run(tmp_path, "discount=0.9", discount=0.9))
    names = ["discount=0.9,window=4", "discount=0.9,window=2"]
    (same, new) = checked([sweep_run(tmp_path, name, discount=0.9, window=int(name[-1])) for name in names])
    assert same.folder.name == "discount=0.9" and same.name == names[0]
    assert new.folder.name == names[1]
