"""All policies times all algorithms: each pair trains, or is refused in a sentence that names both."""

import numpy as np
import pytest

from benchmarks.cross_product import PAGE, POLICIES, built, page_with, pairs, table, trained
from penstock.algorithms.registry import ALGORITHMS
from penstock.policies.settings import POLICIES as REGISTERED


@pytest.fixture(scope="module")
def found():
    return pairs()


def test_the_page_shows_what_is_built(found):
    assert PAGE.read_text() == page_with(table(found)), "run python benchmarks/cross_product.py --write"
    assert set(POLICIES) == {name for name in REGISTERED if ":" not in name}


def test_a_refusal_names_algorithm_policy_and_reason(found):
    refused = {pair: outcome for pair, outcome in found.items() if isinstance(outcome, str)}
    flows = {"flow": "VelocityFlow", "noisy-flow": "NoisyFlow", "coupling": "CouplingFlow"}
    classes = {"gaussian": "SquashedGaussian", "deterministic": "Deterministic", **flows}
    assert refused
    for (algorithm, policy), sentence in refused.items():
        assert sentence.startswith(f"{algorithm} needs ")
        assert f"which {classes[policy]} does not offer" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pair_trains(algorithm, policy):
    outcome = built(algorithm, policy)
    if isinstance(outcome, str):
        return  # see above
    metrics = trained(outcome)
    assert np.isfinite(list(metrics.values())).all(), metrics
    assert metrics["actor/skipped"] == metrics["world/diverged"] == 0.0
