"""Hosted worlds: the same transitions in every mode of automatic reset (F22), and faults told in sentences "
"(F19 to F24)."""

import functools
import os
import signal

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hosted_environments import Counting, Picture, Unsteady, vector

from penstock._errors import CapabilityError, ConfigurationError, PenstockError
from penstock.worlds import make_world
from penstock.worlds.check import check_world
from penstock.worlds.hosted.declared import declare_vector
from penstock.worlds.hosted.environments import EnvironmentSource, own_source
from penstock.worlds.hosted.faults import WorldFaultError
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.own import own_world
from penstock.worlds.hosted.packages import MissingPackageError

KEY = jax.random.key(3)


def hosted(make=Counting, num_envs=2, vectorization="serial", timeout=60.0, limit=None, **options):
    return HostedWorld(own_source("mine", functools.partial(make, **options), limit), num_envs, vectorization, timeout)


def play(world, steps, action=lambda t, n: np.full((n, 1), 0.1 * t, np.float32)):
    """Transitions of every environment, one list each, without the steps that did not happen."""
    state = world.reset(KEY)
    played = [[] for _ in range(world.num_envs)]
    for t in range(steps):
        before = state.observation.vector
        state, transition = world.step(state, action(t, world.num_envs))
        for env in range(world.num_envs):
            if transition.valid is None or transition.valid[env]:
                played[env].append(
                    (
                        before[env].tolist(),
                        float(transition.reward[env]),
                        bool(transition.terminated[env]),
                        bool(transition.truncated[env]),
                        transition.final_observation.vector[env].tolist(),
                    )
                )
    world.close()
    return played


# ------------------------------------------------------------------------------------------------- F22


@pytest.mark.parametrize("ends", [3, 5, 10**9], ids=["terminated", "both", "truncated"])
def test_every_mode_of_automatic_reset_gives_the_same_transitions(ends):
    """Same-step, next-step and disabled: ages, rewards, ends and final observations of the same episodes.

    The action does not depend on time, because next-step mode loses a step per episode. Offsets are drawn by whoever
    resets, so they are compared for being constant within an episode and new in the next.
    """

    def still(t, n):
        return np.full((n, 1), 0.5, np.float32)

    def shape(played):
        return [
            [(x[1], reward, done, cut, y[1], x[0] == y[0]) for x, reward, done, cut, y in env[:12]] for env in played
        ]

    reference = play(hosted(ends=ends), 12, still)
    length = min(ends, 5)
    for env in reference:
        ages = [x[1] for x, *_ in env]
        assert ages == [float(t % length) for t in range(12)]
        ending = [(done, cut, y[1]) for _, _, done, cut, y in env if done or cut]
        assert ending == [(ends <= 5, length == 5, float(length))] * (12 // length)
        assert len({x[0] for x, *_ in env}) == -(-12 // length)  # another offset in each episode
    for mode in AutoresetMode:
        make = vector(mode, ends=ends)
        source = EnvironmentSource("mine", make, 5, lambda n, seed, make=make: make(n))
        world = HostedWorld(source, 2, declared=declare_vector(source, make(2)))
        assert world.declared.idle_steps == (mode == AutoresetMode.NEXT_STEP)
        played = play(world, 16 if mode == AutoresetMode.NEXT_STEP else 12, still)
        assert shape(played) == shape(reference), mode


def test_a_vector_environment_must_state_its_mode():
    make = vector(AutoresetMode.SAME_STEP)
    silent = make(2)
    silent.metadata = {}
    with pytest.raises(
        ConfigurationError, match=r"does not state how it resets itself. Set metadata\['autoreset_mode'\]"
    ):
        declare_vector(EnvironmentSource("mine", make), silent)
    with pytest.raises(ConfigurationError, match="takes no num_envs"):
        own_world("mine", make, make(2), 2, {}, {})


def test_processes_give_the_transitions_of_this_process():
    one, other = (play(hosted(vectorization=v, num_envs=3, ends=4), 9) for v in ("serial", "processes"))
    assert one == other


# ------------------------------------------------------------------------------------------------- seeds


def test_episodes_follow_from_key_environment_and_number():
    world = hosted()
    state = world.reset(KEY)
    first = state.observation.vector.copy()
    for _ in range(5):
        state, _ = world.step(state, np.zeros((2, 1), np.float32))
    second = state.observation.vector.copy()
    assert first[0, 0] != first[1, 0] and (first[:, 0] != second[:, 0]).all()
    again = world.reset(KEY)
    np.testing.assert_array_equal(again.observation.vector, first)
    np.testing.assert_array_equal(
        world.restart(again).observation.vector, second
    )  # the next episode, whatever came before
    assert (world.reset(jax.random.key(4)).observation.vector != first).any()


def test_there_is_one_present():
    world = hosted()
    start = world.reset(KEY)
    world.step(start, np.zeros((2, 1), np.float32))
    with pytest.raises(PenstockError, match="step from the state that reset"):
        world.step(start, np.zeros((2, 1), np.float32))


# ------------------------------------------------------------------------------------------------- spaces (F21)


def test_actions_are_scaled_to_an_asymmetric_box_and_clipped():
    world = hosted(low=-2.0, high=4.0, num_envs=4)
    state = world.reset(KEY)
    _, transition = world.step(state, np.array([[-1.0], [0.0], [1.0], [7.0]], np.float32))
    np.testing.assert_allclose(transition.reward - 1.0, [-2.0, 1.0, 4.0, 4.0])


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (gymnasium.spaces.Discrete(3), r"action space Discrete\(3\); Penstock's policies make continuous actions"),
        (
            gymnasium.spaces.Box(-np.inf, np.inf, (2,)),
            r"action 0 has the bounds \[-inf, inf\]; every bound must be finite, and within",
        ),
        (gymnasium.spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0])), r"action 1 has the bounds \[1, 1\]"),
    ],
    ids=["discrete", "infinite", "empty"],
)
def test_action_spaces_that_cannot_be_used_are_refused(space, sentence):
    class Odd(Counting):
        def __init__(self):
            super().__init__()
            self.action_space = space

    with pytest.raises(PenstockError, match=sentence):
        hosted(Odd)


