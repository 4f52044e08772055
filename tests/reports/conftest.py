"""Fixtures of the reports' tests: run folders made by hand."""

import pytest

from tests.run_folders import write_run


@pytest.fixture
def make_run(tmp_path):
    """Writes a run folder with the given name and curves; see `write_run`."""
    return lambda name, values, **config: write_run(tmp_path / name, values, **config)
