"""The reference has every public name. (`make docs` builds it, and finds names and links that lead nowhere.)"""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
MODULES = dict(re.findall(r"^\.\. automodule:: (\S+)\n( +:imported-members:)?", PAGES, re.MULTILINE))
SINGLE = set(re.findall(r"^\.\. auto(?:class|function):: (\S+)$", PAGES, re.MULTILINE))

DOORS = ("penstock", *(f"penstock.{room}" for room in ("critics", "data", "networks", "physics", "policies", "worlds")))
"""What they offer is public."""
OPEN = ("penstock.algorithms", "penstock.storage")
"""Rooms without a door: whatever a file without an underscore holds is public."""


@pytest.mark.parametrize("room", DOORS)
def test_what_a_room_offers_is_in_the_reference(room):
    offered = importlib.import_module(room)
    assert MODULES.get(room), f"{room}: no automodule with imported-members"
    for name in offered.__all__:
        documented = getattr(offered, name)
        assert name.startswith("__") or documented.__doc__, name


@pytest.mark.parametrize("room", OPEN)
def test_every_file_of_an_open_room_is_in_the_reference(room):
    files = (ROOT / room.replace(".", "/")).glob("[a-z]*.py")
    assert {f"{room}.{file.stem}" for file in files} <= set(MODULES)


def test_what_pages_and_the_readme_import_is_in_the_reference():
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("penstock"):
                    names = {f"{node.module}.{alias.name}" for alias in node.names}
                    assert node.module in MODULES or names <= SINGLE, f"{page.name}: {node.module}"