def test_observation_spaces():
    class Odd(Counting):
        def __init__(self, space):
            super().__init__()
            self.observation_space = space

    box = gymnasium.spaces.Box(-1, 1, (2, 3))
    pair = gymnasium.spaces.Dict({"b": box, "a": gymnasium.spaces.Box(-1, 1, (1,))})
    assert hosted(Odd, space=pair).observation_spec.vector == 7
    text = gymnasium.spaces.Text(5)
    for space, where in ((text, "the observation space"), (gymnasium.spaces.Dict({"a": text}), "the part 'a'")):
        with pytest.raises(CapabilityError, match=rf"{where}.* is Text.*no fixed number.*TransformObservation"):
            hosted(Odd, space=space)


@pytest.mark.parametrize("alone", [False, True])
def test_pictures_keep_their_bytes_and_stacked_frames_become_channels(alone):
    world = hosted(Picture, alone=alone)
    assert world.observation_spec.pixels == (32, 40, 6) and world.observation_spec.vector == (0 if alone else 4)
    state = world.reset(KEY)
    state, transition = world.step(state, np.zeros((2, 2), np.float32))
    pixels = transition.final_observation.pixels
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 32, 40, 6)
    assert (pixels[..., :3] == 1).all() and (pixels[..., 3:] == 2).all()
    if not alone:
        np.testing.assert_allclose(state.observation.vector, 0.1)


def test_an_environment_without_a_time_limit_is_refused_and_given_one():
    class Endless(Counting):
        def __init__(self):
            super().__init__(limit=10**9)
            del self.max_episode_steps

    with pytest.raises(ConfigurationError, match=r"states no time limit.*max_episode_steps=1000"):
        hosted(Endless)
    played = play(hosted(Endless, limit=3, num_envs=1), 7)
    assert [cut for *_, cut, _ in played[0]] == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("limit", [None, 3])
def test_mistakes_of_the_old_interface_are_told_as_such_under_a_time_limit_too(limit):
    class FourValues(Counting):
        def step(self, action):
            return super().step(action)[:4]

    class NoSeed(Counting):
        def reset(self):
            return super().reset()

    with pytest.raises(WorldFaultError, match=r"step\(\) returned 4 values; return .*shimmy"):
        play(hosted(FourValues, limit=limit), 2)
    with pytest.raises(WorldFaultError, match=r"reset\(self, \*, seed=None, options=None\).*shimmy") as caught:
        play(hosted(NoSeed, limit=limit), 1)
    assert "faults.py" not in str(caught.value)


def test_observations_of_a_type_that_does_not_fit_are_refused():
    class Halves(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = gymnasium.spaces.Box(0, 99, self.observation_space.shape, np.int64)

        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed, options=options)
            return observation + np.float64(0.5), info

    with pytest.raises(WorldFaultError, match=r"reset\(\) returned an observation of float64, .* int64"):
        play(hosted(Halves), 1)


# ----------------------------------------------------------------------------- faults (F14, F19, F20)


