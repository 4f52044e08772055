"""Worlds of packages that are written in JAX: Brax, gymnax, MuJoCo Playground, or your own. They live inside `jax.jit`.

No package of theirs is imported before a world of theirs is made.
"""

from typing import Any

from penstock._errors import ConfigurationError, suggest
from penstock._field_types import convert
from penstock.worlds.randomization.reading import read_randomization
from penstock.worlds.registry import register_family
from penstock.worlds.task import Vmapped
from penstock.worlds.world import FunctionalWorld

PACKAGES = ("brax", "gymnax", "playground")
"""What may stand before the colon in ``jax/<package>:<id>``; anything else is a module of a user's."""

OUR_OPTIONS = ("max_episode_steps", "action_repeat", "randomize")
"""Options of every world of this kind; others go to the package, or to a user's factory."""


def jax_world(name: str, num_envs: int, environment: Any, ours: dict[str, Any]) -> FunctionalWorld:
    """The world of one environment.

    Args:
        name: of the world.
        num_envs: N.
        environment: a `penstock.worlds.jax_packages.environment.JaxEnvironment`.
        ours: values for `OUR_OPTIONS`.
    """
    from penstock.worlds.jax_packages.randomized import randomized_task
    from penstock.worlds.jax_packages.task import JaxTask

    randomize = convert(ours.get("randomize"), str | dict[str, Any] | None, "randomize")
    numbers = {option: value for option, value in ours.items() if option != "randomize"}
    task = JaxTask(environment, **{option: convert(value, int | None, option) for option, value in numbers.items()})
    single = task if randomize is None else randomized_task(task, read_randomization(randomize))
    return FunctionalWorld(name, Vmapped(single), num_envs)


def _make(member: str, num_envs: int, **options: Any) -> FunctionalWorld:
    """``jax/<package>:<id>``."""
    package, colon, ident = member.partition(":")
    if package not in PACKAGES or not ident:
        raise ConfigurationError(
            f"'jax/{member}': write jax/<package>:<id>, for example jax/brax:ant, or jax/my_package.module:make_env."
            + (suggest(package, PACKAGES) if not colon else "")
        )
    return _make_of(package, f"jax/{member}", ident, num_envs, options)


def _make_playground(ident: str, num_envs: int, **options: Any) -> FunctionalWorld:
    """``playground/<id>``."""
    return _make_of("playground", f"playground/{ident}", ident, num_envs, options)


def _make_of(package: str, name: str, ident: str, num_envs: int, options: dict[str, Any]) -> FunctionalWorld:
    from penstock.worlds.jax_packages import playground, sources

    make = {
        "brax": sources.brax_environment,
        "gymnax": sources.gymnax_environment,
        "playground": playground.playground_environment,
    }[package]
    ours = {option: value for option, value in options.items() if option in OUR_OPTIONS}
    theirs = {option: value for option, value in options.items() if option not in OUR_OPTIONS}
    return jax_world(name, num_envs, make(name, ident, **theirs), ours)


register_family(
    "jax",
    "jax/<package>:<id>",
    "environments in JAX: jax/brax:ant, jax/gymnax:Pendulum-v1, or your own, jax/my.module:make",
    _make,
    functional=True,
    packages=PACKAGES,
)
register_family(
    "playground",
    "playground/<id>",
    "MuJoCo Playground, stepped by C MuJoCo on CPUs",
    _make_playground,
    also=("mujoco_playground", "mujoco-playground"),
    functional=True,
)
