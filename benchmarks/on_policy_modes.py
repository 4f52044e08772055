"""Does a policy with several modes pay under PPO? Gaussian, coupling flow and noisy flow with the same settings.

    python benchmarks/on_policy_modes.py run                       # what is left; about 25 CPU minutes in all
    python benchmarks/on_policy_modes.py run --arms Gaussian --worlds classic/multi-goal
    python benchmarks/on_policy_modes.py report                    # tables and figure from the data

Three worlds: in `classic/multi-goal` one goal is as good as another, so that several modes show what a policy knows but
earn nothing; in `classic/two-gap-wall` and `classic/deceptive-basins` a unimodal policy must lose, by a margin known
without learning (``best_policies.py``). Every arm is trained with and without a reward for entropy, on the same seeds,
with the same environments, window, networks, rates and budget (``SHARED``); nothing was tuned for any of them.

After training each seed acts in 512 episodes stochastically and in 512 deterministically. Modes are counted in others:
those of `classic/multi-goal` begin at the origin exactly, for a policy that reads its goal off the noise of the start
has one mode, not four. A mode counts as known where at least 5 % of what is done falls on it: of the episodes, goals at
which they end; of the first actions, the aims of the best policy. ``run`` writes
``benchmarks/results/on_policy/modes.json`` after every arm and leaves out what is there; ``report`` draws
``docs/images/on_policy_modes.png``.
"""

import itertools
import time
from pathlib import Path

import numpy as np
from study import study_of_modes
from two_modes import DRAWN, EPISODES
from two_modes import draw as draw_first_actions

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "results" / "on_policy" / "modes.json"
FIGURE = ROOT / "docs" / "images" / "on_policy_modes.png"
NUM_ENVS, ITERATIONS, KNOWN = 64, 75, 0.05