@pytest.mark.parametrize("vectorization", ["serial", "processes"])
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise", r"step\(\) raised ZeroDivisionError: the motor is on fire(.|\n)*hosted_environments.py"),
        ("shape", r"observation of shape \(1,\); observation_space declares \(2,\)"),
        ("reward", r"reward of shape \(2,\); return one number"),
    ],
)
def test_what_an_environment_raises_is_told_with_its_traceback(vectorization, fault, sentence):
    world = hosted(Unsteady, vectorization=vectorization, fault=fault)
    with pytest.raises(WorldFaultError, match=sentence):
        play(world, 5)
    assert no_children()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("die", r"process of environment \d.* \(exit code -9\).* ended unexpectedly"),
        ("hang", r"did not answer for 2 s"),
    ],
)
def test_dead_and_hanging_processes_are_noticed_and_the_others_ended(fault, sentence):
    world = hosted(Unsteady, vectorization="processes", fault=fault, timeout=2.0)
    with pytest.raises(WorldFaultError, match=sentence):
        play(world, 5)
    assert no_children()


def test_an_interrupt_of_the_terminal_leaves_the_workers_at_work():
    """Ctrl-C reaches all processes; only the run itself decides to stop."""
    world = hosted(vectorization="processes")
    state = world.reset(KEY)
    for process in world._present.vector.envs.processes:
        os.kill(process.pid, signal.SIGINT)
    _, transition = world.step(state, np.zeros((2, 1), np.float32))
    assert transition.reward.tolist() == [1.0, 1.0]
    world.close()


def no_children():
    import multiprocessing

    return not multiprocessing.active_children()


@pytest.mark.parametrize(("fault", "name"), [("nan", r"observation\[0\] is nan"), ("huge", r"reward is 1e\+30")])
def test_numbers_that_are_none_end_the_episode_and_are_named(fault, name):
    world = hosted(Unsteady, fault=fault, num_envs=1)
    state = world.reset(KEY)
    for t in range(3):
        state, transition = world.step(state, np.zeros((1, 1), np.float32))
        assert transition.diverged[0] == (t == 2)
    assert transition.terminated[0] and transition.reward[0] == 0.0
    assert np.isfinite(transition.final_observation.vector).all() and state.age[0] == 0 and state.episode[0] == 1
    (sentence,) = world.take_faults()
    import re

    assert re.match(
        name + r"( \(the limit is 1e\+06: scale it in a wrapper\))? in environment 0, episode 0, step 2", sentence
    )
    assert world.take_faults() == []


def test_an_action_that_is_no_number_never_reaches_the_environment():
    world = hosted(num_envs=2)
    state = world.reset(KEY)
    _, transition = world.step(state, np.array([[np.nan], [0.25]], np.float32))
    np.testing.assert_array_equal(transition.diverged, [True, False])
    assert transition.reward.tolist() == [0.0, 1.25]


def test_a_factory_that_cannot_travel_says_what_to_do():
    lock = __import__("threading").Lock()

    def make():
        assert lock is not None
        return Counting()

    world = HostedWorld(own_source("mine", make), 1, "processes")
    with pytest.raises(ConfigurationError, match=r"cannot be sent to another process.*vectorization=serial"):
        world.reset(KEY)
    closure = 4
    played = play(HostedWorld(own_source("mine", lambda: Counting(limit=closure)), 1, "processes"), 5)
    assert [cut for *_, cut, _ in played[0]] == [False, False, False, True, False]


# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gym/Hoper-v5", r"Gymnasium knows no 'Hoper-v5'. Did you mean 'Hopper-v5'\?"),
        ("dmc/walker-rum", r"DMControl has no such task. Did you mean 'walker-run'\?"),
        ("dmc", r"world = 'dmc': write dmc/<domain>-<task>"),
        ("humanoidbench/h1-walk-v0", "needs HumanoidBench, which is on no package index"),
        ("gymm/Hopper-v5", "Unknown world 'gymm/Hopper-v5'.*gym/<id>"),
    ],
)
def test_names_that_lead_nowhere(name, sentence):
    with pytest.raises((ConfigurationError, MissingPackageError), match=sentence):
        make_world(name, 1)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("gym/Hopper-v5", {"gravity": 3}, r"cannot be made with the options \['gravity'\]"),
        ("dmc/walker-run", {"gravity": 3}, "Options: action_repeat, max_episode_steps, pixels"),
        ("dmc/walker-run", {"action_repeat": 0}, "action_repeat = 0: must be at least 1"),
        (
            "dmc/walker-run",
            {"vectorization": "gpu"},
            "vectorization = 'gpu': must be one of 'serial', 'processes', 'envpool'",
        ),
        ("dmc/walker-run", {"vectorization": "envpool"}, "EnvPool steps gym/<id> worlds only"),
        ("dmc/walker-run", {"timeout": 0}, "timeout = 0.0: must be a number of seconds above 0"),
    ],
)
def test_options_that_cannot_be(name, options, sentence):
    with pytest.raises(PenstockError, match=sentence):
        make_world(name, 1, **options)


