"""Which policy runs under which algorithm: every pair is built, and trained for two iterations or refused.

Once with single actions, once with chunks of two.

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
from penstock.cli.train import refuse_options_of_others
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


CHUNK = 2
"""Actions of a chunk, where there are chunks."""


def built(algorithm: str, policy: str, chunk_length: int = 1):
    """A learner with this policy, or the sentence that refuses it."""
    entry = ALGORITHMS[algorithm]
    chosen = {"policy": policy, **POLICIES[policy]}
    if chunk_length > 1:
        chosen["chunk_length"] = chunk_length
    if algorithm == "crossq" and policy != "gaussian":
        chosen["actor_batch_renorm"] = False
    try:
        if chunk_length > 1:
            kinds = entry.config.of(**entry.config.choosing(["chunk_length"]))
            refuse_options_of_others(entry, ["--chunk-length"], kinds)
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


Pairs = dict[tuple[str, str], object]
"""Learners or sentences, by algorithm and policy."""


def pairs(chunk_length: int = 1) -> Pairs:
    """Every algorithm with every policy: a learner, or a sentence."""
    return {
        (algorithm, policy): built(algorithm, policy, chunk_length) for algorithm in ALGORITHMS for policy in POLICIES
    }


def table(found: Pairs, chunked: Pairs) -> str:
    """The table in Markdown: what runs, alone and with chunks, and why the rest does not."""
    reasons: dict[str, int] = {}

    def cell(algorithm, policy):
        outcome = found[algorithm, policy]
        if not isinstance(outcome, str):
            default = ALGORITHMS[algorithm].config().policy.policy == policy
            return "**yes**" if default else "yes"
        return f"no [{reasons.setdefault(reason(outcome), len(reasons) + 1)}]"

    def chunks(algorithm):
        outcomes = [chunked[algorithm, policy] for policy in POLICIES if not isinstance(found[algorithm, policy], str)]
        refused = {reason(outcome) for outcome in outcomes if isinstance(outcome, str)}
        if not refused:
            return "yes"
        assert len(refused) == 1 and all(isinstance(outcome, str) for outcome in outcomes), outcomes
        return f"no [{reasons.setdefault(refused.pop(), len(reasons) + 1)}]"

    rows = [f"| {name} | {' | '.join(cell(name, policy) for policy in POLICIES)} |" for name in ALGORITHMS]
    rows = [f"{row} {chunks(name)} |" for row, name in zip(rows, ALGORITHMS, strict=True)]
    head = f"| algorithm | {' | '.join(POLICIES)} | chunks of any of these |\n|---|{'---|' * (len(POLICIES) + 1)}"
    notes = [f"[{number}] It {words}." for words, number in reasons.items()]
    return "\n".join([head, *rows, "", *notes])


def reason(sentence: str) -> str:
    """What a refusal says without the names of the pair."""
    if "has no such setting" in sentence:
        return f"has no setting `{sentence.split(':')[0]}`: it decides at every step"
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
    found, chunked = pairs(), pairs(CHUNK)
    print(table(found, chunked))
    if arguments.write:
        PAGE.write_text(page_with(table(found, chunked)))
    for length, of_length in ((1, found), (CHUNK, chunked)) if arguments.train else ():
        for (algorithm, policy), outcome in of_length.items():
            if not isinstance(outcome, str):
                metrics = trained(outcome)
                finite = "finite" if np.isfinite(list(metrics.values())).all() else metrics
                print(f"{algorithm:<9} {policy:<13} {length} {finite}")


if __name__ == "__main__":
    main()
