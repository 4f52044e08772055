"""Run folders with numbers of one's own, for tests of figures and tables."""

import json

import numpy as np


def write_run(folder, values, *, seed=0, steps=None, algorithm="rfo", world="soft/jumper-mini", **config):
    """A folder with ``config.json`` and ``metrics.jsonl``; ``values`` are one curve, or one for each seed."""
    folder.mkdir(parents=True)
    seeds = [seed] if np.ndim(values) == 1 else list(range(seed, seed + len(values)))
    content = {"algorithm": algorithm, "world": world, "seed": seed, "seeds": len(seeds), **config}
    (folder / "config.json").write_text(json.dumps(content))
    curves = np.atleast_2d(values)
    steps = np.arange(1, curves.shape[1] + 1) * 1000 if steps is None else steps
    with (folder / "metrics.jsonl").open("w") as file:
        for k, step in enumerate(steps):
            clock = {"env_steps": int(step), "wall_seconds": step / 500, "cpu_seconds": step / 100}
            file.write(json.dumps({**clock, "train/critic_loss": 0.1}) + "\n")
            for one, curve in zip(seeds, curves, strict=True):
                row = {**clock, "eval/return_mean": curve[k] - 1, "eval/return_deterministic": curve[k]}
                row |= {"eval/forward_velocity": curve[k] / 10} | ({"seed": one} if len(seeds) > 1 else {})
                file.write(json.dumps(row) + "\n")
    return folder
