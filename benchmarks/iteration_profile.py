"""Where the CPU time of one training iteration goes, for RFO, SHAC2 and SAPO on the soft worlds.

    taskset -c 1 python benchmarks/iteration_profile.py    # writes benchmarks/results/iteration_profile.json

Every part is a program of its own, on the state and the window of the same run; all parts and the whole iteration take
turns in one process, and a row is the median of its turns. Physics is the window's control steps under given actions;
policy is what the window's gradient costs beside it (with the bootstrap value, SAPO's entropy and the records); the
rest is the whole iteration less its parts: the observation statistics, metrics and copies, less what the compiler saves
by seeing everything at once, hence sometimes below zero.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["PENSTOCK_CACHE"] = ""
from penstock._jax_setup import set_up_jax

set_up_jax()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from penstock.algorithms.pathwise import Now  # noqa: E402
from penstock.networks.optimization import guarded_step  # noqa: E402
from penstock.reports.tables import markdown_table  # noqa: E402
from penstock.training.drivers.functional import begin, iterate  # noqa: E402
from penstock.training.plan import make_plan  # noqa: E402

OUTPUT = Path(__file__).parent / "results" / "iteration_profile.json"

SETTINGS = {
    "soft/jumper": {
        "num_envs": 8,
        "settings": {
            "window": 16,
            "actor_hidden": (256, 128),
            "critic_hidden": (128, 128),
            "critic_passes": 4,
            "critic_minibatches": 1,
        },
    },
    "soft/jumper-mini": {},
}
"""Beside the preset of the world."""


def physics_program(world, steps: int):
    """Sum of the rewards of ``steps`` control steps, without episodes and observations."""
    task = world.task

    def rewards(body, actions):
        def one(body, action):
            body, outcome = task.advance(body, jnp.clip(action, -1.0, 1.0))
            return body, (outcome.reward, outcome.diagnostics)

        _, (reward, diagnostics) = jax.lax.scan(one, body, actions, length=steps)
        return reward.sum(), diagnostics

    return rewards


def programs(algorithm: str, world_name: str) -> tuple[dict, int]:
    """Compiled parts ``name: (program, arguments)``, and environment steps per iteration."""
    plan = make_plan(algorithm, world_name, **{"steps": 1_000_000, **SETTINGS[world_name]})
    world = plan.make_world()
    learner = plan.make_learner(world)
    state = jax.jit(lambda key: begin(learner, key))(jax.random.key(0))
    shape = (plan.settings.window, world.num_envs, world.action_size)
    actions = 0.5 * jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
    physics = physics_program(world, plan.settings.window)

    def window_gradient(state):
        return learner.return_gradient(state.learned, state.world, state.key, state.clock)

    def regularizers(state, window):
        now = Now(state.learned, window, state.key, state.clock, {}, {})
        return learner.regularizer_gradients(now), now.metrics

    def critic(state, window):
        now = Now(state.learned, window, state.key, state.clock, {}, {})
        return learner._fit_critic(now), now.metrics

    def optimizer(state, gradient):
        return guarded_step(learner.actor_optimizer, gradient, state.learned.actor_optimizer, state.learned.actor)

    def compiled(function, *arguments):
        return jax.jit(function).lower(*arguments).compile(), arguments

    parts = {"window": compiled(window_gradient, state)}
    gradient, window, _, _ = parts["window"][0](state)
    parts |= {
        "forward": compiled(physics, state.world.body, actions),
        "both": compiled(jax.grad(physics, argnums=(0, 1), has_aux=True), state.world.body, actions),
        "critic": compiled(critic, state, window),
        "optimizer": compiled(optimizer, state, gradient),
        "iteration": compiled(lambda state: iterate(learner, state)[:2], state),
    }
    if algorithm == "rfo":
        parts["regularizers"] = compiled(regularizers, state, window)
    return parts, learner.steps_per_update


def measure(parts: dict, turns: int, seconds: float) -> dict[str, float]:
    """CPU milliseconds of each part: medians of turns of about ``seconds`` each."""
    repeats = {}
    for name, (program, arguments) in parts.items():
        jax.block_until_ready(program(*arguments))
        begin = time.process_time()
        jax.block_until_ready(program(*arguments))
        repeats[name] = max(1, round(seconds / (time.process_time() - begin)))
    times = {name: [] for name in parts}
    for _ in range(turns):
        for name, (program, arguments) in parts.items():
            begin = time.process_time()
            for _ in range(repeats[name]):
                jax.block_until_ready(program(*arguments))
            times[name].append((time.process_time() - begin) / repeats[name])
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=list(SETTINGS))
    parser.add_argument("--algorithms", nargs="*", default=["rfo", "shac2", "sapo"])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    results = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    for world in arguments.worlds:
        rows = []
        for algorithm in arguments.algorithms:
            parts, steps = programs(algorithm, world)
            ms = measure(parts, arguments.turns, arguments.seconds)
            ms.setdefault("regularizers", 0.0)
            known = sum(ms[name] for name in ("window", "regularizers", "critic", "optimizer"))
            row = {
                "physics forward": ms["forward"],
                "physics backward": ms["both"] - ms["forward"],
                "policy": ms["window"] - ms["both"],
                "flow matching": ms["regularizers"],
                "critic": ms["critic"],
                "actor optimiser": ms["optimizer"],
                "rest": ms["iteration"] - known,
                "iteration": ms["iteration"],
            }
            shares = {name: round(100 * value / ms["iteration"]) for name, value in row.items()}
            rows.append(
                {"world": world, "algorithm": algorithm, "env steps": steps}
                | {f"{name}, ms": round(value, 2) for name, value in row.items()}
                | {f"{name}, %": shares[name] for name in row if name != "iteration"}
            )
            results[world] = rows
            print(markdown_table(rows[-1:]), flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
