"""Where a unimodal policy must lose: flow against Gaussian policies on two-gap-wall and deceptive-basins.

    python benchmarks/two_modes.py run                       # tunes and trains what is not there; an hour on one core
    python benchmarks/two_modes.py run --arms RFO SHAC2 --worlds classic/deceptive-basins
    python benchmarks/two_modes.py report                    # tables and figure from the data

Every arm first gets eight trials (``TRIALS``: two learning rates times four choices of what shapes its noise) on a seed
kept for tuning; the best in stochastic return trains the seeds of the comparison. Environments, window, networks,
critic fit and budget are the same for all. After training, each seed acts in 512 episodes stochastically and in 512
deterministically. The tables name the best unimodal and the best policy, known without learning
(``best_policies.py``); both are for policies without action chunks. ``run`` writes
``benchmarks/results/two_modes.json``, ``report`` draws ``docs/images/two_modes.png``.
"""

import copy
import itertools
import time
from pathlib import Path

import numpy as np
from study import study_of_modes

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "results" / "two_modes.json"
FIGURE = ROOT / "docs" / "images" / "two_modes.png"
EPISODES, TUNING_SEED, DRAWN = 512, 1000, 256

SHARED = {
    "actor_hidden": (64, 64),
    "critic_hidden": (32, 32),
    "critic_learning_rate": 2e-3,
    "critic_passes": 4,
    "critic_minibatches": 1,
    "gradient_limit": 30.0,
}
NUM_ENVS = 32
WORLDS = {
    "classic/two-gap-wall": {"window": 16, "updates": 300},
    "classic/deceptive-basins": {"window": 8, "updates": 300},
}
"""A window sees a launch and its passage (12 steps), or a whole episode (8)."""

ARMS = {
    "SHAC": ("shac", {}),
    "SHAC2": ("shac2", {}),
    "SAPO": ("sapo", {}),
    "RFO": ("rfo", {}),
    "RFO, gated": ("rfo", {"velocity": "gated"}),
    "RFO, plain MLP": ("rfo", {"velocity": "mlp"}),
    "RFO, chunks of 4": ("rfo", {"chunk_length": 4}),
    "SHAC2, chunks of 4": ("shac2", {"chunk_length": 4}),
}
"""The last is the control of chunks: it plans four throws from one observation, so that one Gaussian has four aims."""


def grid(**choices):
    """All combinations."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


RATES = (2e-3, 5e-3)
TRIALS = {
    "shac": grid(actor_learning_rate=RATES, initial_log_std=(-1.0, 0.0), gradient_clip=(0.5, 1.0)),
    "shac2": grid(actor_learning_rate=RATES, initial_log_std=(-1.0, 0.0), gradient_clip=(0.5, 1.0)),
    "sapo": grid(actor_learning_rate=RATES, initial_log_std=(-1.0, 0.0), initial_temperature=(1.0, 0.2)),
    "rfo": grid(actor_learning_rate=RATES, past_coefficient=(0.2, 0.05), uniform_coefficient=(0.02, 0.005)),
}
"""Eight for every algorithm."""


def compile_arm(algorithm, settings, world, numbers):
    """One program for all trials and seeds: ``program(numbers, key)`` trains and judges.

    The numbers of `TRIALS` enter as arrays, which a configuration refuses. Initial values are put into a copy of a
    valid one, the actor's optimiser is made again with its rate and clip (the critic keeps the algorithm's clip), and
    RFO's coefficients scale the gradients of regularizers whose own coefficient is 1.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from penstock.algorithms.registry import algorithm_entry
    from penstock.training.drivers.functional import begin, iterate
    from penstock.training.evaluation import run_episodes
    from penstock.worlds import make_world

    entry = algorithm_entry(algorithm)
    shared = {**SHARED, "window": WORLDS[world]["window"]}
    unit = {"past_coefficient": 1.0, "uniform_coefficient": 1.0} if algorithm == "rfo" else {}
    valid = entry.config.preset(shared, **settings, **unit)
    updates = WORLDS[world]["updates"]
    arena, judge = make_world(world, NUM_ENVS), make_world(world, EPISODES)

    def program(numbers, key):
        class Learner(entry.learner):
            def regularizer_gradients(self, now):
                parts = super().regularizer_gradients(now)
                return {
                    name: jax.tree.map(lambda leaf, c=numbers[f"{name}_coefficient"]: c * leaf, part)
                    for name, part in parts.items()
                }

        config = copy.copy(valid)
        if "initial_temperature" in numbers:
            object.__setattr__(config, "initial_temperature", numbers["initial_temperature"])
        if "initial_log_std" in numbers:
            object.__setattr__(config, "policy", copy.copy(valid.policy))
            object.__setattr__(config.policy, "initial_log_std", numbers["initial_log_std"])
        learner = Learner(config, arena, updates)
        schedule = optax.linear_schedule(numbers["actor_learning_rate"], config.optimizer.final_learning_rate, updates)
        learner.actor_optimizer = optax.chain(
            optax.clip_by_global_norm(numbers.get("gradient_clip", config.optimizer.gradient_clip)),
            optax.adamw(schedule, *config.optimizer.adam_betas, weight_decay=config.optimizer.weight_decay),
        )
        state = jax.lax.fori_loop(0, updates, lambda _, s: iterate(learner, s)[0], begin(learner, key))
        agent = learner.agent(state.learned)
        result = {}
        for name, deterministic in (("stochastic", False), ("deterministic", True)):
            episodes, _ = run_episodes(agent, judge, jax.random.fold_in(key, 1), deterministic=deterministic)
            result[f"return_{name}"] = episodes.episode_return.mean()
            result[f"success_{name}"] = (episodes.diagnostics["success"] > 0.0).mean()
        opening = judge.reset(jax.random.fold_in(key, 2)).observation
        action = agent.sample(opening, jax.random.fold_in(key, 3)).action
        return result, action[:, : arena.action_size]

    arrays = {name: jnp.asarray(number, jnp.float32) for name, number in numbers.items()}
    return jax.jit(program).lower(arrays, jax.random.key(0)).compile()


