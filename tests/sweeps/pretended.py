"""Runs of a sweep that nobody trains: their folders are written as a run would write them."""

import json

from penstock.storage.store import checkpoint_name
from penstock.sweeps.launchers import Job, Launcher
from penstock.sweeps.runs import SweepRun
from penstock.training.plan import make_plan


def sweep_run(folder, name, **settings):
    """A run of 64 environment steps."""
    fields = {"steps": 64, "num_envs": 4}
    named = ("label", "seed", "seeds", "steps", "history")
    fields |= {field: settings.pop(field) for field in named if field in settings}
    plan = make_plan("apg", "classic/double-integrator", settings={"window": 4, **settings}, **fields)
    return SweepRun(name, folder / name, plan, {})


def written(run, steps, returns=(), said=""):
    """Leaves what a run has left that is so far."""
    (run.folder / "checkpoints" / checkpoint_name(steps)).mkdir(parents=True)
    rows = [{"env_steps": steps, "seed": seed, "eval/return_deterministic": r} for seed, r in enumerate(returns)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run.folder / "output.txt").write_text(said)


class PretendedJob(Job):
    """Ends with a code after so many looks, and then has written what a run writes."""

    def __init__(self, run, code, looks):
        self.run, self.code, self.looks = run, code, looks

    def exit_code(self):
        self.looks -= 1
        if self.looks > 0:
            return None
        if self.code == 0 and not self.run.ended:
            written(self.run, self.run.total_steps, [1.5, 2.5])
        return self.code


class Pretended(Launcher):
    """Starts runs that end with given codes; `started` are their names, `most` the largest number under way."""

    def __init__(self, slots, codes=(), looks=3, outlived=False):
        self.slots, self.codes, self.looks, self.outlived = slots, dict(codes), looks, outlived
        self.started, self.jobs, self.most, self.stops = [], [], 0, 0

    def start(self, run):
        self.started.append(run.name)
        self.jobs.append(PretendedJob(run, self.codes.get(run.name, 0), self.looks))
        self.most = max(self.most, sum(job.looks > 0 for job in self.jobs))
        return self.jobs[-1]

    def stop(self):
        self.stops += 1
        for job in self.jobs:
            if job.looks > 0:
                job.looks, job.code = 1, 75
