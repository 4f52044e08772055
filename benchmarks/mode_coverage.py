"""How many of several equally good goals does each off-policy algorithm know? World: classic/multi-goal.

    python benchmarks/mode_coverage.py run          # trains every arm on three seeds
    python benchmarks/mode_coverage.py report       # table and figure from the data

After training, each seed acts stochastically in 512 episodes from the start and deterministically in 512 more. A goal
counts as known when at least 5 % of the stochastic episodes end there. ``run`` writes
``benchmarks/results/mode_coverage.json`` (with 48 trajectories of the first seed per arm), ``report`` draws
``docs/images/mode_coverage.png``.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from arms import RELEASED_FLOWRL
from study import study

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "results" / "mode_coverage.json"
FIGURE = ROOT / "docs" / "images" / "mode_coverage.png"
EPISODES, DRAWN, KNOWN = 512, 48, 0.05

SHARED = {
    "batch_size": 128,
    "warmup_steps": 1_000,
    "collect_steps": 16,
    "updates_per_step": 4,
    "replay_capacity": 50_000,
    "actor_hidden": (64, 64),
    "critic_hidden": (64, 64),
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
SAC_BASE = {
    "critic": "target",
    "policy_delay": 1,
    "adam_betas": (0.9, 0.999),
    "initial_temperature": 1.0,
    "temperature_learning_rate": 3e-4,
}
"""What SAC has and SAC Flow, on CrossQ's base, has not."""
STRONG = {
    "constraint_coefficient": 1.0,
    "weight_ceiling": 10.0,
    "warmup_steps": 20_000,
    "replay_capacity": 60_000,
    "target_rate": 0.05,
}
"""With which FlowRL keeps both modes of the bimodal probe: a constraint as heavy as Q, and a memory that keeps what
random actions did."""
CODE_WEIGHTING = f"{RELEASED_FLOWRL}:CodeWeighting"
ARMS = {
    "SAC": ("sac", {}),
    "CrossQ": ("crossq", {}),
    "TD3": ("td3", {}),
    "FlowRL, paper": ("flowrl", {"critic_hidden": (64, 64, 64)}),
    "FlowRL, code": (CODE_WEIGHTING, {"critic_hidden": (64, 64, 64)}),
    "FlowRL, code, lambda 1": (CODE_WEIGHTING, {"critic_hidden": (64, 64, 64), **STRONG}),
    "SAC Flow, mlp": ("sac-flow", {"velocity": "mlp"}),
    "SAC Flow, gated": ("sac-flow", {"velocity": "gated"}),
    "SAC Flow, decoded": ("sac-flow", {"velocity": "decoded"}),
    # The path's entropy meets its target from the start, so that alpha stays where it began: 1 drowns the reward.
    "SAC Flow, mlp, SAC's base": ("sac-flow", {"velocity": "mlp", **SAC_BASE, "initial_temperature": 0.2}),
    "SAC Flow, mlp, action": ("sac-flow", {"policy": "marginal-flow", "velocity": "mlp", **SAC_BASE}),
    "SAC Flow, gated, action": ("sac-flow", {"policy": "marginal-flow", **SAC_BASE}),
}
"""All arms share widths, batch, learning rates and budget; whatever else an algorithm has is its own default."""


def roll_out(learner, state, world, key, *, noisy):
    """Episodes from the start: returns, goals (-1 for none) and positions ``(T + 1, N, 2)`` that rest at the end."""
    import jax
    import jax.numpy as jnp

    agent, task = learner.agent(state.learned), world.task.single

    def step(carry, key):
        now, total, goal, alive = carry
        sample = agent.sample(now.observation, key) if noisy else agent.mode(now.observation)
        after, transition = world.step(now, sample.action)
        hit = jnp.stack([transition.diagnostics[f"goal_{i}"] for i in range(task.goals)], axis=-1)
        goal = jnp.where(alive & (hit.max(-1) > 0), hit.argmax(-1), goal)
        total = total + alive * transition.reward
        place = transition.final_observation.vector * task.radius
        return (after, total, goal, alive & ~transition.terminated), (place, alive)

    key_reset, key_act = jax.random.split(key)
    begin = world.reset(key_reset)
    nobody = jnp.zeros(world.num_envs)
    carry = (begin, nobody, nobody.astype(jnp.int32) - 1, nobody == 0.0)
    (_, total, goal, _), (place, alive) = jax.lax.scan(step, carry, jax.random.split(key_act, task.episode_length))

    def rest(last, now):
        position = jnp.where(now[1][:, None], now[0], last)
        return position, position

    start = begin.observation.vector * task.radius
    _, path = jax.lax.scan(rest, start, (place, alive))
    return total, goal, jnp.concatenate([start[None], path])


