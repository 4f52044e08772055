"""A room imports only from rooms below it, or beside it (ARCHITECTURE, section 2)."""

import ast
from pathlib import Path

import pytest

import penstock

ROOT = Path(penstock.__file__).parent
FLOORS = {
    "networks": 1,
    **dict.fromkeys(("physics", "data", "policies", "critics"), 2),
    "worlds": 3,
    "algorithms": 4,
    "training": 5,
    "reports": 6,
    "cli": 7,
    "__main__.py": 7,
}
FILES = sorted(ROOT.rglob("*.py"))


def floor(parts):
    """0 for what lies beside the rooms."""
    return FLOORS.get(parts[0], 0)


def imports(path):
    """Modules of Penstock that a file imports at its top, as parts behind ``penstock``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("penstock."):
            yield node.module.split(".")[1:]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("penstock."):
                    yield name.name.split(".")[1:]


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms | {"__main__.py"} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_go_downward_and_into_public_files(path):
    here = path.relative_to(ROOT).parts
    for there in imports(path):
        assert floor(there) <= floor(here), f"imports upward: penstock.{'.'.join(there)}"
        private = len(there) > 1 and there[-1].startswith("_")
        assert not private or there[0] == here[0], f"imports a private file of another room: {'.'.join(there)}"
