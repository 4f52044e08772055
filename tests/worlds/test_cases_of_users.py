"""What people's environments do without silent wrong results: spaces, boxes, wrappers, limits, files, options."""

import functools
import socket
import subprocess
import sys
from typing import ClassVar

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit
from hosted_environments import Counting, hosted

from penstock._errors import ConfigurationError, PenstockError
from penstock.training.plan import parse_world_options
from penstock.worlds.check import check_world
from penstock.worlds.hosted.environments import own_source
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.spaces import action_box
from penstock.worlds.loading import load_world

KEY = jax.random.key(3)


# ------------------------------------------------------------------------------------------------- the action box


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.3), (0.1, 0.7), (-1e-3, 3.3), (-1.0, 1.0)])
def test_no_action_leaves_its_box_by_rounding(low, high, dtype):
    box = spaces.Box(low, high, (2,), dtype)
    actions = action_box(box, "mine")
    for unit in (-1.0, 1.0, np.nextafter(np.float32(1), np.float32(0)), -0.999999, 0.999999, 7.0, -7.0):
        scaled = actions.from_unit(np.full((3, 2), unit, np.float32))
        assert scaled.dtype == dtype and all(box.contains(action) for action in scaled), (unit, scaled)
    assert (actions.from_unit(np.ones((1, 2))) == box.high).all() and (
        actions.from_unit(-np.ones((1, 2))) == box.low
    ).all()


def test_the_checker_plays_the_corners():
    class Narrow(Counting):
        corners: ClassVar[set] = set()

        def step(self, action):
            self.corners |= {float(action[0])} & {-2.0, 5.0}
            return super().step(action)

    check_world(hosted(functools.partial(Narrow, low=-2.0, high=5.0)))
    assert Narrow.corners == {-2.0, 5.0}


def test_absurd_bounds_are_refused_or_narrowed():
    make = functools.partial(Counting, low=-1e10, high=1e10)
    with pytest.raises(ConfigurationError, match=r"bounds \[-1e\+10, 1e\+10\].*within \+-1e\+06.*action_limit=1\.0"):
        hosted(make)
    world = hosted(make, action_limit=2.0)
    assert world.declared.actions.from_unit(np.array([[1.0], [-0.5]])).ravel().tolist() == [2.0, -1.0]


def test_a_box_of_one_number_without_axes():
    class Scalar(Counting):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-1, 1, (), np.float32)

        def step(self, action):
            assert np.shape(action) == ()
            return super().step(np.array([action]))

    world = hosted(Scalar)
    _, transition = world.step(world.reset(KEY), np.array([[0.5], [-0.5]], np.float32))
    assert transition.reward.tolist() == [1.5, 0.5] and world.action_size == 1


# ------------------------------------------------------------------------------------------------- wrappers, limits


@pytest.mark.parametrize("wrapper", [NormalizeObservation, NormalizeReward])
def test_statistics_that_outlive_episodes_are_refused(wrapper):
    for make in (lambda: TimeLimit(wrapper(Counting()), 5), lambda: wrapper(TimeLimit(Counting(), 5))):
        with pytest.raises(ConfigurationError, match=rf"{wrapper.__name__} keeps running statistics.*--normalize-obs"):
            hosted(make)

    def frozen():
        env = wrapper(Counting())
        env.update_running_mean = False
        return env

    assert hosted(frozen).observation_spec.vector == 2


@pytest.mark.parametrize("limit", [5, np.int64(5), 5.0, lambda: 5], ids=["int", "numpy", "float", "method"])
def test_limits_are_recognised_however_they_are_stated(limit):
    class Limited(Counting):
        def __init__(self):
            super().__init__()
            self.max_episode_steps = limit

    assert hosted(Limited).episode_length == 5


