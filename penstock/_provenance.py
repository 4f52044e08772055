"""Which source is running: the commit of a checkout of Penstock, where it is one."""

import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def source_commit(root: Path = ROOT) -> str:
    """The commit that the checkout is at; empty where Penstock was installed from a package.

    Read from Git's own files: a process that trains starts no other for it. Changes that are not committed do not show.
    """
    try:
        git = root / ".git"
        if git.is_file():  # a work tree beside its repository
            git = (root / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        shared = (git / common.read_text().strip()).resolve() if common.is_file() else git
        for place in (git, shared):
            if (place / name).is_file():
                return (place / name).read_text().strip()
        for line in (shared / "packed-refs").read_text().splitlines():
            commit, _, reference = line.partition(" ")
            if reference == name:
                return commit
    except OSError:
        pass
    return ""
