"""``penstock worlds``: lists the worlds."""

import dataclasses

from penstock.cli._arguments import parse
from penstock.cli._jax_setup import set_up_jax


@dataclasses.dataclass(frozen=True)
class WorldsOptions:
    """Lists the worlds, with sizes and time step."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    parse(WorldsOptions, arguments, "penstock worlds")
    set_up_jax()
    from penstock.reports.tables import text_table
    from penstock.worlds import make_world, world_entries

    rows = []
    for entry in world_entries():
        world = make_world(entry.name, 1)
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
    print(text_table(rows))
    return 0
