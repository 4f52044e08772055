"""How JAX is set up for all tests: as the command line does it, without the cache of compiled programs."""

import os

os.environ.setdefault("PENSTOCK_CACHE", "")

from penstock.cli._jax_setup import set_up_jax

set_up_jax()

import jax  # noqa: E402
import pytest  # noqa: E402

QUICKLY_COMPILED = {"policies", "networks", "critics", "algorithms"}
"""Rooms whose programs run for milliseconds: there, the compiler's costly passes take most of the time."""


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Compiles fast rather than well where that pays."""
    if request.path.parent.name not in QUICKLY_COMPILED:
        yield
        return
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
