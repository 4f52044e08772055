import json

import pytest

from penstock.reports.arms import NOT_RECORDED, compare, settings_that_count
from penstock.reports.runs import RunError, read_run, read_runs
from penstock.training.plan import make_plan

METRIC = "eval/return_deterministic"
FAST, SLOW = {"actor_learning_rate": 0.002}, {"actor_learning_rate": 0.001}


def arms_of(*runs):
    """For each world the names of its arms, each with its seeds."""
    comparison = compare(read_runs(runs), METRIC)
    return {
        world: {arm: [curve.seed for curve in curves] for arm, curves in arms.items()}
        for world, arms in comparison.worlds.items()
    }


def arms(*runs):
    (only,) = arms_of(*runs).values()
    return only


def test_equal_seeds_of_different_settings_are_two_arms(make_run):
    runs = [make_run("a", [1.0], settings=FAST), make_run("b", [2.0], settings=SLOW)]
    assert arms(*runs) == {"rfo, actor_learning_rate = 0.002": ["0"], "rfo, actor_learning_rate = 0.001": ["0"]}


def test_different_seeds_of_different_settings_are_two_arms(make_run):
    runs = [make_run(f"{k}", [1.0], seed=k, settings=FAST if k < 2 else SLOW) for k in range(4)]
    assert arms(*runs) == {
        "rfo, actor_learning_rate = 0.002": ["0", "1"],
        "rfo, actor_learning_rate = 0.001": ["2", "3"],
    }


@pytest.mark.parametrize(
    "field",
    ["penstock", "seeds", "log_every", "evaluate_every", "evaluation_episodes", "log_info", "best_by", "best_is"],
)
def test_what_does_not_bear_on_learning_does_not_split_an_arm(make_run, field):
    runs = [make_run("a", [1.0], **{field: 5}), make_run("b", [1.0], seed=1, **{field: 7})]
    assert arms(*runs) == {"rfo": ["0", "1"]}


@pytest.mark.parametrize(
    ("one", "other", "stated"),
    [
        ({"num_envs": 8}, {"num_envs": 16}, ("num_envs = 8", "num_envs = 16")),
        (
            {"world_options": {"episode_length": 10}},
            {"world_options": {}},
            ("world option episode_length = 10", f"world option episode_length = {NOT_RECORDED}"),
        ),
        ({"settings": {"own_flag": True}}, {"settings": {"own_flag": 1}}, ("own_flag = true", "own_flag = 1")),
        ({"settings": {"target_entropy": None}}, {"settings": {"target_entropy": -1.5}},
         ("target_entropy = none", "target_entropy = -1.5")),
        ({"settings": {"actor_hidden": [64, 64]}}, {"settings": {"actor_hidden": [64]}},
         ("actor_hidden = [64, 64]", "actor_hidden = [64]")),
        ({"host": "a"}, {"host": "b"}, ("host = a", "host = b")),
        ({"world_constants": {"gravity": -9.81}}, {"world_constants": {"gravity": -1.6}},
         ("world constant gravity = -9.81", "world constant gravity = -1.6")),
    ],
)  # fmt: skip
def test_what_counts_is_stated_in_the_name(make_run, one, other, stated):
    runs = [make_run("a", [1.0], **one), make_run("b", [1.0], **other)]
    assert list(arms(*runs)) == [f"rfo, {text}" for text in stated]


def test_whole_numbers_are_equal_however_they_are_written(make_run):
    runs = [
        make_run("a", [1.0], settings={"clip": 1, "beta": [1, {"x": 2.0}]}),
        make_run("b", [1.0], seed=1, settings={"beta": [1.0, {"x": 2}], "clip": 1.0}),
    ]
    assert arms(*runs) == {"rfo": ["0", "1"]}


def test_one_label_for_two_algorithms_is_two_arms(make_run):
    runs = [make_run("a", [1.0], label="best"), make_run("b", [1.0], algorithm="sapo", label="best")]
    assert list(arms(*runs)) == ["best, algorithm = rfo", "best, algorithm = sapo"]


