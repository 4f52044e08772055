"""C MuJoCo as the engine of environments that are written for MJX, inside `jax.jit`.

On a CPU the C library steps bodies with contacts faster than MJX does, and nothing of the physics is compiled anew for
every size of a batch. Environments of MuJoCo Playground ask MJX for two things: to move a state by some substeps, and
to compute what follows from a state. Both are answered here, for a whole batch in one call from the program to the
host; rewards, observations and resets stay the environments' own, in JAX.

MJX has a kind of data for the C library, without buffers of its own (``impl="cpp"``), but no step for it.
"""

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import importlib
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from penstock._errors import ConfigurationError
from penstock.worlds.hosted.packages import quiet_mujoco

KIND = "cpp"
"""MJX's own name for states of the C library."""

GIVEN = ("time", "qpos", "qvel", "act", "history", "qacc_warmstart", "plugin_state", "userdata")
GIVEN += ("ctrl", "qfrc_applied", "xfrc_applied", "eq_active", "mocap_pos", "mocap_quat")
"""What a state of MuJoCo consists of (``mjSTATE_INTEGRATION``). All else follows from it."""

FEWEST = 8
"""Environments that a thread of its own is worth."""

_TRACING, _STEPPING = threading.RLock(), threading.Lock()
"""MJX's functions, and MuJoCo's handler of warnings, belong to the whole process."""


