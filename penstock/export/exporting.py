"""Exports a run: the one function behind ``penstock export`` and ``Run.export``."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from penstock._errors import require
from penstock.export.decision import Decision, Mode
from penstock.export.files import FORMATS, Target, write
from penstock.export.metadata import describe
from penstock.training.restore import restore_run


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        paths: the files: the policy first.
        decision: what is in it.
        metadata: likewise.
    """

    paths: list[Path]
    decision: Decision
    metadata: dict[str, Any]


def export_run(
    run_dir: Path | str,
    target: Target = "numpy",
    output: Path | str | None = None,
    *,
    mode: Mode = "deterministic",
    checkpoint: Literal["best", "last"] = "last",
    seed: int | None = None,
    world: str = "",
    use_copies: bool = False,
) -> Exported:
    """Writes the policy of a run to a file that runs without Penstock.

    Args:
        run_dir: the run folder.
        target: kind of file.
        output: the file; by default ``exports/CHECKPOINT`` in the run folder, with the mode in its name where that is
            not deterministic, and the seed where the run has several.
        mode: by the run's deterministic rule, or by noise that is given.
        checkpoint: the newest, or the best one by the run's ``best_by``.
        seed: which of the run's seeds; the first by default.
        world: see `restore_run`.
        use_copies: see `restore_run`.

    Raises:
        PenstockError: there is no such run or checkpoint, the policy cannot be exported, or the file not be written.
    """
    restored = restore_run(run_dir, checkpoint, world, use_copies)
    plan = restored.plan
    seed = plan.seed if seed is None else seed
    seeds = range(plan.seed, plan.seed + plan.seeds)
    require(seed in seeds, "seed", seed, f"this run has the seeds {list(seeds)}")
    decision = Decision(restored.agents[seed - plan.seed], restored.learner.world, mode)
    if output is None:
        name = "-".join(
            [checkpoint, *([f"seed-{seed}"] if plan.seeds > 1 else []), *([mode] if mode == "noise-fed" else [])]
        )
        output = Path(run_dir) / "exports" / f"{name}{FORMATS[target].suffix}"
    metadata = describe(plan, decision, restored.manifest, seed)
    return Exported(write(decision, metadata, Path(output), target), decision, metadata)
