"""Runs on hosted worlds: what is promised about seeds, resume, evaluation and traces."""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "worlds"))

from penstock._errors import CapabilityError, ConfigurationError
from penstock.cli._run import closing_lines
from penstock.data.replay import memory_bytes
from penstock.policies import DeterministicAction
from penstock.storage.store import latest_checkpoint
from penstock.training.drivers.functional import seed_keys
from penstock.training.drivers.hosted import HostedDriver
from penstock.training.drivers.memory import allocated, experience_shapes
from penstock.training.drivers.seen import Seen
from penstock.training.hosted_evaluation import HostedEvaluator
from penstock.training.loop import Silent, train
from penstock.training.plan import make_plan
from penstock.training.record import TrainingFailedError
from penstock.training.restore import restore_run
from penstock.worlds import Observation, Transition
from penstock.worlds.hosted.hosted_world import HostedWorld
from tests.training.hosted_runs import (
    ENVIRONMENTS,
    SharedFunctions,
    arrays,
    assert_equal,
    newest_state,
    program_of,
    rows,
    tiny_plan,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, and how often each of its functions was traced."""
    folder = tmp_path_factory.mktemp("hosted") / "whole"
    result = train(tiny_plan(), folder)
    traces = {**result.driver.traces, "evaluation": result.driver.evaluator.traces}
    SharedFunctions.share(result.driver)
    return folder, result, traces


@pytest.fixture(autouse=True)
def shared_functions(monkeypatch):
    """Lets runs of the same learner share what they compiled."""
    monkeypatch.setattr("penstock.training.running.HostedDriver", SharedFunctions)


@pytest.mark.slow
def test_same_seed_same_run_and_another_seed_another(whole, tmp_path):
    folder, result, _ = whole
    again = train(tiny_plan(), tmp_path / "again")
    assert json.dumps(rows(tmp_path / "again")) == json.dumps(rows(folder))
    assert_equal(again.state, result.state)
    other = train(tiny_plan(seed=1), tmp_path / "other")
    learned = [jax.tree.leaves(run.state.learned) for run in (result, other)]
    assert any((a != b).any() for a, b in zip(*learned, strict=True))
    assert int(result.state.clock.env_steps) == 100 and int(result.state.clock.gradient_steps) == 2 * (50 - 10)


@pytest.mark.slow
def test_precision_reaches_the_gradient_steps():
    """Wide enough for large products; nothing else of a hosted run depends on it."""
    wide = {"actor_hidden": (32, 32), "critic_hidden": (32, 32), "batch_size": 16}
    learned, acted = [], []
    for precision in ("float32", "bfloat16"):
        program = program_of(tiny_plan(settings=wide, precision=precision))
        state = program.init(seed_keys(0, 1))
        try:
            state, _ = program.train(state, jnp.asarray(1, jnp.int32))  # half of the warm-up
            acted.append(arrays(jax.tree.map(jnp.copy, state)))  # training takes the state's memory
            learned.append(arrays(program.train(state, jnp.asarray(2, jnp.int32))[0].learned))
        finally:
            program.close()
    assert_equal(acted[0], acted[1])
    before = {name.removeprefix(".learned"): value for name, value in acted[0].items() if name.startswith(".learned")}
    exact, ours = learned
    moved = np.concatenate([np.ravel(exact[name] - before[name]) for name in before if "critic" in name])
    apart = np.concatenate([np.ravel(exact[name] - ours[name]) for name in before if "critic" in name])
    assert 0.0 < np.linalg.norm(apart) < 0.3 * np.linalg.norm(moved)


def test_evaluation_acts_by_the_rule_that_is_asked_for():
    """An episode's reward is age + action: 15 and the sum of five actions."""
    plan = tiny_plan()
    world = plan.make_world()
    learner = plan.make_learner(world)
    agent = learner.evaluated(learner.init(jax.random.key(0)))
    found = {}
    for rule in (None, "zero", "typical"):
        evaluator = HostedEvaluator(learner, world, None if rule is None else DeterministicAction(rule))
        found[rule] = evaluator.run(jax.tree.leaves(agent), jax.random.key(1), deterministic=True).episode_return
    np.testing.assert_array_equal(found[None], found["zero"])
    assert (found["typical"] - found["zero"]).min() > 0.5  # in one dimension the typical noise is 1


def test_a_run_from_before_a_setting_existed_continues(tmp_path):
    train(tiny_plan(steps=30), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["precision"]
    path.write_text(json.dumps(config))
    assert train(tiny_plan(steps=40, evaluate_every=40), tmp_path / "run").finished
    assert json.loads(path.read_text())["precision"] == "float32"


def test_evaluation_does_not_change_training(whole, tmp_path):
    _, result, _ = whole
    seldom = train(tiny_plan(evaluate_every=100, evaluation_episodes=3), tmp_path / "seldom")
    assert_equal(seldom.state.learned, result.state.learned)
    assert_equal(seldom.state.memory, result.state.memory)


@pytest.mark.slow
def test_several_seeds_are_the_runs_of_each(whole, tmp_path):
    _, result, _ = whole
    both = train(tiny_plan(seeds=2), tmp_path / "both")
    first = jax.tree.map(lambda leaf: leaf[:1], (both.state.learned, both.state.memory))
    assert_equal(first, (result.state.learned, result.state.memory))


def test_functions_are_compiled_once_and_before_training(whole):
    _, result, traces = whole
    assert traces == {"init": 1, "act": 1, "learn": 1, "measure": 1, "evaluation": 2}
    clock = result.driver.stopwatch
    assert min(clock.acting, clock.environment, clock.replay, clock.handing_over) > 0


def test_replay_holds_what_was_played(whole):
    """Rewards are age + action, and transitions follow each other until an episode of five steps ends."""
    _, result, _ = whole
    ring = jax.tree.map(lambda leaf: leaf[0], result.state.memory.ring)
    ages = ring.observation.vector[..., 1]
    np.testing.assert_array_equal(ages[:, 0], np.arange(50) % 5)
    np.testing.assert_allclose(ring.reward, ages + 1 + ring.action[..., 0], rtol=1e-5)
    np.testing.assert_array_equal(ring.truncated, ages == 4)
    assert not ring.terminated.any() and np.abs(ring.action).max() <= 1.0
    np.testing.assert_array_equal(ring.next_observation.vector[..., 1], ages + 1)


def test_a_continued_run_keeps_everything_but_the_episodes_under_way(tmp_path):
    """The promise for hosted worlds: parameters, optimisers, memory, keys and counters go on; episodes begin anew."""
    short = train(tiny_plan(steps=60), tmp_path / "run")
    saved = short.state
    again = program_of(tiny_plan(steps=60))
    restored = newest_state(tmp_path / "run", again)
    assert_equal(restored, saved)
    resumed = again.resume(restored)
    assert_equal(resumed.learned, saved.learned)
    newest = (int(saved.memory.position[0]) - 1) % saved.memory.ring.reward.shape[1]
    expected = jax.tree.map(np.array, saved.memory)
    expected.ring.truncated[0, newest] = True
    assert_equal(resumed.memory, expected)
    np.testing.assert_array_equal(resumed.world.episode, np.asarray(saved.world.episode) + 1)
    np.testing.assert_array_equal(resumed.world.age, 0)
    assert not np.array_equal(resumed.world.observation.vector[..., 0], saved.world.observation.vector[..., 0])
    again.close()


@pytest.mark.slow
@pytest.mark.parametrize("functional", [False, True])
def test_a_longer_budget_moves_the_memory_into_a_larger_one(functional, tmp_path):
    def plan(steps):
        plan = tiny_plan(steps=steps)
        return dataclasses.replace(plan, world="classic/double-integrator") if functional else plan

    train(plan(60), tmp_path / "run")
    before, state = (newest_state(tmp_path / "run", program_of(plan(steps))) for steps in (60, 100))
    before = before.memory
    if not functional:  # whose programs are the same for both budgets, with a memory that suffices for either
        assert before.ring.reward.shape == (1, 30, 2) and state.memory.ring.reward.shape == (1, 50, 2)
    assert_equal(*(jax.tree.map(lambda leaf: leaf[:, :30], memory.ring) for memory in (state.memory, before)))
    assert state.memory.filled[0] == state.memory.position[0] == 30
    finished = train(plan(100), tmp_path / "run")
    assert finished.finished and finished.state.memory.filled[0] == 50
    np.testing.assert_array_equal(finished.state.memory.ring.reward[:, :30], before.ring.reward[:, :30])


def test_continuing_twice_from_one_checkpoint_gives_the_same_run(tmp_path):
    import shutil

    plan = tiny_plan()  # with a longer budget, and so with a larger memory
    train(dataclasses.replace(plan, steps=60), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    a, b = (train(plan, tmp_path / name) for name in "ab")
    assert json.dumps(rows(tmp_path / "a")) == json.dumps(rows(tmp_path / "b"))
    assert_equal(a.state, b.state)
    steps = [row["env_steps"] for row in rows(tmp_path / "a")]
    assert steps == sorted(set(steps)) and steps[-1] == 100
    assert latest_checkpoint(tmp_path / "a" / "checkpoints").name.endswith("100")


@pytest.mark.parametrize(
    "algorithm", ["td3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("crossq", "flowrl", "sac-flow"))]
)
def test_every_off_policy_algorithm_runs(algorithm, tmp_path):
    settings = {"critic_hidden": (8, 8, 8)} if algorithm == "flowrl" else {}
    result = train(tiny_plan(algorithm, steps=60, settings=settings), tmp_path / "run")
    last = rows(tmp_path / "run")[-1]
    assert last["train/gradient_steps"] == 20.0 and np.isfinite(last["critic/loss"])
    assert result.finished and np.isfinite(last["eval/return_deterministic"])


@pytest.mark.slow
def test_pictures_train(tmp_path):
    result = train(tiny_plan(environment="Picture", steps=40, settings={"warmup_steps": 10}), tmp_path / "run")
    assert result.state.memory.ring.observation.pixels.dtype == np.uint8 and result.finished


@pytest.mark.slow
def test_next_step_resets_are_not_remembered_as_transitions(tmp_path):
    plan = tiny_plan(environment="next_step", steps=120)
    result = train(plan, tmp_path / "run")
    ring = jax.tree.map(lambda leaf: leaf[0], result.state.memory.ring)
    assert (~ring.valid).sum() > 0
    replay = jax.tree.map(lambda leaf: leaf[0, ...], result.state.memory)
    for draw in range(20):
        batch = replay.gather(np.random.default_rng(draw).random(65, dtype=np.float32), 0.99, n_step=3)
        assert (batch.reward > 0).all()  # a reset brings 0, every true step more


def test_diverged_environments_are_counted_and_named(tmp_path):
    said = []
    plan = tiny_plan(environment="Unsteady", world_options={"fault": "nan"}, steps=40)
    train(plan, tmp_path / "run", observer=Silent(said.append))
    assert any("world/diverged" in text and "observation[0] is nan in environment" in text for text in said)
    assert sum(row.get("world/diverged", 0) for row in rows(tmp_path / "run")) > 0


def test_episodes_that_begin_badly_are_counted_and_named(tmp_path):
    said = []
    train(tiny_plan(environment="BadStarts", steps=40), tmp_path / "run", observer=Silent(said.append))
    assert any("world/bad_starts" in text and "right after the reset of episode" in text for text in said)
    assert sum(row.get("world/bad_starts", 0) for row in rows(tmp_path / "run")) > 0


def test_pathwise_algorithms_refuse_hosted_worlds():
    plan = make_plan("shac", f"{ENVIRONMENTS}:Counting", num_envs=2)
    with pytest.raises(CapabilityError, match=r"differentiates through the world, and .*Counting' is not differ"):
        plan.make_learner(plan.make_world())


def test_memory_is_announced_and_too_much_is_refused(tmp_path):
    plan = tiny_plan()
    (notice,) = program_of(plan).notices()
    assert notice == "replay memory: 100 transitions, 0.0 MiB in host memory, for each seed"
    size = memory_bytes(experience_shapes(plan.make_learner(plan.make_world())), 100) / 100
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fits_once = 2 * int(0.3 * available / size)  # whole control steps of two environments
    once, twice = (tiny_plan(settings={"replay_capacity": fits_once}, steps=fits_once, seeds=k) for k in (1, 2))
    program_of(once).require_memory(1)
    with pytest.raises(ConfigurationError, match=r"GiB for each of 2 seeds, .* or fewer --seeds"):
        train(twice, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert allocated(twice.make_learner(twice.make_world())) == fits_once  # reading a run needs no memory of its size


def test_keys_of_seeds_do_not_depend_on_their_number():
    one, two = (program_of(tiny_plan(seeds=k)).template(seed_keys(0, k)) for k in (1, 2))
    assert one.key.shape == (1,) and two.key.shape == (2,) and one.clock.update.shape == two.clock.update.shape == ()
    assert jax.tree.structure(one) == jax.tree.structure(two)


def test_the_step_in_which_an_environment_resets_itself_is_no_part_of_an_episode():
    """Second environment: steps 1 and 2, then a reset step, then step 1 of the next episode."""
    seen = Seen(2)
    rows = [  # rewards, truncated, valid
        ((1.0, 10.0), (False, False), (True, True)),
        ((2.0, 20.0), (False, True), (True, True)),
        ((3.0, 99.0), (False, False), (True, False)),
        ((4.0, 30.0), (True, True), (True, True)),
    ]
    nothing = np.zeros(2, bool)
    for reward, truncated, valid in rows:
        seen.add(
            Transition(
                reward=np.asarray(reward, np.float32),
                terminated=nothing,
                truncated=np.asarray(truncated),
                diverged=nothing,
                observation=Observation(np.zeros((2, 1), np.float32)),
                final_observation=Observation(np.zeros((2, 1), np.float32)),
                diagnostics={},
                valid=np.asarray(valid),
            )
        )
    metrics = seen.take()
    assert metrics["train/reward"] == 70.0 / 7
    assert metrics["train/episode_length"] == (4 + 2 + 1) / 3
    assert metrics["train/episode_return"] == (10.0 + 30.0 + 30.0) / 3


# ------------------------------------------------------------------------------------------------- stops, one instance


class StopsAtEvaluation(Silent):
    """Asks the run to stop, as Ctrl-C does, in the middle of its n-th evaluation."""

    def __init__(self, number):
        super().__init__(lambda text: None)
        self.number, self.shares = number, []

    def evaluating(self, share):
        self.shares.append(share)
        if self.shares.count(0.0) == self.number and share > 0.0:
            os.kill(os.getpid(), signal.SIGINT)


def evaluated(folder):
    return [row["env_steps"] for row in rows(folder) if "eval/return_mean" in row]


@pytest.mark.parametrize("number", [1, 3])
def test_a_request_to_stop_is_heard_while_evaluating_and_the_evaluation_is_made_up_for(tmp_path, number):
    plan = dataclasses.replace(tiny_plan(world_options={"limit": 120}), steps=60)
    watcher = StopsAtEvaluation(number)
    stopped = train(plan, tmp_path / "run", observer=watcher)
    assert not stopped.finished and stopped.exit_code == 75
    assert 0.0 < max(watcher.shares) < 1.0 and watcher.shares[-1] > 0.0, "not to its end"
    steps = {1: 0, 3: 40}[number]
    assert restore_run(tmp_path / "run").manifest.step == steps, "what was learned is saved"
    assert evaluated(tmp_path / "run") == [0, 20][: number - 1]
    assert train(plan, tmp_path / "run").finished
    assert evaluated(tmp_path / "run") == [0, 20, 40, 60]


def test_a_request_to_stop_ends_a_block_after_its_iteration(tmp_path, monkeypatch):
    stepped, plan = HostedWorld.step, tiny_plan(steps=200)

    class StopsInTheSecondBlock(Silent):
        def update(self, env_steps, *numbers, **details):
            if env_steps == 20:  # the first block of two iterations is over
                monkeypatch.setattr(HostedWorld, "step", interrupted_step)

    def interrupted_step(world, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return stepped(world, *arguments)

    stopped = train(plan, tmp_path / "run", observer=StopsInTheSecondBlock())
    assert int(stopped.state.clock.env_steps) == 30, "one iteration more, not the block of two"
    monkeypatch.undo()
    assert train(plan, tmp_path / "run").finished


def test_a_run_without_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.training.running.HostedDriver", HostedDriver)  # with functions of its own, to count
    plan = tiny_plan(evaluate_every=0, steps=40)
    result = train(plan, tmp_path / "run")
    assert result.finished and evaluated(tmp_path / "run") == [] and rows(tmp_path / "run")[-1]["env_steps"] == 40
    assert result.driver.evaluator.traces == 0, "nothing is compiled for it"
    assert closing_lines("run", result.last_rows) == ["run: trained without evaluation; `penstock evaluate` brings one"]
    with pytest.raises(ConfigurationError, match=r"evaluate_every = -1: must be at least 0"):
        tiny_plan(evaluate_every=-1)


def test_one_instance_suffices_for_training_and_evaluation(tmp_path):
    """Two of it at a time would fail. What evaluation cuts counts as truncated, and nothing else differs."""
    plan = tiny_plan(environment="Alone", world_options={"single_instance": True}, num_envs=1, steps=60)
    result = train(plan, tmp_path / "run")
    assert result.finished and evaluated(tmp_path / "run") == [0, 20, 40, 60]
    memory = jax.tree.map(lambda leaf: np.asarray(leaf)[0], result.state.memory).ring
    cut = np.flatnonzero(memory.truncated[:, 0])
    assert {19, 39} <= set(cut.tolist()), "the newest transition before each evaluation"
    with pytest.raises(ConfigurationError, match=r"single_instance = True, and 2 x 1 environments.*--seeds 1"):
        train(dataclasses.replace(plan, seeds=2), tmp_path / "two")


def test_a_run_in_which_every_step_diverges_stops(tmp_path):
    with pytest.raises(TrainingFailedError, match=r"Every one of the last 20 environment steps diverged.*reward is 3e"):
        train(tiny_plan(environment="Money"), tmp_path / "run")