def test_a_time_limit_that_is_told_as_termination():
    make = functools.partial(Counting, ends=5, limit=10**6)

    def limited():
        env = make()
        env.max_episode_steps = 5
        return env

    found = {f.title: f for f in check_world(hosted(limited))}
    assert found["Terminations"].severity == "warning"
    assert "All 4 terminations fall on step 5, the time limit" in found["Terminations"].explanation
    assert "limit_as_truncation=True" in found["Terminations"].next_action

    class Varied(Counting):
        def reset(self, *, seed=None, options=None):
            start = super().reset(seed=seed)
            self.ends = 2 + int(self.offset) % 7
            return start

    varied = {f.title: f for f in check_world(hosted(functools.partial(Varied, limit=50)))}
    assert "Terminations" not in varied and " terminated, " in varied["Episodes end"].explanation

    def flags(**adjustments):
        world, ends = hosted(limited, **adjustments), []
        state = world.reset(KEY)
        for _ in range(10):
            state, transition = world.step(state, np.zeros((2, 1), np.float32))
            ends.append((transition.terminated.tolist(), transition.truncated.tolist()))
        return ends

    assert flags()[4] == ([True, True], [True, True])
    assert flags(limit_as_truncation=True)[4] == ([False, False], [True, True])
    assert flags(limit_as_truncation=True)[9] == ([False, False], [True, True])


def test_steps_that_cannot_be_repeated_are_told():
    class Drifting(Counting):
        def reset(self, *, seed=None, options=None):
            self.drift = getattr(self, "drift", 0.0) + 1.0
            return super().reset(seed=seed)

        def step(self, action):
            observation, *rest = super().step(action)
            return (observation + (self.age == 3) * self.drift, *rest)

    found = {f.title: f for f in check_world(hosted(Drifting))}
    assert found["Reset is reproducible"].severity == "ok"
    assert "the observation of step 3 differs" in found["Steps are reproducible"].explanation


def test_numbers_beyond_the_limit_name_it():
    class Money(Counting):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return (observation, 3e6, *rest)

    found = {f.title: f.explanation for f in check_world(hosted(Money)) if f.severity == "error"}
    assert "reward is 3e+06 (the limit is 1e+06: scale it in a wrapper)" in found["Finite numbers"]


# ------------------------------------------------------------------------------------------------- what raises


class Screenless(Counting):
    @property
    def observation_space(self):
        raise RuntimeError("needs a screen")

    @observation_space.setter
    def observation_space(self, value):
        pass


class Exits(Counting):
    def reset(self, *, seed=None, options=None):
        sys.exit(3)


class Asserts(Counting):
    def __init__(self):
        assert isinstance(self, int)


class NoMetadata(Counting):
    metadata = None


def test_faults_on_the_way_in_are_sentences_with_a_traceback():
    with pytest.raises(PenstockError, match=r"its observation_space raised RuntimeError: needs a screen\n\nTraceback"):
        hosted(Screenless)
    with pytest.raises(PenstockError, match=r"AssertionError(.|\n)*Traceback(.|\n)*assert isinstance\(self, int\)"):
        hosted(Asserts)
    with pytest.raises(PenstockError, match=r"reset\(\) raised SystemExit: 3"):
        hosted(Exits).reset(KEY)
    world = hosted(NoMetadata)
    assert world.reset(KEY).age.tolist() == [0, 0]


# ------------------------------------------------------------------------------------------------- files of users

