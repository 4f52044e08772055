"""All policies times all algorithms: each pair trains, or is refused in a sentence that names both."""

import numpy as np
import pytest

from benchmarks.cross_product import CHUNK, PAGE, POLICIES, built, page_with, pairs, table, trained
from penstock.algorithms.registry import ALGORITHMS
from penstock.policies.settings import POLICIES as REGISTERED


@pytest.fixture(scope="module")
def found():
    return pairs()


@pytest.fixture(scope="module")
def chunked():
    return pairs(CHUNK)


def test_the_page_shows_what_is_built(found, chunked):
    assert PAGE.read_text() == page_with(table(found, chunked)), "run python benchmarks/cross_product.py --write"
    assert set(POLICIES) == {name for name in REGISTERED if ":" not in name}


def test_a_refusal_names_algorithm_policy_and_reason(found):
    refused = {pair: outcome for pair, outcome in found.items() if isinstance(outcome, str)}
    flows = {"flow": "VelocityFlow", "noisy-flow": "NoisyFlow", "coupling": "CouplingFlow"}
    classes = {"gaussian": "SquashedGaussian", "deterministic": "Deterministic", **flows}
    assert refused
    for (algorithm, policy), sentence in refused.items():
        assert sentence.startswith(f"{algorithm} needs ")
        assert f"which {classes[policy]} does not offer" in sentence


def test_chunks_are_of_every_policy_that_runs_or_refused_with_both_names(found, chunked):
    for (algorithm, policy), outcome in chunked.items():
        alone = found[algorithm, policy]
        if ALGORITHMS[algorithm].family == "on-policy":
            assert outcome.startswith(f"--chunk-length: {algorithm} has no such setting; it belongs to apg, ")
        elif isinstance(alone, str):
            assert outcome == alone
        else:
            sizes = [one.shapes().actor.policy.flat_size for one in (alone, outcome)]
            assert sizes == [alone.world.action_size, CHUNK * alone.world.action_size]


@pytest.mark.slow
@pytest.mark.parametrize("chunk_length", [1, CHUNK])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pair_trains(algorithm, policy, chunk_length):
    outcome = built(algorithm, policy, chunk_length)
    if isinstance(outcome, str):
        return  # see above
    metrics = trained(outcome)
    assert np.isfinite(list(metrics.values())).all(), metrics
    assert metrics["actor/skipped"] == metrics["world/diverged"] == 0.0
