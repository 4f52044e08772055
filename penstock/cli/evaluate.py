"""``penstock evaluate RUN``: runs episodes with a trained policy and prints what they brought."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from penstock._errors import ConfigurationError, require
from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Runs episodes with a trained policy, stochastic and deterministic."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run folder."""
    world: str = ""
    """Another world in place of the run's own, or the same at another place: path/to/file.py:Name."""
    use_copies: bool = False
    """Execute the copies that the run keeps of your own files, where the originals are gone or edited."""
    checkpoint: Literal["best", "last"] = "last"
    """Which checkpoint to use."""
    episodes: int = 64
    """Episodes of each kind, per seed."""
    seed: int = 12345
    """Seed of resets and policy noise."""
    replan_every_step: bool = False
    """For chunked policies: plan anew at every step and use the first action only."""
    deterministic_action: Literal["run", "zero", "typical", "mean", "modal", "likeliest"] = "run"
    """What the policy does without noise, of any class that has noise: as the run says, or by another rule
    (docs/rfo.md). A Gaussian's own is zero."""
    evaluation: Literal["run", "randomized", "nominal"] = "run"
    """Where the run randomises its world: evaluate as the run does, in the randomised world, or in the nominal one
    (docs/domain_randomization.md)."""
    json: bool = False
    """Print one JSON object in place of a table."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand."""
    options = parse(EvaluateOptions, arguments, "penstock evaluate")
    require(options.episodes >= 1, "episodes", options.episodes, "must be at least 1")
    set_up_jax()
    import jax

    from penstock.policies import DeterministicAction
    from penstock.reports.tables import terminal_width, text_table
    from penstock.training.restore import restore_run
    from penstock.training.running import evaluate_seeds

    restored = restore_run(options.run_dir, options.checkpoint, options.world, options.use_copies)
    if options.replan_every_step and restored.agents[0].chunk_length == 1:
        raise ConfigurationError("replan_every_step: this policy acts at every step already; leave it out.")
    rule = None
    if options.deterministic_action != "run":
        rule = DeterministicAction(options.deterministic_action, restored.plan.deterministic_draws)
    results = evaluate_seeds(
        restored.learner,
        restored.agents,
        options.episodes,
        jax.random.key(options.seed),
        replan_every_step=options.replan_every_step,
        deterministic=rule,
        where=None if options.evaluation == "run" else options.evaluation,
    )
    seeds = [restored.plan.seed + index for index in range(restored.plan.seeds)]
    if options.json:
        print(json.dumps({"env_steps": restored.manifest.step, "seeds": seeds, "metrics": results}))
        return 0
    print(
        f"{restored.plan.title} on {restored.plan.world}, {options.checkpoint} checkpoint at "
        f"{restored.manifest.step:,} environment steps, {options.episodes} episodes each"
    )
    rows = [
        {"metric": name.removeprefix("eval/")}
        | {f"seed {seed}": result[name] for seed, result in zip(seeds, results, strict=True)}
        for name in sorted(results[0])
    ]
    print(text_table(rows, width=terminal_width()))
    return 0
