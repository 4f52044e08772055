"""NFPO with narrower and wider networks inside its couplings: what the width buys, and what it costs.

    python benchmarks/coupling_widths.py    # `classic/multi-goal`, three seeds; writes results/coupling_widths.json

Everything else is the preset of the world. CPU seconds are of training alone, from the first line of metrics to the
last, without compilation and evaluation.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

import penstock
from penstock.policies.settings import CouplingSettings
from penstock.reports.tables import markdown_table

OUTPUT = Path(__file__).resolve().parent / "results" / "coupling_widths.json"
WORLD, STEPS, SEEDS = "classic/multi-goal", 100_000, 3
WIDTHS = {"one layer of 32 (the default: half the context)": None, "two layers of 64": (64, 64)}


def trained(width, folder, evaluate_every):
    """Lines of metrics of a run with couplings of this width."""
    CouplingSettings.coupling_hidden = width
    options = {"steps": STEPS, "seeds": SEEDS, "evaluate_every": evaluate_every, "log_every": 1, "progress": False}
    return penstock.train("nfpo", WORLD, run_dir=folder, **options).metrics()


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, width in WIDTHS.items():
            slug = "usual" if width is None else "-".join(map(str, width))
            last = [row for row in trained(width, f"{folder}/{slug}", STEPS) if "eval/return_mean" in row][-SEEDS:]
            timed = trained(width, f"{folder}/{slug}-timed", 0)
            returns = [row["eval/return_mean"] for row in last]
            rows.append(
                {
                    "couplings": name,
                    "stochastic return, each seed": ", ".join(f"{value:.2f}" for value in returns),
                    "mean": f"{np.mean(returns):.2f}",
                    "CPU s, all seeds": f"{timed[-1]['cpu_seconds'] - timed[0]['cpu_seconds']:.1f}",
                }
            )
            print(rows[-1], flush=True)
    OUTPUT.write_text(json.dumps({"world": WORLD, "steps": STEPS, "rows": rows}, indent=1) + "\n")
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
