"""One writer per run folder: F4."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from penstock._errors import ConfigurationError
from penstock.storage.lock import RunLock, RunLockedError, start_token

HOLDER = """
import os, sys, time
from pathlib import Path
from penstock.storage.lock import RunLock
lock = RunLock(Path(sys.argv[1])); lock.acquire()
if "worker" in sys.argv and os.fork() == 0:
    os.write(1, b"worker\\n"); time.sleep(60); os._exit(0)
os.write(1, b"held\\n"); time.sleep(60)  # one write a line: two processes share the pipe
"""


@pytest.fixture
def hold():
    processes: list[subprocess.Popen[str]] = []

    def start(path, *args):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), *args], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_f4_a_second_process_is_refused_and_sigkill_frees_the_lock(tmp_path, hold):
    path = tmp_path / "run.lock"
    holder = hold(path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunLockedError) as caught, RunLock(path):
        pass
    message = str(caught.value)
    assert f"Process {holder.pid} on host {socket.gethostname()!r}" in message and "choose another folder" in message
    assert json.loads(path.read_text())["pid"] == holder.pid  # the refused one changed nothing
    holder.kill()
    holder.wait()
    assert path.exists()
    with RunLock(path):
        assert json.loads(path.read_text()) == {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": start_token(os.getpid()),
        }
    assert not path.exists()


def test_a_worker_forked_by_a_killed_run_does_not_keep_the_lock(tmp_path, hold):
    path = tmp_path / "run.lock"
    holder = hold(path, "worker")
    lines = {holder.stdout.readline(), holder.stdout.readline()}
    assert lines == {"held\n", "worker\n"}
    holder.kill()
    holder.wait()
    with RunLock(path):
        pass


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    first, second = RunLock(tmp_path / "run.lock"), RunLock(tmp_path / "run.lock")
    with first:
        with pytest.raises(RunLockedError, match=f"Process {os.getpid()} "):
            second.acquire()
        with pytest.raises(RunLockedError, match=r"by this very object"):
            first.acquire()
        second.release()
        assert (tmp_path / "run.lock").exists()
    with second:
        pass
    first.release()


def holder_file(path, **changes):
    content = {"pid": os.getpid(), "host": socket.gethostname(), "start": start_token(os.getpid()), **changes}
    path.write_text(json.dumps(content))
    return path


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    process = subprocess.run(["true"], check=True) and subprocess.Popen(["true"])
    process.wait()
    with RunLock(holder_file(tmp_path / "run.lock", pid=process.pid)):
        pass


@pytest.mark.skipif(start_token(os.getpid()) is None, reason="no /proc")
def test_a_recycled_process_id_is_not_the_holder(tmp_path):
    with RunLock(holder_file(tmp_path / "run.lock", start="another-boot-1")):
        pass
    # The same file with the right token: a living holder on a file system without locks.
    with pytest.raises(RunLockedError, match=r"is writing to the run"), RunLock(holder_file(tmp_path / "run.lock")):
        pass


def test_a_lock_of_another_host_is_refused_with_what_to_do(tmp_path):
    path = holder_file(tmp_path / "run.lock", host="elsewhere", pid=4242)
    with pytest.raises(RunLockedError) as caught, RunLock(path):
        pass
    assert "process 4242 on host 'elsewhere'" in str(caught.value) and f"delete {path}" in str(caught.value)
    path.unlink()  # as the sentence says
    with RunLock(path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00" * 10, '{"pid": "x"}', '{"pid": -1}'])
def test_a_damaged_lock_file_does_not_stop_a_run(tmp_path, content):
    path = tmp_path / "run.lock"
    path.write_text(content)
    if content.startswith('{"pid"'):
        holder_file(path, **json.loads(content))
    with RunLock(path):
        pass


def test_f10_a_lock_file_that_cannot_be_written(tmp_path):
    with (
        pytest.raises(ConfigurationError, match=r"lock file .*No such file or directory"),
        RunLock(tmp_path / "a" / "b"),
    ):
        pass
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigurationError, match=r"lock file"), RunLock(tmp_path / "link"):
        pass
    assert not (tmp_path / "victim").exists()


def test_start_tokens_tell_processes_apart():
    assert start_token(os.getpid()) == start_token(os.getpid())
    if start_token(1) is not None and os.getpid() != 1:
        assert start_token(1) != start_token(os.getpid())
    assert start_token(2**22 + 5) is None
