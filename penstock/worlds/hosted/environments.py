"""Where single environments come from: a Gymnasium id, a DMControl task, a HumanoidBench id, or a user's factory."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from penstock._errors import ConfigurationError, require
from penstock._field_types import convert
from penstock.worlds.hosted.packages import MissingPackageError, package, suggest_few


@dataclasses.dataclass(frozen=True)
class EnvironmentSource:
    """Makes environments of one kind.

    Attributes:
        name: of the world.
        make: makes one `gymnasium.Env`; can be sent to another process if environments shall live there.
        max_episode_steps: time limit in control steps; None where the environment states its own.
        make_vector: makes N environments at once, where somebody else steps them; takes N and a seed.
    """

    name: str
    make: Callable[[], Any]
    max_episode_steps: int | None = None
    make_vector: Callable[[int, int], Any] | None = None


# ---------------------------------------------------------------------- Gymnasium


def gymnasium_source(ident: str, *, max_episode_steps: int | None = None, **options: Any) -> EnvironmentSource:
    """``gym/<id>``: any registered id. Options go to `gymnasium.make`.

    Raises:
        ConfigurationError: unknown id.
    """
    gymnasium = package("gymnasium", f"gym/{ident}", "gymnasium")
    max_episode_steps = convert(max_episode_steps, int | None, "max_episode_steps")
    fits = max_episode_steps is None or max_episode_steps >= 1
    require(fits, "max_episode_steps", max_episode_steps, "must be at least 1")
    module, colon, plain = ident.rpartition(":")
    if colon:
        package(module, f"gym/{ident}", "gymnasium")
    if plain not in gymnasium.registry:
        raise ConfigurationError(
            f"gym/{ident}: Gymnasium knows no '{plain}'.{suggest_few(plain, gymnasium.registry)} An id of another "
            "package is written gym/package:Id-v0; a class or function of yours path/to/file.py:name."
        )
    make = functools.partial(make_gymnasium, ident, max_episode_steps, tuple(sorted(options.items())))
    return EnvironmentSource(f"gym/{ident}", make, max_episode_steps)


def make_gymnasium(ident: str, max_episode_steps: int | None, options: tuple[tuple[str, Any], ...]) -> Any:
    """One environment of a registered id."""
    import gymnasium

    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    try:
        return gymnasium.make(ident, disable_env_checker=True, **limit, **dict(options))
    except TypeError as error:
        raise ConfigurationError(
            f"gym/{ident} cannot be made with the options {sorted(dict(options))}: {error}"
        ) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        extra = " MuJoCo's current versions (-v5) need: pip install 'penstock[gymnasium]'."
        extra = extra if "mujoco" in str(error).lower() else ""
        raise MissingPackageError(f"gym/{ident} needs a package that is not installed: {error}{extra}") from error


def envpool_source(ident: str, **options: Any) -> EnvironmentSource:
    """``gym/<id>`` in EnvPool: one thread pool in C++ steps all environments."""
    from penstock.worlds.hosted.envpool import EnvPoolVector

    envpool = package("envpool", f"gym/{ident}", "envpool")
    known = envpool.list_all_envs()
    if ident not in known:
        raise ConfigurationError(f"gym/{ident}: EnvPool does not offer it.{suggest_few(ident, known)}")
    single = gymnasium_source(ident)

    def make_vector(num_envs: int, seed: int) -> Any:
        return EnvPoolVector(envpool, ident, num_envs, seed, options)

    return EnvironmentSource(f"gym/{ident}", single.make, None, make_vector)


# ---------------------------------------------------------------------- DMControl


def dm_control_source(task: str, **options: Any) -> EnvironmentSource:
    """``dmc/<domain>-<task>``, for example ``dmc/walker-run``. See `DMControlEnvironment` for the options.

    Raises:
        ConfigurationError: unknown domain or task.
        MissingPackageError: dm_control is missing, or MuJoCo is too new for it.
    """
    name = f"dmc/{task}"
    package("gymnasium", name, "dmcontrol")
    from penstock.worlds.hosted.dm_control import DMControlEnvironment, split_name

    domain, behaviour = split_name(task, name)
    make = functools.partial(DMControlEnvironment, domain, behaviour, **options)
    try:
        inspect.signature(DMControlEnvironment).bind(domain, behaviour, **options)
    except TypeError as error:
        known = [p for p in inspect.signature(DMControlEnvironment).parameters if p not in ("domain", "task")]
        raise ConfigurationError(f"{name}: {error}. Options: {', '.join(known)}.") from error
    types = get_type_hints(DMControlEnvironment.__init__)
    for option, value in options.items():
        convert(value, types[option], option)
    return EnvironmentSource(name, make)


# ---------------------------------------------------------------------- HumanoidBench


def humanoid_bench_source(ident: str, **options: Any) -> EnvironmentSource:
    """``humanoidbench/<id>``, for example ``humanoidbench/h1-walk-v0``, from an installed or checked-out package."""
    from penstock.worlds.hosted.humanoid_bench import make_humanoid_bench, refuse_unusable

    refuse_unusable(ident)
    return EnvironmentSource(
        f"humanoidbench/{ident}", functools.partial(make_humanoid_bench, ident, tuple(sorted(options.items())))
    )


# ---------------------------------------------------------------------- your own


class NoTimeLimitError(ConfigurationError):
    """Nothing says how long an environment's episodes are at most."""


def own_source(name: str, make: Callable[[], Any], max_episode_steps: int | None = None) -> EnvironmentSource:
    """A user's factory, or class, of a `gymnasium.Env`."""
    limited = make if max_episode_steps is None else functools.partial(_with_limit, make, max_episode_steps)
    return EnvironmentSource(name, limited, max_episode_steps)


def _with_limit(make: Callable[[], Any], max_episode_steps: int) -> Any:
    import gymnasium

    return gymnasium.wrappers.TimeLimit(make(), max_episode_steps)


def stated_limit(env: Any, name: str) -> int:
    """The time limit of an environment in control steps, from its spec or its wrappers.

    Raises:
        NoTimeLimitError: none is stated.
    """
    limit = _own_limit(env)
    members = getattr(env, "envs", None)
    if limit is None and isinstance(members, list | tuple) and members:  # a vector of environments in this process
        limit = _own_limit(members[0])
    if not isinstance(limit, int):
        raise NoTimeLimitError(
            f"'{name}' states no time limit, so an episode that never ends could not be evaluated. Pass --world-option "
            "max_episode_steps=1000, or another number of control steps."
        )
    require(limit >= 1, "max_episode_steps", limit, "must be at least 1")
    return limit


def _own_limit(env: Any) -> Any:
    """The limit that an environment's spec, itself or one of its wrappers states, or None."""
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    layer = env
    while limit is None and layer is not None:
        limit = getattr(layer, "_max_episode_steps", None) or getattr(layer, "max_episode_steps", None)
        layer = getattr(layer, "env", None)
    return limit


def stated_timestep(env: Any) -> float:
    """Seconds of simulated time per control step; from ``dt``, or the pictures per second; 0.05 where neither is."""
    base = env.unwrapped
    step = getattr(base, "control_timestep", None) or getattr(base, "dt", None)
    if isinstance(step, int | float) and step > 0:
        return float(step)
    frames = (getattr(env, "metadata", None) or {}).get("render_fps")
    return 1.0 / frames if isinstance(frames, int | float) and frames > 0 else 0.05