class CEngine:
    """C MuJoCo in the place of MJX for the environment of one model.

    States are kept in the types of MJX, float32; inside a control step the library computes in float64. A state that
    became none (not a number, or huge) is not set back as the library does by default, but handed on as it is.

    Args:
        model: the ``mujoco.MjModel``; copied.
        nominal: the ``mjx.Model`` of the same environment. Its arrays that a call replaces are replaced in the library.
    """

    def __init__(self, model: Any, nominal: Any):
        self._mujoco: Any = importlib.import_module("mujoco")
        self._model = copy.copy(model)
        self._model.opt.disableflags |= self._mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self._nominal = nominal
        self._threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._workers: list[_Worker] = []
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While this is open, what is traced with MJX's functions is computed by this engine. One thread at a time."""
        mjx: Any = importlib.import_module("mujoco.mjx")
        mjx_env: Any = importlib.import_module("mujoco_playground._src.mjx_env")
        with _TRACING:
            made = functools.partial(_empty_data, mjx.make_data)
            with (
                _replaced(mjx, step=self.step, forward=self.forward, make_data=made),
                _replaced(mjx_env, step=self.control_step),
            ):
                yield

    def step(self, model: Any, data: Any) -> Any:
        """``mjx.step``."""
        return self._moved(model, data, 1)

    def forward(self, model: Any, data: Any) -> Any:
        """``mjx.forward``."""
        return self._moved(model, data, 0)

    def control_step(self, model: Any, data: Any, action: Any, n_substeps: int = 1) -> Any:
        """``mjx_env.step``: the same control over some substeps."""
        return self._moved(model, data.replace(ctrl=action), n_substeps)

    def _moved(self, model: Any, data: Any, substeps: int) -> Any:
        names = [field.name for field in dataclasses.fields(data) if field.name != "_impl"]
        given = {name: getattr(data, name) for name in GIVEN}
        changed = {
            field.name: value
            for field in dataclasses.fields(model)
            if (value := getattr(model, field.name)) is not getattr(self._nominal, field.name)
        }
        for name, value in changed.items():
            if not hasattr(value, "shape"):
                raise ConfigurationError(
                    f"This environment changes '{name}' of its model while it runs, which C MuJoCo cannot be told. "
                    "Choose MJX with --world-option impl=jax."
                )
        found = {name: jax.ShapeDtypeStruct(getattr(data, name).shape, getattr(data, name).dtype) for name in names}
        host = functools.partial(self._on_host, substeps, found)
        return data.replace(**jax.pure_callback(host, found, given, changed, vmap_method="broadcast_all"))

    def _on_host(self, substeps: int, found: dict[str, Any], given: dict[str, Any], changed: dict[str, Any]) -> Any:
        """A batch of any number of axes, its parts shared among threads."""
        batch = np.shape(given["qpos"])[:-1]
        count = math.prod(batch)
        flat = [
            {name: np.asarray(value).reshape(count, *np.shape(value)[len(batch) :]) for name, value in part.items()}
            for part in (given, changed)
        ]
        made = {name: np.empty((count, *shape.shape), shape.dtype) for name, shape in found.items()}
        parts = max(1, min(self._threads, count // FEWEST))
        edges = np.linspace(0, count, parts + 1).astype(int)
        with _STEPPING, quiet_mujoco():
            while len(self._workers) < parts:
                self._workers.append(_Worker(self._mujoco, self._model, sorted(made)))
            jobs = [
                functools.partial(worker.work, range(low, high), substeps, *flat, made)
                for worker, low, high in zip(self._workers, edges[:-1], edges[1:], strict=False)
            ]
            if parts == 1:
                jobs[0]()
            else:
                self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(self._threads)
                running = [self._pool.submit(job) for job in jobs]
                concurrent.futures.wait(running)  # all, before the next call may use the workers
                for job in running:
                    job.result()
        return {name: array.reshape((*batch, *found[name].shape)) for name, array in made.items()}


class _Worker:
    """One ``MjData`` and a model of its own, whose arrays are looked for once.

    Args:
        mujoco: the module.
        model: copied.
        names: fields of the data that are read.
    """

    def __init__(self, mujoco: Any, model: Any, names: list[str]):
        self._step, self._forward = mujoco.mj_step, mujoco.mj_forward
        self._nominal, self._model = model, copy.copy(model)
        self._replaced: set[str] = set()
        self._data = mujoco.MjData(self._model)
        arrays = {name: np.asarray(getattr(self._data, name)) for name in names if name != "time"}
        self._states = {name: array for name, array in arrays.items() if name in GIVEN and array.size}
        self._results = {name: array.reshape(-1) for name, array in arrays.items() if array.size}
        sizes = [array.size for array in self._results.values()]
        self._places = {
            name: slice(end - size, end)
            for name, size, end in zip(self._results, sizes, np.cumsum(sizes).tolist(), strict=True)
        }

    def work(self, places: range, substeps: int, given: Any, changed: Any, made: dict[str, np.ndarray]) -> None:
        """Moves the environments of some places on, and writes what follows."""
        model, data, results = self._model, self._data, list(self._results.values())
        for name in self._replaced - set(changed):
            getattr(model, name)[...] = getattr(self._nominal, name)
        self._replaced = set(changed)
        fields = [(getattr(model, name), values) for name, values in changed.items()]
        states = [(state, given[name]) for name, state in self._states.items()]
        times, seen = given["time"], np.empty((len(places), sum(map(len, results))))
        for place, row in zip(places, seen, strict=True):
            for field, values in fields:
                field[...] = values[place].reshape(field.shape)
            for state, values in states:
                state[...] = values[place]
            data.time = times[place]
            if substeps:
                self._step(model, data, substeps)
            else:
                self._forward(model, data)
            np.concatenate(results, out=row, casting="unsafe")  # flags are among them
            made["time"][place] = data.time
        for name, columns in self._places.items():
            part = made[name][places.start : places.stop]
            part[...] = seen[:, columns].reshape(part.shape)


@contextlib.contextmanager
def _replaced(module: Any, **functions: Any) -> Iterator[None]:
    """While this is open, a module has other functions by these names."""
    before = {name: getattr(module, name) for name in functions}
    for name, function in functions.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def _empty_data(make_data: Any, *args: Any, **kwargs: Any) -> Any:
    """``mjx.make_data``, without the addresses of a state in this process's memory: states are saved, and compared."""
    data = make_data(*args, **kwargs)
    return data.replace(_impl=jax.tree.map(lambda address: jax.numpy.zeros_like(address), data._impl))
