"""Importing Penstock does nothing but import (F40)."""

import json
import subprocess
import sys

SCRIPT = """
import importlib, json, os, pkgutil, socket, threading, time, warnings
warnings.simplefilter("ignore")

def refuse(*arguments, **keywords):
    raise AssertionError("importing opened a connection")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
before, folder = dict(os.environ), sorted(os.listdir())

import jax
import equinox, jaxtyping, numpy, optax
config = dict(jax.config.values)
threads = threading.active_count()
begin = time.process_time()
import penstock.training.loop
for room in ("policies", "algorithms", "worlds", "training"):
    package = importlib.import_module(f"penstock.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
seconds = time.process_time() - begin

import penstock
optional = []
for module in pkgutil.walk_packages(penstock.__path__, "penstock."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        optional.append(f"{module.name}: {error}")

from jax._src import xla_bridge
print(json.dumps({
    "environment": sorted(k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)),
    "files": sorted(set(os.listdir()) - set(folder)),
    "threads": threading.active_count() - threads,
    "backends": xla_bridge.backends_are_initialized(),
    "config": [name for name, value in jax.config.values.items() if config.get(name, value) != value],
    "seconds": seconds,
    "not importable": optional,
}))
"""


def test_importing_every_module_has_no_side_effects(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    # Importing matplotlib may note where its cache is, and Gymnasium silences pygame; nothing else may be touched.
    ours = [name for name in found["environment"] if not name.startswith(("KMP_", "PYGAME_"))]
    assert ours == []
    assert found["files"] == [] and found["threads"] == 0 and found["config"] == []
    assert not found["backends"], "a module makes arrays while it is imported"
    # One room is for those alone who have rsl_rl, and torch.
    needs = "penstock.rsl_rl: This needs 'rsl_rl', which is not installed"
    assert [line for line in found["not importable"] if not line.startswith(needs)] == []
    assert found["seconds"] < 2.0, "importing takes more than 2 s of CPU beyond its libraries"