@pytest.mark.parametrize(
    ("algorithm", "settings", "splits"),
    [
        ("rfo", {"actor_learning_rate": 2e-3, "critic_learning_rate": 1e-3, "final_learning_rate": 1e-5}, True),
        ("rfo", {"actor_learning_rate": 2e-3, "critic_learning_rate": 2e-3, "final_learning_rate": 2e-3}, False),
        ("apg", {"actor_learning_rate": 2e-3, "final_learning_rate": 2e-3}, False),
        ("sac", {"actor_learning_rate": 2e-3}, False),
        ("/home/me/mine.py:Mine", {}, True),  # what it schedules is not known
    ],
)
def test_planned_steps_count_where_a_schedule_runs_over_them(make_run, algorithm, settings, splits):
    runs = [
        make_run(f"{steps}", [1.0], algorithm=algorithm, settings=settings, steps_planned=0) for steps in (1000, 2000)
    ]
    for seed, (run, steps) in enumerate(zip(runs, (1000, 2000), strict=True)):
        config = json.loads((run / "config.json").read_text())
        del config["steps_planned"]
        (run / "config.json").write_text(json.dumps({**config, "steps": steps, "seed": seed}))
    title = algorithm.rpartition(":")[2]
    assert list(arms(*runs)) == ([f"{title}, steps = 1000", f"{title}, steps = 2000"] if splits else [title])


def test_plans_of_today_split_where_they_should():
    """The rules hold for the settings that Penstock writes, not only for those of these tests."""

    def counted(**changes):
        return settings_that_count(make_plan("rfo", "soft/jumper-mini", **{"steps": 1000, **changes}).to_config())

    assert counted() == counted(seed=3, seeds=2, label="x", log_every=3, evaluate_every=7, evaluation_episodes=9)
    assert counted() != counted(steps=2000)
    assert counted(settings={"final_learning_rate": 1e-6}) != counted()
    off_policy = [
        settings_that_count(make_plan("sac", "classic/pendulum", steps=steps).to_config()) for steps in (5000, 9000)
    ]
    assert off_policy[0] == off_policy[1]


def test_older_files_are_read_as_they_would_be_written_today(make_run):
    now = {"actor_learning_rate": 1e-3, "velocity": "decoded", "flow_steps": 4, "policy": "noisy-flow"}
    then = {**now, "networks": "paper", "precision": "float32"}
    del then["policy"]
    runs = [
        make_run("now", [1.0], algorithm="sac-flow", settings={**now, "precision": "float32"}),
        make_run("then", [1.0], seed=1, algorithm="sac-flow", settings=then),
    ]
    assert arms(*runs) == {"sac-flow": ["0", "1"]}


def test_files_of_ones_own_count_by_their_hash_not_by_their_folder(make_run):
    def run(name, folder, source, **config):
        return make_run(
            name,
            [1.0],
            algorithm=f"{folder}/mine.py:Mine",
            world=f"{folder}/points.py:make",
            algorithm_source=source,
            world_source="abc",
            **config,
        )

    runs = [run("a", "/home/me", "0123456789abcdef"), run("b", "/cluster/me", "0123456789abcdef", seed=1)]
    assert arms_of(*runs) == {"points.py:make": {"Mine": ["0", "1"]}}
    edited = run("c", "/home/me", "fedcba9876543210", seed=2)
    assert list(arms(*runs, edited)) == [
        "Mine, algorithm_source = 0123456789ab",
        "Mine, algorithm_source = fedcba987654",
    ]


def test_names_state_few_settings_and_the_rest_is_told(make_run):
    def settings(rate, kind):
        return {"actor_learning_rate": rate, "velocity": kind, "a": kind, "b": kind, "c": kind}

    runs = [make_run(f"{k}", [1.0], settings=settings(*pair)) for k, pair in enumerate([(1, "x"), (1, "y"), (2, "y")])]
    comparison = compare(read_runs(runs), METRIC)
    first, second, third = comparison.arms
    assert first == "rfo, actor_learning_rate = 1, velocity = x, …"
    assert second == "rfo, actor_learning_rate = 1, velocity = y, …"
    assert third == "rfo, actor_learning_rate = 2, velocity = y, …"
    assert comparison.settings[second] == {
        "actor_learning_rate": "1",
        **dict.fromkeys(("velocity", "a", "b", "c"), "y"),
    }
    assert comparison.shortened == {first, second, third}


def test_names_do_not_depend_on_the_world_alone(make_run):
    """What tells arms apart on one world names them on all, so that they are the same arms in a figure."""
    runs = [
        make_run("a", [1.0], settings=FAST),
        make_run("b", [1.0], settings=SLOW),
        make_run("c", [1.0], settings=SLOW, world="classic/pendulum"),
    ]
    assert list(arms_of(*runs)["classic/pendulum"]) == ["rfo, actor_learning_rate = 0.001"]
    # Settings that differ between worlds alone are presets, not arms.
    presets = [make_run("d", [1.0], settings=FAST), make_run("e", [1.0], settings=SLOW, world="classic/pendulum")]
    assert arms_of(*presets) == {"soft/jumper-mini": {"rfo": ["0"]}, "classic/pendulum": {"rfo": ["0"]}}


