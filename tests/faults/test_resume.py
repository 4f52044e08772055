"""Stopping and continuing within one process: F3, F5, F7, F9, F11, F29, F31."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import sys
import time

import pytest
from tiny_runs import (
    STEPS_PER_UPDATE,
    UPDATES,
    assert_same_run,
    final_arrays,
    listing,
    rows,
    tiny_plan,
)

from penstock._errors import ConfigurationError
from penstock.storage import _tensor_file
from penstock.storage.lock import RunLock, RunLockedError
from penstock.storage.run_folder import RunFolder
from penstock.storage.store import latest_checkpoint, list_checkpoints
from penstock.training.loop import EXIT_INTERRUPTED, Silent, train
from penstock.training.plan import from_config
from penstock.training.restore import read_plan, restore_run
from penstock.worlds import FunctionalWorld

pytestmark = pytest.mark.usefixtures("in_process")


class PowerCutError(Exception):
    """Ends a run at once, wherever it is."""


class Watcher(Silent):
    """Keeps messages; does something when the run has done a number of updates."""

    def __init__(self, at=None, then=None):
        self.messages = []
        super().__init__(self.messages.append)
        self.at, self.then = at, then
        self.compilations = 0

    def compiling(self, what):
        self.compilations += 1

    def update(self, env_steps, *arguments, **details):
        if self.at is not None and env_steps >= self.at * STEPS_PER_UPDATE:
            at, self.at = self.at, None
            del at
            self.then()

    @property
    def text(self):
        return "\n".join(self.messages)


def power_cut():
    raise PowerCutError


def cut_at(update, plan, run_dir):
    """Runs until the display hears of an update: its rows are written, its checkpoint is not."""
    with pytest.raises(PowerCutError):
        train(plan, run_dir, observer=Watcher(update, power_cut))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        from tiny_runs import SharedProgram

        patch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
        run_dir = tmp_path_factory.mktemp("whole") / "run"
        result = train(tiny_plan(), run_dir)
    assert result.finished and result.worked and result.exit_code == 0
    return run_dir, result


# ------------------------------------------------------------------------------------------------- F1, F3


def test_rows_after_the_last_checkpoint_are_written_once(whole, tmp_path):
    cut_at(5, tiny_plan(), tmp_path / "run")
    cut_at(6, tiny_plan(), tmp_path / "run")
    train(tiny_plan(), tmp_path / "run")
    assert_same_run(whole[0], tmp_path / "run")


def test_a_finished_run_run_again_does_nothing(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "checkpoints").rglob("*")}
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    for _ in range(2):
        watcher = Watcher()
        result = train(tiny_plan(), tmp_path / "run", observer=watcher)
        assert result.finished and not result.worked and result.exit_code == 0
        assert watcher.compilations == 0 and not watcher.messages
        assert result.driver.traces["train"] == result.driver.traces["evaluate"] == 0
        assert [row["eval/return_deterministic"] for row in result.last_rows] == [
            row["eval/return_deterministic"] for row in whole[1].last_rows
        ]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "checkpoints").rglob("*")} == before


def test_resumed_at_the_very_last_step(whole, tmp_path):
    cut_at(UPDATES, tiny_plan(), tmp_path / "run")
    result = train(tiny_plan(), tmp_path / "run")
    assert result.finished
    assert_same_run(whole[0], tmp_path / "run")


def test_resumed_twice_before_anything_new(whole, tmp_path):
    cut_at(4, tiny_plan(), tmp_path / "run")
    cut_at(4, tiny_plan(), tmp_path / "run")
    cut_at(4, tiny_plan(), tmp_path / "run")
    train(tiny_plan(), tmp_path / "run")
    assert_same_run(whole[0], tmp_path / "run")


def test_seconds_of_all_sessions_add_up(tmp_path):
    cut_at(5, tiny_plan(), tmp_path / "run")
    train(tiny_plan(), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for clock in ("wall_seconds", "cpu_seconds"):
        seconds = [line[clock] for line in lines]
        assert seconds == sorted(seconds) and seconds[0] >= 0


# ------------------------------------------------------------------------------------------------- F2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_rerun_completes(whole, tmp_path, number):
    watcher = Watcher()

    def ask_to_stop():
        os.kill(os.getpid(), number)
        while not watcher.messages:  # the flag is set from another thread
            time.sleep(0.01)

    watcher.at, watcher.then = 5, ask_to_stop
    stopped = train(tiny_plan(), tmp_path / "run", observer=watcher)
    assert (stopped.finished, stopped.exit_code) == (False, EXIT_INTERRUPTED)
    assert "saved; the same command continues the run" in watcher.text
    saved = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert saved is not None and int(saved.name[5:]) == 5 * STEPS_PER_UPDATE
    assert not (tmp_path / "run" / "run.lock").exists()
    train(tiny_plan(), tmp_path / "run")
    assert_same_run(whole[0], tmp_path / "run")


# ------------------------------------------------------------------------------------------------- F4, F5


def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with RunLock(folder.lock_path), pytest.raises(RunLockedError, match=f"Process {os.getpid()}"):
        train(tiny_plan(), tmp_path / "run")
    assert not folder.has_config and not folder.metrics_path.exists(), "the refused run must leave no trace"


def test_a_clock_that_goes_backwards_changes_nothing(whole, tmp_path, monkeypatch):
    clock = iter(range(10**6, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    cut_at(7, tiny_plan(), tmp_path / "run")
    for index, (_, path) in enumerate(list_checkpoints(tmp_path / "run" / "checkpoints")):
        os.utime(path, (10**9 - index, 10**9 - index))
        os.utime(path / "manifest.json", (10**9 - index, 10**9 - index))
    watcher = Watcher()
    train(tiny_plan(), tmp_path / "run", observer=watcher)
    assert_same_run(whole[0], tmp_path / "run")


# ------------------------------------------------------------------------------------------------- F7


def test_changed_settings_are_listed_and_need_the_flag(tmp_path):
    cut_at(3, tiny_plan(), tmp_path / "run")
    config = (tmp_path / "run" / "config.json").read_bytes()
    changed = tiny_plan(settings={"discount": 0.5, "gradient_limit": 7.0}, seed=4)
    with pytest.raises(ConfigurationError) as caught:
        train(changed, tmp_path / "run")
    message = str(caught.value)
    for part in ("settings.discount: 0.99 -> 0.5", "settings.gradient_limit: 1000.0 -> 7.0", "seed: 0 -> 4"):
        assert part in message
    assert "--allow-config-change" in message and "window" not in message
    assert (tmp_path / "run" / "config.json").read_bytes() == config
    watcher = Watcher(4, power_cut)
    changed = tiny_plan(seed=4)
    with pytest.raises(PowerCutError):
        train(changed, tmp_path / "run", observer=watcher, allow_config_change=True)
    assert "continuing with another setting: seed: 0 -> 4" in watcher.text
    assert from_config(RunFolder(tmp_path / "run").read_config()) == changed


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_envs": 2}, r"num_envs: \d+ -> 2"),
        ({"settings": {"window": 3}}, r"settings\.window: \d+ -> 3"),
    ],
)
def test_what_gives_steps_their_count_stays_with_the_flag_too(fields, sentence, tmp_path):
    cut_at(3, tiny_plan(), tmp_path / "run")
    with pytest.raises(ConfigurationError, match=rf"keeps what it was started with: {sentence}\. Use the old value,"):
        train(tiny_plan(**fields), tmp_path / "run", allow_config_change=True)
    assert from_config(RunFolder(tmp_path / "run").read_config()) == tiny_plan()


def test_settings_that_do_not_fit_the_state_are_refused_with_the_flag_too(tmp_path):
    cut_at(3, tiny_plan(), tmp_path / "run")
    with pytest.raises(Exception, match=r"does not fit this run: .*float32\(.*Start a new run"):
        train(tiny_plan(settings={"actor_hidden": (9,)}), tmp_path / "run", allow_config_change=True)
    assert from_config(RunFolder(tmp_path / "run").read_config()) == tiny_plan(), (
        "the refused command left its settings"
    )
    train(tiny_plan(), tmp_path / "run")


def test_a_budget_behind_the_run_is_refused_and_changes_nothing(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigurationError, match=r"steps = 32: the run is already at 192 environment steps"):
        train(tiny_plan(steps=32), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_world_file_that_was_edited_is_another_world(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text("from penstock.worlds.classic import DoubleIntegrator as Mine\n")
    plan = tiny_plan(world=f"{source}:Mine", world_options={"episode_length": 10}, steps=2 * STEPS_PER_UPDATE)
    train(plan, tmp_path / "run")
    source.write_text("from penstock.worlds.classic import DoubleIntegrator as Mine  # edited\n")
    with pytest.raises(ConfigurationError, match=r"world_source"):
        train(dataclasses.replace(plan, steps=3 * STEPS_PER_UPDATE), tmp_path / "run")


def test_a_moved_run_is_evaluated_and_goes_on(tmp_path):
    """The whole way, with a task whose rules lie in a neighbour."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "sliding_rules.py").write_text("from penstock.worlds.classic import DoubleIntegrator as Rules\n")
    (project / "sliding_mine.py").write_text("from sliding_rules import Rules as Mine\n")
    plan = tiny_plan(
        world=f"{project}/sliding_mine.py:Mine", world_options={"episode_length": 10}, steps=2 * STEPS_PER_UPDATE
    )
    train(plan, project / "run")
    for name in ("sliding_mine", "sliding_rules"):
        sys.modules.pop(name)
    shutil.move(project / "run", tmp_path / "alone")
    shutil.rmtree(project)
    with pytest.raises(ConfigurationError, match="--use-copies"):
        restore_run(tmp_path / "alone")
    restored = restore_run(tmp_path / "alone", use_copies=True)
    assert restored.plan.world == f"{tmp_path}/alone/source/world/sliding_mine.py:Mine"
    longer = dataclasses.replace(read_plan(tmp_path / "alone", use_copies=True), steps=3 * STEPS_PER_UPDATE)
    assert train(longer, tmp_path / "alone").finished
    with pytest.raises(ConfigurationError, match="there is no such file"):
        restore_run(tmp_path / "alone", world=f"{project}/sliding_mine.py:Mine")


