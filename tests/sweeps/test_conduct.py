"""Which runs are started when, what a failure or a request to stop does, and what the person who watches is told."""

import dataclasses
import io

import pytest
from pretended import Pretended, sweep_run, written

from penstock.sweeps.conduct import Status, Tracked, carry_out, exit_code, last_words
from penstock.sweeps.display import SweepDisplay, counts, state_line
from penstock.training.signals import GracefulStop


def nothing(tracked):
    pass


@pytest.fixture
def runs(tmp_path):
    return [sweep_run(tmp_path, name) for name in "abcd"]


def carried_out(runs, launcher, show=nothing, stop=None):
    return carry_out(runs, launcher, stop or GracefulStop(), show, poll_seconds=0.0)


def statuses(tracked):
    return [one.status.value for one in tracked]


def test_so_many_run_side_by_side_and_none_twice(runs):
    launcher = Pretended(2)
    tracked = carried_out(runs, launcher)
    assert launcher.started == ["a", "b", "c", "d"] and launcher.most == 2
    assert statuses(tracked) == ["ended"] * 4 and exit_code(tracked) == 0
    again = Pretended(2)
    assert exit_code(carried_out(runs, again)) == 0 and again.started == []


def test_what_has_ended_is_not_repeated_and_what_was_added_is_run(runs):
    written(runs[1], 64)
    written(runs[2], 48)
    launcher = Pretended(1)
    carried_out(runs, launcher)
    assert launcher.started == ["a", "c", "d"]


def test_a_failure_does_not_stop_the_others_and_is_tried_again(runs):
    launcher = Pretended(1, {"b": 2})
    tracked = carried_out(runs, launcher)
    assert launcher.started == ["a", "b", "c", "d"]
    assert statuses(tracked) == ["ended", "failed", "ended", "ended"] and exit_code(tracked) == 1
    again = Pretended(1)
    assert exit_code(carried_out(runs, again)) == 0 and again.started == ["b"]


def test_a_request_to_stop_is_passed_on_once_and_nothing_more_is_started(runs):
    stop, launcher = GracefulStop(), Pretended(2, looks=5)

    def ask(tracked):
        if sum(one.status is Status.RUNNING for one in tracked) == 2:
            stop.ask()

    tracked = carried_out(runs, launcher, ask, stop)
    assert statuses(tracked) == ["stopped", "stopped", "waiting", "waiting"]
    assert launcher.stops == 1 and exit_code(tracked) == 75


@pytest.mark.parametrize(("code", "status"), [(75, "stopped"), (-15, "stopped"), (143, "stopped"), (-9, "failed")])
def test_a_run_that_was_ended_from_outside(runs, code, status):
    assert statuses(carried_out(runs[:1], Pretended(1, {"a": code}))) == [status]


def test_jobs_that_outlive_the_sweep_are_left(runs):
    stop, launcher = GracefulStop(), Pretended(4, looks=1000, outlived=True)
    tracked = carried_out(runs, launcher, lambda tracked: stop.ask(), stop)
    assert statuses(tracked) == ["running"] * 4 and exit_code(tracked) == 75


def test_a_fault_of_the_sweep_itself_leaves_no_run_behind(runs):
    launcher = Pretended(2, looks=1000)

    def broken(tracked):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carried_out(runs, launcher, broken)
    assert launcher.stops == 1


def test_lines_for_what_begins_and_ends_and_now_and_then_for_what_runs(runs):
    stream, now = io.StringIO(), [0.0]
    display = SweepDisplay(stream, interval=30.0, clock=lambda: now[0])
    tracked = [Tracked(run, Status.WAITING) for run in runs[:2]]
    display.show(tracked)
    tracked[0].status = Status.RUNNING
    display.show(tracked)
    display.show(tracked)
    now[0] = 31.0
    written(runs[0], 32, [-10.0, -20.0])
    display.show(tracked)
    tracked[0].status = Status.FAILED
    display.show(tracked)
    display.close()
    assert stream.getvalue().splitlines() == [
        "running        0 / 64       0%                        a",
        "running       32 / 64      50%  evaluation    -15.00  a",
        "failed        32 / 64      50%  evaluation    -15.00  a",
    ]
    assert counts(tracked) == "2 runs: 1 waiting, 1 failed"


def test_a_terminal_has_a_row_for_each_run_that_fits(runs, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for lines, hidden in (("40", 0), ("6", 1)):
        monkeypatch.setenv("LINES", lines)
        stream = Terminal()
        display = SweepDisplay(stream)
        display.show([Tracked(run, Status.ENDED if run.name == "a" else Status.RUNNING) for run in runs])
        shown = stream.getvalue()
        display.close()
        assert ("4 runs: 3 running, 1 ended" in shown) == bool(hidden)
        assert shown.count("ended") == 1 and shown.count("0 / 64") == 4 - hidden


def test_progress_is_read_from_what_a_run_has_written(runs):
    assert state_line(Tracked(runs[0], Status.WAITING)).split() == ["waiting", "0", "/", "64", "0%", "a"]
    assert last_words(Tracked(runs[0], Status.FAILED)) == "it said nothing"
    written(runs[0], 16, [1.0, 2.0], "compiling\npenstock train: no room.\n\n")
    with (runs[0].folder / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 32, "seed": 0}\n{"env_steps": 48, "se')
    progress = runs[0].progress()
    assert (progress.steps, progress.score) == (32, 1.5)
    by_success = dataclasses.replace(runs[0], plan=dataclasses.replace(runs[0].plan, best_by="eval/success_rate"))
    assert by_success.progress().score is None, "a run is shown by what it is judged by"
    assert last_words(Tracked(runs[0], Status.FAILED, code=2)) == "penstock train: no room."
    assert last_words(Tracked(runs[0], Status.FAILED, code=-9)) == "ended by SIGKILL, as happens where memory runs out"
    assert not runs[0].ended
