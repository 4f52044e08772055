"""The README is read away from its repository: its links are absolute, and lead to files that are here."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
URL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]


def targets(text):
    return re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", text, re.MULTILINE)


def links():
    return sorted({inline or defined for inline, defined in targets((ROOT / "README.md").read_text())})


@pytest.mark.parametrize("link", links())
def test_links_of_the_readme_lead_somewhere(link):
    assert link.startswith("https://"), "relative"
    raw = URL.replace("github.com", "raw.githubusercontent.com") + "/main/"
    for base in (f"{URL}/blob/main/", raw):
        if link.startswith(base):
            path, _, heading = link.removeprefix(base).partition("#")
            assert (ROOT / path).exists()
            titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE) if path.endswith(".md") else []
            assert not heading or heading in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]


def test_every_reference_of_the_readme_is_defined():
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))
    assert {key for _, key in re.findall(r"\[([^\]]+)\]\[([^\]]+)\]", text)} <= defined
