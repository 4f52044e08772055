"""The metrics file: resuming without duplicates, full disks (F9), failing services (F38)."""

import json
import math
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.storage.metrics_log import MetricsLog, read_metrics


def test_rows_come_back_and_lines_are_json(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    row = {
        "step": 1,
        "loss": 0.1,
        "jax": jnp.float32(0.1),
        "half": jnp.bfloat16(1.5),
        "count": np.int64(2**60),
        "flag": np.bool_(True),
        "text": "ä\n",
        "list": [1, 2.5, math.inf],
        "array": jnp.array([1.0, 2.0]),
        "bad": float("nan"),
        "huge": jnp.float32(jnp.inf),
    }
    log.write(row)
    assert read_metrics(tmp_path / "metrics.jsonl")  # on disk before close
    log.close()
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.count("\n") == 1
    plain = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert plain["loss"] == 0.1 and plain["jax"] == float(np.float32(0.1)) and plain["half"] == 1.5
    assert plain["count"] == 2**60 and plain["flag"] is True and plain["text"] == "ä\n"
    assert plain["list"] == [1, 2.5, None] and plain["array"] == [1.0, 2.0]
    assert plain["bad"] is None and plain["huge"] is None
    (read,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(read["bad"]) and math.isnan(read["huge"]) and read["step"] == 1


def test_resuming_leaves_the_bytes_of_an_uninterrupted_run(tmp_path):
    whole = MetricsLog(tmp_path / "whole")
    for step in range(6):
        whole.write({"step": step, "loss": 1 / (step + 1)})
    whole.close()

    first = MetricsLog(tmp_path / "cut")
    offset = 0
    for step in range(5):
        first.write({"step": step, "loss": 1 / (step + 1)})
        if step == 2:
            assert first.sync()
            offset = first.offset()
    with (tmp_path / "cut").open("ab") as file:
        file.write(b'{"step": 5, "lo')  # a kill in the middle of a line
    second = MetricsLog(tmp_path / "cut")
    second.truncate(offset)
    for step in range(3, 6):
        second.write({"step": step, "loss": 1 / (step + 1)})
    second.close()
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_torn_last_line_is_ignored_and_another_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert [row["a"] for row in read_metrics(path)] == [1, 2]
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ConfigurationError, match=r"metrics.jsonl, line 2: "):
        read_metrics(path)
    path.write_text("3\n")
    with pytest.raises(ConfigurationError, match=r"line 1: not a JSON object"):
        read_metrics(path)
    path.write_text("")
    assert read_metrics(path) == []
    with pytest.raises(ConfigurationError, match=r"No such file .* Is this the folder of a run"):
        read_metrics(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ['{"a": 1}\n', '{"a": 1}\n{"a": 2222222}\n', ""])
def test_an_edited_file_is_reported_and_continued_after_a_whole_line(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    reports: list[str] = []
    log = MetricsLog(path, report=reports.append)
    log.truncate(18)
    log.write({"a": 3})
    log.close()
    assert len(reports) == 1 and "rows are missing or were edited" in reports[0]
    assert [row["a"] for row in read_metrics(path)] in ([1, 3], [3])


def test_f9_a_full_disk_delays_rows_and_warns_once(tmp_path):
    reports: list[str] = []
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, report=reports.append)
    log.write({"step": 0, "pad": "x" * 50})
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))  # half of the next row fits
    try:
        for step in range(1, 4):
            log.write({"step": step, "pad": "x" * 50})
        assert path.stat().st_size == size  # no half row
        assert not log.sync() and log.offset() == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(reports) == 1 and "bytes are needed. Training continues" in reports[0]
    assert log.sync() and log.offset() == path.stat().st_size
    log.write({"step": 4})
    log.close()
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3, 4]
    assert len(reports) == 2 and "there is room again" in reports[1]


def test_f10_a_file_that_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(ConfigurationError, match=r"metrics file .* Choose another run folder"):
            MetricsLog(path)


class Broken:
    def __init__(self, after: int):
        self.after = after
        self.calls = 0
        self.closed = False

    def begin(self, run_dir, config):
        if self.after < 0:
            raise ConnectionError("no network")

    def write(self, row):
        self.calls += 1
        if self.calls > self.after:
            raise ConnectionError("network lost")

    def close(self):
        self.closed = True
        raise ConnectionError("still lost")


def test_f38_a_failing_service_is_reported_once_and_dropped(tmp_path):
    reports: list[str] = []
    never, early, late = Broken(after=-1), Broken(after=2), Broken(after=100)
    log = MetricsLog(tmp_path / "metrics.jsonl", [never, early, late], reports.append)
    log.begin({"algorithm": "sac"})
    assert len(reports) == 1 and "Broken failed and gets no more rows: ConnectionError: no network" in reports[0]
    for step in range(5):
        log.write({"step": step})
    assert never.calls == 0 and early.calls == 3 and late.calls == 5
    assert len(reports) == 2 and "Broken failed" in reports[1] and "ConnectionError: network lost" in reports[1]
    assert "Training continues" in reports[1]
    log.close()
    assert not early.closed and late.closed and len(reports) == 3
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(5))