def train_arm(name, steps, seeds, num_envs):
    import jax

    from penstock.algorithms.registry import algorithm_entry
    from penstock.training.drivers.functional import begin, iterate
    from penstock.worlds import make_world

    algorithm, settings = ARMS[name]
    entry = algorithm_entry(algorithm)
    config = entry.config.of(**{**SHARED, **settings})
    updates = math.ceil(steps / (num_envs * config.collect_steps))
    learner = entry.learner(config, make_world("classic/multi-goal", num_envs), updates)
    judge = make_world("classic/multi-goal", EPISODES)
    train = jax.jit(lambda key: jax.lax.fori_loop(0, updates, lambda _, s: iterate(learner, s)[0], begin(learner, key)))
    show = {noisy: jax.jit(lambda s, k, n=noisy: roll_out(learner, s, judge, k, noisy=n)) for noisy in (True, False)}
    result = {"env_steps": updates * learner.steps_per_update, "seeds": []}
    started = time.process_time()
    train = train.lower(jax.random.key(0)).compile()
    result["compile_cpu_seconds"] = round(time.process_time() - started, 1)
    for seed in range(seeds):
        started = time.process_time()
        state = jax.block_until_ready(train(jax.random.key(seed)))
        seconds = time.process_time() - started
        total, goal, path = show[True](state, jax.random.key(1000 + seed))
        mode_total, mode_goal, _ = show[False](state, jax.random.key(2000 + seed))
        count = judge.task.single.goals

        def histogram(goals, count=count):
            return [int(np.sum(np.asarray(goals) == i)) for i in range(count)]

        result["seeds"].append(
            {
                "cpu_seconds": round(seconds, 1),
                "return_stochastic": round(float(total.mean()), 3),
                "return_deterministic": round(float(mode_total.mean()), 3),
                "goals_stochastic": histogram(goal),
                "goals_deterministic": histogram(mode_goal),
            }
        )
        if seed == 0:
            result["paths"] = np.asarray(path[:, :DRAWN], np.float64).round(2).transpose(1, 0, 2).tolist()
            result["path_goals"] = np.asarray(goal[:DRAWN]).tolist()
        print(name, seed, result["seeds"][-1], flush=True)
    return result


def entropy(counts):
    """Entropy of the goals reached, in nats; at most log n."""
    share = np.asarray(counts, float) / max(sum(counts), 1)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def table(data):
    count = len(next(iter(data.values()))["seeds"][0]["goals_stochastic"])
    lines = [
        f"| algorithm | return, stochastic | return, deterministic | goals known of {count}, per seed | "
        f"entropy of the goals (at most {math.log(count):.2f}) | episodes that arrive | CPU s per seed |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for name, arm in data.items():
        seeds = arm["seeds"]
        known = ", ".join(str(sum(c >= KNOWN * EPISODES for c in s["goals_stochastic"])) for s in seeds)
        arrive = np.mean([sum(s["goals_stochastic"]) / EPISODES for s in seeds])

        def mean(read, seeds=seeds):
            values = [read(s) for s in seeds]
            return f"{np.mean(values):.2f} ± {np.std(values):.2f}"

        lines.append(
            f"| {name} | {mean(lambda s: s['return_stochastic'])} | {mean(lambda s: s['return_deterministic'])} | "
            f"{known} | {mean(lambda s: entropy(s['goals_stochastic']))} | {100 * arrive:.0f} % | "
            f"{np.mean([s['cpu_seconds'] for s in seeds]):.0f} |"
        )
    return "\n".join(lines)


def draw(data):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.figure

    from penstock.reports.style import INK, PALETTE, SOFT, save
    from penstock.worlds.classic.multi_goal import MultiGoal

    task = MultiGoal()
    places, columns = np.asarray(task.places()), 5
    rows = math.ceil(len(data) / columns)
    figure = matplotlib.figure.Figure(figsize=(2.55 * columns, 2.85 * rows + 0.3), layout="constrained")
    grid = np.linspace(-6.4, 6.4, 161)
    x, y = np.meshgrid(grid, grid)
    distance = np.sqrt(((np.stack([x, y], -1)[..., None, :] - places) ** 2).sum(-1).min(-1))
    panels = list(figure.subplots(rows, columns).flat)
    for axes in panels[len(data) :]:
        axes.set_axis_off()
    for axes, (name, arm) in zip(panels, data.items(), strict=False):
        axes.contour(x, y, distance, levels=np.arange(1.5, 6.0, 0.75), colors="#e8eaed", linewidths=0.7, zorder=0)
        for i, place in enumerate(places):
            axes.add_patch(
                matplotlib.patches.Circle(place, task.threshold, facecolor=PALETTE[i], alpha=0.22, edgecolor="none")
            )
        for path, goal in zip(np.asarray(arm["paths"]), arm["path_goals"], strict=True):
            color = PALETTE[goal] if goal >= 0 else SOFT
            axes.plot(*path.T, color=color, linewidth=0.7, alpha=0.55, solid_joinstyle="round")
            axes.plot(*path[-1], marker="o", color=color, markersize=2.2, alpha=0.8)
        axes.plot(0, 0, marker="+", color=INK, markersize=6)
        counts = np.array(arm["seeds"][0]["goals_stochastic"]) / EPISODES
        for share, place in zip(counts, places, strict=True):
            text = f"{100 * share:.0f} %"
            axes.annotate(text, place * 1.14, ha="center", va="center", fontsize=7.5, color=INK)
        axes.set(xlim=(-6.9, 6.9), ylim=(-6.9, 6.9), aspect="equal", xticks=[], yticks=[])
        known = sum(counts >= KNOWN)
        axes.set_title(name, fontsize=10, color=INK, loc="left", pad=14)
        value = arm["seeds"][0]["return_stochastic"]
        axes.text(0, 1.02, f"{known} of {len(places)} goals, return {value:.1f}", transform=axes.transAxes,
                  fontsize=8, color=SOFT)  # fmt: skip
        for spine in axes.spines.values():
            spine.set_visible(False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, FIGURE)


def run(arguments, data):
    for name in arguments.arms:
        data[name] = train_arm(name, arguments.steps, arguments.seeds, arguments.num_envs)
        yield {arm: data[arm] for arm in ARMS if arm in data}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), help="names as in the table")
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-envs", type=int, default=16)
    study(parser, DATA, run, table, draw)


if __name__ == "__main__":
    main()
