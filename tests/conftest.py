"""How JAX is set up for all tests: as the command line does it, without the cache of compiled programs."""

import contextlib
import os

os.environ.setdefault("PENSTOCK_CACHE", "")

from penstock.cli._jax_setup import set_up_jax

set_up_jax()

import jax  # noqa: E402
import pytest  # noqa: E402

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
