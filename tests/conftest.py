"""How JAX is set up for all tests: as the command line does it, with a cache of programs for this session alone.

Many tests train the same small run, whose programs are compiled once for all workers.
"""

import atexit
import contextlib
import os
import shutil
import tempfile

if "PENSTOCK_CACHE" not in os.environ:  # the first process; the workers that it starts find its answer
    os.environ["PENSTOCK_CACHE"] = tempfile.mkdtemp(prefix="penstock-tests-")
    atexit.register(shutil.rmtree, os.environ["PENSTOCK_CACHE"], ignore_errors=True)

from penstock._jax_setup import set_up_jax

# XLA's older emitter of fused loops compiles the small programs of these tests in four fifths of the time. Other
# processes that tests start compile as users' do.
flags = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{flags or ''} --xla_cpu_use_fusion_emitters=false".strip()
set_up_jax()  # XLA reads its flags here, once
if flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = flags

import multiprocessing  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

WELL_COMPILED = {"cli", "reports"}
"""Rooms whose programs compute for seconds. In the others the compiler's costly passes take most of the time; a test
there that computes for seconds is marked ``optimized``."""


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Compiles fast rather than well where that pays."""
    with _most_optimizations_off(request.path.parent.name not in WELL_COMPILED):
        yield


@pytest.fixture(autouse=True)
def full_compilation(request, quick_compilation):
    """Compiles well for a test that is marked ``optimized``."""
    if request.node.get_closest_marker("optimized"):
        with _most_optimizations_off(False):
            yield
    else:
        yield


@contextlib.contextmanager
def _most_optimizations_off(off):
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
