"""Where single environments come from: a Gymnasium id, a DMControl task, a HumanoidBench id, or a user's factory."""

import contextlib
import dataclasses
import functools
import inspect
import math
import numbers
import pathlib
from collections.abc import Callable, Container
from typing import Any, get_type_hints

from penstock._errors import ConfigurationError, require
from penstock._field_types import convert, convert_arguments, convert_fields
from penstock._own_code import importable_from
from penstock.worlds.hosted.ids import newer_id, unknown_id
from penstock.worlds.hosted.packages import MissingPackageError, package, suggest_few
from penstock.worlds.hosted.pictures import rendering, takes_render_mode
from penstock.worlds.randomization.terms import Evaluated


@dataclasses.dataclass(frozen=True)
class Adjustments:
    """What every hosted world can be told beside its own options."""

    action_limit: float | None = None
    """Actions beyond +-action_limit are never tried; for boxes that are wider than what actuators can do."""
    image_size: int | None = None
    """Height and width to which pictures are brought."""
    limit_as_truncation: bool = False
    """Whether a termination at the time limit is the time limit: the value of the last state then counts."""
    single_instance: bool = False
    """Whether there can be one environment only (a port, a robot): evaluation then takes place in it."""
    randomize: str | dict[str, Any] | None = None
    """What differs from episode to episode: a file, or its content. See docs/domain_randomization.md."""

    def __post_init__(self):
        limit, size = self.action_limit, self.image_size
        require(limit is None or 0 < limit < math.inf, "action_limit", limit, "must be a finite number above 0")
        require(size is None or size >= 32, "image_size", size, "must be at least 32")


def take_adjustments(options: dict[str, Any], taken: Container[str] = ()) -> tuple[Adjustments, dict[str, Any]]:
    """Separates the options of every hosted world from a world's own, which come first where names are equal.

    Args:
        options: all of them.
        taken: names of the world's own.
    """
    names = {field.name for field in dataclasses.fields(Adjustments)}
    ours = {name: value for name, value in options.items() if name in names and name not in taken}
    rest = {name: value for name, value in options.items() if name not in ours}
    return Adjustments(**convert_fields(ours, Adjustments)), rest


@dataclasses.dataclass(frozen=True)
class EnvironmentSource:
    """Makes environments of one kind.

    Attributes:
        name: of the world.
        make: makes one `gymnasium.Env`; can be sent to another process if environments shall live there.
        max_episode_steps: time limit in control steps; None where the environment states its own.
        make_vector: makes N environments at once, where somebody else steps them; takes N and a seed.
        make_rendering: makes one environment, or a vector of one where they come as vectors, that renders
            ``rgb_array``; None where `make` does.
        adjustments: of what they declare.
        nominal: makes the same without what is randomised; None where nothing is.
        evaluated: where policies are evaluated if nobody says otherwise.
    """

    name: str
    make: Callable[[], Any]
    max_episode_steps: int | None = None
    make_vector: Callable[[int, int], Any] | None = None
    make_rendering: Callable[[], Any] | None = None
    adjustments: Adjustments = Adjustments()
    nominal: "EnvironmentSource | None" = None
    evaluated: Evaluated = "randomized"


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
        importable_from(pathlib.Path.cwd())
        package(module, f"gym/{ident}", "gymnasium")
    if plain not in gymnasium.registry:
        raise ConfigurationError(f"gym/{ident}: {unknown_id(plain, module, gymnasium.registry)}")
    spec = gymnasium.registry[plain]
    if spec.entry_point is None:
        raise ConfigurationError(
            f"gym/{ident}: it is registered as a vector of environments alone. Write a function of num_envs that "
            f"returns gymnasium.make_vec('{ident}', num_envs=num_envs, ...), and name that: path/to/file.py:name."
        )
    creator = _creator(spec)
    options = convert_arguments(options, creator, f"gym/{ident}")
    make = functools.partial(make_gymnasium, ident, max_episode_steps, tuple(sorted(options.items())))
    render = functools.partial(rendering, make, takes_render_mode(creator) and "render_mode" not in options)
    return EnvironmentSource(f"gym/{ident}", make, max_episode_steps, make_rendering=render)


def _creator(spec: Any) -> Any:
    """The class or function behind a registered id; something that takes anything where it cannot be imported yet."""
    from gymnasium.envs.registration import load_env_creator

    with contextlib.suppress(Exception):
        return spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    return lambda **options: None


