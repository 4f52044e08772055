"""Every Python block of docs/add_a_world.md runs, in order, and its task passes the checker."""

import pathlib
import re

from penstock.worlds.loading import load_world

TUTORIAL = pathlib.Path(__file__).parents[2] / "docs" / "add_a_world.md"
BLOCKS = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


def test_every_block_runs(capsys, monkeypatch):
    from penstock.worlds import registry

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))  # forgets my/bead afterwards
    names: dict = {"__name__": "tutorial"}
    assert len(BLOCKS) == 5
    for index, block in enumerate(BLOCKS):
        exec(compile(block, f"{TUTORIAL.name}, block {index}", "exec"), names)
    printed = capsys.readouterr().out
    assert "Gradients are right" in printed and "error" not in printed and "warning" not in printed
    assert names["world"].num_envs == 64 and names["world"].task.single.strength == 4.0


def test_the_tutorials_file_loads_as_the_command_does(tmp_path):
    path = tmp_path / "bead.py"
    path.write_text(BLOCKS[0], encoding="utf-8")
    world = load_world(f"{path}:Bead", 2)
    assert world.episode_length == 100
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) < 40
