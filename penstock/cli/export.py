"""``penstock export RUN``: writes a trained policy to a file that runs without Penstock."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Writes a trained policy, with normaliser and action scaling, to a file that runs without Penstock."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""
    to: Literal["numpy", "onnx", "stablehlo"] = "numpy"
    """Kind of file: numpy (.npz, and a module that reads it with NumPy alone), onnx or stablehlo."""
    mode: Literal["deterministic", "noise-fed"] = "deterministic"
    """The action by the run's deterministic rule, or the one that follows from noise: a further input."""
    output: Path | None = None
    """File to write; by default exports/CHECKPOINT.npz (.onnx, .stablehlo) in the run folder."""
    check: bool = False
    """Run 1,000 random observations, and some at the edges, through the policy and the file; print the largest
    difference, and the time per action on one core."""
    checkpoint: Literal["best", "last"] = "last"
    """Which checkpoint to use."""
    seed: int | None = None
    """Which of the run's seeds; the first by default."""
    world: str = ""
    """Another world in place of the run's own, or the same at another place: path/to/file.py:Name."""
    use_copies: bool = False
    """Use the copies that the run keeps of your own files, where the originals are gone or edited."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(ExportOptions, arguments, "penstock export")
    set_up_jax()
    from penstock.export.exporting import export_run
    from penstock.export.files import open_policy

    exported = export_run(
        options.run_dir,
        options.to,
        options.output,
        mode=options.mode,
        checkpoint=options.checkpoint,
        seed=options.seed,
        world=options.world,
        use_copies=options.use_copies,
    )
    metadata = exported.metadata
    chunk = metadata["action"]["chunk_length"]
    decides = f"{metadata['action']['size']} actions" + ("" if chunk == 1 else f", {chunk} steps at a time")
    path, *others = exported.paths
    observed, remembered = metadata["observation"], metadata["policy"]["memory"]
    takes = f"{observed['size']} numbers"
    if "history" in observed:
        takes += f" (the last {observed['history']['length']} observations)"
    if remembered is not None:
        takes, decides = (f"{what} and a memory of {remembered['size']}" for what in (takes, decides))
    print(
        f"{path}  {metadata['policy']['class']} policy, {options.mode}: {takes} in, "
        f"{decides} out; {path.stat().st_size / 1024:.0f} kB"
    )
    for other in others:
        print(f"{other}  reads it, with NumPy alone")
    if not options.check:
        return 0
    from penstock.export.latency import latency
    from penstock.export.parity import TOLERANCE, compare

    file = open_policy(path)
    parity, time = compare(exported.decision, file), latency(path)
    print(
        f"largest difference {parity.largest:.1e}, of half the range of an action, over {parity.random:,} random and "
        f"{parity.edge:,} edge observations"
    )
    print(
        f"latency {1e3 * time.median:.3f} ms median, {1e3 * time.percentile_99:.3f} ms 99th percentile, per action on "
        f"one core ({file.runtime})"
    )
    if not parity.passed:
        print(
            f"penstock export: the file differs from the policy by more than {TOLERANCE:g}, most at the observation "
            f"{parity.worst.tolist()}. Do not put it on a robot.",
            file=sys.stderr,
        )
        return 1
    return 0
