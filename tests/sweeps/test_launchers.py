"""Processes of this machine: their plan, their share of it, what they say, and how they are stopped."""

import os
import signal
import sys
import time

import pytest
from pretended import sweep_run

from penstock._mapping_files import parse_mapping
from penstock.sweeps import launchers
from penstock.sweeps.launchers import LocalProcesses, shares, training_command, usable_cores
from penstock.training.config_files import given_by

SCRIPT = """
import os, signal, sys, time
print(os.environ["PJRT_NPROC"], os.environ["OMP_NUM_THREADS"], os.getsid(0) == os.getpid())
print(sys.stdin.read(), flush=True)
if sys.argv[1] == "waits":
    time.sleep(60)
sys.exit(3)
"""


@pytest.fixture
def script(monkeypatch):
    def chosen(how):
        monkeypatch.setattr(launchers, "training_command", lambda run: [sys.executable, "-c", SCRIPT, how])

    return chosen


def ended(job):
    for _ in range(600):
        if job.exit_code() is not None:
            return job.exit_code()
        time.sleep(0.05)
    return pytest.fail("it takes too long")


def test_a_process_gets_its_plan_and_its_share_of_the_machine(tmp_path, script, monkeypatch):
    script("ends")
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run = sweep_run(tmp_path, "run", gradient_limit=float("inf"), actor_learning_rate=0.1 + 0.2)
    assert ended(LocalProcesses(processes=1000).start(run)) == 3
    said, content = (run.folder / "output.txt").read_text().split("\n", 1)
    assert said == "1 7 True", "one thread; what the user has set holds; and a session of its own"
    assert given_by(parse_mapping(content, "output.txt", "JSON"), "").plan(None, {}, {}) == run.plan


def test_a_request_to_stop_reaches_all_that_are_under_way(tmp_path, script):
    script("waits")
    launcher = LocalProcesses(processes=2)
    jobs = [launcher.start(sweep_run(tmp_path, name)) for name in "ab"]
    assert [job.exit_code() for job in jobs] == [None, None]
    launcher.stop()
    assert [ended(job) for job in jobs] == [-signal.SIGTERM] * 2
    launcher.stop()


def test_shares():
    assert shares(1, 8) == dict.fromkeys(shares(1, 8), "8"), "one process has all of an accelerator's memory"
    four = shares(4, 8)
    assert four["PJRT_NPROC"] == "2" and four["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.225"
    assert shares(8, 2)["PJRT_NPROC"] == "1"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_the_command_is_the_user_s_own(tmp_path):
    run = sweep_run(tmp_path, "run")
    assert training_command(run)[2:] == ["-m", "penstock", "train", "--config", "-", "--run-dir", str(run.folder)]
