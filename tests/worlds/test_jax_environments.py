"""Environments in JAX with the conventions of Brax and gymnax, as worlds: limits, ends, resets, actions, what is seen.

No package is needed: `tests.worlds.jax_environments` defines an environment of each kind.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import CapabilityError, ConfigurationError
from penstock.training.loop import train
from penstock.training.plan import make_plan
from penstock.worlds import FunctionalWorld, Vmapped
from penstock.worlds.check import check_world
from penstock.worlds.hosted.environments import NoTimeLimitError
from penstock.worlds.jax_packages.brax_convention import BraxEnvironment
from penstock.worlds.jax_packages.gymnax_convention import GymnaxEnvironment
from penstock.worlds.jax_packages.task import JaxTask
from penstock.worlds.loading import load_world
from penstock.worlds.registry import is_own
from tests.faults.tiny_runs import SharedProgram, assert_same_run
from tests.worlds import jax_environments as theirs

HERE = "tests.worlds.jax_environments"


def world_of(environment, num_envs=2, **options):
    return FunctionalWorld("mine", Vmapped(JaxTask(environment, **options)), num_envs)


def played(world, actions, key=0):
    """The states and transitions of the same actions in all environments."""
    state = jax.jit(world.reset)(jax.random.key(key))
    step, seen = jax.jit(world.step), []
    for action in actions:
        before = state
        state, transition = step(state, jnp.full((world.num_envs, world.action_size), action))
        seen.append((before, transition))
    return seen


# ------------------------------------------------------------------------------------------------- Brax and Playground


def test_a_fall_is_a_termination_and_the_limit_a_truncation():
    world = load_world(f"jax/{HERE}:slider", 3, episode_length=8)
    assert (world.name, world.episode_length, world.control_timestep) == (f"jax/{HERE}:slider", 8, 0.1)
    assert world.functional and not world.differentiable
    for action, falls in ((0.0, False), (1.0, True)):
        ages = np.zeros(3, int)
        for before, transition in played(world, [action] * 20):
            ages += 1
            x = np.asarray(before.body.x) + action * np.asarray(before.body.info["gain"])
            np.testing.assert_array_equal(transition.terminated, np.abs(x) >= 1.0)
            np.testing.assert_array_equal(transition.truncated, ages == 8)
            np.testing.assert_allclose(transition.final_observation.vector[:, 0], x, rtol=1e-6)
            path = np.asarray(before.body.info["gain"]) * abs(action) * ages  # begins as the whole number 0
            np.testing.assert_allclose(transition.diagnostics["info/path"], path, rtol=1e-5)
            np.testing.assert_allclose(transition.final_observation.vector[:, 1], ages)  # entries in the order of names
            done = np.asarray(transition.done)
            np.testing.assert_array_equal(transition.observation.vector[:, 1], np.where(done, 0, ages))
            assert (np.abs(transition.observation.vector[done, 0]) <= 0.1).all()
            ages[done] = 0
            np.testing.assert_allclose(transition.reward, 1.0 + action)
        assert transition.diagnostics.keys() == {"info/place", "info/path", "success"}
        np.testing.assert_allclose(transition.diagnostics["info/place"], x, rtol=1e-6)
        np.testing.assert_array_equal(transition.diagnostics["success"], x > 0.5)
        assert (np.abs(x) >= 1.0).any() <= falls


def test_critics_see_what_is_privileged_and_every_episode_draws_it():
    world = load_world(f"{HERE}:slider", 4)
    assert (world.observation_spec.vector, world.observation_spec.privileged) == (2, 1)
    seen = played(world, [0.0] * 7)
    gains = [np.asarray(transition.observation.privileged)[:, 0] for _, transition in seen]
    assert len(set(gains[0].tolist())) == 4 and (gains[0] == gains[4]).all()
    assert not np.isin(gains[5], gains[0]).any()  # a new episode, drawn from another key


def test_wrappers_of_training_are_taken_off_and_their_numbers_kept():
    """A limit of 5 of its own steps with 2 per control step is 3 control steps; a user's wrapper inside stays."""
    world = load_world(f"{HERE}:trained_slider", 2)
    assert (world.episode_length, world.control_timestep, world.describe()["action_repeat"]) == (3, 0.2, 2)
    for t, (before, transition) in enumerate(played(world, [0.5] * 4)):
        assert transition.truncated.tolist() == [t == 2] * 2 and not transition.terminated.any()
        np.testing.assert_allclose(transition.reward, 2 * 0.5 * 1.5)
        x = before.body.x + 2 * 0.5 * before.body.info["gain"]
        np.testing.assert_allclose(transition.final_observation.vector[:, 0], x, rtol=1e-5)


