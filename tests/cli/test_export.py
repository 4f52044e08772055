"""From a run to a file, and the file in a world: as a user does it."""

import json
import sys
import types

import imageio.v3
import numpy as np
import pytest

import penstock as library
from penstock._errors import PenstockError
from penstock.export import parity
from penstock.export.files import open_policy
from penstock.export.playing import play
from penstock.worlds.hosted import robot
from penstock.worlds.loading import load_world
from tests.conftest import most_optimizations_off


@pytest.fixture(scope="module")
def reacher(tmp_path_factory):
    """A run on an environment of MuJoCo's."""
    folder = tmp_path_factory.mktemp("runs") / "reacher"
    settings = {"window": 16, "minibatches": 2, "epochs": 1, "actor_hidden": (8,), "critic_hidden": (8,)}
    fields = {"steps": 32, "num_envs": 2, "evaluate_every": 0, "progress": False}
    with most_optimizations_off(True):
        library.train("nfpo", "gym/Reacher-v5", run_dir=folder, **fields, **settings)
    return folder


@pytest.fixture(scope="module")
def integrator(tmp_path_factory):
    """A run of two seeds with chunks on a world that is a function."""
    folder = tmp_path_factory.mktemp("runs") / "integrator"
    options = {"episode_length": 10}
    settings = {"window": 4, "chunk_length": 2, "actor_hidden": (8,)}
    fields = {"steps": 32, "seeds": 2, "num_envs": 4, "evaluate_every": 0, "progress": False}
    with most_optimizations_off(True):
        world = "classic/double-integrator"
        library.train("apg", world, run_dir=folder, world_options=options, **fields, **settings)
    return folder


def test_export_checks_the_file_against_the_policy(penstock, reacher):
    for target, suffix in (("numpy", "npz"), ("onnx", "onnx"), ("stablehlo", "stablehlo")):
        code, out, err = penstock("export", reacher, "--to", target, "--check")
        assert code == 0, err
        lines = out.splitlines()
        path = reacher / "exports" / f"last.{suffix}"
        assert lines[0].startswith(f"{path}  coupling policy, deterministic: 10 numbers in, 2 actions out; ")
        difference, *_, random, _, _, edge = lines[-2].replace("largest difference ", "").split()[:13]
        assert float(difference.rstrip(",")) < parity.TOLERANCE and "1,000 random" in lines[-2], (random, edge)
        assert "ms median" in lines[-1] and "per action on one core" in lines[-1]


def test_a_file_says_what_a_robot_needs_to_know(penstock, reacher):
    assert penstock("export", reacher)[0] == 0
    metadata = open_policy(reacher / "exports" / "last.npz").metadata
    assert metadata["observation"]["size"] == len(metadata["observation"]["names"]) == 10
    assert metadata["action"]["names"] == ["joint0", "joint1"]
    assert metadata["action"]["low"] == [-1.0, -1.0] and metadata["action"]["chunk_length"] == 1
    assert metadata["actuators"][0] == {
        "name": "joint0",
        "joint": "joint0",
        "default_position": 0.0,
        "default_from": "reference",
        "joint_damping": 1.0,
        "joint_armature": 1.0,
        "joint_friction": 0.0,
        "gear": 200.0,
        "control_range": [-1.0, 1.0],
        "gain": 1.0,
        "bias": [0.0, 0.0, 0.0],
    }
    assert metadata["controls"] == {"offset": [0.0, 0.0], "scale": [1.0, 1.0]}
    assert metadata["control"] == {"timestep": pytest.approx(0.02), "rate": pytest.approx(50.0), "stated": True}
    origin = metadata["origin"]
    assert origin["environment_steps"] == 32 and origin["seed"] == 0 and len(origin["agent_sha256"][0]) == 64
    assert origin["versions"]["penstock"] == library.__version__


def test_a_file_that_differs_is_told_and_the_command_fails(penstock, reacher, monkeypatch):
    decide = parity._by_agent

    def off_by_a_little(decision, inputs):
        expected = decide(decision, inputs)
        expected[7] += 1e-4
        return expected

    monkeypatch.setattr(parity, "_by_agent", off_by_a_little)
    code, out, err = penstock("export", reacher, "--check")
    assert code == 1 and "largest difference 1.0e-04" in out
    assert "differs from the policy by more than 1e-05" in err and "Do not put it on a robot." in err


