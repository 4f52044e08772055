"""Packages that bring environments: imported when a world of theirs is made, with a sentence where they are missing."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from penstock._errors import PenstockError, suggest
from penstock.worlds.hosted.headless import opengl_hint


class MissingPackageError(PenstockError, ImportError):
    """A package that a world needs is not installed, or is there in a version that cannot work."""


def package(module: str, world: str, extra: str) -> Any:
    """Imports what a world needs.

    Raises:
        MissingPackageError: says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise MissingPackageError(f"'{world}': importing {module} failed: {error}.") from error
        name = module.partition(".")[0]
        known = {
            "gymnasium",
            "dm_control",
            "mujoco",
            "envpool",
            "humanoid_bench",
            "brax",
            "gymnax",
            "mujoco_playground",
        }
        how = f": pip install 'penstock[{extra}]'" if name in known else ", or not in the current folder."
        raise MissingPackageError(f"'{world}' needs the package {name}, which is not installed{how}") from error
    except Exception as error:  # MuJoCo's, where MUJOCO_GL names what is not there
        raise MissingPackageError(
            f"'{world}': importing {module} failed with {type(error).__name__}: {error}.{opengl_hint(error)}"
        ) from error


@contextlib.contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Keeps MuJoCo's remarks on old files and on states that became none off the terminal: one per environment."""
    mujoco: Any = None
    with contextlib.suppress(Exception):  # who needs it will say what is wrong with it
        mujoco = importlib.import_module("mujoco")
    if not hasattr(mujoco, "set_mju_user_warning"):
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def suggest_few(name: str, known: Any) -> str:
    """The nearest known name; not the list of all, which may be hundreds."""
    text = suggest(name, known)
    return text if "Did you mean" in text else ""
