"""How JAX is set up for all tests: as the command line does it, with a cache of programs for this session alone.

Many tests train the same small run, whose programs are compiled once for all workers.
"""

import atexit
import contextlib
import gc
import os
import shutil
import tempfile

if "PENSTOCK_CACHE" not in os.environ:  # the first process; the workers that it starts find its answer
    os.environ["PENSTOCK_CACHE"] = tempfile.mkdtemp(prefix="penstock-tests-")
    atexit.register(shutil.rmtree, os.environ["PENSTOCK_CACHE"], ignore_errors=True)

from penstock._jax_setup import set_up_jax
from tests.xla_flags import OLDER_EMITTER

# Other processes that tests start compile as users' do.
flags = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{flags or ''} {OLDER_EMITTER}".strip()
set_up_jax()  # XLA reads its flags here, once
if flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = flags

import multiprocessing  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

PROGRAMS_PER_CONTEXT = 200


def _share_contexts(mlir):
    """Lets programs be written in one MLIR context, where JAX makes one for each.

    Making it takes a quarter of the time of a small program, and tests compile tens of thousands. Programs are the
    same. What they consist of stays in memory as long as their context, so that it is made anew now and then.
    """
    make, written, context = mlir.make_ir_context, 0, None

    def shared():
        nonlocal written, context
        if written % PROGRAMS_PER_CONTEXT == 0:
            context = make()
        written += 1
        return context

    mlir.make_ir_context = shared


with contextlib.suppress(ImportError):  # not part of JAX's interface: without it tests are slower, and as right
    from jax._src.interpreters import mlir

    if hasattr(mlir, "make_ir_context"):
        _share_contexts(mlir)


def pytest_collection_finish():
    """Spares the collector of garbage all modules and tests, which it would walk again and again: they stay anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


WELL_COMPILED = {"cli", "reports"}
"""Rooms whose programs compute for seconds. In the others the compiler's costly passes take most of the time; a test
there that computes for seconds is marked ``optimized``."""


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Compiles fast rather than well where that pays."""
    with most_optimizations_off(request.path.parent.name not in WELL_COMPILED):
        yield


@pytest.fixture(autouse=True)
def full_compilation(request, quick_compilation):
    """Compiles well for a test that is marked ``optimized``."""
    if request.node.get_closest_marker("optimized"):
        with most_optimizations_off(False):
            yield
    else:
        yield


@contextlib.contextmanager
def most_optimizations_off(off):
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", off)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def compiled_as_for_users():
    """Calls a function of a test module in a process that compiles as users' do.

    For promises about single bits: the quicker compilation of tests does not keep them.
    """
    if jax.default_backend() != "cpu":
        pytest.skip("exact on CPUs only")

    def call(function):
        with multiprocessing.get_context("spawn").Pool(1, set_up_jax) as pool:
            pool.apply(function)

    return call
