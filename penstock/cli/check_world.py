"""``penstock check-world``: checks a world, and explains what is wrong with it."""

import dataclasses
from typing import Annotated

from tyro.conf import Positional, arg

from penstock._errors import PenstockError, require
from penstock._jax_setup import set_up_jax
from penstock.cli._arguments import parse

PROVISIONAL_LIMIT = 100
"""Control steps of an episode where the checked world states no limit."""


@dataclasses.dataclass(frozen=True)
class CheckWorldOptions:
    """Checks a world: shapes, resets, flags, purity, gradients."""

    world: Annotated[Positional[str], arg(metavar="WORLD")]
    """A registered name, package.module:factory, or path/to/file.py:factory."""
    world_option: tuple[str, ...] = ()
    """Options of the world, as name=value, for example max_episode_steps=200."""
    num_envs: int = 4
    """Environments to check a hosted world with; a functional one is checked with four."""
    max_seconds: float = 60.0
    """Time for playing a hosted world. A single call that lasts twice as long is ended."""


def run(arguments: list[str]) -> int:
    """Runs the subcommand. Exit code 1 if the world has errors."""
    options = parse(CheckWorldOptions, arguments, "penstock check-world")
    set_up_jax()
    import jax

    from penstock.networks import Trunk, make_encoder
    from penstock.training.plan import parse_world_options
    from penstock.worlds.check import Finding, iterate_checks
    from penstock.worlds.check.patience import patience_of
    from penstock.worlds.hosted.environments import NoTimeLimitError
    from penstock.worlds.loading import load_world

    world_options = parse_world_options(options.world_option)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        mark = {"ok": "ok", "warning": "warning", "error": "ERROR"}[finding.severity]
        print(f"{mark:<7}  {finding.title}: {finding.explanation}", flush=True)
        if finding.next_action:
            print(f"         {finding.next_action}", flush=True)

    require(options.max_seconds > 0, "max_seconds", options.max_seconds, "must be a number of seconds above 0")
    try:
        with patience_of(options.max_seconds):
            world = load_world(options.world, options.num_envs, **world_options)
    except NoTimeLimitError as error:
        sentence, advice = _sentence_and_advice(error)
        cut = f"The checks below cut episodes after {PROVISIONAL_LIMIT} steps."
        provisional = True
        tell(Finding("error", "Time limit", sentence, f"{advice} {cut}"))
        world = load_world(options.world, options.num_envs, max_episode_steps=PROVISIONAL_LIMIT, **world_options)
    else:
        provisional = False
    for finding in iterate_checks(world, max_seconds=options.max_seconds):
        if not (provisional and (finding.severity, finding.title) == ("ok", "Time limit")):  # a limit: no news
            tell(finding)
    if all(f.severity != "error" or f.title == "Time limit" for f in findings):  # else nothing can be built on it
        try:
            jax.eval_shape(lambda key: make_encoder(key, world.observation_spec, Trunk()), jax.random.key(0))
        except PenstockError as error:
            tell(Finding("error", "Encoder", *_sentence_and_advice(error)))
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{options.world}: {errors} {'error' if errors == 1 else 'errors'} in {len(findings)} checks")
    return 1 if errors else 0


def _sentence_and_advice(error: PenstockError) -> tuple[str, str]:
    sentence, _, advice = str(error).partition(". ")
    return f"{sentence}.", advice
