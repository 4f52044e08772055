"""Runs so small that a test can afford to start, kill and compare them: in a process of their own, or in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from penstock.algorithms.registry import algorithm_entry
from penstock.storage.metrics_log import read_metrics
from penstock.storage.store import latest_checkpoint, read_manifest
from penstock.storage.store import load_checkpoint as load_checkpoint
from penstock.training.drivers.functional import FunctionalDriver
from penstock.training.drivers.rates import rates_of
from penstock.training.plan import RunPlan, make_plan
from tests.xla_flags import OLDER_EMITTER

HERE = Path(__file__).parent
STEPS_PER_UPDATE = 16
UPDATES = 12

TINY = {
    "window": 4,
    "actor_hidden": (8,),
    "critic_hidden": (8,),
    "critic_passes": 1,
    "critic_minibatches": 1,
}
"""Settings that compile fast."""

OPTIONS = (
    *("--world", "classic/double-integrator", "--world-option", "episode_length=10", "--num-envs", "4"),
    *("--window", "4", "--actor-hidden", "8", "--steps", str(UPDATES * STEPS_PER_UPDATE), "--log-every", "1"),
    *("--evaluate-every", str(STEPS_PER_UPDATE), "--evaluation-episodes", "2", "--no-video"),
)
"""The same on the command line. Every iteration is evaluated and saved, so that every phase is met often."""

CRITIC_OPTIONS = ("--critic-hidden", "8", "--critic-passes", "1", "--critic-minibatches", "1")
"""Beside them, for algorithms that have a critic."""

QUICK_COMPILATION = (
    "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    f" {OLDER_EMITTER}"
).strip()
"""Halves the time to compile; the programs are as deterministic as with optimisation."""


def tiny_plan(algorithm: str = "apg", **changes) -> RunPlan:
    """The plan of `OPTIONS`, with changes to its fields; ``settings`` are merged."""
    fields = {
        "num_envs": 4,
        "steps": UPDATES * STEPS_PER_UPDATE,
        "log_every": 1,
        "evaluate_every": STEPS_PER_UPDATE,
        "evaluation_episodes": 2,
        "world_options": {"episode_length": 10},
    }
    world = changes.pop("world", "classic/double-integrator")
    own = changes.pop("settings", {})
    settings = {**algorithm_entry(algorithm).config.applicable(TINY, own), **own}
    return make_plan(algorithm, world, settings=settings, **{**fields, **changes})


QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""The same for one program of this process."""


class Commands:
    """Starts ``penstock`` in processes of their own, which share compiled programs."""

    def __init__(self, cache: Path, cwd: Path):
        self.cwd = cwd
        self.env = {
            **os.environ,
            "PENSTOCK_CACHE": str(cache),
            "XLA_FLAGS": QUICK_COMPILATION,
            "JAX_PLATFORMS": "cpu",
            "COLUMNS": "100",
            "NO_COLOR": "1",
        }

    def __call__(self, *arguments, script=("-m", "penstock"), env=None, timeout=150) -> subprocess.CompletedProcess:
        """Runs a command to its end."""
        return subprocess.run(
            [sys.executable, *map(str, script), *map(str, arguments)],
            cwd=self.cwd,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments, env=None) -> subprocess.Popen:
        """Starts a command; its standard error is a pipe of lines."""
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", *map(str, arguments)],
            cwd=self.cwd,
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, algorithm, run_dir, *more, killed_at=None, **kwargs) -> subprocess.CompletedProcess:
        """Trains with `OPTIONS`; ``killed_at`` = (phase, nth) ends it by SIGKILL there. See ``killed_run.py``."""
        script = ("-m", "penstock") if killed_at is None else (HERE / "killed_run.py", *killed_at)
        options = OPTIONS if algorithm == "apg" else OPTIONS + CRITIC_OPTIONS
        return self("train", algorithm, *options, "--run-dir", run_dir, *more, script=script, **kwargs)


class SharedProgram(FunctionalDriver):
    """A `Program` that is compiled once for all runs of the same plan in this process."""

    compiled: dict = {}  # noqa: RUF012

    def __init__(self, learner, evaluation_world, rates=None):
        super().__init__(learner, evaluation_world, rates=rates)
        run = (learner.config, learner.planned_updates, learner.precision, learner.deterministic)
        plan = (learner.name, *run, repr(learner.world), repr(evaluation_world))
        self._plan = plan
        # One learner per plan, so that what is compiled for a post-mortem is shared, too.
        self.learner = self.compiled.setdefault((*plan, "learner"), learner)
        traceable = self.init

        def init(keys):
            if isinstance(keys, jax.core.Tracer):
                return traceable(keys)
            return self._once("init", keys.shape[0], lambda: traceable.lower(keys).compile(QUICKLY))(keys)

        self.init = init

    def _once(self, name, seeds, compile_now):
        key = (*self._plan, name, seeds)
        if key not in self.compiled:
            self.compiled[key] = compile_now()
        return self.compiled[key]

    def compile(self, states, iterations, keys):
        seeds = keys.shape[0]
        rates = rates_of(self.learner, self.rates, seeds)
        self._compiled = self._once(
            "train", seeds, lambda: self._train.lower(states, rates, iterations).compile(QUICKLY)
        )
        self.evaluate = self._once("evaluate", seeds, lambda: self.evaluate.lower(states, keys).compile(QUICKLY))


def final_arrays(run_dir: Path) -> dict[str, list]:
    """Every array of the newest checkpoint. See `checkpoint_arrays`."""
    return checkpoint_arrays(latest_checkpoint(Path(run_dir) / "checkpoints", set_aside=False))


def checkpoint_arrays(checkpoint: Path) -> dict[str, list]:
    """Every array of a checkpoint, by name, as bytes with dtype and shape: one piece from each file that holds some."""
    from safetensors.numpy import load_file

    found = {leaf.path: [leaf.constant] for leaf in read_manifest(checkpoint).leaves if leaf.constant is not None}
    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, array in load_file(path).items():
            found.setdefault(name, []).append((str(array.dtype), array.shape, np.asarray(array).tobytes()))
    return found


def rows(run_dir: Path) -> list[str]:
    """The lines of ``metrics.jsonl`` without the clocks, as text, so that NaN equals NaN."""
    lines = read_metrics(Path(run_dir) / "metrics.jsonl")
    return [json.dumps({k: v for k, v in line.items() if k not in ("wall_seconds", "cpu_seconds")}) for line in lines]


def listing(run_dir: Path) -> list[str]:
    """Every file and directory of the checkpoints, by name."""
    root = Path(run_dir) / "checkpoints"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs ended with the same state, bit for bit, the same metrics and the same files."""
    assert rows(one) == rows(other)
    assert final_arrays(one) == final_arrays(other)
    assert listing(one) == listing(other)
