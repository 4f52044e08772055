"""Worlds of others: Gymnasium, DMControl, HumanoidBench, or your own environment, behind the `World` contract.

They are stepped by the host, outside `jax.jit`. No package of theirs is imported before a world of theirs is made.
"""

import dataclasses
from typing import Any

from penstock._errors import ConfigurationError
from penstock._field_types import convert
from penstock.worlds.registry import register_family
from penstock.worlds.world import World


def _world(source: Any, num_envs: int, vectorization: Any, timeout: Any, adjustments: Any) -> World:
    from penstock.worlds.hosted.hosted_world import HostedWorld
    from penstock.worlds.hosted.vectorization import Vectorization

    vectorization = convert(vectorization, Vectorization, "vectorization")
    if vectorization == "envpool" and source.make_vector is None:
        raise ConfigurationError(f"'{source.name}': EnvPool steps gym/<id> worlds only; choose serial or processes.")
    source = dataclasses.replace(source, adjustments=adjustments)
    return HostedWorld(source, num_envs, vectorization, convert(timeout, float, "timeout"))


def _gymnasium(ident: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any) -> World:
    from penstock.worlds.hosted.environments import envpool_source, gymnasium_source, take_adjustments

    source = envpool_source if vectorization == "envpool" else gymnasium_source
    adjustments, options = take_adjustments(options)
    return _world(source(ident, **options), num_envs, vectorization, timeout, adjustments)


def _dm_control(task: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any) -> World:
    from penstock.worlds.hosted.environments import dm_control_source, take_adjustments

    adjustments, options = take_adjustments(options, ("image_size",))
    return _world(dm_control_source(task, **options), num_envs, vectorization, timeout, adjustments)


def _humanoid_bench(
    ident: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any
) -> World:
    from penstock.worlds.hosted.environments import humanoid_bench_source, take_adjustments

    adjustments, options = take_adjustments(options)
    return _world(humanoid_bench_source(ident, **options), num_envs, vectorization, timeout, adjustments)


register_family("gym", "gym/<id>", "any registered Gymnasium id with continuous actions", _gymnasium)
register_family("dmc", "dmc/<domain>-<task>", "DMControl tasks, states or pixels", _dm_control)
register_family(
    "humanoidbench", "humanoidbench/<id>", "HumanoidBench, from an installed or checked-out package", _humanoid_bench
)