def make_gymnasium(ident: str, max_episode_steps: int | None, options: tuple[tuple[str, Any], ...], **more: Any) -> Any:
    """One environment of a registered id, with options and ``more`` of them."""
    import gymnasium

    options = (*options, *more.items())
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    try:
        return gymnasium.make(ident, disable_env_checker=True, **limit, **dict(options))
    except TypeError as error:
        raise ConfigurationError(
            f"gym/{ident} cannot be made with the options {sorted(dict(options))}: {error}. Options are given as "
            "--world-option name=value."
        ) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        extra = " MuJoCo's current versions (-v5) need: pip install 'penstock[gymnasium]'."
        extra = newer_id(ident.rpartition(":")[2], gymnasium.registry) + (
            extra if any(name in str(error).lower() for name in ("mujoco", "imageio")) else ""
        )
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

    return EnvironmentSource(f"gym/{ident}", single.make, None, make_vector, single.make_rendering)


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


def own_source(
    name: str, make: Callable[..., Any], max_episode_steps: int | None = None, render_by_name: bool = False
) -> EnvironmentSource:
    """A user's factory, or class, of a `gymnasium.Env`; ``render_by_name``: it takes ``render_mode``."""
    limited, render = make, functools.partial(rendering, make, render_by_name)
    if max_episode_steps is not None:
        limited, render = (functools.partial(_with_limit, one, max_episode_steps) for one in (make, render))
    return EnvironmentSource(name, limited, max_episode_steps, make_rendering=render)


def _with_limit(make: Callable[[], Any], max_episode_steps: int) -> Any:
    import gymnasium

    return gymnasium.wrappers.TimeLimit(make(), max_episode_steps)


def refuse_lasting_statistics(env: Any, name: str) -> None:
    """Refuses wrappers that keep running statistics over episodes.

    They are no part of a run's state: evaluation, films and continued runs would begin with others, and the policy
    would see other observations there than it has learned from.

    Raises:
        ConfigurationError: names the wrapper.
    """
    layer = env
    while layer is not None:
        statistics = [kept for kept in ("obs_rms", "return_rms", "ret_rms") if kept in getattr(layer, "__dict__", {})]
        frozen = getattr(layer, "update_running_mean", True) is False
        if statistics and not frozen:
            raise ConfigurationError(
                f"'{name}': its wrapper {type(layer).__name__} keeps running statistics over episodes, which are no "
                "part of a run: evaluation, films and a continued run would see other numbers than training. Take the "
                "wrapper off and pass --normalize-observations, whose statistics belong to the run; rewards can be "
                "scaled by a constant in gymnasium.wrappers.TransformReward. A wrapper whose update_running_mean is "
                "False is accepted."
            )
        layer = getattr(layer, "env", None) or (getattr(layer, "envs", None) or [None])[0]


def stated_limit(env: Any, name: str) -> int:
    """The time limit of an environment in control steps, from its spec or its wrappers.

    Raises:
        NoTimeLimitError: none is stated.
    """
    limit = _own_limit(env)
    members = getattr(env, "envs", None)
    if limit is None and isinstance(members, list | tuple) and members:  # a vector of environments in this process
        limit = _own_limit(members[0])
    if callable(limit):
        with contextlib.suppress(Exception):
            limit = limit()
    if not isinstance(limit, numbers.Real) or isinstance(limit, bool) or not math.isfinite(limit):
        raise NoTimeLimitError(
            f"'{name}' states no time limit, so an episode that never ends could not be evaluated. Pass --world-option "
            "max_episode_steps=1000, or another number of control steps."
        )
    whole = round(float(limit))
    require(whole == limit and whole >= 1, "max_episode_steps", limit, "must be a whole number of at least 1")
    return whole


def _own_limit(env: Any) -> Any:
    """The limit that an environment's spec, itself or one of its wrappers states, or None."""
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    layer = env
    while limit is None and layer is not None:
        limit = getattr(layer, "_max_episode_steps", None) or getattr(layer, "max_episode_steps", None)
        layer = getattr(layer, "env", None)
    return limit


ASSUMED_TIMESTEP = 0.05
"""Seconds per control step of an environment that states none."""


def stated_timestep(env: Any) -> float:
    """Seconds of simulated time per control step: as stated, else `ASSUMED_TIMESTEP`."""
    return _own_timestep(env) or ASSUMED_TIMESTEP


def states_timestep(env: Any) -> bool:
    """Whether an environment states how long a control step takes."""
    return env is not None and _own_timestep(env) is not None


def _own_timestep(env: Any) -> float | None:
    """From ``control_timestep`` or ``dt``, or from the pictures per second."""
    base = env.unwrapped
    step = getattr(base, "control_timestep", None) or getattr(base, "dt", None)
    if isinstance(step, int | float) and step > 0:
        return float(step)
    frames = stated_picture_rate(env)
    return None if frames is None else 1.0 / frames


def stated_picture_rate(env: Any) -> float | None:
    """Pictures per second as an environment states them, one for each control step."""
    frames = (getattr(env, "metadata", None) or {}).get("render_fps")
    return float(frames) if isinstance(frames, int | float) and frames > 0 else None
