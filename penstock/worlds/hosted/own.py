"""Environments that a user brings: a class or function that makes a single `gymnasium.Env` or a vector of them."""

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Container
from typing import Any

from penstock._errors import ConfigurationError, require
from penstock._field_types import convert
from penstock.worlds.world import World

OUR_OPTIONS = (
    *("vectorization", "timeout", "max_episode_steps"),
    *("action_limit", "image_size", "limit_as_truncation", "single_instance", "randomize"),
)
"""Options of every hosted world; others go to the factory."""


def is_environment(made: Any) -> bool:
    """Whether something is a Gymnasium environment, single or vectorised (or a class of single ones)."""
    gymnasium = sys.modules.get("gymnasium")
    if gymnasium is None:
        return False
    if isinstance(made, type):
        return issubclass(made, gymnasium.Env)
    return isinstance(made, gymnasium.Env | gymnasium.vector.VectorEnv)


def split_options(
    factory: Any, options: dict[str, Any], known: Container[str] = OUR_OPTIONS
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the world, of which there are ``known`` ones, and those of the factory, which has those it names."""
    taken = inspect.signature(factory).parameters if callable(factory) else {}
    ours = {name: value for name, value in options.items() if name in known and name not in taken}
    return ours, {name: value for name, value in options.items() if name not in ours}


def own_world(
    spec: str,
    make: Callable[..., Any],
    made: Any,
    num_envs: int,
    factory: dict[str, Any],
    ours: dict[str, Any],
    render_by_name: bool = False,
) -> World:
    """The world of a user's environments.

    Args:
        spec: its name.
        make: the factory.
        made: what it made at the first call; closed here.
        num_envs: N.
        factory: keyword arguments of the factory.
        ours: options of the hosted world.
        render_by_name: whether the factory takes ``render_mode``.

    Raises:
        ConfigurationError: a vector environment that cannot be used as it is.
    """
    import gymnasium

    from penstock.worlds.hosted.declared import declare, declare_vector
    from penstock.worlds.hosted.environments import EnvironmentSource, own_source, take_adjustments
    from penstock.worlds.hosted.hosted_world import HostedWorld
    from penstock.worlds.hosted.pictures import rendering
    from penstock.worlds.hosted.randomized import randomized_source
    from penstock.worlds.hosted.vectorization import Vectorization

    limit = convert(ours.get("max_episode_steps"), int | None, "max_episode_steps")
    require(limit is None or limit >= 1, "max_episode_steps", limit, "must be at least 1")
    vectorization = convert(ours.get("vectorization", "serial"), Vectorization, "vectorization")
    require(vectorization != "envpool", "vectorization", vectorization, "EnvPool steps gym/<id> worlds only")
    timeout = convert(ours.get("timeout", 60.0), float, "timeout")
    adjustments, _ = take_adjustments(ours)
    render_by_name = render_by_name and "render_mode" not in factory
    if isinstance(made, gymnasium.Env):
        with contextlib.suppress(Exception):
            made.close()
        source = own_source(spec, functools.partial(make, **factory), limit, render_by_name)
        source = randomized_source(dataclasses.replace(source, adjustments=adjustments))
        return HostedWorld(source, num_envs, vectorization, timeout, declare(source))
    if "num_envs" not in factory:
        raise ConfigurationError(
            f"'{spec}' makes a vector environment but takes no num_envs; write it as a function of num_envs, so that "
            "evaluation can have another number of environments than training."
        )
    require("vectorization" not in ours, "vectorization", ours.get("vectorization"), "a vector environment has its own")

    def make_vector(count: int, seed: int) -> Any:
        del seed
        return make(**{**factory, "num_envs": count})

    with contextlib.suppress(Exception):
        made.close()
    render = functools.partial(rendering, functools.partial(make, **{**factory, "num_envs": 1}), render_by_name)
    source = randomized_source(EnvironmentSource(spec, make, limit, make_vector, render, adjustments))
    return HostedWorld(source, num_envs, vectorization, timeout, declare_vector(source, made))