SHARED = {
    "window": 32,
    "epochs": 8,
    "minibatches": 8,
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
"""Those of the preset of classic worlds; all else is PPO's default."""

POLICIES = {
    "Gaussian": {"policy": "gaussian", "state_dependent_std": False, "initial_log_std": 0.0},
    "coupling flow": {"policy": "coupling"},
    "coupling flow, l = 1": {"policy": "coupling", "bound": 1.0},
    "noisy flow": {"policy": "noisy-flow"},
}
ENTROPY = 0.05
ARMS = {
    name + (f", entropy {coefficient:g}" if coefficient else ""): {**policy, "entropy_coefficient": coefficient}
    for coefficient, (name, policy) in itertools.product((0.0, ENTROPY), POLICIES.items())
}

AIMS = {
    "classic/two-gap-wall": (np.array([[0.0, -0.6], [0.0, 0.6]]), np.array([np.inf, 0.15])),
    "classic/deceptive-basins": (np.array([[-0.3, 0.0], [0.7, 0.4]]), np.array([0.2, 0.2])),
}
"""Aims of the best policy among first actions, and how far beside one an action still counts for it, per entry."""
WORLDS = ("classic/multi-goal", *AIMS)
ONE_START = {"classic/multi-goal": {"start_std": 0.0}}
"""Options of the world in which modes are counted, where its start says much."""


def share_of_modes(world: str, first_actions: np.ndarray, diagnostics: dict[str, np.ndarray]) -> list[float]:
    """The share of what was done that falls on each mode."""
    if world == "classic/multi-goal":
        return [float((value > 0.0).mean()) for name, value in diagnostics.items() if name.startswith("goal_")]
    aims, near = AIMS[world]
    return [float((np.abs(first_actions - aim) <= near).all(-1).mean()) for aim in aims]


def train_arm(world: str, arm: str, seeds: int) -> dict:
    """Trains every seed, one after the other in one program, and lets it act."""
    import jax

    from penstock.algorithms.registry import algorithm_entry
    from penstock.training.drivers.functional import begin, iterate
    from penstock.training.evaluation import run_episodes
    from penstock.worlds import make_world

    entry = algorithm_entry("ppo")
    judge, same_start = make_world(world, EPISODES), make_world(world, EPISODES, **ONE_START.get(world, {}))
    learner = entry.learner(entry.config.of(**SHARED, **ARMS[arm]), make_world(world, NUM_ENVS), ITERATIONS)

    def program(key):
        state = jax.lax.fori_loop(0, ITERATIONS, lambda _, s: iterate(learner, s)[0], begin(learner, key))
        agent = learner.agent(state.learned)
        key_judge, key_open, key_act, key_measure = jax.random.split(jax.random.fold_in(key, 1), 4)
        ways = (False, True)
        played = [run_episodes(agent, judge, key_judge, deterministic=way)[0] for way in ways]
        again = [run_episodes(agent, same_start, key_judge, deterministic=way)[0].diagnostics for way in ways]
        opening = same_start.reset(key_open).observation
        actions = [agent.sample(opening, key_act).action, agent.mode(opening).action]
        return played, again, actions, learner.measure(state.learned, state.world.observation, key_measure)

    started = time.process_time()
    compiled = jax.jit(program).lower(jax.random.key(0)).compile()
    result = {"compile_cpu_seconds": round(time.process_time() - started, 1), "seeds": []}
    for seed in range(seeds):
        started = time.process_time()
        episodes, again, actions, measured = jax.device_get(compiled(jax.random.key(seed)))
        row = {"cpu_seconds": round(time.process_time() - started, 1)}
        for name, played, seen, acted in zip(("stochastic", "deterministic"), episodes, again, actions, strict=True):
            row[f"return_{name}"] = round(float(played.episode_return.mean()), 3)
            row[f"success_{name}"] = round(float((played.diagnostics["success"] > 0.0).mean()), 3)
            row[f"modes_{name}"] = [round(x, 3) for x in share_of_modes(world, acted, seen)]
        row |= {name.removeprefix("policy/"): float(f"{value:.3g}") for name, value in measured.items()}
        result["seeds"].append(row)
        if seed == 0:
            result["first_actions"] = np.asarray(actions[0], float)[:DRAWN].round(2).tolist()
    print(world, arm, [(row["return_stochastic"], row["modes_stochastic"]) for row in result["seeds"]], flush=True)
    return result


def table(data: dict) -> str:
    from penstock.reports.statistics import bootstrap_interval
    from penstock.reports.tables import markdown_table

    blocks = []
    for world, content in data.items():
        rows = []
        for name, arm in content["arms"].items():
            seeds = arm["seeds"]
            row = {"arm": f"{name} ({len(seeds)} seeds)"}
            for way in ("stochastic", "deterministic"):
                values = np.array([seed[f"return_{way}"] for seed in seeds])
                row[f"return, {way}"] = str(bootstrap_interval([values]))
            counts = [sum(share >= KNOWN for share in seed["modes_stochastic"]) for seed in seeds]
            row[f"modes known of {len(seeds[0]['modes_stochastic'])}, per seed"] = ", ".join(map(str, counts))
            row["share on modes"] = f"{np.mean([sum(seed['modes_stochastic']) for seed in seeds]):.2f}"
            row["success, stochastic"] = f"{np.mean([seed['success_stochastic'] for seed in seeds]):.2f}"
            row["latent std"] = f"{np.mean([seed['latent_std'] for seed in seeds]):.2f}"
            row["CPU s per seed"] = f"{np.mean([seed['cpu_seconds'] for seed in seeds]):.0f}"
            rows.append(row)
        known = [f"known without learning: {name} {row['return']:.2f}" for name, row in content["known"].items()]
        steps = NUM_ENVS * SHARED["window"] * ITERATIONS
        blocks.append("\n".join([f"{world}, {steps:,} environment steps", "", markdown_table(rows), "", *known]))
    return "\n\n".join(blocks)


def draw(data: dict) -> list[Path]:
    def short(name: str) -> str:
        return name.replace("coupling flow, l = 1, entropy", "coupling, l = 1, entropy")  # as wide as a column

    named = {
        world: {**content, "arms": {short(name): arm for name, arm in content["arms"].items()}}
        for world, content in data.items()
    }
    return draw_first_actions(named, FIGURE)


def main() -> None:
    study_of_modes(__doc__, DATA, WORLDS, ARMS, 5, train_arm, table, draw)


if __name__ == "__main__":
    main()
