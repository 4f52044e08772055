import numpy as np
import pytest
import scipy.stats

from penstock._errors import ConfigurationError
from penstock.reports.aggregates import aggregate, parse_references
from penstock.reports.arms import compare
from penstock.reports.runs import read_runs

METRIC = "eval/return_deterministic"
WORLDS = ("soft/jumper-mini", "classic/pendulum")
REFERENCES = {"soft/jumper-mini": (0.0, 200.0), "classic/pendulum": (-1000.0, 0.0)}


@pytest.fixture
def two_worlds(make_run):
    """Two arms on two worlds, two seeds each; final returns 100, 140 and -500, -300 of RFO, 60, 120 and -800, -400."""
    ends = {
        ("rfo", WORLDS[0]): (100.0, 140.0),
        ("rfo", WORLDS[1]): (-500.0, -300.0),
        ("sapo", WORLDS[0]): (60.0, 120.0),
        ("sapo", WORLDS[1]): (-800.0, -400.0),
    }
    return [
        make_run(f"{algorithm}-{world[:4]}", [[0.0, end] for end in finals], algorithm=algorithm, world=world)
        for (algorithm, world), finals in ends.items()
    ]


def aggregated(runs, *arguments, metric=METRIC, **keywords):
    return aggregate(compare(read_runs(runs), metric), *arguments, **keywords)


def test_numbers_over_worlds_by_hand(two_worlds):
    found = aggregated(two_worlds, REFERENCES)
    rfo, sapo = found.arms
    # Normalised: RFO 0.5, 0.7 and 0.5, 0.7; SAPO 0.3, 0.6 and 0.2, 0.6. Of four scores the outer two are cut.
    assert rfo.normalised.value == pytest.approx(0.6)
    assert sapo.normalised.value == pytest.approx((0.3 + 0.6) / 2)
    # SAPO above RFO: of the pairs of each world 60 < all, 120 > 100; -800 < all, -400 > -500: one of four each.
    assert found.baseline == "rfo" and rfo.improvement is None
    assert sapo.improvement.value == 0.25
    assert dict(found.steps) == {WORLDS[0]: 2000, WORLDS[1]: 2000} and not found.relative and found.notes == ()
    value = dict(zip(found.thresholds.round(6), rfo.profile[0], strict=True))
    assert (value[0.0], value[0.495], value[0.505], value[0.7], value[1.0]) == (1, 1, 0.5, 0, 0)
    assert rfo.row("rfo")["seeds"] == "2" and "P(better than rfo) [95 % interval]" in sapo.row("rfo")


def test_numbers_over_worlds_agree_with_an_independent_computation(make_run):
    generator = np.random.default_rng(0)
    finals = generator.normal(size=(2, 3, 5))  # arm, world, seed
    worlds = [f"w{k}" for k in range(3)]
    runs = [
        make_run(f"{a}{w}", [[0.0, end] for end in finals[a, k]], algorithm=("rfo", "sapo")[a], world=w)
        for a in range(2)
        for k, w in enumerate(worlds)
    ]
    found = aggregated(runs, dict.fromkeys(worlds, (-2.0, 2.0)), "sapo")
    scores = (finals + 2) / 4
    for arm, own in zip(found.arms, scores, strict=True):
        assert arm.normalised.value == pytest.approx(scipy.stats.trim_mean(own.ravel(), 0.25))
        # A plain stratified bootstrap, one resample at a time.
        spread = [
            scipy.stats.trim_mean(np.concatenate([generator.choice(seeds, 5) for seeds in own]), 0.25)
            for _ in range(3000)
        ]
        low, high = np.percentile(spread, [2.5, 97.5])
        assert (arm.normalised.low, arm.normalised.high) == (
            pytest.approx(low, abs=0.02),
            pytest.approx(high, abs=0.02),
        )
        np.testing.assert_allclose(arm.profile[0], [(own > t).mean() for t in found.thresholds])
    pairs = [scipy.stats.mannwhitneyu(x, y).statistic / 25 for x, y in zip(*finals, strict=True)]
    assert found.arms[0].improvement.value == pytest.approx(np.mean(pairs))
    assert found.arms[1].improvement is None


def test_scores_are_read_where_the_shortest_arm_ends(make_run):
    runs = [
        make_run("a", [[0.0, 5.0, 50.0]], world="w1"),
        make_run("b", [[0.0, 9.0]], world="w1", algorithm="sapo"),
        make_run("c", [[0.0, 1.0]], world="w2"),
        make_run("d", [[0.0, 2.0]], world="w2", algorithm="sapo"),
    ]
    found = aggregated(runs, {"w1": (0, 10), "w2": (0, 10)})
    assert found.steps["w1"] == 2000
    assert found.arms[0].normalised.value == pytest.approx((0.5 + 0.1) / 2)
    assert np.isnan(found.arms[0].normalised.low)  # one seed each: no interval
    assert found.arms[1].improvement.value == 1.0


def test_nothing_is_normalised_by_invention(two_worlds):
    found = aggregated(two_worlds)
    assert found.references is None and all(arm.normalised is None and arm.profile is None for arm in found.arms)
    assert found.arms[1].improvement.value == 0.25
    assert "soft/jumper-mini has no reference: add --normalize 'soft/jumper-mini=LOW,HIGH'" in found.notes[0]
    one = aggregated(two_worlds, {WORLDS[0]: (0.0, 200.0)})
    assert one.references is None and "classic/pendulum has no reference" in one.notes[0]


