"""Runs that earlier versions began: their settings are read as what they mean now, or refused with the reason."""

import json
from pathlib import Path

import pytest

from penstock._errors import ConfigurationError
from penstock.storage.run_folder import RunFolder, compare_configs
from penstock.training.migrations import completed
from penstock.training.plan import RUN_FIELDS, from_config, make_plan
from penstock.training.restore import read_plan

ROOT = Path(__file__).parents[2]
WORLD = "classic/double-integrator"


def test_a_run_from_before_a_setting_existed_can_be_continued():
    """Only a setting that is known to be new is filled in; any other that is missing is a change."""
    now = make_plan("sac", "classic/pendulum", settings={"discount": 0.9}).to_config()
    older = {k: v for k, v in now.items() if k not in RUN_FIELDS}
    assert compare_configs(completed(older), now) == []
    chosen = make_plan("sac", "classic/pendulum", settings={"discount": 0.9}, precision="bfloat16").to_config()
    changes = compare_configs(completed(older), chosen)
    assert [(change.field, change.old, change.new) for change in changes] == [("precision", "float32", "bfloat16")]
    once = {**older, "settings": {**older["settings"], "precision": "bfloat16"}}  # it was a setting
    assert compare_configs(completed(once), chosen) == []
    fewer = {**older, "settings": {k: v for k, v in older["settings"].items() if k != "batch_size"}}
    changes = compare_configs(completed(fewer), now)
    assert [change.field for change in changes] == ["settings.batch_size"], "a preset may differ from the default"
    rfo = make_plan("rfo", "classic/pendulum").to_config()
    for damaged in (rfo, {}, {**older, "settings": None}, {**older, "algorithm": "sca"}):
        assert completed(damaged) == damaged


OLD_RUNS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks/results").glob("*/*/*/config.json"))


def test_every_run_that_we_ever_published_can_be_read():
    """Their settings are those of many versions."""
    read = 0
    for path in OLD_RUNS:
        config = json.loads((ROOT / path).read_text())
        if config.get("settings", {}).get("weighting") == "code":  # its algorithm is beside the benchmarks now
            with pytest.raises(ConfigurationError, match=r"weighting = 'code': .*released_flowrl"):
                completed(config)
        elif "algorithm" in config:  # not of a peer
            plan = from_config(completed(config))
            assert plan.settings.discount == config["settings"]["discount"]
            read += 1
    assert read > 100


def test_a_run_with_the_released_code_s_settings_is_refused_with_the_reason():
    now = make_plan("sac-flow", WORLD).to_config()
    older = {**now, "settings": {**now["settings"], "noise_enters": "latent", "drift": False}}
    with pytest.raises(ConfigurationError, match=r"noise_enters = .*: this run was made with .*released_sac_flow"):
        completed(older)
    paper = {**now, "settings": {**now["settings"], "noise_enters": "diffusion", "candidate_bound": 50.0}}
    assert compare_configs(completed(paper), now) == []


def test_a_crossq_run_from_before_its_actor_had_batch_renorm_goes_on_without(tmp_path):
    now = make_plan("crossq", WORLD).to_config()
    older = {**now, "settings": {k: v for k, v in now["settings"].items() if k != "actor_batch_renorm"}}
    changes = compare_configs(completed(older), now)
    assert [(change.field, change.old, change.new) for change in changes] == [
        ("settings.actor_batch_renorm", False, True)
    ]
    RunFolder(tmp_path / "run").write_config(older)
    plan = read_plan(tmp_path / "run")  # as `penstock resume` and `penstock evaluate` do
    assert plan == make_plan("crossq", WORLD, settings={"actor_batch_renorm": False})
    assert compare_configs(completed(older), plan.to_config()) == []


@pytest.mark.parametrize("algorithm", ["rfo", "shac"])
def test_a_pathwise_run_from_before_there_were_rules_for_actions_without_noise_goes_on(algorithm, tmp_path):
    now = make_plan(algorithm, WORLD).to_config()
    idle = {"rfo": {"initial_log_std": 0.3}, "shac": {"flow_steps": 7, "velocity": "gated"}}[algorithm]
    older = {k: v for k, v in now.items() if k not in RUN_FIELDS} | {"settings": now["settings"] | idle}
    RunFolder(tmp_path / "run").write_config(older)
    plan = read_plan(tmp_path / "run")
    assert plan == make_plan(algorithm, WORLD, **({"deterministic_action": "zero"} if algorithm == "rfo" else {}))
    assert compare_configs(completed(older), plan.to_config()) == []


