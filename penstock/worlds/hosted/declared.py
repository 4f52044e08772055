"""What environments of somebody else say of themselves, read before any is stepped."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from penstock._errors import ConfigurationError, PenstockError, raised
from penstock.worlds.hosted.environments import (
    EnvironmentSource,
    refuse_lasting_statistics,
    stated_limit,
    stated_picture_rate,
    stated_timestep,
)
from penstock.worlds.hosted.headless import opengl_hint
from penstock.worlds.hosted.packages import quiet_mujoco
from penstock.worlds.hosted.pictures import Pictures, pictures_of
from penstock.worlds.hosted.spaces import ActionBox, ObservationReader, action_box, observation_reader
from penstock.worlds.hosted.vectorization import GymnasiumVector


@dataclasses.dataclass(frozen=True)
class Declared:
    """What the environments say of themselves.

    Attributes:
        actions: the box of actions.
        reader: how observations are read.
        episode_length: time limit in control steps.
        control_timestep: seconds of simulated time per control step.
        constants: for ``config.json``.
        pictures: who draws them.
        picture_rate: pictures per second, one for each control step, as the environment states it, or in real time.
        idle_steps: whether environments spend a step on resetting themselves (next-step automatic reset), so that
            transitions carry `Transition.valid`.
    """

    actions: ActionBox
    reader: ObservationReader
    episode_length: int
    control_timestep: float
    constants: dict[str, Any]
    pictures: Pictures
    picture_rate: float
    idle_steps: bool = False


def declare(source: EnvironmentSource) -> Declared:
    """Makes one environment and reads what it says of itself.

    Raises:
        ConfigurationError: spaces or time limit that cannot be used.
        CapabilityError: actions or observations of another kind.
        MissingPackageError: something is not installed.
    """
    with quiet_mujoco():
        env = _made(source.make, source.name)
    try:
        for space in ("action_space", "observation_space"):
            try:
                declared = getattr(env, space, None)
            except (Exception, SystemExit) as error:
                raise PenstockError(f"'{source.name}': its {space} raised {raised(error)}") from error
            if declared is None:
                raise ConfigurationError(
                    f"'{source.name}' has no {space}. Set self.{space} in __init__, to a gymnasium.spaces.Box."
                )
        return _declared(source, env, env.action_space, env.observation_space)
    finally:
        with contextlib.suppress(Exception):  # whoever cannot be closed can still be played
            env.close()


def declare_vector(source: EnvironmentSource, envs: Any) -> Declared:
    """Reads what a `gymnasium.vector.VectorEnv` says of its environments. See `declare`."""
    declared = _declared(source, envs, envs.single_action_space, envs.single_observation_space)
    vector = GymnasiumVector(envs, source.name)
    return dataclasses.replace(declared, idle_steps=vector.mode == vector.modes.NEXT_STEP)


def _declared(source: EnvironmentSource, env: Any, actions: Any, observations: Any) -> Declared:
    adjustments, timestep = source.adjustments, stated_timestep(env)
    refuse_lasting_statistics(env, source.name)
    return Declared(
        actions=action_box(actions, source.name, adjustments.action_limit),
        reader=observation_reader(observations, source.name, adjustments.image_size),
        episode_length=source.max_episode_steps or stated_limit(env, source.name),
        control_timestep=timestep,
        constants=_constants(env),
        pictures=pictures_of(env),
        picture_rate=stated_picture_rate(env) or 1.0 / timestep,
    )


def _made(make: Callable[[], Any], name: str) -> Any:
    import gymnasium

    try:
        env = make()
    except PenstockError:
        raise
    except (Exception, SystemExit) as error:
        hint = opengl_hint(error)
        raise PenstockError(f"Making '{name}' failed:{hint and f'{hint} It raised'} {raised(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise PenstockError(
            f"'{name}' made a {type(env).__module__}.{type(env).__name__}, which is no gymnasium.Env. "
            "Environments of the old gym package are wrapped with shimmy.GymV26CompatibilityV0."
        )
    return env


def _constants(env: Any) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    base = type(env.unwrapped)
    constants: dict[str, Any] = {"environment": f"{base.__module__}.{base.__qualname__}"}
    for package in ("gymnasium", "mujoco", "dm_control"):
        try:
            constants[package] = version(package)
        except PackageNotFoundError:
            continue
    return constants
