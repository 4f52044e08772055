"""How large is SAC Flow's actor gradient at each step of the flow, while it learns?

    python benchmarks/gradient_health.py run                       # classic/pendulum, K = 4, 10, 20, three seeds
    python benchmarks/gradient_health.py run --world gym/Ant-v5 --num-envs 4 --steps 40000 --seeds 1
    python benchmarks/gradient_health.py report                    # table and figure from the data

For a batch from the replay memory, the actor's loss L of each state is differentiated with respect to the latent x_i
of its own path, everything after step i included; reported is the mean over the batch of |dL/dx_i|, i = 0 .. K. With a
plain velocity that is back-propagation through a recurrent network without gates; SAC Flow (arXiv 2509.25756) reports
on Ant that it rises more than tenfold from the last step to the first, and hardly varies with gated and decoded
velocities. ``run`` writes ``benchmarks/results/gradient_health.json``, ``report`` draws
``docs/images/gradient_health.png``.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from study import study

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "results" / "gradient_health.json"
FIGURE = ROOT / "docs" / "images" / "gradient_health.png"

VELOCITIES = {"mlp": (256, 256), "gated": (128,), "decoded": (64,)}
"""The paper's sizes."""
STEPS = (4, 10, 20)
SETTINGS = {
    "classic": {
        "batch_size": 64,
        "warmup_steps": 1_000,
        "collect_steps": 16,
        "updates_per_step": 16,
        "replay_capacity": 50_000,
        "critic_hidden": (64, 64),
    },
    # CrossQ's base and its rates, as published; critics, batch and gradient steps are smaller, for two CPU cores.
    "gym": {
        "batch_size": 128,
        "warmup_steps": 5_000,
        "collect_steps": 25,
        "updates_per_step": 2,
        "replay_capacity": 200_000,
        "critic_hidden": (256, 256),
    },
}
"""Per suite of worlds. ``updates_per_step`` gradient steps for a control step of all environments."""
BATCH = 256


def step_gradients(learner, learned, batch, key):
    """Mean over the batch of |dL/dx_i|, ``(K + 1,)``, L the actor's loss of one state.

    Each x_i gets a displacement of zero; the loss is differentiated with respect to these.
    """
    import jax
    import jax.numpy as jnp

    from penstock.policies.squash import log_tanh_derivative
    from penstock.worlds import Observation

    flow, alpha = learned.actor.policy, jnp.exp(learned.log_alpha)
    features = learner.agent(learned).features(batch.observation)

    def loss(displacement, features, vector, key):
        noise = jax.random.normal(key, (flow.flow_steps + 1, flow.flat_size))
        condition, log_sigma = flow.field.condition(features), flow.log_sigma(features)

        def step(x, now):
            index, eps, displacement = now
            mean, log_std = flow.transition(condition, log_sigma, x, index)
            return mean + jnp.exp(log_std) * eps + displacement, None

        index = jnp.arange(flow.flow_steps, dtype=noise.dtype)
        x, _ = jax.lax.scan(step, noise[0] + displacement[0], (index, noise[1:], displacement[1:]))
        # The log-density's other terms do not depend on the latents once the noise is given.
        value = learned.critic.values(Observation(vector[None]), jnp.tanh(x)[None]).min()
        return -alpha * log_tanh_derivative(x).sum() - value

    keys = jax.random.split(key, features.shape[0])
    zero = jnp.zeros((flow.flow_steps + 1, flow.flat_size))
    gradient = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(zero, features, batch.observation.vector, keys)
    return jnp.linalg.norm(gradient, axis=-1).mean(axis=0)