def test_play_acts_by_the_file_alone_and_films(penstock, reacher, tmp_path):
    assert penstock("export", reacher, "--output", tmp_path / "policy.npz")[0] == 0
    code, out, err = penstock("play", tmp_path / "policy.npz", "--episodes", "2", "--seed", "3")
    assert code == 0, err
    first, second, mean, film = out.splitlines()
    assert first.startswith("seed 3: return -") and first.endswith("50 steps, time limit")
    assert second.startswith("seed 4: return -") and mean.startswith("mean return -")
    assert film == str(tmp_path / "policy.mp4")
    assert len(imageio.v3.imread(film)) == 25  # 50 steps at 50 Hz, every other one

    world = load_world("gym/Reacher-v5", 1)
    agent = library.load(reacher).agent()
    with robot.one_environment(world) as env:
        observation, _ = env.reset(seed=3)
        total = 0.0
        for _ in range(50):
            observation, reward, *_ = env.step(agent.act(observation))
            total += reward
    assert first == f"seed 3: return {total:.6g}, 50 steps, time limit"


def test_play_takes_options_of_the_world_and_refuses_other_films(penstock, reacher, tmp_path):
    assert penstock("export", reacher, "--output", tmp_path / "policy.npz")[0] == 0
    asked = ("--world-option", "max_episode_steps=7", "--no-video", "--json")
    code, out, err = penstock("play", tmp_path / "policy.npz", *asked)
    assert code == 0 and json.loads(out)["episodes"][0]["steps"] == 7, err
    code, _, err = penstock("play", tmp_path / "policy.npz", "--output", tmp_path / "film.avi")
    assert code == 2 and "film.avi': must end in .mp4 or .gif" in err, err
    assert err.startswith("penstock play: output = "), err


def test_a_file_that_makes_no_numbers_is_told_in_a_sentence(penstock, reacher, tmp_path):
    assert penstock("export", reacher, "--output", tmp_path / "policy.npz")[0] == 0
    file = open_policy(tmp_path / "policy.npz")
    with pytest.raises(PenstockError, match=r"it holds NaN or infinity\. Stop the robot\. If what it was given is in"):
        file.outputs({"observation": np.full(10, np.nan, np.float32)})


def test_play_on_a_function_follows_the_plan_of_the_chosen_seed(penstock, integrator, tmp_path):
    path = tmp_path / "policy.npz"
    code, out, _ = penstock("export", integrator, "--seed", "1", "--output", path)
    assert code == 0 and "1 actions, 2 steps at a time out" in out
    code, out, err = penstock("play", path, "--no-video", "--json")
    assert code == 0, err
    (episode,) = json.loads(out)["episodes"]
    assert episode["steps"] == 10

    run = library.load(integrator)
    agent, world = run.agent(seed=1), load_world("classic/double-integrator", 1, episode_length=10)
    import jax

    state, total = world.reset(jax.random.key(0)), 0.0
    for _ in range(10):
        state, transition = world.step(state, agent.act(state.observation, deterministic=True))
        total += float(transition.reward[0])
    assert episode["return"] == pytest.approx(total, abs=1e-4)


def test_files_of_several_seeds_have_names_of_their_own(integrator):
    run = library.load(integrator)
    paths = {run.export("onnx", seed=seed, mode=mode) for seed in (0, 1) for mode in ("deterministic", "noise-fed")}
    assert sorted(path.name for path in paths) == [
        "last-seed-0-noise-fed.onnx",
        "last-seed-0.onnx",
        "last-seed-1-noise-fed.onnx",
        "last-seed-1.onnx",
    ]
    with pytest.raises(library.ConfigurationError, match=r"seed = 2: this run has the seeds \[0, 1\]"):
        run.export(seed=2)


def test_a_noise_fed_file_plays_as_its_seed_says(penstock, reacher, tmp_path):
    path = tmp_path / "policy.npz"
    assert penstock("export", reacher, "--mode", "noise-fed", "--output", path, "--check")[0] == 0
    file, world = open_policy(path), load_world("gym/Reacher-v5", 1)
    rewards = [[step.reward for step in play(file, world, seed)] for seed in (0, 0, 1)]
    assert rewards[0] == rewards[1] != rewards[2]


