"""Where environments in JAX come from: the registries of Brax and gymnax, or what a user's factory makes."""

import dataclasses
import importlib.metadata
import warnings
from typing import Any

from penstock._errors import ConfigurationError, PenstockError, suggest
from penstock._field_types import convert
from penstock.worlds.hosted.packages import package, quiet_mujoco, suggest_few
from penstock.worlds.jax_packages.brax_convention import BraxEnvironment, follows_brax
from penstock.worlds.jax_packages.environment import JaxEnvironment
from penstock.worlds.jax_packages.gymnax_convention import GymnaxEnvironment, follows_gymnax

BRAX_EPISODE = 1000
"""Time limit of environments of Brax, which state none: that of ``brax.envs.create``, and of Brax's own training."""


def brax_environment(name: str, ident: str, **options: Any) -> JaxEnvironment:
    """``jax/brax:<id>``, for example ``jax/brax:ant``. Options (``backend``, ...) go to the environment's class.

    Raises:
        ConfigurationError: unknown name or option.
        MissingPackageError: Brax is not installed.
    """
    envs = package("brax.envs", name, "brax")
    if ident not in envs._envs:
        raise ConfigurationError(f"'{name}': Brax knows no environment '{ident}'.{suggest(ident, envs._envs)}")
    with warnings.catch_warnings():
        # Says that Brax's own physics is no longer maintained.
        warnings.filterwarnings("ignore", message="Brax System, piplines", category=UserWarning)
        env = _made(name, lambda: envs.get_environment(ident, **options), options)
    told = {"package": version_of("brax")}
    backend = getattr(env, "_backend", None)
    constants = told if backend is None else {**told, "backend": backend}
    return BraxEnvironment(name, env, BRAX_EPISODE, constants)


def gymnax_environment(name: str, ident: str, **options: Any) -> JaxEnvironment:
    """``jax/gymnax:<id>``, for example ``jax/gymnax:Pendulum-v1``.

    Options that are parameters of the environment (``max_torque``) change those; others go to its class.

    Raises:
        ConfigurationError: unknown name or option, or discrete actions.
        MissingPackageError: gymnax is not installed.
    """
    gymnax = package("gymnax", name, "gymnax")
    known = list(gymnax.registered_envs)
    if ident not in known:
        hint = suggest_few(ident, known) or f" For example {', '.join(known[:3])}."
        raise ConfigurationError(f"'{name}': gymnax knows no environment '{ident}'.{hint}")
    params = _made(name, lambda: gymnax.make(ident), {})[1]
    own = {field.name for field in dataclasses.fields(params)}
    changed = {option: value for option, value in options.items() if option in own}
    given = {option: value for option, value in options.items() if option not in own}
    env, params = _made(name, lambda: gymnax.make(ident, **given), given, sorted(own))
    for option, value in changed.items():
        default = getattr(params, option)
        if isinstance(default, bool | int | float):
            changed[option] = convert(value, type(default), option)
    params = dataclasses.replace(params, **changed)
    return GymnaxEnvironment(name, env, params, {"package": version_of("gymnax")})


def follows_convention(made: Any) -> bool:
    """Whether something is an environment of one of the two conventions, or a class of such."""
    return follows_gymnax(made) or follows_brax(made)


def own_environment(name: str, made: Any) -> JaxEnvironment:
    """What a user brought, which follows one of the conventions."""
    return GymnaxEnvironment(name, made) if follows_gymnax(made) else BraxEnvironment(name, made)


def version_of(distribution: str) -> str:
    """``brax 0.14.2``."""
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:  # a clone on the path
        return distribution


def _made(name: str, make: Any, options: dict[str, Any], known: list[str] | None = None) -> Any:
    """What a package makes, with its fault as a sentence."""
    try:
        with quiet_mujoco():
            return make()
    except PenstockError:
        raise
    except Exception as error:
        given = f" with the options {sorted(options)}" if options else ""
        more = f" Its parameters are {', '.join(known)}." if known and options else ""
        raise ConfigurationError(f"'{name}' cannot be made{given}: {type(error).__name__}: {error}.{more}") from error
