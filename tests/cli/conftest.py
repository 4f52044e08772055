"""Fixtures of the command line's tests: commands in processes of their own, and commands in this one."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from penstock.cli.main import COMMANDS, dispatch

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from tiny_runs import OPTIONS, Commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory) -> Commands:
    """Starts commands in processes that share their compiled programs, with other workers of the same session too."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Commands(shared / "programs", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def trained(commands):
    """A finished run of two seeds, with film, in a folder whose name has a space and an accent; and what was said."""
    run_dir = commands.cwd / "my rüns" / "first"
    options = [option for option in OPTIONS if option != "--no-video"]
    finished = commands("train", "apg", *options, "--seeds", "2", "--run-dir", run_dir)
    assert finished.returncode == 0, finished.stderr
    return run_dir, finished


@pytest.fixture
def penstock(monkeypatch, capsys):
    """Runs a command in this process, without touching JAX's settings; returns exit code, output and errors."""
    for name in COMMANDS:
        module = importlib.import_module(f"penstock.cli.{name.replace('-', '_')}")
        if hasattr(module, "set_up_jax"):
            monkeypatch.setattr(module, "set_up_jax", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capsys.readouterr()
        try:
            code = dispatch([str(argument) for argument in arguments])
        except SystemExit as error:  # how tyro ends
            code = error.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run
