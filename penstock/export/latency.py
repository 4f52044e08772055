"""How long a decision of an exported policy takes on one core.

Measured in a process of its own, whose libraries start no threads: ``python -m penstock.export.latency FILE [COUNT]``.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from penstock._errors import PenstockError

DECISIONS = 1000
WARM_UP = 50

ONE_THREAD = {f"{library}_THREADS": "1" for library in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM")}
"""Read by NumPy's matrix libraries when they are loaded."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time per decision, from the arrays of the observation to the array of the action, in seconds.

    Attributes:
        median: half of the decisions took less.
        percentile_99: 99 of 100 took less.
    """

    median: float
    percentile_99: float


def latency(path: Path, count: int = DECISIONS) -> Latency:
    """Times the decisions of a file.

    Args:
        path: the file.
        count: how many decisions.

    Raises:
        PenstockError: the process failed.
    """
    command = [sys.executable, "-m", "penstock.export.latency", str(path), str(count)]
    package = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": search}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PenstockError(f"The latency of {path} could not be measured: {done.stderr.strip()[-500:]}")
    return Latency(**json.loads(done.stdout.splitlines()[-1]))


def measure(path: Path, count: int) -> Latency:
    """Times decisions in this process."""
    import numpy as np

    from penstock.export.files import open_policy

    file, random = open_policy(path), np.random.default_rng(0)
    times = np.zeros(count)
    for index in range(-WARM_UP, count):
        now = {
            name: random.integers(0, 256, shape, np.uint8)
            if dtype == "uint8"
            else random.standard_normal(shape).astype(dtype)
            for name, (shape, dtype) in file.inputs.items()
        }
        start = time.perf_counter()
        file.decide(now)
        times[max(index, 0)] = time.perf_counter() - start
    return Latency(float(np.median(times)), float(np.percentile(times, 99)))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # threads that start from now on share the core
    from penstock._jax_setup import set_up_jax

    set_up_jax()
    print(json.dumps(dataclasses.asdict(measure(Path(sys.argv[1]), int(sys.argv[2])))))
