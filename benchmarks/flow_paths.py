"""The picture of docs/start_here.md: how a trained flow carries noise to two good actions, beside a Gaussian.

    python benchmarks/flow_paths.py run          # trains both policies: a CPU minute or two, most of it compilation
    python benchmarks/flow_paths.py report       # draws the picture from the data

World: classic/deceptive-basins. Settings: those that each arm won its trials with in ``two_modes.py``. Both policies
look at the same observation, the one in the middle of the start. ``run`` writes
``benchmarks/results/flow_paths.json``, ``report`` draws ``docs/images/flow_paths.png``.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from study import study
from two_modes import ARMS, EPISODES, NUM_ENVS, ROOT, SHARED, WORLDS
from two_modes import DATA as SETTINGS

DATA = Path(__file__).parent / "results" / "flow_paths.json"
FIGURE = ROOT / "docs" / "images" / "flow_paths.png"
WORLD = "classic/deceptive-basins"
FLOW, GAUSSIAN = "RFO", "SAPO"
SEED, DRAWN, LINES = 0, 400, 120


def train(arm, folder):
    """A run with the settings of the comparison, and its mean stochastic return."""
    import penstock

    algorithm, settings = ARMS[arm]
    settings = {**SHARED, **settings, **json.loads(SETTINGS.read_text())[WORLD]["arms"][arm]["settings"]}
    window, updates = WORLDS[WORLD]["window"], WORLDS[WORLD]["updates"]
    run = penstock.train(
        *(algorithm, WORLD),
        run_dir=Path(folder) / algorithm,
        steps=NUM_ENVS * window * updates,
        seed=SEED,
        num_envs=NUM_ENVS,
        evaluate_every=0,
        window=window,
        progress=False,
        **settings,
    )
    return run, run.evaluate(EPISODES)[0]["eval/return_mean"]


def paths(agent, count):
    """Latents ``(count, K + 1, d)`` on the way from noise to action, at the observation zero."""
    import jax
    import jax.numpy as jnp

    from penstock.observation import Observation

    policy = agent.actor.policy
    features = agent.features(Observation(jnp.zeros((1, 2))))[0]

    def follow(noise):
        """`penstock.policies.steppers.integrate`, keeping what lies on the way."""
        x, way = noise, [noise]
        for k in range(policy.flow_steps):
            x = x + policy.velocity(features, x, k / policy.flow_steps) / policy.flow_steps
            way.append(x)
        return jnp.stack(way)

    if policy.stepper != "euler":
        raise SystemExit(f"The picture follows Euler steps, and this policy takes {policy.stepper}.")
    noise = agent.noise(jax.random.key(SEED), count)
    way = jax.vmap(follow)(noise)
    np.testing.assert_allclose(jax.vmap(policy.draw, (None, 0))(features, noise).latent, way[:, -1], atol=1e-4)
    return np.asarray(way)


def actions(agent, count):
    """Actions ``(count, d)`` at the observation zero."""
    import jax
    import jax.numpy as jnp

    from penstock.observation import Observation

    return np.asarray(agent.sample(Observation(jnp.zeros((count, 2))), jax.random.key(SEED)).action)


def run(arguments, data):
    with tempfile.TemporaryDirectory() as folder:
        flow, flow_return = train(FLOW, folder)
        gaussian, gaussian_return = train(GAUSSIAN, folder)
        yield {
            "paths": paths(flow.agent().agent, LINES).round(3).tolist(),
            "flow": actions(flow.agent().agent, DRAWN).round(3).tolist(),
            "gaussian": actions(gaussian.agent().agent, DRAWN).round(3).tolist(),
            "returns": {FLOW: round(flow_return, 2), GAUSSIAN: round(gaussian_return, 2)},
        }


def table(data):
    high = np.array(data["flow"])[:, 0] > 0.2
    lines = ["| policy | mean return |", "|---|---:|"]
    lines += [f"| {arm} | {value:.2f} |" for arm, value in data["returns"].items()]
    return "\n".join([*lines, "", f"share of the flow's actions at the high hill: {high.mean():.2f}"])


def draw(data):
    import matplotlib
    import matplotlib.figure

    from penstock.reports.style import FAINT, INK, PALETTE, RULES, SOFT, save
    from penstock.worlds.classic import DeceptiveBasins

    task, way, places = DeceptiveBasins(), np.array(data["paths"]), np.array(data["flow"])

    def colors(actions):
        nearer_high = ((actions - task.high) ** 2).sum(1) < ((actions - task.low) ** 2).sum(1)
        return np.where(nearer_high, PALETTE[1], PALETTE[0])

    line = np.linspace(-1, 1, 161)
    across, up = np.meshgrid(line, line)
    hills = np.asarray(task.landscape(np.stack([across, up], -1)))
    dots = {"s": 9, "alpha": 0.8, "linewidths": 0, "zorder": 3}
    known, returns = json.loads(SETTINGS.read_text())[WORLD]["known"]["tanh-Gaussian"]["return"], data["returns"]
    with matplotlib.rc_context({**RULES, "font.size": 10}):
        figure = matplotlib.figure.Figure(figsize=(10.2, 3.9), layout="constrained")
        figure.get_layout_engine().set(wspace=0.08, w_pad=0.1)
        carried, flow, gaussian = figure.subplots(1, 3)
        # The way is drawn before tanh, which squeezes the plane into the box of actions.
        whither = colors(np.tanh(way[:, -1]))
        for path, color in zip(way, whither, strict=True):
            carried.plot(*path.T, color=color, lw=0.8, alpha=0.55, zorder=2)
        carried.scatter(*way[:, 0].T, s=13, c="white", edgecolors=whither, linewidths=0.8, zorder=3)
        carried.scatter(*way[:, -1].T, c=whither, **dots)
        carried.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        for axes, cloud, color in ((flow, places, colors(places)), (gaussian, np.array(data["gaussian"]), PALETTE[2])):
            axes.contourf(across, up, hills, levels=np.linspace(0.12, 3.0, 9), cmap="Greys", vmax=5.0, zorder=0)
            axes.scatter(*cloud.T, c=color, **dots)
            for name, height, top in (("low", task.low_height, task.low), ("high", task.high_height, task.high)):
                axes.text(top[0], top[1] + 0.44, f"{name} hill: {height:g}", ha="center", color=INK, fontsize=9)
            axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        for axes, title, note in (
            (carried, "From noise to latent", "circles: noise x(0); dots: x(1), four steps on"),
            (flow, "Actions of the flow", f"a = tanh x(1); mean return {returns[FLOW]:.2f}"),
            (gaussian, "Actions of a Gaussian", f"mean return {returns[GAUSSIAN]:.2f}; at best {known:.2f}"),
        ):
            axes.set_aspect("equal")
            axes.set_title(title, pad=22)
            axes.text(0, 1.03, note, transform=axes.transAxes, fontsize=9, color=SOFT)
            axes.grid(True, axis="both", color=FAINT, lw=0.6)
    return save(figure, FIGURE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    study(parser, DATA, run, table, draw)


if __name__ == "__main__":
    main()
