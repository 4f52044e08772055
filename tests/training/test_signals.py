"""Ctrl-C and SIGTERM: F2."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from penstock.training.signals import ECHO_SECONDS, EXIT_INTERRUPTED, GracefulStop

# A run in miniature: a worker process, steps, a "checkpoint" at the end.
RUN = """
import hashlib, subprocess, sys, time
from pathlib import Path
from penstock.training.signals import EXIT_INTERRUPTED, GracefulStop
saved = Path(sys.argv[1])
worker = subprocess.Popen(["sleep", "60"])
try:
    with GracefulStop(report=lambda text: print(text, flush=True)) as stop:
        print("ready", worker.pid, flush=True)
        if "long" in sys.argv:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes inside C, like a compiled program
        while not stop.requested:
            time.sleep(0.01)
        saved.write_text("state")
finally:
    worker.terminate(); worker.wait()
sys.exit(EXIT_INTERRUPTED)
"""


@pytest.fixture
def start(tmp_path):
    processes: list[subprocess.Popen[str]] = []

    def run(*args):
        command = [sys.executable, "-c", RUN, str(tmp_path / "saved"), *args]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        processes.append(process)
        assert process.stdout is not None
        word, worker = process.stdout.readline().split()
        assert word == "ready"
        return process, int(worker)

    yield run
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the worker is in the same group
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_f2_one_signal_finishes_saves_and_leaves_with_the_documented_code(tmp_path, start, number):
    process, worker = start()
    process.send_signal(number)
    assert process.wait(timeout=10) == EXIT_INTERRUPTED == 75
    assert (tmp_path / "saved").read_text() == "state"
    assert f"{number.name}: finishing this step, saving" in process.stdout.read()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_f2_the_second_signal_is_immediate_even_inside_a_compiled_program(tmp_path, start, number):
    process, _ = start("long")
    process.send_signal(number)
    assert "again to quit at once" in process.stdout.readline()  # said while the program still runs
    time.sleep(ECHO_SECONDS + 0.1)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number
    assert time.monotonic() - begin < 5
    assert not (tmp_path / "saved").exists()


def test_an_echo_of_the_first_signal_does_not_count():
    codes: list[int] = []
    reports: list[str] = []
    with GracefulStop(reports.append, quit_at_once=codes.append) as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stop.requested)
        time.sleep(ECHO_SECONDS + 0.05)
        assert codes == [] and len(reports) == 1
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: codes)
    assert codes == [130]


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_handlers_come_back_and_no_thread_stays():
    def mine(number, frame):
        del number, frame

    before = signal.signal(signal.SIGTERM, mine)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous = signal.set_wakeup_fd(write_end)
    try:
        interrupt = signal.getsignal(signal.SIGINT)
        with pytest.raises(ValueError), GracefulStop():
            assert signal.getsignal(signal.SIGTERM) is not mine
            raise ValueError
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.set_wakeup_fd(previous) == write_end
        assert not [thread for thread in threading.enumerate() if thread.name == "penstock-signals"]
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(read_end)
        os.close(write_end)


def test_outside_the_main_thread_nothing_happens():
    seen: list[bool] = []

    def work():
        with GracefulStop() as stop:
            seen.append(stop.requested)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGINT) is before