def train_arm(world, arm, seeds):
    import jax
    import jax.numpy as jnp

    algorithm, settings = ARMS[arm]
    trials = TRIALS[algorithm]
    begin = time.process_time()
    program = compile_arm(algorithm, settings, world, trials[0])
    compiled = time.process_time() - begin

    def once(numbers, seed):
        begin = time.process_time()
        arrays = {name: jnp.asarray(number, jnp.float32) for name, number in numbers.items()}
        result, action = jax.block_until_ready(program(arrays, jax.random.key(seed)))
        row = {name: round(float(value), 3) for name, value in result.items()}
        return {**row, "cpu_seconds": round(time.process_time() - begin, 2)}, np.asarray(action)

    tuning = [{"settings": numbers, **once(numbers, TUNING_SEED)[0]} for numbers in trials]
    best = max(tuning, key=lambda trial: trial["return_stochastic"])["settings"]
    rows, laws = zip(*(once(best, seed) for seed in range(seeds)), strict=True)
    result = {
        "settings": best,
        "seeds": list(rows),
        "tuning": tuning,
        "first_actions": laws[0][:DRAWN].round(2).tolist(),
        "compile_cpu_seconds": round(compiled, 1),
    }
    print(world, arm, best, [row["return_stochastic"] for row in rows], flush=True)
    return result


def table(data):
    from penstock.reports.statistics import bootstrap_interval

    blocks = []
    for world, content in data.items():
        lines = [
            f"{world}, {NUM_ENVS * WORLDS[world]['window'] * WORLDS[world]['updates']:,} environment steps",
            "",
            "| arm | return, stochastic | return, deterministic | success, stochastic | CPU s per seed | settings |",
            "|---|---:|---:|---:|---:|---|",
        ]
        for name, arm in content["arms"].items():
            cells = [
                str(bootstrap_interval([np.array([seed[key] for seed in arm["seeds"]])]))
                for key in ("return_stochastic", "return_deterministic", "success_stochastic")
            ]
            seconds = np.mean([seed["cpu_seconds"] for seed in arm["seeds"]])
            settings = ", ".join(f"{key} {value:g}" for key, value in arm["settings"].items())
            lines.append(f"| {name} ({len(arm['seeds'])} seeds) | {' | '.join(cells)} | {seconds:.1f} | {settings} |")
        for name, row in content["known"].items():
            success = f"{row['success']:.2f}" if "success" in row else ""
            lines.append(f"| *known: {name}* | {row['return']:.2f} | | {success} | | {row['law']} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def draw(data, path=FIGURE):
    """First actions of the first seed: a line of panels per world. ``path``: of the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.figure

    from penstock.reports.style import INK, PALETTE, SOFT, save

    columns = max(len(content["arms"]) for content in data.values())
    figure = matplotlib.figure.Figure(figsize=(2.3 * columns, 2.7 * len(data)), layout="constrained")
    for line, (world, content) in zip(figure.subplots(len(data), columns, squeeze=False), data.items(), strict=True):
        line[0].set_ylabel(world, fontsize=9, color=INK)
        for axes in line[len(content["arms"]) :]:
            axes.set_axis_off()
        for axes, (name, arm) in zip(line, content["arms"].items(), strict=False):
            axes.plot(*np.array(arm["first_actions"]).T, ".", markersize=2.5, alpha=0.5, color=PALETTE[0])
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
            value = np.mean([seed["return_stochastic"] for seed in arm["seeds"]])
            axes.set_title(name, fontsize=10, color=INK, loc="left", pad=14)
            axes.text(0, 1.02, f"mean return {value:.2f}", transform=axes.transAxes, fontsize=8, color=SOFT)
            axes.tick_params(labelsize=7, colors=SOFT)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)


def main():
    study_of_modes(__doc__, DATA, WORLDS, ARMS, 10, train_arm, table, draw)


if __name__ == "__main__":
    main()
