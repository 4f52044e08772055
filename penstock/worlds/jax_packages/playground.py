"""MuJoCo Playground: environments of its registry, with the engine named, and models that are here or are told missing.

Playground's own time limits (``config.episode_length``) and action repeats are its configuration's.
"""

import difflib
import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
from jaxtyping import Array, Float, PyTree

from penstock._errors import ConfigurationError, require, warn
from penstock._field_types import convert
from penstock._types import Key
from penstock.worlds.hosted.packages import package, quiet_mujoco, suggest_few
from penstock.worlds.jax_packages.brax_convention import BraxEnvironment
from penstock.worlds.jax_packages.c_engine import KIND, CEngine
from penstock.worlds.jax_packages.environment import JaxEnvironment
from penstock.worlds.jax_packages.menagerie import NEEDS_REAL, STAND_IN_ADVICE, menagerie_folder, stand_ins
from penstock.worlds.jax_packages.sources import version_of

Engine = Literal["c", "jax", "warp"]
"""C MuJoCo, on CPUs; MJX's own, for every processor; or MuJoCo Warp, for NVIDIA's."""

Meshes = Literal["menagerie", "stand-in"]
"""Where visual meshes of robots come from."""

CAPTION = "stand-in meshes: not what the robot looks like"


def playground_environment(
    name: str,
    ident: str,
    impl: Any = None,
    menagerie: Any = None,
    meshes: Any = "menagerie",
    **overrides: Any,
) -> JaxEnvironment:
    """``playground/<id>``, for example ``playground/CartpoleBalance``.

    Args:
        name: of the world.
        ident: of the environment.
        impl: the engine; None takes ``c`` where JAX computes on a CPU, else ``jax``. Playground's own default is Warp.
        menagerie: the folder of MuJoCo Menagerie.
        meshes: ``stand-in`` does without Menagerie where it brings nothing but looks.
        **overrides: entries of the environment's configuration; those of parts with a dot.

    Raises:
        ConfigurationError: unknown id or entry, or models that are missing.
        MissingPackageError: Playground is not installed.
    """
    impl = convert(impl, Engine | None, "impl")
    meshes, menagerie = convert(meshes, Meshes, "meshes"), convert(menagerie, str | None, "menagerie")
    playground = package("mujoco_playground", name, "playground")
    registry = playground.registry
    if ident not in registry.ALL_ENVS:
        hint = suggest_few(ident, registry.ALL_ENVS) or " For example CartpoleBalance."
        raise ConfigurationError(f"'{name}': MuJoCo Playground knows no environment '{ident}'.{hint}")
    config = registry.get_default_config(ident)
    _refuse_unknown(name, overrides, config)
    if "impl" in config:
        impl = impl or ("c" if jax.default_backend() == "cpu" else "jax")
        overrides["impl"] = KIND if impl == "c" else impl
        engine = [f"impl {impl}"]
    else:
        require(impl in (None, "jax"), "impl", impl, f"'{name}' has no choice of engines; leave it out")
        engine = []  # MJX chooses
    replaceable = ident in registry.locomotion.ALL_ENVS and ident not in NEEDS_REAL
    advice = STAND_IN_ADVICE if replaceable else ""
    if ident in registry.dm_control_suite.ALL_ENVS:
        rule = f"'{name}' has its models with it; leave the option out"
        require(menagerie is None, "menagerie", menagerie, rule)
        require(meshes == "menagerie", "meshes", meshes, rule)
        folder = None
    elif meshes == "menagerie":
        folder = menagerie_folder(name, menagerie, pathlib.Path(str(_mjx_env().MENAGERIE_PATH)), advice)
        advice = f" Models were looked for in {folder}, which must be a whole copy of MuJoCo Menagerie.{advice}"
    else:
        require(menagerie is None, "menagerie", menagerie, "does nothing beside meshes=stand-in; leave one of them out")
        rule = f"'{name}' takes more than visual meshes from Menagerie; name its folder with menagerie=path"
        require(replaceable, "meshes", meshes, rule)
        folder = stand_ins(playground, _cache() / "stand-in-meshes" / version_of("playground").replace(" ", "-"))
        warn(f"'{name}': visual meshes are stand-ins. Physics is that of the robot, pictures are not.")
    env = _loaded(name, ident, registry, folder, overrides, "" if meshes == "stand-in" else advice)
    constants = {
        "package": version_of("playground"),
        "engine": ", ".join([version_of("mujoco-mjx"), version_of("mujoco"), *engine]),
        **({"meshes": meshes} if folder is not None else {}),
    }
    caption = CAPTION if meshes == "stand-in" else ""
    if impl == "c":
        return OnC(name, env, constants, caption)
    return BraxEnvironment(name, env, constants=constants, caption=caption)


class OnC(BraxEnvironment):
    """An environment of Playground whose physics is the C library's.

    Args:
        name: of the world.
        env: made with the engine `penstock.worlds.jax_packages.c_engine.KIND`.
        constants: what to record.
        caption: of its pictures.
    """

    def __init__(self, name: str, env: Any, constants: Mapping[str, Any], caption: str):
        super().__init__(name, env, constants=constants, caption=caption)
        self._engine = CEngine(env.mj_model, env.mjx_model)

    def reset(self, key: Key) -> PyTree:
        """See `JaxEnvironment.reset`."""
        with self._engine.in_place():
            return super().reset(key)

    def step(self, state: PyTree, action: Float[Array, "d"]) -> PyTree:
        """See `JaxEnvironment.step`."""
        with self._engine.in_place():
            return super().step(state, action)


def _loaded(
    name: str, ident: str, registry: Any, folder: pathlib.Path | None, overrides: dict[str, Any], advice: str
) -> Any:
    """Lets Playground make an environment, with its models from a folder."""
    epath: Any = importlib.import_module("etils.epath")  # comes with Playground, which reads files through it
    mjx_env = _mjx_env()
    before = mjx_env.MENAGERIE_PATH
    if folder is not None:
        mjx_env.MENAGERIE_PATH = epath.Path(folder)  # read when an environment is made; where it is, nothing is cloned
    try:
        with quiet_mujoco():
            return registry.load(ident, config_overrides=overrides)
    except Exception as error:
        raise ConfigurationError(
            f"'{name}' cannot be made with {version_of('playground')} and {version_of('mujoco')}: "
            f"{type(error).__name__}: {error}.{advice}"
        ) from error
    finally:
        mjx_env.MENAGERIE_PATH = before


def _mjx_env() -> Any:
    return importlib.import_module("mujoco_playground._src.mjx_env")  # no public name for the path of Menagerie exists


def _refuse_unknown(name: str, overrides: dict[str, Any], config: Any) -> None:
    """Refuses entries that a configuration does not have, and values of another type."""
    known = _flat(config)
    for option, value in overrides.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else f" Its entries are {', '.join(known)}."
            raise ConfigurationError(f"'{name}' has no entry '{option}' in its configuration.{hint}")
        default = known[option]
        if isinstance(default, bool | int | float | str):
            overrides[option] = convert(value, type(default), option)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Entries of a configuration by name, those of its parts behind a dot."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {f"{prefix}{key}": value}
    return found


def _cache() -> pathlib.Path:
    """The folder of Penstock's caches."""
    named = os.environ.get("PENSTOCK_CACHE")
    if named:
        return pathlib.Path(named)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "penstock"
