"""What hosted environments tell in ``info``, the best checkpoint by it, and films of what they render."""

import dataclasses

import jax
import numpy as np
import pytest

from penstock._errors import ConfigurationError, PenstockError
from penstock.cli._film import film
from penstock.cli._run import closing_lines
from penstock.training.drivers.hosted import _by_name
from penstock.training.drivers.seen import Seen
from penstock.training.loop import Silent, train
from penstock.training.restore import restore_run
from penstock.worlds import Observation, Transition
from tests.training.hosted_runs import (
    SharedFunctions,
    program_of,
    rows,
    tiny_plan,
)


@pytest.fixture(autouse=True)
def shared_functions(monkeypatch):
    """Lets runs of the same learner share what they compiled."""
    monkeypatch.setattr("penstock.training.running.HostedDriver", SharedFunctions)


def test_the_success_of_an_episode_ends_with_it():
    """One environment: an episode of two steps that succeeds at its first, one that never does, one under way."""
    seen = Seen(1)
    for success, over in ((1.0, False), (0.0, True), (0.0, False), (0.0, True), (1.0, False)):
        seen.add(
            Transition(
                reward=np.zeros(1, np.float32),
                terminated=np.zeros(1, bool),
                truncated=np.asarray([over]),
                diverged=np.zeros(1, bool),
                observation=Observation(np.zeros((1, 1), np.float32)),
                final_observation=Observation(np.zeros((1, 1), np.float32)),
                diagnostics={"success": np.float32([success])},
            )
        )
    metrics = seen.take()
    assert metrics["train/success_rate"] == 0.5 and metrics["train/success_rate_at_end"] == 0.0
    assert np.isnan(seen.take()["train/success_rate"]), "none ended since"


def kept_best(folder):
    (best,) = (folder / "checkpoints" / "best").iterdir()
    return int(best.name.removeprefix("step-"))


def test_success_and_named_numbers_are_logged_and_choose_the_best(tmp_path):
    """An episode of five steps succeeds at its second step alone; ages are 1 to 5. The action means nothing to them."""
    said = []
    plan = tiny_plan(environment="Tells", log_info=("age", "nothing"), best_by="eval/info/age", steps=60)
    train(plan, tmp_path / "run", observer=Silent(said.append))
    told = [text for text in said if text.startswith("log_info")]
    assert len(told) == 1 and "'nothing' is no number in the info of any step" in told[0] and "age" in told[0]
    whole = rows(tmp_path / "run")
    first, last = whole[0], whole[-1]
    for row in (first, last):
        assert row["eval/success_rate"] == row["eval/stochastic/success_rate"] == 1.0
        assert row["eval/success_rate_at_end"] == row["eval/stochastic/success_rate_at_end"] == 0.0
        assert row["eval/info/age"] == row["eval/stochastic/info/age"] == 3.0
    assert last["train/success_rate"] == 1.0 and last["train/success_rate_at_end"] == 0.0
    assert last["train/info/age"] == 3.0, "ten steps of two episodes"
    assert not any("nothing" in name or "is_success" in name for row in whole for name in row)
    assert kept_best(tmp_path / "run") == 60, "of equal scores the later one"
    assert closing_lines("run", train(plan, tmp_path / "run").last_rows)[-1].endswith(", success rate 1.00")


def test_what_one_seed_was_told_and_another_not_yet_is_nan_there():
    found = _by_name([{"a": 1.0}, {"a": 2.0, "b": 3.0}])
    np.testing.assert_array_equal(found["a"], [1.0, 2.0])
    np.testing.assert_array_equal(found["b"], [np.nan, 3.0])


def test_another_metric_chooses_the_best_anew_when_a_run_goes_on(tmp_path):
    plan = tiny_plan(steps=60)
    train(plan, tmp_path / "run")
    evaluations = [row for row in rows(tmp_path / "run") if "eval/return_deterministic" in row]
    returns = {row["env_steps"]: row["eval/return_deterministic"] for row in evaluations}
    best, worst = max(returns, key=returns.__getitem__), min(returns, key=returns.__getitem__)
    assert len(set(returns.values())) > 1 and kept_best(tmp_path / "run") == best
    said = []
    turned = dataclasses.replace(plan, best_is="lowest")
    train(turned, tmp_path / "run", observer=Silent(said.append))
    assert kept_best(tmp_path / "run") == worst and "best_is: 'highest' -> 'lowest'" in " ".join(said)
    assert restore_run(tmp_path / "run", "best").manifest.step == worst


def test_a_metric_that_the_first_evaluation_does_not_bring_ends_the_run_and_a_later_one_is_told(tmp_path):
    plan = tiny_plan(steps=40, best_by="eval/success_rate")
    with pytest.raises(ConfigurationError, match=r"best_by = 'eval/success_rate': the evaluation did not bring it"):
        train(plan, tmp_path / "run")
    train(dataclasses.replace(plan, best_by="eval/return_mean"), tmp_path / "run")
    said = []
    train(dataclasses.replace(plan, steps=80), tmp_path / "run", observer=Silent(said.append))
    assert [text.partition(":")[0] for text in said if text.startswith("best_by")] == ["best_by = 'eval/success_rate'"]


@pytest.mark.parametrize("environment", ["Tells", "Counting", "DrawsNothing"])
def test_what_renders_is_filmed_at_its_own_rate_and_what_does_not_is_told(environment, tmp_path):
    import imageio_ffmpeg

    learner = program_of(tiny_plan(environment=environment)).learner
    agent = learner.evaluated(learner.init(jax.random.key(0)))
    if environment == "Counting":
        with pytest.raises(PenstockError, match=r"has no pictures: .*metadata\['render_modes'\] lacks 'rgb_array'"):
            film(learner, agent, tmp_path / "film.mp4")
        return
    if environment == "DrawsNothing":
        with pytest.raises(
            PenstockError, match=r"draws nothing: all pictures that its render\(\) returned are one col"
        ):
            film(learner, agent, tmp_path / "film.mp4")
        return
    frames = imageio_ffmpeg.read_frames(film(learner, agent, tmp_path / "film.mp4", size=(160, 90)))
    about = next(frames)
    assert about["size"] == (160, 80) and about["fps"] == 10.0, "in its own proportions, sides even"
    means = [np.frombuffer(frame, np.uint8).mean() for frame in frames]
    np.testing.assert_allclose(means, [0, 10, 20, 30, 40], atol=3, err_msg="before each of five steps")