def test_a_world_that_does_not_fit_is_refused(penstock, reacher, tmp_path):
    assert penstock("export", reacher, "--output", tmp_path / "policy.npz")[0] == 0
    code, _, err = penstock("play", tmp_path / "policy.npz", "--world", "gym/Swimmer-v5")
    assert code == 2 and "reads observation of shape (10,), and the world has (8,)" in err
    assert "It was trained on 'gym/Reacher-v5'." in err
    code, _, err = penstock("play", tmp_path / "policy.npz", "--world", "classic/pendulum", "--viewer")
    assert code == 2 and "does not fit" in err


def test_the_viewer_shows_every_step_or_says_what_it_needs(penstock, reacher, tmp_path, monkeypatch):
    assert penstock("export", reacher, "--output", tmp_path / "policy.npz")[0] == 0
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = penstock("play", tmp_path / "policy.npz", "--viewer")
    assert code == 2 and "viewer does not open here: no display was found. It needs a display" in err
    monkeypatch.setattr("penstock.export.playing._has_display", lambda: True)
    shown = []

    class Window:
        def __enter__(self):
            return self

        def __exit__(self, *raised):
            shown.append("closed")

        def sync(self):
            shown.append(self.data.time)

    def launch_passive(model, data):
        window = Window()
        window.data = data
        return window

    fake = types.ModuleType("mujoco.viewer")
    fake.launch_passive = launch_passive
    monkeypatch.setitem(sys.modules, "mujoco.viewer", fake)
    monkeypatch.setattr("mujoco.viewer", fake, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    code, out, err = penstock("play", tmp_path / "policy.npz", "--viewer")
    assert code == 0, err
    assert shown[-1] == "closed" and np.diff(shown[:-1]) == pytest.approx(np.full(49, 0.02))
    assert out.splitlines()[-1].startswith("seed 0")  # no film beside the window

    def fails(model, data):
        raise RuntimeError("could not initialize GLFW")

    fake.launch_passive = fails
    code, _, err = penstock("play", tmp_path / "policy.npz", "--viewer")
    assert code == 2 and "MuJoCo's viewer does not open here" in err and "It needs a display" in err


UNTIMED = """
import gymnasium
import numpy as np

class Untimed(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-3.0, 1.0, (1,), np.float32)
    max_episode_steps = 4

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action[0]), False, False, {}

    def render(self):
        raise RuntimeError("no screen")
"""


def test_what_an_environment_does_not_say_is_marked_and_a_film_that_fails_costs_no_result(penstock, tmp_path):
    """It states no time step, never ends by itself, and fails to draw."""
    (tmp_path / "mine.py").write_text(UNTIMED)
    fields = {"steps": 8, "num_envs": 1, "evaluate_every": 0, "progress": False, "window": 4, "minibatches": 1}
    with most_optimizations_off(True):
        run = library.train("ppo", f"{tmp_path / 'mine.py'}:Untimed", run_dir=tmp_path / "run", **fields)
    path = run.export()
    metadata = open_policy(path).metadata
    assert metadata["control"] == {"timestep": 0.05, "rate": 20.0, "stated": False}
    assert metadata["action"]["low"] == [-3.0] and metadata["actuators"] == []
    code, out, err = penstock("play", path)
    assert code == 0 and err.startswith("no film: ") and "no screen" in err and len(err.splitlines()) == 1
    action = run.agent().act(np.zeros(2, np.float32))
    assert out == f"seed 0: return {4 * float(action[0]):.6g}, 4 steps, time limit\n"


@pytest.mark.parametrize("flag", ["--no-video", "--viewer"])
def test_a_place_for_a_film_that_is_not_made_is_refused(penstock, tmp_path, flag):
    code, _, err = penstock("play", tmp_path / "policy.npz", "--output", tmp_path / "film.mp4", flag)
    assert code == 2 and f"is the film's, and none is made with {flag}. Leave one of the two out." in err


def test_what_is_missing_is_told(penstock, reacher, tmp_path, monkeypatch):
    code, _, err = penstock("export", tmp_path)
    assert code == 2 and "holds no run" in err
    code, _, err = penstock("play", tmp_path / "nothing.npz")
    assert code == 2 and "there is no such file" in err
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = penstock("export", reacher, "--to", "onnx")
    assert code == 2 and "pip install 'penstock[onnx]'" in err
