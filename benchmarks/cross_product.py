"""Which policy runs under which algorithm: every pair is built, and trained for two iterations or refused.

python benchmarks/cross_product.py               the table, from what is built (seconds)
python benchmarks/cross_product.py --train       also trains every pair that was built (minutes)
python benchmarks/cross_product.py --write       puts the table into docs/policies.md
"""

import argparse
import re
from pathlib import Path

import jax
import numpy as np

from penstock._errors import PenstockError
from penstock.algorithms.learner import results
from penstock.algorithms.registry import ALGORITHMS
from penstock.training.drivers.functional import begin, iterate
from penstock.worlds import make_world

POLICIES: dict[str, dict[str, object]] = {
    "gaussian": {},
    "flow": {},
    "noisy-flow": {},
    "marginal-flow": {"other_paths": 2},
    "coupling": {"coupling_layers": 2},
    "deterministic": {},
}
"""Policies, and how their columns are set."""

SMALL = {
    "pathwise": {"window": 4, "actor_hidden": (8,), "critic_hidden": (8,), "critic_passes": 1, "critic_minibatches": 1},
    "on-policy": {"window": 4, "epochs": 2, "minibatches": 2, "actor_hidden": (8,), "critic_hidden": (8,)},
    "off-policy": {
        "batch_size": 8,
        "warmup_steps": 8,
        "collect_steps": 4,
        "replay_capacity": 64,
        "actor_hidden": (8,),
        "critic_hidden": (8, 8, 8),
    },
}
PAGE = Path(__file__).parent.parent / "docs" / "policies.md"
BEGIN, END = "<!-- cross product -->", "<!-- end of cross product -->"


def built(algorithm: str, policy: str):
    """A learner with this policy, or the sentence that refuses it."""
    entry = ALGORITHMS[algorithm]
    chosen = {"policy": policy, **POLICIES[policy]}
    if algorithm == "crossq" and policy != "gaussian":
        chosen["actor_batch_renorm"] = False
    try:
        config = entry.config.preset(SMALL[entry.family], **chosen)
        return entry.learner(config, make_world("classic/double-integrator", 4, episode_length=10), 8)
    except PenstockError as error:
        return str(error)


def trained(learner) -> dict[str, float]:
    """Metrics of the second of two iterations."""
    step = jax.jit(lambda state: iterate(learner, state)[:2])
    state, _ = step(jax.jit(lambda key: begin(learner, key))(jax.random.key(0)))
    state, metrics = step(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learner.agent(state.learned).actor))
    return {name: float(value) for name, value in results(metrics).items()}


def pairs() -> dict[tuple[str, str], object]:
    """Every algorithm with every policy: a learner, or a sentence."""
    return {(algorithm, policy): built(algorithm, policy) for algorithm in ALGORITHMS for policy in POLICIES}


def table(found: dict[tuple[str, str], object]) -> str:
    """The table in Markdown: what runs, and why the rest does not."""
    reasons: dict[str, int] = {}

    def cell(algorithm, policy):
        outcome = found[algorithm, policy]
        if not isinstance(outcome, str):
            default = ALGORITHMS[algorithm].config().policy.policy == policy
            return "**yes**" if default else "yes"
        return f"no [{reasons.setdefault(reason(outcome), len(reasons) + 1)}]"

    rows = [f"| {name} | {' | '.join(cell(name, policy) for policy in POLICIES)} |" for name in ALGORITHMS]
    head = f"| algorithm | {' | '.join(POLICIES)} |\n|---|{'---|' * len(POLICIES)}"
    notes = [f"[{number}] It {words}." for words, number in reasons.items()]
    return "\n".join([head, *rows, "", *notes])


def reason(sentence: str) -> str:
    """What a refusal says without the names of the pair."""
    needs = re.search(r"needs .*?(?=, which)", sentence)
    return needs.group() if needs else sentence


def page_with(text: str) -> str:
    """The content of the page with the table in its place."""
    before, rest = PAGE.read_text().split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train every pair that can be built")
    parser.add_argument("--write", action="store_true", help="put the table into docs/policies.md")
    arguments = parser.parse_args()
    found = pairs()
    print(table(found))
    if arguments.write:
        PAGE.write_text(page_with(table(found)))
    for (algorithm, policy), outcome in found.items() if arguments.train else ():
        if not isinstance(outcome, str):
            metrics = trained(outcome)
            print(f"{algorithm:<9} {policy:<13} {'finite' if np.isfinite(list(metrics.values())).all() else metrics}")


if __name__ == "__main__":
    main()