MODEL = """
from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
from neighbour import limit


@dataclasses.dataclass
class Settings:
    gain: float = 1.0


class Cart(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, settings: Settings | None = None):
        self.settings = settings or Settings()
        self.max_episode_steps = limit()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        import late

        return np.full(1, late.VALUE, np.float32), 0.0, False, False, {}


gymnasium.register("OfAUser-v0", entry_point="carts:Cart", max_episode_steps=7)


def make(fall: bool = True, steps=5, name="cart"):
    return gymnasium.make("OfAUser-v0", max_episode_steps=steps)
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "carts.py").write_text(MODEL)
    (tmp_path / "neighbour.py").write_text("def limit():\n    return 3\n")
    (tmp_path / "late.py").write_text("VALUE = 0.5\n")
    yield tmp_path
    for name in ("carts", "neighbour", "late"):
        sys.modules.pop(name, None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))
    gymnasium.registry.pop("OfAUser-v0", None)


@pytest.mark.parametrize(
    ("vectorization", "name", "limit"),
    [
        ("serial", "Cart", 3),
        ("serial", "make", 5),
        ("processes", "make", 5),
        pytest.param("processes", "Cart", 3, marks=pytest.mark.slow),
    ],
)
def test_a_file_finds_its_neighbours_and_registrations_as_a_script_would(project, vectorization, name, limit):
    world = load_world(f"{project}/carts.py:{name}", 2, vectorization=vectorization)
    state, _ = world.step(world.reset(KEY), np.zeros((2, 1), np.float32))
    assert world.episode_length == limit and state.observation.vector.tolist() == [[0.5], [0.5]]
    world.close()


def test_registered_ids_are_found_from_their_folder(project):
    code = (
        "import numpy as np, jax\n"
        "from penstock.worlds import make_world\n"
        "if __name__ == '__main__':\n"
        "    world = make_world('gym/carts:OfAUser-v0', 2, vectorization='processes')\n"
        "    state, _ = world.step(world.reset(jax.random.key(0)), np.zeros((2, 1), np.float32))\n"
        "    print(world.episode_length, state.observation.vector.ravel().tolist())\n"
        "    world.close()\n"
    )
    script = project / "script" / "main.py"
    script.parent.mkdir()
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], cwd=project, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "7 [0.5, 0.5]", done.stderr


def test_an_edited_neighbour_is_read_again(project):
    spec = f"{project}/carts.py:Cart"
    assert load_world(spec, 1).episode_length == 3
    (project / "neighbour.py").write_text("def limit():\n    return 11\n")
    assert load_world(spec, 1).episode_length == 11


def test_two_projects_with_modules_of_one_name_are_refused(project, tmp_path_factory):
    load_world(f"{project}/carts.py:Cart", 1)
    other = tmp_path_factory.mktemp("other")
    (other / "neighbour.py").write_text("def limit():\n    return 4\n")
    (other / "wagons.py").write_text(MODEL)
    with pytest.raises(ConfigurationError, match=r"needs the module 'neighbour' beside it, but.*another name"):
        load_world(f"{other}/wagons.py:Cart", 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("False", False),
        ("false", False),
        ("None", None),
        ("null", None),
        ("(1, 2)", (1, 2)),
        ("[1, 2]", [1, 2]),
        ("1e-3", 1e-3),
        ("'7'", "7"),
        ("no", "no"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_texts_are_read_as_python_and_json_spell_them(text, value):
    read = parse_world_options((f"some-name={text}",))["some_name"]
    assert read == value and type(read) is type(value)


def test_texts_in_the_place_of_flags_and_numbers_are_refused(project):
    spec = f"{project}/carts.py:make"
    assert load_world(spec, 1, fall=False, steps=4).episode_length == 4
    for options, sentence in (
        ({"fall": "False"}, "fall = 'False': must be true or false"),
        ({"fall": 0}, "fall = 0: must be true or false"),
        ({"steps": "many"}, "steps = 'many': must be a whole number or a number"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            load_world(spec, 1, **options)
    with pytest.raises(ConfigurationError, match=r"terminate_when_unhealthy = 'no': must be true or false"):
        load_world("gym/Hopper-v5", 1, terminate_when_unhealthy="no")


# ------------------------------------------------------------------------------------------------- one instance


class Plant(Counting):
    """Holds a port until it is closed."""

    def __init__(self, port):
        super().__init__()
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", port))

    def close(self):
        self.socket.close()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_second_instance_that_cannot_be_is_told(port):
    with pytest.raises(PenstockError, match=r"though one could.*single_instance=True(.|\n)*OSError"):
        HostedWorld(own_source("mine", functools.partial(Plant, port)), 2).reset(KEY)
    one = hosted(functools.partial(Plant, port), 1, single_instance=True)
    assert all(finding.severity != "error" for finding in check_world(one))
    with pytest.raises(ConfigurationError, match=r"single_instance = True, and 2 environments"):
        one.with_num_envs(2).reset(KEY)