def test_names_that_are_given(make_run):
    fast, slow = make_run("a", [1.0], settings=FAST), make_run("b", [1.0], settings=SLOW)
    more = make_run("c", [1.0], seed=1, settings=FAST, label="other")
    assert arms(("quick", fast), ("slow", slow), ("quick", more)) == {"quick": ["0", "1"], "slow": ["0"]}
    assert arms(("quick", fast), slow) == {"quick": ["0"], "rfo": ["0"]}


def test_a_given_name_does_not_hide_that_settings_differ(make_run):
    fast, slow = make_run("a", [1.0], settings=FAST), make_run("b", [1.0], seed=1, settings=SLOW, num_envs=3)
    with pytest.raises(RunError) as refused:
        arms(("mine", fast), ("mine", slow))
    said = str(refused.value)
    assert f"'mine' names runs whose settings differ: actor_learning_rate = 0.002 in {fast} and 0.001 in {slow}" in said
    assert "and in num_envs" in said and f"'mine 2={slow}'" in said
    # On another world the preset may be another: that is no contradiction.
    elsewhere = make_run("c", [1.0], settings=SLOW, world="classic/pendulum")
    assert arms_of(("mine", fast), ("mine", elsewhere))["classic/pendulum"] == {"mine": ["0"]}


def test_a_seed_never_counts_twice(make_run):
    first, second = make_run("a", [1.0], settings=FAST), make_run("b", [1.0], settings=FAST, evaluate_every=7)
    with pytest.raises(RunError, match=r"both hold seed 0 of 'rfo', with the same settings.*'NAME=.*b'"):
        arms(first, second)
    with pytest.raises(RunError, match="is given twice"):
        arms(first, first.parent / "." / "a")
    assert arms(first, ("again", second)) == {"rfo": ["0"], "again": ["0"]}


def test_a_label_that_reads_like_a_made_name_is_not_pooled(make_run):
    runs = [make_run("a", [1.0], settings=FAST), make_run("b", [1.0], settings=SLOW)]
    odd = make_run("c", [1.0], seed=1, algorithm="sapo", label="rfo, actor_learning_rate = 0.001")
    with pytest.raises(RunError, match=r"both would be called 'rfo, actor_learning_rate = 0\.001'"):
        arms(*runs, odd)


def test_runs_without_a_configuration_are_not_taken_for_the_same(make_run):
    runs = [make_run(f"{place}/run", [[1.0], [2.0]], seed=seed) for place, seed in (("x", 0), ("y", 5))]
    for run in runs:
        (run / "config.json").unlink()
    names = list(arms(*runs))
    assert [name[:14] for name in names] == ["run, folder = "] * 2
    assert [name[-6:] for name in names] == ["/x/run", "/y/run"]
    assert arms(*(("mine", run) for run in runs)) == {"mine": ["0", "1", "5", "6"]}


def test_what_an_arm_does_not_share_is_told(make_run):
    runs = [
        make_run("a", [1.0], evaluation_episodes=16, world_constants={"mujoco": "3.3.0", "environment": "a.B"}),
        make_run("b", [1.0], seed=1, evaluation_episodes=5, world_constants={"mujoco": "3.10.1", "environment": "a.B"}),
    ]
    comparison = compare([read_run(run) for run in runs], METRIC)
    assert comparison.arms == ["rfo"]
    assert [note.partition(": ")[2] for note in comparison.notes] == [
        "its seeds were evaluated over 5 and 16 episodes; they count as one arm.",
        "its seeds ran with mujoco 3.10.1 and 3.3.0; they count as one arm.",
    ]


def test_missing_values_are_told(make_run):
    comparison = compare(read_runs([make_run("a", [[1.0, float("nan")], [1.0, 2.0]])]), METRIC)
    assert comparison.notes == (
        "'rfo' on soft/jumper-mini: values of seed 0 are missing or not finite; there is no mean at these steps.",
    )


def test_labels_are_text_of_one_line(make_run):
    assert list(arms(make_run("a", [1.0], label="a\nb\x1b[1m $x$"))) == ["a b [1m $x$"]
    assert list(arms(make_run("b", [1.0], label="  "))) == ["rfo"]


@pytest.mark.parametrize(
    "config",
    [
        {"algorithm": ["rfo"], "settings": {"policy": ["x"]}},
        {"settings": 3, "world_options": [1], "world_constants": "x"},
        {"settings": {"policy": {"a": 1}, "velocity": 7}},
        {"algorithm": "sac-flow", "settings": {"policy": "noisy-flow", "networks": "released"}},
        {"world": 5, "label": 7},
    ],
)
def test_configurations_that_were_edited_by_hand_still_plot(make_run, config):
    assert len(arms(make_run("a", [1.0], **config))) == 1
