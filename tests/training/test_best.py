"""By what the best checkpoint is chosen, and what is refused."""

import dataclasses

import pytest

from penstock._errors import ConfigurationError
from penstock.storage._manifest import new_manifest
from penstock.training.best import Criterion
from penstock.training.plan import make_plan

ROWS = [
    {"env_steps": 40, "eval/success_rate": 0.5, "eval/return_deterministic": 3.0},
    {"env_steps": 40, "eval/success_rate": 1.0, "eval/return_deterministic": -1.0},
]


def test_a_score_is_the_mean_over_seeds_and_larger_is_better():
    assert Criterion().score(ROWS, 40) == 1.0
    assert Criterion("eval/success_rate").score(ROWS, 40) == 0.75
    assert Criterion("eval/success_rate", "lowest").score(ROWS, 40) == -0.75


def test_there_is_no_score_without_an_evaluation_of_this_step_that_brought_a_number():
    assert Criterion().score(ROWS, 80) is None and Criterion().score([], 40) is None
    assert Criterion("eval/other").score(ROWS, 40) is None
    half = [ROWS[0], {**ROWS[1], "eval/success_rate": None}]
    assert Criterion("eval/success_rate").score(half, 40) is None


def test_a_checkpoint_that_was_saved_by_another_metric_is_scored_by_its_rows():
    manifest = new_manifest(40, "", 1.0, [], {}, {"last_rows": ROWS})
    assert Criterion("eval/success_rate").score_of(manifest) == 0.75
    assert Criterion().score_of(dataclasses.replace(manifest, step=80)) is None
    assert Criterion().score_of(dataclasses.replace(manifest, extra={})) == 1.0


def plan(algorithm="sac", world="gym/Pendulum-v1", **fields):
    made = make_plan(algorithm, world, **fields)
    made.refuse_unmeasurable(made.make_world())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"best_by": "eval/succes_rate"},
            r"best_by = 'eval/succes_rate': no evaluation brings it. .* 'eval/success_rate'",
        ),
        ({"best_by": "train/episode_return"}, r"no evaluation brings it. Did you mean 'eval/"),
        ({"best_by": "eval/info/x", "log_info": ("y",)}, "no evaluation brings it. Name it: --log-info x."),
        (
            {"evaluate_every": 0, "best_by": "eval/return_mean"},
            r"best_by = 'eval/return_mean': does nothing without eval",
        ),
        ({"evaluate_every": 0, "best_is": "lowest"}, r"best_is = 'lowest': does nothing without evaluations"),
        ({"best_is": "smallest"}, r"best_is = 'smallest': must be one of 'highest', 'lowest'"),
        ({"log_info": "x"}, r"log_info = 'x': must be a list, each entry a text"),
        ({"world": "classic/pendulum", "log_info": ("x",)}, r"log_info = \['x'\]: is of hosted worlds; others log all"),
        ({"world": "classic/pendulum", "best_by": "eval/success_rate"}, "no evaluation brings it"),
        ({"world": "classic/pendulum", "best_by": "eval/spead"}, "Did you mean 'eval/speed'?"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_a_run_begins(fields, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        plan(**fields)


def test_what_can_be_measured_is_not_refused():
    plan(best_by="eval/success_rate_at_end")
    plan(best_by="eval/stochastic/success_rate")
    plan(best_by="eval/info/x", log_info=["x"], best_is="lowest")
    plan(world="classic/pendulum", best_by="eval/stochastic/speed")


def test_an_evaluation_that_did_not_bring_the_metric_is_told():
    assert Criterion("eval/success_rate").unmeasured({"eval/success_rate": 0.0}) == ""
    sentence = Criterion("eval/success_rate").unmeasured({"eval/return_mean": 0.0})
    assert "no best checkpoint can be chosen" in sentence and "info['is_success']" in sentence
    assert "Did you mean" in Criterion("eval/info/x").unmeasured({"eval/info/xy": 0.0})