def test_relative_to_the_arms(two_worlds):
    found = aggregated(two_worlds, "arms")
    assert found.relative and found.references == {WORLDS[0]: (90.0, 120.0), WORLDS[1]: (-600.0, -400.0)}
    assert found.arms[0].normalised.value == pytest.approx(1.0)
    with pytest.raises(ConfigurationError, match=r"all arms score alike.*--normalize 'soft/jumper-mini=LOW,HIGH'"):
        aggregated([two_worlds[0], two_worlds[1]], "arms")


def test_the_suite_of_dmcontrol_states_its_range(make_run):
    runs = [make_run("a", [1.0, 500.0], world="dmc/walker-walk"), make_run("b", [1.0, 700.0], world="dmc/cheetah-run")]
    assert aggregated(runs).arms[0].normalised.value == pytest.approx(0.6)
    assert aggregated(runs, {"dmc/walker-walk": (0, 500.0)}).arms[0].normalised.value == pytest.approx((1 + 0.7) / 2)
    assert aggregated(runs, metric="eval/forward_velocity").references is None
    other = make_run("c", [1.0, 2.0], world="dmc/walker-run", world_options={"time_limit": 5})
    assert aggregated([*runs, other]).references is None


def test_arms_that_lack_a_world_are_left_out_with_a_word(two_worlds, make_run):
    lonely = make_run("lonely", [1.0, 2.0], algorithm="apg")
    found = aggregated([lonely, *two_worlds], REFERENCES)
    assert [arm.arm for arm in found.arms] == ["rfo", "sapo"] and found.baseline == "rfo"
    assert found.notes[0].startswith("'apg' has no run on classic/pendulum: it is left out")
    with pytest.raises(ConfigurationError, match="baseline = 'apg': has no run on some"):
        aggregated([lonely, *two_worlds], REFERENCES, "apg")
    assert aggregated([lonely, two_worlds[3]]) is None
    for keywords in ({"normalize": REFERENCES}, {"baseline": "apg"}):
        with pytest.raises(ConfigurationError, match=r"cannot be used\. No arm has runs on every world"):
            aggregated([lonely, two_worlds[3]], **keywords)


def test_unequal_seeds_are_told(two_worlds, make_run):
    more = make_run("more", [0.0, 80.0], seed=7, algorithm="sapo")
    found = aggregated([*two_worlds, more], REFERENCES)
    assert found.arms[1].row("rfo")["seeds"] == "2 to 3"
    assert found.arms[1].normalised.value == pytest.approx(np.mean([0.3, 0.4, 0.6]))  # of 0.2 0.3 0.4 0.6 0.6
    assert "weighs more" in found.notes[0]


def test_a_seed_that_is_not_finite_is_told(two_worlds, make_run):
    broken = make_run("broken", [0.0, np.nan], seed=7, algorithm="sapo")
    found = aggregated([*two_worlds, broken], REFERENCES)
    assert np.isnan(found.arms[1].normalised.value) and np.isfinite(found.arms[0].normalised.value)
    assert "A seed of 'sapo' ends at a value that is not finite" in found.notes[-1]


def test_worlds_without_a_common_step_are_told(two_worlds, make_run):
    late = make_run("late", [5.0], seed=7, steps=[90_000])
    assert any("no step in common" in note for note in aggregated([*two_worlds, late], REFERENCES).notes)


def test_references_are_read():
    worlds = ["soft/jumper-mini", "a=b"]
    assert parse_references(["soft/jumper-mini=0,200", "a=b= -1.5 , 1e3"], worlds) == {
        "soft/jumper-mini": (0.0, 200.0),
        "a=b": (-1.5, 1000.0),
    }
    assert parse_references([], worlds) == {} and parse_references(["arms"], worlds) == "arms"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["soft/jumper-mini"], "write WORLD=LOW,HIGH, for example soft/jumper-mini=0,200, or 'arms' alone"),
        (["soft/jumper-mini=0"], "write WORLD=LOW,HIGH"),
        (["soft/jumper-mini=0,x"], "write WORLD=LOW,HIGH"),
        (["soft/jumper-mini=0,inf"], "write WORLD=LOW,HIGH"),
        (["=0,1"], "write WORLD=LOW,HIGH"),
        (["arms", "soft/jumper-mini=0,1"], "normalize = 'arms': write WORLD=LOW,HIGH"),
        (["soft/jumper-min=0,1"], "Did you mean 'soft/jumper-mini'"),
        (["soft/jumper-mini=5,5"], "LOW, which counts as 0, must be below HIGH"),
        (["soft/jumper-mini=0,1", "soft/jumper-mini=0,2"], "is given twice"),
    ],
)
def test_references_that_cannot_be_read(texts, said):
    with pytest.raises(ConfigurationError, match="normalize = ") as refused:
        parse_references(texts, ["soft/jumper-mini"])
    assert said in str(refused.value)


def test_what_concerns_several_worlds_is_refused_for_one(make_run):
    run = make_run("a", [1.0])
    assert aggregated([run]) is None
    for keywords in ({"normalize": {"soft/jumper-mini": (0, 1)}}, {"baseline": "rfo"}):
        with pytest.raises(
            ConfigurationError, match=r"concerns several worlds, and all runs are of one\. Leave it out"
        ):
            aggregated([run], **keywords)
    with pytest.raises(ConfigurationError, match=r"baseline = 'rf': is no arm\. Did you mean 'rfo'"):
        aggregated([run], baseline="rf")
    with pytest.raises(ConfigurationError, match="normalize = 'best': is neither references nor 'arms'"):
        aggregated([run], "best")