def test_mujoco_4_with_dm_control_says_what_to_install(monkeypatch):
    import mujoco

    monkeypatch.setattr(mujoco, "__version__", "4.0.0")
    with pytest.raises(
        MissingPackageError, match=r"MuJoCo 4.0.0 is installed: pip install 'penstock\[dmcontrol\]'.*mujoco<4"
    ):
        make_world("dmc/walker-run", 1)


def test_another_mujoco_with_humanoid_bench_says_what_to_install(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "humanoid_bench" else found(name))
    with pytest.raises(MissingPackageError, match=r"runs with MuJoCo 3.1.6 exactly.*penstock\[humanoidbench\]"):
        make_world("humanoidbench/h1-walk-v0", 1)


# ------------------------------------------------------------------------------------------------- suites


def test_dm_control_agrees_with_its_own_loop():
    """Observations, rewards and the end of the episode against dm_control stepped by hand from the same seed."""
    from dm_control import suite

    world = make_world("dmc/cartpole-swingup", 1, max_episode_steps=6)
    state = world.reset(KEY)
    env = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
    env.task._random = np.random.RandomState(world._seeds(state.words, np.zeros(1, int))[0])
    timestep = env.reset()
    for t in range(6):
        expected = np.concatenate([np.ravel(part) for part in timestep.observation.values()])
        np.testing.assert_allclose(state.observation.vector[0], expected, rtol=1e-6)
        state, transition = world.step(state, np.full((1, 1), 0.3, np.float32))
        timestep = env.step([0.3])
        assert transition.reward[0] == pytest.approx(timestep.reward, rel=1e-6)
        assert (bool(transition.terminated[0]), bool(transition.truncated[0])) == (False, t == 5)


def test_dm_control_action_repeat_adds_rewards_and_shortens_the_episode():
    once, twice = (make_world("dmc/cartpole-swingup", 1, action_repeat=repeat) for repeat in (1, 2))
    assert (once.episode_length, twice.episode_length) == (1000, 500)
    assert twice.control_timestep == pytest.approx(2 * once.control_timestep)
    a, b = once.reset(KEY), twice.reset(KEY)
    total = 0.0
    for _ in range(2):
        a, transition = once.step(a, np.full((1, 1), 0.3, np.float32))
        total += float(transition.reward[0])
    b, both = twice.step(b, np.full((1, 1), 0.3, np.float32))
    assert both.reward[0] == pytest.approx(total, rel=1e-6)
    np.testing.assert_array_equal(a.observation.vector, b.observation.vector)


def test_gymnasium_agrees_with_its_own_loop_bit_for_bit():
    """Over the ends of episodes, whose next ones begin with the seeds that belong to them."""
    world = make_world("gym/Hopper-v5", 2)
    assert (world.episode_length, world.action_size, world.observation_spec.vector) == (1000, 3, 11)
    state, envs = world.reset(KEY), [gymnasium.make("Hopper-v5") for _ in range(2)]
    seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, world._seeds(state.words, state.episode), strict=True)]
    actions, ends = np.random.default_rng(0).uniform(0.2, 1.0, (100, 2, 3)).astype(np.float32), 0
    for action in actions:
        np.testing.assert_array_equal(state.observation.vector, np.asarray(seen, np.float32))
        state, transition = world.step(state, action)
        for index, env in enumerate(envs):
            seen[index], reward, terminated, _, _ = env.step(action[index])
            np.testing.assert_array_equal(transition.final_observation.vector[index], seen[index].astype(np.float32))
            assert transition.reward[index] == np.float32(reward) and transition.terminated[index] == terminated
            if terminated:
                ends += 1
                seen[index], _ = env.reset(seed=world._seeds(state.words, state.episode)[index])
    assert ends >= 4


# ------------------------------------------------------------------------------------------------- check-world


def test_check_world_finds_nothing_wrong_and_what_is_wrong():
    assert {finding.severity for finding in check_world(hosted(limit=5))} == {"ok"}
    found = {f.title: f for f in check_world(hosted(Unsteady, fault="nan"))}
    assert (
        found["Finite numbers"].severity == "error" and "observation[0] is nan" in found["Finite numbers"].explanation
    )
    found = {f.title: f for f in check_world(hosted(Unsteady, fault="raise"))}
    assert found["Step"].severity == "error" and "the motor is on fire" in found["Step"].explanation

    class Narrow(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = gymnasium.spaces.Box(np.array([0.0, 0.0]), np.array([1000.0, 3.0]))

    found = {f.title: f for f in check_world(hosted(Narrow))}
    assert found["Inside the space"].severity == "warning"
    assert "Observation 1 left its declared bounds" in found["Inside the space"].explanation

    class Same(Counting):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.offset = 1.0
            return np.array([1.0, 0.0]), {}

    found = {f.title: f for f in check_world(hosted(Same))}
    assert found["Starts differ"].severity == "warning"
