"""What draws where there is no display.

MuJoCo and DMControl choose their OpenGL when they are imported, by ``MUJOCO_GL``, and by default ask for a window.
Gymnasium and HumanoidBench follow MuJoCo. So the choice is made before any of them is imported.
"""

import ctypes
import ctypes.util
import os
import sys
import traceback

HEADLESS = ("egl", "osmesa")
"""What draws without a display."""

_WORDS = ("opengl", "mujoco_gl", "egl", "osmesa", "mjr", "glfw", "glcontext", "gladload")

_PLATFORM_DEVICE = 0x313F
_MOST_DEVICES = 16


def draw_without_display() -> None:
    """Chooses what draws without a display, for this process and those that it starts.

    Nothing is changed where there is a display, nor what a user has chosen; ``MUJOCO_GL`` stays unset where neither EGL
    nor OSMesa is there.
    """
    environment = os.environ
    if sys.platform != "linux" or environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"):
        return
    # Of pygame, which would complain of the missing display. With "dummy" alone highway-env draws nothing.
    environment.setdefault("SDL_VIDEODRIVER", "offscreen,dummy")
    if environment.get("MUJOCO_GL") is not None:
        return
    asked = environment.get("PYOPENGL_PLATFORM", "")
    works = {"egl": _egl_works, "osmesa": lambda: ctypes.util.find_library("OSMesa") is not None}
    chosen = next((name for name in HEADLESS if asked in ("", name) and works[name]()), None)
    if chosen is not None:
        environment["MUJOCO_GL"] = environment["PYOPENGL_PLATFORM"] = chosen


def opengl_hint(error: BaseException) -> str:
    """A sentence on ``MUJOCO_GL`` where an exception speaks of OpenGL, or comes from there; else nothing."""
    words = f"{type(error).__module__} {type(error).__name__} {error}".lower()
    files = [frame.filename.replace(os.sep, "/").lower() for frame in traceback.extract_tb(error.__traceback__)]
    speaks = any(word in words for word in _WORDS) or any("/opengl/" in file or "/glfw/" in file for file in files)
    return f" {opengl_advice()}" if speaks else ""


def opengl_advice() -> str:
    """What to do where drawing failed."""
    now = os.environ.get("MUJOCO_GL")
    return (
        f"MUJOCO_GL is {now or 'not set'}. Without a display MuJoCo draws with EGL or OSMesa: install one of them "
        "(Debian: libegl1, or libosmesa6) and set MUJOCO_GL=egl or MUJOCO_GL=osmesa."
    )


def _egl_works() -> bool:
    """Whether EGL finds a device that draws without a display, as MuJoCo will look for one.

    That the library is there says little: where it finds no device, importing dm_control would fail.
    """
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        find = egl.eglGetProcAddress
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        addresses = [find(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT")]
    except (OSError, AttributeError):
        return False
    if not all(addresses):
        return False
    pointer = ctypes.c_void_p
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(ctypes.c_int))(
        addresses[0]
    )
    display_of = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(addresses[1])
    initialize = egl.eglInitialize
    initialize.restype, initialize.argtypes = ctypes.c_uint, [pointer] * 3
    devices, count = (pointer * _MOST_DEVICES)(), ctypes.c_int()
    if not query(_MOST_DEVICES, devices, ctypes.byref(count)):
        return False
    displays = (display_of(_PLATFORM_DEVICE, devices[index], None) for index in range(count.value))
    return any(display and initialize(display, None, None) for display in displays)
