"""Jobs through submitit: with its local executor, and with programs that answer as SLURM's do."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from pretended import sweep_run

from penstock._errors import ConfigurationError, PenstockError
from penstock.sweeps import slurm
from penstock.sweeps.slurm import SlurmJobs

pytestmark = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")

TRAINS = "import json, sys; print('trains', json.load(sys.stdin)['algorithm'], flush=True); sys.exit({code})"

SAVES = """
import pathlib, signal, sys, time
saved = pathlib.Path({saved!r})
if saved.exists():
    print("went on", flush=True)
    sys.exit(0)
def save(number, frame):
    saved.write_text("")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("trains", flush=True)
time.sleep(60)
"""


@pytest.fixture
def trains(monkeypatch):
    """Lets jobs run a script in place of a training."""

    def chosen(script):
        monkeypatch.setattr(slurm, "training_command", lambda run: [sys.executable, "-c", script])

    return chosen


def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it takes too long")


def test_a_job_trains_and_tells_its_exit_code(tmp_path, trains):
    launcher, jobs = SlurmJobs(tmp_path, cluster="local"), {}
    for code in (0, 3):
        trains(TRAINS.format(code=code))
        jobs[code] = launcher.start(sweep_run(tmp_path, f"ends-with-{code}"))
    until(lambda: all(job.exit_code() is not None for job in jobs.values()))
    for code, job in jobs.items():
        assert job.exit_code() == code
        assert (tmp_path / f"ends-with-{code}" / "output.txt").read_text() == "trains apg\n"


@pytest.fixture
def under_way(tmp_path, trains):
    """A job that trains and saves when it is asked to stop, the process of its task, and what it says."""
    trains(SAVES.format(saved=str(tmp_path / "saved")))
    run = sweep_run(tmp_path, "run")
    job = SlurmJobs(tmp_path, cluster="local").start(run)
    output = run.folder / "output.txt"
    until(lambda: output.exists() and "trains" in output.read_text())
    (task,) = children(int(job.name))
    return job, task, output


def test_a_job_whose_time_is_over_saves_and_is_queued_again(under_way):
    job, task, output = under_way
    for pid in (task, *children(task)):  # all processes, as SLURM does before the limit
        os.kill(pid, signal.SIGUSR2)
    until(lambda: job.exit_code() is not None)
    assert job.exit_code() == 0 and output.read_text() == "trains\nwent on\n"


def test_a_job_that_is_cancelled_saves(under_way, tmp_path):
    job, task, _ = under_way
    os.kill(task, signal.SIGTERM)
    until(lambda: job.exit_code() is not None)
    assert job.exit_code() == 75 and (tmp_path / "saved").exists()


def children(pid):
    """Processes that a process has started."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Programs that answer as SLURM's do: `sbatch` counts jobs, `squeue` says what the test has written."""
    programs = tmp_path / "bin"
    programs.mkdir()
    submitted, count = tmp_path / "submitted.sh", tmp_path / "count"
    answers = {
        "sbatch": f"cp $1 {submitted}; echo x >> {count}; echo Submitted batch job 7$(wc -l < {count})",
        "squeue": f"cat {tmp_path}/queue",
        "srun": "",
    }
    for name, answer in answers.items():
        (programs / name).write_text(f"#!/bin/sh\n{answer}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "queue").write_text("71\n")
    return tmp_path


def test_jobs_are_submitted_with_their_options_and_found_again(cluster):
    folder = cluster / "sweep"
    options = {"partition": "long", "minutes": 90, "options": {"gres": "gpu:1", "cpus_per_task": "4"}}
    run = sweep_run(folder, "run")
    launcher = SlurmJobs(folder, **options)
    job = launcher.start(run)
    text = (cluster / "submitted.sh").read_text()
    for line in ("partition=long", "time=90", "gres=gpu:1", "cpus-per-task=4", "signal=USR2@90", "job-name=sweep"):
        assert f"#SBATCH --{line}" in text, text
    assert job.exit_code() is None and job.queued and "`scancel 71` ends them" in launcher.farewell()
    assert json.loads((folder / ".slurm" / "jobs.json").read_text()) == {"run": "71"}

    again = SlurmJobs(folder, **options).start(run)
    assert again.name == "71" and again.exit_code() is None, "the job of the first call is found, and none is submitted"
    (folder / ".slurm" / "run.code").write_text("0")
    assert again.exit_code() == 0

    (folder / ".slurm" / "run.code").unlink()
    (cluster / "queue").write_text("70\n")
    assert SlurmJobs(folder, **options).start(run).name == "72", "one that is gone is submitted anew"


def test_a_job_that_left_the_queue_without_a_word_has_failed(cluster, monkeypatch):
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0.0)
    job = SlurmJobs(cluster / "sweep").start(sweep_run(cluster / "sweep", "run"))
    assert job.exit_code() is None
    (cluster / "queue").unlink()
    assert job.exit_code() is None, "a queue that does not answer says nothing"
    (cluster / "queue").write_text("")
    assert job.exit_code() == 1


def test_what_the_cluster_does_not_take_is_a_sentence(cluster):
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho 'error: invalid partition specified: lonk' >&2; exit 1\n")
    with pytest.raises(ConfigurationError, match=r"run: the cluster does not take the job: .*invalid partition"):
        SlurmJobs(cluster / "sweep", partition="lonk").start(sweep_run(cluster / "sweep", "run"))


def test_where_there_is_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"launcher = 'slurm': .*srun"):
        SlurmJobs(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(PenstockError, match=r"pip install 'penstock\[slurm\]'"):
        SlurmJobs(tmp_path)
