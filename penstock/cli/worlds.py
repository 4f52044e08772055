"""``penstock worlds``: lists the worlds."""

import dataclasses

from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse


@dataclasses.dataclass(frozen=True)
class WorldsOptions:
    """Lists the worlds, with sizes and time step."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    parse(WorldsOptions, arguments, "penstock worlds")
    set_up_jax()
    from penstock.reports.tables import terminal_width, text_table
    from penstock.worlds import make_functional_world, world_entries, world_families

    rows = []
    for entry in world_entries():
        world = make_functional_world(entry.name, 1)
        spec = world.observation_spec
        rows.append(
            {
                "world": entry.name,
                "observation": str(spec.vector) + (f" + {spec.points} points" if spec.points else ""),
                "actions": world.action_size,
                "episode": f"{world.episode_length} x {1000 * world.control_timestep:.3g} ms",
                "gradients": "yes" if world.differentiable else "no",
                "what it is": entry.summary,
            }
        )
    print(text_table(rows, width=terminal_width()))
    for functional, title, own in (
        (False, "Hosted worlds, without gradients (docs/hosted_worlds.md)", "your own gymnasium.Env"),
        (True, "Environments in JAX, without gradients (docs/jax_worlds.md)", "your own environment in JAX"),
    ):
        families = [
            {"world": family.pattern, "what it is": family.summary}
            for family in world_families()
            if family.functional == functional
        ]
        brought = {"world": "path/to/file.py:make", "what it is": f"{own}: a class, or a function that makes one"}
        print(f"\n{title}:")
        print(text_table([*families, brought], width=terminal_width()))
    return 0
