"""Worlds of others: Gymnasium, DMControl, HumanoidBench, or your own environment, behind the `World` contract.

They are stepped by the host, outside `jax.jit`. No package of theirs is imported before a world of theirs is made.
"""

import dataclasses
from collections.abc import Callable, Container
from typing import Any

from penstock._errors import ConfigurationError
from penstock._field_types import convert
from penstock.worlds.hosted.environments import (
    EnvironmentSource,
    dm_control_source,
    envpool_source,
    gymnasium_source,
    humanoid_bench_source,
    take_adjustments,
)
from penstock.worlds.hosted.headless import draw_without_display
from penstock.worlds.registry import register_family
from penstock.worlds.world import World


def _family(source_of: Callable[..., EnvironmentSource], own_options: Container[str] = ()) -> Callable[..., World]:
    """What makes a world of a family from the name of a member, N, and options.

    Args:
        source_of: makes the source of its environments.
        own_options: of those that every hosted world has, the ones that its environments have themselves.
    """

    def make(ident: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any) -> World:
        from penstock.worlds.hosted.hosted_world import HostedWorld
        from penstock.worlds.hosted.vectorization import Vectorization

        draw_without_display()
        pooled = vectorization == "envpool" and source_of is gymnasium_source
        make_source = envpool_source if pooled else source_of
        adjustments, options = take_adjustments(options, own_options)
        source = dataclasses.replace(make_source(ident, **options), adjustments=adjustments)
        vectorization = convert(vectorization, Vectorization, "vectorization")
        if vectorization == "envpool" and source.make_vector is None:
            raise ConfigurationError(
                f"'{source.name}': EnvPool steps gym/<id> worlds only; choose serial or processes."
            )
        if source.adjustments.randomize is not None:
            from penstock.worlds.hosted.randomized import randomized_source

            source = randomized_source(source)
        return HostedWorld(source, num_envs, vectorization, convert(timeout, float, "timeout"))

    return make


register_family(
    "gym",
    "gym/<id>",
    "any registered Gymnasium id with continuous actions",
    _family(gymnasium_source),
    also=("gymnasium",),
)
register_family(
    "dmc",
    "dmc/<domain>-<task>",
    "DMControl tasks, states or pixels",
    _family(dm_control_source, ("image_size",)),
    also=("dm_control", "dmcontrol", "dm-control", "dm_control_suite"),
)
register_family(
    "humanoidbench",
    "humanoidbench/<id>",
    "HumanoidBench, from an installed or checked-out package",
    _family(humanoid_bench_source),
    also=("humanoid_bench", "humanoid-bench"),
)
