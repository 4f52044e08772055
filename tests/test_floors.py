"""A room imports only from rooms below it, inside functions too; files do not import in circles."""

import ast
import graphlib
from pathlib import Path

import pytest

import penstock

ROOT = Path(penstock.__file__).parent
FLOORS = {
    **dict.fromkeys(("networks", "scene", "storage"), 1),
    **dict.fromkeys(("physics", "data", "policies", "critics", "render"), 2),
    "worlds": 3,
    "algorithms": 4,
    "training": 5,
    "reports": 6,
    "export": 6,
    "sweeps": 7,
    "cli": 8,
    "api.py": 9,
    "__main__.py": 9,
    "__init__.py": 10,
}
FILES = sorted(ROOT.rglob("*.py"))


def floor(parts):
    """0 for what lies beside the rooms."""
    return FLOORS.get(parts[0], FLOORS.get(f"{parts[0]}.py", 0))


def module_of(path):
    """Parts of a file's module behind ``penstock``; of a package, its own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_of(path): path for path in FILES}


def imports(path, late=True):
    """Modules of Penstock that a file imports, as parts behind ``penstock``; ``late``: also inside functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "penstock":
            there = tuple(node.module.split(".")[1:])
            submodules = {(*there, name.name) for name in node.names} & set(MODULES)
            yield from submodules
            if len(submodules) < len(node.names):
                yield there
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "penstock":
                    yield tuple(name.name.split(".")[1:])


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms | {"api.py", "__main__.py", "__init__.py"} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_go_downward_and_into_public_files(path):
    here = path.relative_to(ROOT).parts
    for there in filter(None, imports(path)):
        name = f"penstock.{'.'.join(there)}"
        assert there in MODULES, f"imports what is not there: {name}"
        same = there[0] == here[0]
        assert same or floor(there) == 0 or floor(there) < floor(here), f"imports upward, or from beside: {name}"
        private = any(part.startswith("_") for part in there) and floor(there) > 0
        assert not private or same, f"imports a private file of another room: {name}"


def test_no_file_imports_itself_through_others():
    graph = {}
    for module, path in MODULES.items():
        # A package's front file may import its own files late, by name: that is how light imports are made.
        graph[module] = {there for there in imports(path, late=path.name != "__init__.py") if there in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("files import in a circle: " + " -> ".join(".".join(("penstock", *m)) for m in error.args[1]))
