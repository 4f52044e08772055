"""Runs of `learning.py` with one seed and one thread each: which are left, and what those say that have ended."""

import dataclasses
import json
from pathlib import Path

from learning import RESULTS, slug
from processes import run_scripts

LEARNING = Path(__file__).parent / "learning.py"


@dataclasses.dataclass(frozen=True)
class SingleRun:
    """One run. One that was interrupted continues.

    Attributes:
        suite: folder of runs and results.
        world: name of the world.
        arm: of `arms.ARMS`.
        label: name of the arm in comparisons.
        seed: its only seed.
        steps: environment steps.
        evaluate_every: environment steps between evaluations.
        num_envs: N.
        settings: beside those of arm and preset, as ``name=value``.
    """

    suite: str
    world: str
    arm: str
    label: str
    seed: int
    steps: int
    evaluate_every: int
    num_envs: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.label}-seed-{self.seed}"

    @property
    def results(self) -> Path:
        """The folder with what is kept of it."""
        return RESULTS / self.suite / slug(self.world) / self.name

    @property
    def command(self) -> list[str]:
        """Script and arguments."""
        run = [f"--suite={self.suite}", f"--arm={self.arm}", f"--label={self.label}", f"--folder={self.name}"]
        size = [f"--seed={self.seed}", "--seeds=1", f"--steps={self.steps}", f"--num-envs={self.num_envs}"]
        settings = ["--set", *self.settings] if self.settings else []
        return [str(LEARNING), "arm", self.world, *run, *size, f"--evaluate-every={self.evaluate_every}", *settings]

    @property
    def is_finished(self) -> bool:
        """Whether its results hold the last evaluation."""
        last = self.last_row
        return last is not None and last["env_steps"] >= self.steps

    @property
    def last_row(self) -> dict | None:
        """The last evaluation that is kept."""
        path = self.results / "metrics.jsonl"
        rows = path.read_text().splitlines() if path.is_file() else []
        return json.loads(rows[-1]) if rows else None  # a run that was cut short at once has an empty file


def run_left(runs: list[SingleRun], processes: int) -> None:
    """Runs those that have not ended, several processes at a time."""
    left = {f"{run.world} {run.name}": run.command for run in runs if not run.is_finished}
    run_scripts(left, processes)


def report_runs(suite: str, world: str, *, figures: bool) -> None:
    """Prints tables of all runs whose results are kept, best arm first, and draws figures beside them."""
    from penstock.reports.curves import plot_runs, summary_table
    from penstock.reports.tables import markdown_table

    folder = RESULTS / suite / slug(world)
    runs = sorted(path for path in folder.iterdir() if (path / "metrics.jsonl").is_file())
    for metric in ("eval/return_mean", "eval/return_deterministic"):
        rows = sorted(summary_table(runs, metric), key=lambda row: -(row.final.value + row.area.value))
        print(f"\n{world}, {metric}\n\n{markdown_table([row.row() for row in rows])}")
        if figures:
            print(*plot_runs(runs, folder / f"{metric.split('/')[1]}.png", metric=metric))
