"""What is told where rsl_rl is not installed. (Runs with it and without.)"""

import sys

import pytest

from penstock._extras import MissingExtraError


def test_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("penstock.rsl_rl")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rsl_rl", None)
    monkeypatch.setitem(sys.modules, "rsl_rl.modules.distribution", None)
    with pytest.raises(MissingExtraError, match=r"needs 'rsl_rl'.*pip install 'penstock\[rsl_rl\]'"):
        import penstock.rsl_rl  # noqa: F401
