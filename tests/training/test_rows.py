"""Runs that differ in learning rates, trained as rows of one program, are the runs that they would be alone."""

import dataclasses

import pytest

from penstock._errors import ConfigurationError
from penstock.training.loop import Silent, train, train_together
from tests.faults.tiny_runs import UPDATES, SharedProgram, assert_same_run, tiny_plan

RATES = (1e-3, 3e-2)


def plans(**changes):
    return [tiny_plan(seeds=2, settings={"actor_learning_rate": rate}, **changes) for rate in RATES]


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    monkeypatch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each run by itself."""
    folders = [tmp_path_factory.mktemp("alone") / str(rate) for rate in RATES]
    for plan, folder in zip(plans(), folders, strict=True):
        train(plan, folder)
    return folders


def test_rows_are_the_runs_that_they_would_be_alone(alone, tmp_path):
    told = []
    folders = [tmp_path / "one", tmp_path / "other"]
    results = train_together(list(zip(plans(), folders, strict=True)), observer=Silent(told.append))
    assert [result.finished for result in results] == [True, True] and told == []
    for result, folder, reference in zip(results, folders, alone, strict=True):
        assert result.folder.path == folder and result.state.seeds == 2
        assert_same_run(folder, reference)


def test_a_stopped_sweep_goes_on_together_or_apart(alone, tmp_path, monkeypatch):
    compile_now = SharedProgram.compile
    folders = [tmp_path / "one", tmp_path / "other"]
    runs = list(zip(plans(), folders, strict=True))
    stopped = train_together(runs, on_metrics=lambda rows: rows[0]["update"] == UPDATES // 2)
    assert [result.exit_code for result in stopped] == [75, 75]
    assert train(*runs[0], on_metrics=lambda rows: rows[0]["update"] == UPDATES // 2 + 2).exit_code == 75
    shorter = [(dataclasses.replace(plan, steps=plan.steps // 2), folder) for plan, folder in runs]
    with pytest.raises(ConfigurationError, match=r"the run is already at \d+ environment steps"):
        train_together(shorter)  # before either goes on
    # Now they stand at different steps: each goes on from its own. Who stops one of them stops the others, too.
    compiled = []
    monkeypatch.setattr(SharedProgram, "compile", lambda self, *given: compiled.append(1) or compile_now(self, *given))
    stopped = train_together(runs, on_metrics=lambda rows: True)
    assert [result.exit_code for result in stopped] == [75, 75] and len(compiled) == 1
    results = train_together(runs)
    assert all(result.finished and result.worked for result in results)
    for folder, reference in zip(folders, alone, strict=True):
        assert_same_run(folder, reference)
    again = train_together(runs)
    assert not any(result.worked for result in again)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"settings": {"window": 2}}, r"window = 4 and 2: rows of one program differ in learning rates alone"),
        ({"num_envs": 8}, r"num_envs = 4 and 8: rows of one program"),
        ({"seed": 5}, r"seed = 0 and 5: rows of one program"),
    ],
)
def test_what_is_another_program_is_refused_before_anything_is_written(tmp_path, change, sentence):
    runs = [(tiny_plan(), tmp_path / "one"), (tiny_plan(**change), tmp_path / "other")]
    with pytest.raises(ConfigurationError, match=sentence):
        train_together(runs)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_another_run_is_refused_before_others_are_made(alone, tmp_path):
    other = dataclasses.replace(plans()[1], seed=7)
    runs = [(dataclasses.replace(plans()[0], seed=7), tmp_path / "new"), (other, alone[1])]
    with pytest.raises(ConfigurationError, match="seed: 0 -> 7"):
        train_together(runs)
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_is_a_constant_of_its_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.algorithms.learner.Learner.rates", {})
    with pytest.raises(ConfigurationError, match=r"actor_learning_rate: apg holds it as a constant.*penstock sweep"):
        train_together(list(zip(plans(), [tmp_path / "one", tmp_path / "other"], strict=True)))
