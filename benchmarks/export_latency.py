"""Time per action of exported policies on one core, and their difference from the policy.

    python benchmarks/export_latency.py    # prints the table of docs/robot.md, writes results/export_latency.json

The sizes are those of a quadruped's walking controller (48 observations, 12 actions; hidden layers 512, 256, 128, as
rsl_rl has them). Weights are random: they do not change the time. Timed one decision at a time, from the array of the
observation to that of the action, on one core.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from penstock._jax_setup import set_up_jax
from penstock.export.decision import Decision
from penstock.export.files import FORMATS, open_policy, write
from penstock.export.latency import latency
from penstock.export.parity import compare
from penstock.networks import Normalizer, Trunk, make_encoder
from penstock.observation import Observation, ObservationSpec
from penstock.policies import Actor, Agent
from penstock.policies.deterministic_action import DeterministicAction
from penstock.policies.settings import POLICIES
from penstock.reports.tables import markdown_table
from penstock.worlds import World

OUTPUT = Path(__file__).resolve().parent / "results" / "export_latency.json"
OBSERVATIONS, ACTIONS, HIDDEN = 48, 12, (512, 256, 128)

ARMS = {
    "Gaussian": (POLICIES["gaussian"], "zero", 1),
    "coupling flow, 4 layers": (POLICIES["coupling"], "zero", 1),
    "flow, 4 steps, zero noise": (POLICIES["flow"], "zero", 1),
    "flow, 4 steps, modal of 8": (POLICIES["flow"], "modal", 1),
    "Flow-G, 4 steps": (dataclasses.replace(POLICIES["noisy-flow"], velocity="gated"), "zero", 1),
    "Flow-T of width 64, 4 steps": (dataclasses.replace(POLICIES["noisy-flow"], velocity="decoded"), "zero", 1),
    "flow, chunks of 4": (POLICIES["flow"], "modal", 4),
}


class Sizes(World):
    """A world of which nothing but its sizes is asked."""

    with_num_envs = describe = axes = reset = step = None

    def __init__(self):
        self.name, self.action_size = "a quadruped", ACTIONS
        self.observation_spec = ObservationSpec(OBSERVATIONS)


def decision_of(settings, rule, chunk):
    hidden = (64, 64) if getattr(settings, "velocity", "") == "decoded" else HIDDEN
    world, trunk = Sizes(), Trunk(hidden, "elu", layer_norm=False)
    encoder = make_encoder(jax.random.key(0), world.observation_spec, trunk)
    policy = settings.build(jax.random.key(1), encoder.size, ACTIONS * chunk, trunk)
    seen = np.random.default_rng(0).standard_normal((100, OBSERVATIONS)).astype(np.float32)
    normalizer = Normalizer.create(OBSERVATIONS).merge(Observation(jnp.asarray(seen)))
    return Decision(Agent(Actor(encoder, policy), normalizer, DeterministicAction(rule), chunk), world)


def main():
    set_up_jax()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arm in ARMS.items():
            decision = decision_of(*arm)
            for target, kind in FORMATS.items():
                path = Path(folder) / f"policy{kind.suffix}"
                write(decision, {}, path, target)
                file = open_policy(path)
                time, parity = latency(path, 2000), compare(decision, file, count=200)
                rows.append(
                    {
                        "policy": name,
                        "file": target,
                        "median_ms": round(1e3 * time.median, 3),
                        "percentile_99_ms": round(1e3 * time.percentile_99, 3),
                        "largest_difference": float(f"{parity.largest:.1e}"),
                        "kilobytes": round(path.stat().st_size / 1024),
                    }
                )
                print(rows[-1], flush=True)
    OUTPUT.write_text(json.dumps({"command": "python benchmarks/export_latency.py", "rows": rows}, indent=1) + "\n")
    shown = []
    for name in ARMS:
        own = {row["file"]: row for row in rows if row["policy"] == name}
        times = {target: f"{row['median_ms']:.2f} / {row['percentile_99_ms']:.2f}" for target, row in own.items()}
        worst = max(row["largest_difference"] for row in own.values())
        shown.append({"policy": name, **times, "largest difference": f"{worst:.0e}"})
    print(markdown_table(shown))


if __name__ == "__main__":
    main()