def train_arm(velocity, flow_steps, arguments):
    import jax

    from penstock.training.drivers.functional import seed_keys
    from penstock.training.plan import make_plan
    from penstock.training.running import make_driver
    from penstock.worlds import make_world

    suite = arguments.world.split("/")[0]
    settings = {"velocity": velocity, "flow_steps": flow_steps, "actor_hidden": VELOCITIES[velocity]}
    plan = make_plan(
        "sac-flow",
        arguments.world,
        settings=SETTINGS[suite] | settings,
        steps=arguments.steps,
        num_envs=arguments.num_envs,
    )
    config = plan.settings
    marks = [math.ceil(plan.updates * share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    learner = plan.make_learner(plan.make_world())

    @jax.jit
    def measure(learned, batch, key):
        return step_gradients(learner, learned, batch, key)

    results = []
    for seed in range(arguments.seeds):
        program = make_driver(learner, make_world(arguments.world, 1))
        keys = seed_keys(seed, 1)
        begin, state, done = time.process_time(), program.init(keys), 0
        program.compile(state, np.int32(1), keys)
        rows = []
        for mark in marks:
            state, metrics = program.train(state, np.int32(mark - done))
            here = state.seed(0)
            uniform = np.random.default_rng(mark).random(BATCH, dtype=np.float32)
            batch = here.memory.gather(uniform, config.discount)
            gradient = np.asarray(measure(here.learned, batch, jax.random.key(100 + seed)), float)
            rows.append(
                {
                    "env_steps": mark * plan.num_envs * config.iteration_steps,
                    "gradient": [float(f"{g:.4g}") for g in gradient],
                    "reward": round(float(metrics["train/reward"][0]), 4),
                    "parameter_gradient": float(f"{float(metrics['actor/gradient_norm'][0]):.4g}"),
                }
            )
            done = mark
        program.close()
        results.append({"cpu_seconds": round(time.process_time() - begin, 1), "rows": rows})
        last = rows[-1]
        print(velocity, flow_steps, seed, results[-1]["cpu_seconds"], "s; reward", last["reward"],
              "; first/last", [round(row["gradient"][0] / row["gradient"][-1], 2) for row in rows],
              "; of parameters", [row["parameter_gradient"] for row in rows], flush=True)  # fmt: skip
    return results


def ratios(arm):
    """|dL/dx_0| / |dL/dx_K| for every seed and point in training."""
    return np.array([[row["gradient"][0] / row["gradient"][-1] for row in seed["rows"]] for seed in arm])


def table(data):
    lines = []
    for world, arms in data.items():
        lines += [
            f"`{world}`: rise of the gradient from the last latent to the first, |dL/dx_0| / |dL/dx_K|, "
            "geometric mean over seeds (smallest to largest); spread is max_i / min_i at the end, geometric mean.",
            "",
            "| velocity | K | at 10 % | at 50 % | at the end | spread over i | reward per step at the end | CPU s |",
            "|---|---:|---|---|---|---:|---:|---:|",
        ]
        for name, arm in arms.items():
            velocity, steps = name.split("-")
            rise = ratios(arm)

            def cell(column, rise=rise):
                values = rise[:, column]
                return f"{np.exp(np.log(values).mean()):.2f} ({values.min():.2f} to {values.max():.2f})"

            ends = [np.array(seed["rows"][-1]["gradient"]) for seed in arm]
            spread = np.exp(np.mean([np.log(g.max() / g.min()) for g in ends]))
            reward = np.mean([seed["rows"][-1]["reward"] for seed in arm])
            seconds = np.mean([seed["cpu_seconds"] for seed in arm])
            cells = f"{cell(0)} | {cell(2)} | {cell(-1)} | {spread:.2f}"
            lines.append(f"| {velocity} | {steps} | {cells} | {reward:.3f} | {seconds:.0f} |")
        lines.append("")
    return "\n".join(lines)


def draw(data):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.figure

    from penstock.reports.style import INK, PALETTE, RULES, SOFT, save

    with matplotlib.rc_context(RULES):
        figure = matplotlib.figure.Figure(figsize=(9.6, 2.9 * len(data) + 0.5), layout="constrained")
        grid = figure.subplots(len(data), len(STEPS), sharey="row", squeeze=False)
        for row, (world, arms) in zip(grid, data.items(), strict=True):
            for axes, steps in zip(row, STEPS, strict=True):
                for color, velocity in zip(PALETTE, VELOCITIES, strict=False):
                    arm = arms.get(f"{velocity}-{steps}")
                    if arm is None:
                        continue
                    runs = np.array([[point["gradient"] for point in seed["rows"]] for seed in arm])
                    tau = np.arange(steps + 1) / steps
                    relative = runs / runs[..., -1:]
                    for point in range(relative.shape[1]):
                        alpha = 0.18 + 0.14 * point if point < relative.shape[1] - 1 else 1.0
                        middle = np.exp(np.log(relative[:, point]).mean(axis=0))
                        last = point == relative.shape[1] - 1
                        axes.plot(tau, middle, color=color, alpha=alpha, linewidth=2.2 if last else 0.9,
                                  label=velocity if last else None, solid_capstyle="round")  # fmt: skip
                    low, high = relative[:, -1].min(axis=0), relative[:, -1].max(axis=0)
                    axes.fill_between(tau, low, high, color=color, alpha=0.13, linewidth=0)
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
                axes.set_title(f"{world.split('/')[-1]}, K = {steps}", fontsize=10)
                axes.set_xticks([0, 0.5, 1])
                axes.axhline(1.0, color=SOFT, linewidth=0.6, zorder=0)
            row[0].set_ylabel("|dL/dx_i| / |dL/dx_K|", color=INK)
        for axes in grid[-1]:
            axes.set_xlabel("flow time i / K  (0 noise, 1 action)")
        note = "Thick: end of training, mean over seeds; band: smallest and largest seed; thin: earlier, fainter."
        figure.text(0.995, -0.02, note, ha="right", va="top", fontsize=8, color=SOFT)
        figure.set_layout_engine("constrained", rect=(0, 0.06 / len(data), 1, 1 - 0.06 / len(data)))
        figure.texts[-1].set_position((0.995, 0.05 / len(data)))
        grid[0][0].legend(frameon=False, fontsize=9, labelcolor=INK)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, FIGURE)


def run(arguments, data):
    for flow_steps in arguments.flow_steps:
        for velocity in arguments.velocities:
            data.setdefault(arguments.world, {})[f"{velocity}-{flow_steps}"] = train_arm(
                velocity, flow_steps, arguments
            )
            yield data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="classic/pendulum")
    parser.add_argument("--velocities", nargs="*", default=list(VELOCITIES))
    parser.add_argument("--flow-steps", nargs="*", type=int, default=list(STEPS))
    parser.add_argument("--steps", type=int, default=16_384)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-envs", type=int, default=16)
    study(parser, DATA, run, table, draw)


if __name__ == "__main__":
    main()