def test_another_release_of_a_world_s_package_does_not_stop_a_run(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "run")
    monkeypatch.setattr(FunctionalWorld, "describe", lambda self: {"package": {"version": "1.0.1"}})
    watcher = Watcher()
    assert train(tiny_plan(), tmp_path / "run", observer=watcher).finished
    assert "world_constants.package.version" in watcher.text


def test_leftovers_of_a_killed_run_go_everywhere_in_its_folder(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    left = [tmp_path / "run" / ".tmp-config.json-1234", tmp_path / "run" / "checkpoints" / "best" / ".tmp-step-1"]
    for path in left:
        path.write_text("half")
    train(tiny_plan(), tmp_path / "run")
    assert not any(path.exists() for path in left)


def test_safe_fields_may_change_and_do_not_change_the_state(whole, tmp_path):
    cut_at(5, tiny_plan(), tmp_path / "run")
    plan = tiny_plan(log_every=5, evaluate_every=100, label="other")
    train(plan, tmp_path / "run")
    assert final_arrays(tmp_path / "run") == final_arrays(whole[0])


def test_a_longer_budget_continues_and_compiles_each_program_once(whole, tmp_path, monkeypatch):
    """However many blocks of however different lengths (F31)."""
    monkeypatch.undo()  # a program of its own
    shutil.copytree(whole[0], tmp_path / "run")
    watcher = Watcher()
    plan = tiny_plan(steps=18 * STEPS_PER_UPDATE, log_every=5, evaluate_every=4 * STEPS_PER_UPDATE)
    result = train(plan, tmp_path / "run", observer=watcher)
    assert result.finished and result.worked
    assert f"steps: {tiny_plan().steps} -> {plan.steps}" in watcher.text
    assert [json.loads(row)["update"] for row in rows(tmp_path / "run")] == [*range(13), 15, 18]
    assert result.driver.traces == {"init": 1, "train": 1, "evaluate": 1} and watcher.compilations == 1


# ------------------------------------------------------------------------------------------------- F9, F11


def test_disk_full_in_the_middle_of_a_run(whole, tmp_path, monkeypatch):
    """Checkpoints fail for a while: training goes on, the earlier ones stay, and the run ends as if nothing was."""
    watcher = Watcher(4)
    original = _tensor_file.write_tensors
    refused = []

    def full(*arguments):
        refused.append(arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_disk():
        monkeypatch.setattr("penstock.storage._checkpoint.write_tensors", full)
        watcher.at, watcher.then = 7, free_disk

    def free_disk():
        monkeypatch.setattr("penstock.storage._checkpoint.write_tensors", original)

    watcher.then = fill_disk
    result = train(tiny_plan(), tmp_path / "run", observer=watcher)
    assert result.finished and len(refused) == 3
    assert re.search(r"No space left on device\. It needs \d+ bytes; \d+ bytes are free", watcher.text)
    assert "Training continues; the previous checkpoint is intact" in watcher.text
    assert rows(tmp_path / "run") == rows(whole[0]) and final_arrays(tmp_path / "run") == final_arrays(whole[0])


def test_disk_full_at_the_end_is_not_called_a_success(whole, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_disk():
        monkeypatch.setattr("penstock.storage._checkpoint.write_tensors", full)

    watcher = Watcher(UPDATES, fill_disk)
    with monkeypatch.context() as patch:
        result = train(tiny_plan(), tmp_path / "run", observer=watcher)
        patch.undo()
    assert (result.finished, result.exit_code) == (False, EXIT_INTERRUPTED)
    assert "NOT saved" in watcher.text and "the same command continues" in watcher.text
    monkeypatch.setattr("penstock.storage._checkpoint.write_tensors", _tensor_file.write_tensors)
    train(tiny_plan(), tmp_path / "run")
    assert_same_run(whole[0], tmp_path / "run")


@pytest.mark.parametrize("damage", ["flip", "truncate", "no manifest"])
def test_a_damaged_checkpoint_costs_only_itself(whole, tmp_path, damage):
    cut_at(8, tiny_plan(), tmp_path / "run")
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1][1]
    arrays = newest / "state.safetensors"
    content = bytearray(arrays.read_bytes())
    if damage == "flip":
        content[-5] ^= 16
    if damage == "truncate":
        del content[-5:]
    # A new file, because `best/` may share the old one.
    arrays.unlink()
    arrays.write_bytes(content)
    if damage == "no manifest":
        (newest / "manifest.json").unlink()
    watcher = Watcher()
    train(tiny_plan(), tmp_path / "run", observer=watcher)
    assert f"Checkpoint {newest.name}" in watcher.text and "is damaged" in watcher.text and ".bad-" in watcher.text
    assert rows(tmp_path / "run") == rows(whole[0]) and final_arrays(tmp_path / "run") == final_arrays(whole[0])
    assert [name for name in listing(tmp_path / "run") if not name.startswith(".bad-")] == listing(whole[0])


def test_all_checkpoints_damaged_starts_again(whole, tmp_path):
    cut_at(3, tiny_plan(), tmp_path / "run")
    for _, path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        (path / "manifest.json").write_text("{}")  # the best ones are links to the same files
    watcher = Watcher()
    train(tiny_plan(), tmp_path / "run", observer=watcher)
    assert "it starts anew from step 0" in watcher.text and (tmp_path / "run" / "metrics.bad.jsonl").is_file()
    assert rows(tmp_path / "run") == rows(whole[0]) and final_arrays(tmp_path / "run") == final_arrays(whole[0])


# ------------------------------------------------------------------------------------------------- F29, F31


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every": 5},
        {"evaluate_every": 7 * STEPS_PER_UPDATE},
        {"evaluate_every": 10**9, "log_every": 100},
        {"label": "x"},
    ],
    ids=str,
)
def test_watching_does_not_change_training(whole, tmp_path, changes):
    train(tiny_plan(**changes), tmp_path / "run")
    assert final_arrays(tmp_path / "run") == final_arrays(whole[0])


