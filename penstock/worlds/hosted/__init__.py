"""Worlds of others: Gymnasium, DMControl, HumanoidBench, or your own environment, behind the `World` contract.

They are stepped by the host, outside `jax.jit`. No package of theirs is imported before a world of theirs is made.
"""

from typing import Any

from penstock._errors import ConfigurationError
from penstock.worlds.registry import register_family
from penstock.worlds.world import World


def _gymnasium(ident: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any) -> World:
    from penstock.worlds.hosted.environments import envpool_source, gymnasium_source
    from penstock.worlds.hosted.hosted_world import HostedWorld

    source = envpool_source if vectorization == "envpool" else gymnasium_source
    return HostedWorld(source(ident, **options), num_envs, vectorization, timeout)


def _dm_control(task: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any) -> World:
    from penstock.worlds.hosted.environments import package

    package("gymnasium", f"dmc/{task}", "dmcontrol")
    from penstock.worlds.hosted.environments import dm_control_source
    from penstock.worlds.hosted.hosted_world import HostedWorld

    _refuse_envpool(f"dmc/{task}", vectorization)
    return HostedWorld(dm_control_source(task, **options), num_envs, vectorization, timeout)


def _humanoid_bench(
    ident: str, num_envs: int, vectorization: Any = "serial", timeout: Any = 60.0, **options: Any
) -> World:
    from penstock.worlds.hosted.environments import humanoid_bench_source
    from penstock.worlds.hosted.hosted_world import HostedWorld

    _refuse_envpool(f"humanoidbench/{ident}", vectorization)
    return HostedWorld(humanoid_bench_source(ident, **options), num_envs, vectorization, timeout)


def _refuse_envpool(world: str, vectorization: Any) -> None:
    if vectorization == "envpool":
        raise ConfigurationError(f"'{world}': EnvPool steps gym/<id> worlds only; choose serial or processes.")


register_family("gym", "gym/<id>", "any registered Gymnasium id with continuous actions", _gymnasium)
register_family("dmc", "dmc/<domain>-<task>", "DMControl tasks, states or pixels", _dm_control)
register_family(
    "humanoidbench", "humanoidbench/<id>", "HumanoidBench, from an installed or checked-out package", _humanoid_bench
)
