import io
import re

import pytest

from penstock._errors import ConfigurationError
from penstock.reports.live import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def train(progress, clock, updates=20, seconds=1.0):
    progress.start(1_000_000, "RFO · pendulum")
    progress.compiling("training step")
    clock.now += 14.2
    progress.compiled(14.2)
    for k in range(updates):
        clock.now += seconds
        progress.update((k + 1) * 50_000, 50_000.0, reward=10.0 * k, forward_velocity=0.5)
    progress.close()


def test_plain_lines_are_few_aligned_and_free_of_control_characters():
    stream, clock = io.StringIO(), Clock()
    train(Progress(stream, interval=5, clock=clock), clock)
    lines = stream.getvalue().splitlines()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())
    assert lines[:3] == [
        "RFO · pendulum: 1M environment steps",
        "compiling training step ...",
        "compiled training step in 14.2 s",
    ]
    states = lines[3:]
    assert len(states) == 5  # the first update, every fifth second, and the last
    assert len({line.index("steps/s") for line in states}) == 1
    assert len({line.index("forward velocity") for line in states}) == 1
    assert states[0].startswith("   50k / 1M") and "19 s left" in states[0]
    assert "100%" in states[-1] and "reward     190.0" in states[-1] and "done" in states[-1]


def test_evaluations_are_printed_at_once_in_plain_output():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, interval=1000, clock=clock)
    progress.start(100, "x", env_steps=10)
    progress.update(20, 1.0)
    progress.update(30, 1.0, evaluation=7.5, reward=2.0)
    progress.update(40, 1.0, reward=2.0)
    progress.close()
    progress.close()
    lines = stream.getvalue().splitlines()
    assert lines[1] == "continues at step 10"
    assert "reward" not in lines[2] and "reward     2.000" in lines[3]
    assert "evaluation     7.500" in lines[3]
    assert len(lines) == 5 and lines[4].startswith("    40 / 100")


@pytest.mark.parametrize("columns", [20, 40, 100])
def test_live_display_fits_any_width(monkeypatch, columns):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, clock=clock)
    assert progress.animated
    train(progress, clock)
    text = stream.getvalue()
    assert "\x1b[" in text and "\x1b[?25h" in text  # animated, and the cursor is back
    final = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()
    assert max(map(len, final)) <= columns
    assert any("100%" in line for line in final)
    if columns == 100:
        assert any("1M / 1M steps   50k steps/s   reward 190.0   forward velocity 0.5000" in line for line in final)


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream, clock = Terminal(), Clock()
    train(Progress(stream, clock=clock), clock)
    assert not re.search(r"\x1b\[[0-9;]*\b(3[0-9]|9[0-7])[;m]", stream.getvalue())


def test_dumb_terminals_get_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream, clock = Terminal(), Clock()
    train(Progress(stream, clock=clock), clock)
    assert "\x1b" not in stream.getvalue()


def test_unknown_speed_has_no_time_left():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start(100, "x")
    progress.update(1, 0.0, reward=float("nan"))
    assert "left" not in stream.getvalue()


def test_an_error_closes_the_display(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(stream) as progress:
        progress.start(100, "x")
        raise KeyboardInterrupt
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")


def test_total_must_be_positive():
    with pytest.raises(ConfigurationError, match="total_env_steps = 0"):
        Progress(io.StringIO()).start(0, "x")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (12000, "3 h 20 min"), (187200, "2 d 04 h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
