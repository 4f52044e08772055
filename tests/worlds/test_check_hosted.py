"""The checker of hosted worlds: as it goes, by time, and beyond the first observation."""

import functools
import io
import signal
import sys
import time

import gymnasium
import numpy as np
import pytest
from hosted_environments import Counting, Tells

from penstock._own_code import load_own
from penstock.cli.check_world import run
from penstock.worlds.check import check_world, iterate_checks
from penstock.worlds.check.patience import patience_of
from penstock.worlds.hosted.environments import own_source
from penstock.worlds.hosted.hosted_world import HostedWorld


def hosted(make, num_envs=2, **options):
    return HostedWorld(own_source("mine", functools.partial(make, **options)), num_envs)


class Takes(Counting):
    """Takes its time: ``reset`` and ``step`` are seconds, ``step`` from step ``late`` on."""

    def __init__(self, reset=0.0, step=0.0, late=0, **kwargs):
        super().__init__(**kwargs)
        self.seconds, self.late = (reset, step), late

    def reset(self, **kwargs):
        time.sleep(self.seconds[0])
        return super().reset(**kwargs)

    def step(self, action):
        if self.age >= self.late:
            time.sleep(self.seconds[1])
        return super().step(action)


class NoisyLate(Counting):
    """Draws from elsewhere than its seed, from step 60 on."""

    drawn = 0

    def step(self, action):
        observation, *rest = super().step(action)
        NoisyLate.drawn += 1
        return (observation + (NoisyLate.drawn if self.age >= 60 else 0), *rest)


def test_what_is_not_repeated_late_in_an_episode_is_found():
    found = {f.title: f for f in check_world(hosted(NoisyLate, limit=80))}
    assert found["Reset is reproducible"].severity == "ok"
    assert "the observation of step 60 differs" in found["Steps are reproducible"].explanation
    steady = {f.title: f for f in check_world(hosted(Counting, limit=80))}["Steps are reproducible"]
    assert steady.severity == "ok" and "the same 81 steps" in steady.explanation


def test_slow_steps_end_by_time_and_are_no_fault():
    begin = time.monotonic()
    findings = check_world(hosted(Takes, step=0.1, limit=80), max_seconds=0.5)
    assert time.monotonic() - begin < 20.0
    assert {f.severity for f in findings if f.title != "Reward varies"} == {"ok"}
    assert "all that there was time for" in {f.title: f for f in findings}["Episodes end"].explanation


def test_slow_resets_leave_no_time_to_repeat_them():
    begin = time.monotonic()
    found = {f.title: f for f in check_world(hosted(Takes, reset=0.3), max_seconds=0.4)}
    assert time.monotonic() - begin < 20.0
    assert "There was no time to look" in found["Reset is reproducible"].explanation
    assert "Steps are reproducible" not in found and found["Finite numbers"].severity == "ok"


@pytest.mark.parametrize("slow", [{"reset": 1e6}, {"step": 1e6, "late": 3}], ids=str)
def test_a_call_that_does_not_return_is_ended_and_told_with_its_place(slow):
    begin = time.monotonic()
    last = check_world(hosted(Takes, **slow), max_seconds=0.2)[-1]
    assert time.monotonic() - begin < 20.0
    assert last.severity == "error" and "did not return within 0.4 s" in last.explanation
    assert "time.sleep(self.seconds" in last.explanation, "where it hangs"


def test_a_timer_of_whoever_called_goes_on():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        with patience_of(50.0):
            assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100.0
        assert 900.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000.0
        signal.raise_signal(signal.SIGALRM)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]


def test_findings_are_printed_as_they_come(monkeypatch, tmp_path):
    """Where standard output is a file or a pipe, too: each line is flushed before the next check begins."""
    (tmp_path / "mine.py").write_text(
        "from hosted_environments import Counting\nseen, stream = [], None\n"
        "class Looks(Counting):\n    def step(self, action):\n        seen.append(stream.flushed)\n"
        "        return super().step(action)\n"
    )

    class Stream(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    spec = f"{tmp_path / 'mine.py'}:Looks"
    module = sys.modules[load_own(spec, "world", callable).__module__]
    module.stream = stream
    assert run([spec, "--max-seconds", "5"]) == 0
    assert "Reset is reproducible" in module.seen[0] and "Steps are reproducible" in module.seen[-1]


def test_info_and_films_are_looked_at():
    found = {f.title: f.explanation for f in check_world(hosted(Tells, limit=3, render_mode="rgb_array"))}
    assert found[
        "Info"
    ] == "'is_success' tells success: its rate is logged; --log-info NAME logs any of the numbers " + ("age, deep.x.")
    assert found["Films"] == "It renders 81 x 41 pixels, 10 a second."
    found = {f.title: f.explanation for f in check_world(hosted(Counting, limit=3))}
    assert found["Info"] == "Neither 'is_success' nor 'success' is told."
    assert "It cannot be filmed" in found["Films"]


def test_numbers_that_look_like_a_picture_are_pointed_out():
    class Floats(Counting):
        def __init__(self):
            super().__init__(limit=2)
            self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (3, 40, 40), np.float32)

    first = next(f for f in iterate_checks(hosted(Floats)) if f.severity == "warning")
    assert first.title == "Pictures" and "is read as 4,800 numbers" in first.explanation