def test_rows_of_common_updates_are_equal_however_often_they_are_written(whole, tmp_path):
    train(tiny_plan(log_every=4), tmp_path / "run")
    sparse = [json.loads(row) for row in rows(tmp_path / "run")]
    dense = {row["update"]: row for row in map(json.loads, rows(whole[0]))}
    assert [row["update"] for row in sparse] == [0, 4, 8, 12]
    for row in sparse:
        evaluations = {name: value for name, value in row.items() if name.startswith("eval/")}
        assert evaluations == {name: dense[row["update"]][name] for name in evaluations}
        if row["update"]:
            block = [dense[update]["train/reward"] for update in range(row["update"] - 3, row["update"] + 1)]
            assert row["train/reward"] == pytest.approx(sum(block) / 4, rel=1e-5)


def test_seeds_differ(whole, tmp_path):
    train(tiny_plan(seed=1), tmp_path / "run")
    ours, theirs = final_arrays(tmp_path / "run"), final_arrays(whole[0])
    assert ours.keys() == theirs.keys()
    weights = [name for name in ours if "weight" in name and name.startswith(".learned.actor.")]
    assert weights and all(ours[name] != theirs[name] for name in weights)


def test_bad_settings_leave_no_folder(tmp_path):
    with pytest.raises(ConfigurationError, match="window"):
        train(tiny_plan(settings={"window": 50}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
