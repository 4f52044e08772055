"""The commit of a checkout, from Git's own files."""

import subprocess

import pytest

from penstock._provenance import ROOT, source_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_on_a_branch(tmp_path):
    git(tmp_path / ".git", HEAD="ref: refs/heads/main\n", refs__heads__main=f"{COMMIT}\n")
    assert source_commit(tmp_path) == COMMIT


def test_on_a_branch_whose_reference_is_packed(tmp_path):
    packed = f"# pack-refs with: peeled\n{'f' * 40} refs/heads/other\n{COMMIT} refs/heads/main\n"
    git(tmp_path / ".git", HEAD="ref: refs/heads/main\n", **{"packed-refs": packed})
    assert source_commit(tmp_path) == COMMIT


def test_detached(tmp_path):
    git(tmp_path / ".git", HEAD=f"{COMMIT}\n")
    assert source_commit(tmp_path) == COMMIT


def test_in_a_work_tree_beside_its_repository(tmp_path):
    git(tmp_path / "bare", refs__heads__topic=f"{COMMIT}\n")
    git(tmp_path / "bare/worktrees/one", HEAD="ref: refs/heads/topic\n", commondir="../..\n")
    git(tmp_path / "one", **{".git": f"gitdir: {tmp_path}/bare/worktrees/one\n"})
    assert source_commit(tmp_path / "one") == COMMIT


def test_where_there_is_no_checkout(tmp_path):
    assert source_commit(tmp_path) == ""


def test_as_git_itself_says():
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    assert source_commit() == asked.stdout.strip()
