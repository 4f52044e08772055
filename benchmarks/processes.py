"""Runs of a study, each in a process of its own with one thread."""

import concurrent.futures
import os
import subprocess
import sys


def one_thread() -> dict[str, str]:
    """The environment of a process that computes in one thread."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": flags}


def run_scripts(jobs: dict[str, list[str]], processes: int = 1) -> None:
    """Runs scripts of Python one after the other, or several at a time, and prints how each ended.

    Args:
        jobs: name to script and arguments.
        processes: how many at a time.
    """

    def one(name: str) -> None:
        outcome = subprocess.run([sys.executable, *jobs[name]], check=False, env=one_thread())
        print(f"{name}: exit {outcome.returncode}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, jobs))