def test_repeated_steps_stop_where_the_task_ends():
    world = load_world(f"{HERE}:slider", 2, action_repeat=10, max_episode_steps=5)
    before, transition = played(world, [1.0])[0]
    x, gain = np.asarray(before.body.x), np.asarray(before.body.info["gain"])
    steps = np.ceil((1.0 - x) / gain)
    assert transition.terminated.all() and (steps <= 10).all() and (steps < 10).any()
    np.testing.assert_allclose(transition.reward, 2.0 * steps)
    np.testing.assert_allclose(transition.final_observation.vector[:, 0], x + steps * gain, rtol=1e-5)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (theirs.Halved(theirs.AutoResetWrapper(theirs.Slider())), "lies around AutoResetWrapper. Put yours inside"),
        (theirs.DomainRandomizationVmapWrapper(theirs.Slider()), "differ by their place in a batch"),
        (theirs.Halved(theirs.Tank()), "Let your function return the environment of gymnax itself"),
    ],
)
def test_wrappers_that_cannot_be_taken_off_are_refused(env, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        BraxEnvironment("mine", env)


def test_an_environment_that_tells_its_own_limit_is_not_terminated_by_it():
    class Telling(theirs.Slider):
        def step(self, state, action):
            state = super().step(state, action)
            cut = state.info["age"] >= 3
            state.info["truncation"] = cut.astype(float)
            return state.replace(done=jnp.maximum(state.done, cut))

    environment = BraxEnvironment("mine", Telling(told=("success", "truncation")), 3)
    seen = played(world_of(environment), [0.0] * 4)
    assert [bool(t.terminated.any()) for _, t in seen] == [False] * 4
    assert [bool(t.truncated.all()) for _, t in seen] == [False, False, True, False]


class Growing(theirs.Slider):
    def step(self, state, action):
        state = super().step(state, action)
        state.info["steps"] = state.info["age"]
        return state


class Batched(theirs.Slider):
    def step(self, state, action):
        return super().step(state, action).replace(reward=jnp.ones(5))


class Filmed(theirs.Slider):
    def seen(self, x, info):
        return {"pixels/view_0": jnp.zeros((64, 64, 3))}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (Growing, r"\['steps'\] is in the state of step\(\) alone. Let both hold the same entries"),
        (Batched, r"its reward is of shape \(5,\), not one number"),
        (Filmed, "pixels/view_0 is a picture"),
    ],
)
def test_faults_are_told_in_sentences(env, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        task = JaxTask(BraxEnvironment("mine", env(), 3))
        jax.eval_shape(task.advance, jax.eval_shape(task.initial, jax.random.key(0)), jnp.zeros(2))


# --------------------------------------------------------------------------------------------------------------- gymnax


@pytest.mark.parametrize("kind", [theirs.Tank, theirs.NewTank])
def test_a_limit_that_is_told_as_done_is_a_truncation(kind):
    """In both generations of the convention; actions are scaled from [-1, 1] to [0, 3] each."""
    world = world_of(GymnaxEnvironment("mine", kind()))
    assert (world.action_size, world.episode_length, world.control_timestep) == (2, 7, 0.2)
    overflows, noises = 0, set()
    for action in (-1.0, -0.8):
        age = 0
        for before, transition in played(world, [action] * 16):
            age += 1
            level = np.asarray(before.body.inner.level) + 0.2 * (2 * 1.5 * (action + 1.0) - 0.5)
            np.testing.assert_allclose(transition.reward, level, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(transition.terminated, level >= 1.0)
            overflows += int((level >= 1.0).sum())
            assert transition.truncated.tolist() == [age == 7] * 2
            np.testing.assert_allclose(transition.final_observation.vector[:, 1], age / 7, rtol=1e-6)
            np.testing.assert_array_equal(transition.diagnostics["success"], level > 0.5)
            assert transition.diagnostics.keys() == {"success", "info/noise"}
            noises |= set(np.asarray(transition.diagnostics["info/noise"]).tolist())
            age = 0 if age == 7 else age
            assert not transition.done.any() or age == 0
        assert len(noises) == 2 * 16, "fresh in every environment and step"
    assert overflows == 0


def test_a_tank_that_overflows_has_terminated():
    for kind in (theirs.Tank, theirs.NewTank):
        seen = played(world_of(GymnaxEnvironment("mine", kind())), [0.0] * 3)
        levels = [np.asarray(before.body.inner.level) + 0.2 * 2.5 for before, _ in seen]
        for level, (_, transition) in zip(levels, seen, strict=True):
            np.testing.assert_array_equal(transition.terminated, level >= 1.0)
            assert not transition.truncated.any()
        assert any((level >= 1.0).any() for level in levels)


def test_parameters_decide_and_one_step_is_enough_where_the_limit_is_told_apart():
    tank = GymnaxEnvironment("mine", theirs.NewTank(), theirs.Params(leak=0.0, max_steps_in_episode=3))
    state = jax.jit(tank.reset)(jax.random.key(0))
    theirs.NewTank.calls = 0
    after = tank.step(state, jnp.zeros(2))
    assert theirs.NewTank.calls == 1
    assert tank.max_steps == 3 and float(after.inner.level) == float(state.inner.level)
    assert tank.constants["parameters"] == {"leak": 0.0, "full": 1.0, "dt": 0.2, "max_steps_in_episode": 3}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Switch", "has actions of the kind Discrete. Penstock is for continuous control"),
        ("Unbounded", "must be finite"),
        ("wrapped_tank", r"Proxy changes reset\(\) and step\(\), which reset by themselves"),
        ("Slider", "states no time limit.*max_episode_steps=1000"),
    ],
)
def test_what_cannot_be_trained_in_is_refused_in_a_sentence(name, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        load_world(f"jax/{HERE}:{name}", 2)


# -------------------------------------------------------------------------------------------------------------- loading


def test_classes_functions_and_ready_made_ones_of_modules_and_files(tmp_path):
    (tmp_path / "mine.py").write_text(f"from {HERE} import Slider as Mine\n")
    for spec in (f"jax/{HERE}:Slider", f"{HERE}:Slider", f"{tmp_path}/mine.py:Mine"):
        world = load_world(spec, 3, max_episode_steps=9, noise=0.1)
        assert (world.name, world.num_envs, world.episode_length) == (spec, 3, 9)
        assert world.task.single.environment.env.noise == 0.1
        assert is_own(spec)
    assert load_world(f"{HERE}:ready", 2, max_episode_steps=4, action_repeat=2).control_timestep == 0.4
    with pytest.raises(ConfigurationError, match="already made and takes no options, but got \\['noise'\\]"):
        load_world(f"{HERE}:ready", 2, noise=1.0)
    with pytest.raises(NoTimeLimitError):
        load_world(f"{HERE}:Slider", 2)
    for option in ("max_episode_steps", "action_repeat"):
        with pytest.raises(ConfigurationError, match=f"{option} = 0: must be at least 1"):
            load_world(f"{HERE}:slider", 2, **{option: 0})
    with pytest.raises(ConfigurationError, match=r"max_episode_steps = 1\.5: must be a whole number or None"):
        load_world(f"{HERE}:slider", 2, max_episode_steps=1.5)
    with pytest.raises(ConfigurationError, match=r"a file is named by its path alone, 'mine.py:Mine'"):
        load_world("jax/mine.py:Mine", 2)
    with pytest.raises(ConfigurationError, match=r"is the class State.*has not the methods of an environment of Brax"):
        load_world(f"{HERE}:State", 2)


def test_both_kinds_pass_the_checker():
    for environment in (BraxEnvironment("mine", theirs.slider(noise=0.01)), GymnaxEnvironment("mine", theirs.Tank())):
        findings = check_world(JaxTask(environment))
        assert not [finding for finding in findings if finding.severity != "ok"]


# ------------------------------------------------------------------------------------------------------------- training

TINY = {"window": 4, "epochs": 1, "minibatches": 2, "actor_hidden": (8,), "critic_hidden": (8,)}


@pytest.mark.slow
def test_a_stopped_run_of_two_seeds_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """The noise of the environments, their privileged part and their episodes go on too."""
    monkeypatch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
    fields = {"num_envs": 4, "steps": 96, "seeds": 2, "log_every": 1, "evaluate_every": 48, "evaluation_episodes": 2}
    options = {"episode_length": 5, "noise": 0.05}
    plan = make_plan("ppo", f"jax/{HERE}:slider", settings=TINY, world_options=options, **fields)
    train(plan, tmp_path / "whole")
    assert train(plan, tmp_path / "stopped", on_metrics=lambda rows: rows[0]["update"] == 3).exit_code == 75
    assert train(plan, tmp_path / "stopped").finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    last = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()][-2:]
    assert last[0]["train/info/place"] != last[1]["train/info/place"] and "eval/success" in last[0], "two seeds"


def test_algorithms_that_need_gradients_refuse():
    plan = make_plan("shac", f"jax/{HERE}:slider", num_envs=4, steps=256)
    with pytest.raises(CapabilityError, match="is not differentiable"):
        plan.make_learner(plan.make_world())
