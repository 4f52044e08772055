"""A third family from a file: the page's policy gradient trains, resumes after SIGKILL, and is plotted.

Nothing of the package knows of it.
"""

import json
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import CapabilityError, ConfigurationError
from penstock.algorithms.learner import WindowOfRecords
from penstock.algorithms.registry import algorithm_entry
from penstock.training.drivers.functional import begin, iterate
from penstock.training.loop import Silent, train
from penstock.training.plan import from_config, make_plan
from penstock.training.running import make_driver
from penstock.worlds import Observation

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE / "faults"))
sys.path.insert(0, str(HERE / "learning"))
import probe_worlds as probes  # noqa: E402
from tiny_runs import Commands  # noqa: E402

PAGE = HERE.parent / "docs" / "add_an_algorithm.md"
ENVIRONMENTS = HERE / "worlds" / "hosted_environments.py"


def code():
    """The page's file."""
    return PAGE.read_text().split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "policy_gradient.py"
    path.write_text(code())
    return f"{path}:PolicyGradient"


def test_it_is_short():
    assert len(code().splitlines()) < 120


def test_it_finds_the_right_action_of_a_probe(spec):
    """One step an episode; the best action is half of what is seen."""
    entry = algorithm_entry(spec)
    config = entry.config.of(window=4, learning_rate=1e-2, initial_log_std=-1.0, hidden=(16,))
    learner = entry.learner(config, probes.probe(probes.ObservationActionReward(), 64), 400)

    def run(key):
        return jax.lax.fori_loop(0, 400, lambda _, state: iterate(learner, state)[0], begin(learner, key))

    state = jax.jit(run)(jax.random.key(3))
    seen = jnp.linspace(-0.8, 0.8, 9)[:, None]
    action = learner.agent(state.learned).mode(Observation(seen)).action[:, 0]
    np.testing.assert_allclose(action, probes.ObservationActionReward.right_action(seen[:, 0]), atol=0.15)
    assert int(state.clock.env_steps) == 400 * 4 * 64


def test_a_plan_names_it_and_round_trips(spec):
    plan = make_plan(spec, "classic/double-integrator", settings={"window": 4})
    assert plan.algorithm == spec and plan.title == "PolicyGradient" and from_config(plan.to_config()) == plan
    with pytest.raises(ConfigurationError, match=r"unknown field 'windw'.*window"):
        make_plan(spec, "classic/double-integrator", settings={"windw": 4})
    with pytest.raises(CapabilityError, match=r"policy-gradient needs a log-density.*VelocityFlow does not offer"):
        plan = make_plan(spec, "classic/double-integrator", settings={"policy": "flow"})
        plan.make_learner(plan.make_world()).shapes()


def test_what_is_no_algorithm_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from penstock.algorithms.learner import Learner\n"
        "class Half(Learner):\n    def init(self, key): ...\nthing = 3\n"
        "class Bare(Half):\n    data = update = agent = None\n"
    )
    for name, words in (
        ("Half", "lacks agent, data, update"),
        ("thing", "no subclass of Learner"),
        ("Bare", "`settings` must be"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            algorithm_entry(f"{path}:{name}")
    with pytest.raises(ConfigurationError, match="no attribute 'Haf'"):
        algorithm_entry(f"{path}:Haf")


@pytest.mark.parametrize("policy", ["gaussian", pytest.param("noisy-flow", marks=pytest.mark.slow)])
def test_it_trains_on_a_hosted_world_and_goes_on(spec, tmp_path, policy):
    """A toy Gymnasium world; the second call continues the first."""
    settings = {"window": 5, "hidden": (8,), "policy": policy}
    fields = {"num_envs": 2, "seeds": 2, "log_every": 1, "evaluate_every": 20, "evaluation_episodes": 1}

    def run(steps):
        return train(
            make_plan(spec, f"{ENVIRONMENTS}:Counting", settings=settings, steps=steps, **fields), tmp_path / "run"
        )

    first, second = run(20), run(40)
    assert first.finished and second.finished and int(second.state.clock.update) == 4
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in lines if line["seed"] == 0] == [0, 10, 20, 30, 40]
    assert np.isfinite(lines[-1]["actor/loss"]) and np.isfinite(lines[-1]["eval/return_deterministic"])
    leaves = zip(jax.tree.leaves(first.state.learned), jax.tree.leaves(second.state.learned), strict=True)
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in leaves)


def test_steps_that_would_be_counted_wrongly_are_refused(spec, monkeypatch):
    plan = make_plan(spec, "classic/double-integrator", num_envs=2, settings={"window": 8})
    learner = plan.make_learner(plan.make_world())
    monkeypatch.setattr(type(learner), "data", WindowOfRecords(4))
    with pytest.raises(ConfigurationError, match=r"its data has 4 control steps an iteration, .* says 8"):
        make_driver(learner, learner.world)


def test_random_ages_are_refused_on_a_hosted_world(spec, monkeypatch):
    plan = make_plan(spec, f"{ENVIRONMENTS}:Counting", num_envs=2)
    learner = plan.make_learner(plan.make_world())
    monkeypatch.setattr(type(learner), "data", WindowOfRecords(16, stagger=True))
    with pytest.raises(CapabilityError, match="begin at their beginning, not at a random age, which policy-gradient"):
        make_driver(learner, learner.world)


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit_and_is_plotted(spec, tmp_path):
    commands = Commands(tmp_path / "programs", tmp_path)
    options = ("--world", "classic/double-integrator", "--world-option", "episode_length=10", "--num-envs", "4")
    options += ("--window", "4", "--hidden", "8", "--steps", "96", "--log-every", "1", "--evaluate-every", "16")
    options += ("--evaluation-episodes", "1", "--no-video")
    whole = commands("train", spec, *options, "--run-dir", "whole")
    assert whole.returncode == 0 and "POLICYGRADIENT" in whole.stderr, whole.stderr
    script = (HERE / "faults" / "killed_run.py", "manifest-written", "3")
    killed = commands("train", spec, *options, "--run-dir", "killed", script=script)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = commands("train", spec, *options, "--run-dir", "killed")
    assert finished.returncode == 0, finished.stderr

    def rows(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in lines]

    assert rows("whole") == rows("killed") and len(rows("whole")) == 7
    plotted = commands("plot", "killed", "--output", "curves.png")
    assert plotted.returncode == 0 and (tmp_path / "curves.png").stat().st_size > 10_000, plotted.stderr


def test_an_edited_file_is_not_taken_for_the_same(spec, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(code())
    plan = make_plan(f"{path}:PolicyGradient", "classic/double-integrator", settings={"window": 4, "hidden": (4,)},
                     steps=32, num_envs=4, evaluation_episodes=1)  # fmt: skip
    train(plan, tmp_path / "run", observer=Silent())
    path.write_text(code() + "\n# edited\n")
    with pytest.raises(ConfigurationError, match="algorithm_source"):
        train(plan, tmp_path / "run", observer=Silent())
