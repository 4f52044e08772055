"""Runs of PPO and NFPO: continued bit for bit on functional worlds, and as promised on hosted ones."""

import json
import math

import pytest

from penstock.training.loop import train
from penstock.training.plan import make_plan
from tests.faults.tiny_runs import SharedProgram, assert_same_run
from tests.training.hosted_runs import ENVIRONMENTS

TINY = {"window": 4, "epochs": 2, "minibatches": 2, "actor_hidden": (8,), "critic_hidden": (8,), "kl_target": 0.01}


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    monkeypatch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)


def plan_of(algorithm, world, **fields):
    fields = {"num_envs": 4, "steps": 192, "log_every": 1, "evaluate_every": 32, "evaluation_episodes": 2, **fields}
    return make_plan(algorithm, world, **{"settings": TINY, **fields})


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    """Also what the adapted learning rate has come to, and the statistics of observations."""
    plan = plan_of("nfpo", "classic/multi-goal", settings={**TINY, "coupling_layers": 2})
    train(plan, tmp_path / "whole")
    assert train(plan, tmp_path / "stopped", on_metrics=lambda rows: rows[0]["update"] == 5).exit_code == 75
    assert train(plan, tmp_path / "stopped").finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["actor/learning_rate"] != pytest.approx(3e-4), "the rate was adapted"


def test_an_adapted_learning_rate_lasts_from_one_iteration_to_the_next(tmp_path):
    """Of the two gradient steps of an iteration the first has a divergence of 0, and the second makes the rate grow."""
    settings = {**TINY, "epochs": 2, "minibatches": 1, "kl_target": 1e3}
    train(plan_of("ppo", "classic/multi-goal", settings=settings, steps=160), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["actor/learning_rate"] for row in rows if "actor/learning_rate" in row]
    assert len(rates) > 5 and rates[4] < 1e-2, "five iterations, below the largest rate"
    assert rates[:5] == pytest.approx([rates[0] * 1.5**update for update in range(5)], rel=1e-4)


def test_a_stopped_run_goes_on_with_what_it_remembers(tmp_path):
    """The memories of a recurrence and histories, in the middle of episodes, of two seeds."""
    settings = {**TINY, "recurrent": "lstm", "recurrent_size": 4}
    fields = {"seeds": 2, "history": 2, "steps": 128, "world_options": {"episode_length": 7}}
    plan = plan_of("ppo", "classic/double-integrator", settings=settings, **fields)
    train(plan, tmp_path / "whole")
    assert train(plan, tmp_path / "stopped", on_metrics=lambda rows: rows[0]["update"] == 3).exit_code == 75
    assert train(plan, tmp_path / "stopped").finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


RECURRENT = {"recurrent": "gru", "recurrent_size": 4}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="latents", marks=pytest.mark.slow),
        pytest.param({"policy": "noisy-flow"}, id="paths", marks=pytest.mark.slow),
        pytest.param(RECURRENT, id="memories"),
    ],
)
def test_a_run_on_a_hosted_world_goes_on(settings, tmp_path):
    fields = {"num_envs": 2, "steps": 64, "evaluate_every": 16, "settings": {**TINY, **settings}}
    plan = plan_of("ppo", f"{ENVIRONMENTS}:Counting", **fields)
    stopped = train(plan, tmp_path, on_metrics=lambda rows: rows[0]["env_steps"] >= 32)
    assert stopped.exit_code == 75
    assert stopped.driver.traces == {"init": 1, "act": 1, "learn": 1, "measure": 1}, "compiled once"
    result = train(plan, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert result.finished and [row["env_steps"] for row in rows if row["env_steps"]] == list(range(8, 72, 8))
    for row in rows[1:]:
        assert math.isfinite(row["critic/loss"])
        assert 0.0 < row["policy/latent_std_min"] <= row["policy/latent_std_max"], "what the policy says of itself"
