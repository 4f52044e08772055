"""Fixtures of the fault tests."""

import os

import jax
import pytest
from tiny_runs import Commands, SharedProgram


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Commands:
    """Starts commands in processes that share their compiled programs, with other workers of the same session too."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Commands(shared / "programs", tmp_path_factory.mktemp("work"))


@pytest.fixture
def in_process(monkeypatch):
    """Lets runs in this process share what they compiled."""
    monkeypatch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
