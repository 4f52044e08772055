"""A run in a randomised world: evaluated in either world, exported with what was randomised."""

import json

import pytest

import penstock
from penstock.cli import play
from penstock.export.files import open_policy

WORLD = f"{__file__.rpartition('/tests/')[0]}/tests/worlds/mujoco_environments.py:Scales"


def test_a_run_is_evaluated_in_either_world_and_its_export_knows_what_was_randomised(tmp_path, capsys):
    file = tmp_path / "walker.yaml"
    file.write_text("mass: {bodies: [cart, pole], scale: [50, 60]}\nevaluation: nominal\n")
    small = {"steps": 60, "num_envs": 2, "window": 30, "evaluate_every": 0, "minibatches": 1, "epochs": 1}
    small |= {"actor_hidden": [4], "critic_hidden": [4]}
    run = penstock.train("ppo", WORLD, world_options={"randomize": str(file)}, run_dir=tmp_path / "run", **small)
    nominal, heavy = (run.evaluate(2, evaluation=where)[0]["eval/return_mean"] for where in ("nominal", "randomized"))
    assert run.evaluate(2)[0]["eval/return_mean"] == nominal
    assert nominal == pytest.approx(30 * 2.0) and 30 * 100 <= heavy <= 30 * 120
    exported = run.export("numpy")
    file.unlink()
    options = open_policy(exported).metadata["world"]["options"]
    assert options == {"randomize": {"mass": {"bodies": ["cart", "pole"], "scale": [50, 60]}, "evaluation": "nominal"}}
    returns = {}
    for where in ("run", "nominal", "randomized"):
        play.run([str(exported), "--evaluation", where, "--json", "--no-video"])
        returns[where] = json.loads(capsys.readouterr().out)["episodes"][0]["return"]
    assert returns["run"] == returns["nominal"] == pytest.approx(60) and returns["randomized"] >= 3000