@pytest.mark.parametrize(
    ("algorithm", "then", "now"),
    [
        ("rfo", {"deterministic_action": "modal", "deterministic_draws": 8}, {}),
        ("rfo", {"deterministic_action": "mean", "deterministic_draws": 4}, None),
        ("flowrl", {"deterministic_action": "zero", "deterministic_draws": 8}, {}),
        ("flowrl", {"deterministic_action": "modal", "deterministic_draws": 12}, None),
        ("sac", {"precision": "bfloat16"}, None),
        ("shac", {"initialization_gain": 1.4142135, "stagger_episodes": True, "return_gradient_clip": None}, {}),
        ("shac2", {"initialization_gain": 1.0, "deterministic_action": "modal"}, {}),
        (
            "flowrl",
            {"weighting": "paper", "weight_floor": 0.1, "flow_matching_reduction": "mean", "layer_norm": True},
            {},
        ),
        ("flowrl", {"squash_target": "raw", "noise_clip": None, "value_activation": "mish"}, {}),
        ("crossq", {"renorm_warmup": 100_000}, {}),
        ("sac-flow", {"entropy": "path", "other_paths": 8, "drift": True, "learn_noise": True}, {}),
    ],
)
def test_what_was_a_setting_is_read_as_a_field_of_the_run_or_not_at_all(algorithm, then, now):
    """``now``: fields of the plan; None for those that are named alike."""
    plan = make_plan(algorithm, WORLD, **(then if now is None else now))
    new = plan.to_config()
    older = {k: v for k, v in new.items() if k not in RUN_FIELDS} | {"settings": {**new["settings"], **then}}
    assert from_config(completed(older)) == plan
    assert compare_configs(completed(older), new) == []


def test_a_run_that_regulated_the_entropy_of_its_action_has_a_marginal_flow():
    now = make_plan("sac-flow", WORLD, settings={"policy": "marginal-flow", "other_paths": 5}).to_config()
    then = {"policy": "noisy-flow", "entropy": "action", "target_step_std": 0.1697, "drift": True, "learn_noise": True}
    assert compare_configs(completed({**now, "settings": {**now["settings"], **then}}), now) == []
    with pytest.raises(ConfigurationError, match=r"target_step_std = 0\.2: this run was made with"):
        completed({**now, "settings": {**now["settings"], **then, "target_step_std": 0.2}})


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("flowrl", {"noise_clip": 1.0}),
        ("flowrl", {"layer_norm": False}),
        ("crossq", {"renorm_warmup": 5}),
        ("sac", {"learn_noise": False}),
        ("rfo", {"stagger_episodes": False}),
        ("rfo", {"return_gradient_clip": 0.3}),
        ("shac2", {"initialization_gain": 1.4142135}),
        ("shac2", {"initialization_gain": 1.0, "activation": "elu"}),
    ],
)
def test_a_run_that_did_otherwise_than_all_runs_do_now_is_refused_with_the_reason(algorithm, settings):
    now = make_plan(algorithm, WORLD).to_config()
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigurationError, match=rf"{name} = {value}: this run was made with .* all runs have .* now"):
        completed({**now, "settings": {**now["settings"], **settings}})


RELEASED_FLOWRL = f"{ROOT}/benchmarks/released_flowrl.py"


def test_a_former_run_of_an_algorithm_in_a_file_goes_on_too():
    plan = make_plan(f"{RELEASED_FLOWRL}:FlowRL", WORLD)
    now = plan.to_config()
    then = {"deterministic_action": "zero", "deterministic_draws": 8, "precision": "float32", "layer_norm": True}
    older = {k: v for k, v in now.items() if k not in RUN_FIELDS} | {"settings": {**now["settings"], **then}}
    assert compare_configs(completed(older), now) == [] and from_config(completed(older)) == plan
    noisy = make_plan(f"{RELEASED_FLOWRL}:CodeWeighting", WORLD, settings={"policy": "marginal-flow"}).to_config()
    then = {"policy": "noisy-flow", "entropy": "action", "drift": True, "learn_noise": True, "target_step_std": 0.1697}
    older = {k: v for k, v in noisy.items() if k not in RUN_FIELDS} | {"settings": {**noisy["settings"], **then}}
    assert compare_configs(completed(older), noisy) == []
