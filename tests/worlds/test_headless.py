"""What draws where there is no display, and what is said where nothing does."""

import os
import sys

import pytest

from penstock.worlds.hosted import headless
from penstock.worlds.hosted.headless import draw_without_display
from penstock.worlds.hosted.packages import MissingPackageError, package
from penstock.worlds.loading import load_world

VARIABLES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


@pytest.fixture
def chosen(monkeypatch):
    """Chooses with these variables, where these libraries work; the choice, as it is in the environment."""

    def choose(works=("egl", "osmesa"), **variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(headless, "_egl_works", lambda: "egl" in works)
        monkeypatch.setattr(headless.ctypes.util, "find_library", lambda name: "osmesa" in works or None)
        draw_without_display()
        return os.environ.get("MUJOCO_GL"), os.environ.get("PYOPENGL_PLATFORM")

    return choose


def test_egl_is_chosen_where_there_is_no_display_else_osmesa(chosen):
    assert chosen() == ("egl", "egl") and os.environ["SDL_VIDEODRIVER"] == "offscreen,dummy"
    assert chosen(works=("osmesa",)) == ("osmesa", "osmesa")
    assert chosen(works=()) == (None, None), "importing dm_control would fail"


def test_what_a_user_chose_stays(chosen):
    assert chosen(MUJOCO_GL="glfw") == ("glfw", None)
    assert chosen(MUJOCO_GL="") == ("", None)
    assert chosen(PYOPENGL_PLATFORM="osmesa") == ("osmesa", "osmesa")
    assert chosen(works=("egl",), PYOPENGL_PLATFORM="osmesa") == (None, "osmesa")
    assert chosen(DISPLAY=":0") == chosen(WAYLAND_DISPLAY="wayland-0") == (None, None)
    assert "SDL_VIDEODRIVER" not in os.environ


def test_the_choice_is_made_before_a_users_file_is_loaded(chosen, monkeypatch, tmp_path):
    chosen(DISPLAY=":0")  # nothing is chosen yet
    monkeypatch.delenv("DISPLAY")
    (tmp_path / "looks.py").write_text(
        "import os\nseen = os.environ.get('MUJOCO_GL')\nfrom penstock.worlds import make_world\n"
        "make = lambda num_envs: make_world('classic/pendulum', num_envs)\n"
    )
    load_world(f"{tmp_path / 'looks.py'}:make", 1)
    assert sys.modules["looks"].seen == "egl"


def test_an_import_that_fails_for_opengl_names_mujoco_gl(monkeypatch, tmp_path):
    (tmp_path / "draws_with.py").write_text(
        "raise RuntimeError('invalid value for environment variable MUJOCO_GL: foo')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", "foo")
    with pytest.raises(MissingPackageError, match=r"MUJOCO_GL is foo. Without a display .* set MUJOCO_GL=egl"):
        package("draws_with", "dmc/walker-run", "dmcontrol")
