"""Domain randomisation beside the model: latency to the step, noise, seeds, files, evaluation, and what is refused."""

import json

import gymnasium
import jax
import numpy as np
import pytest
from hosted_environments import Counting, next_step
from mujoco_environments import Mechanism

from penstock._errors import ConfigurationError
from penstock.reports.arms import settings_that_count
from penstock.training.plan import make_plan
from penstock.training.sources import keep_copies, sources_of
from penstock.worlds import make_world
from penstock.worlds.hosted.randomized import Randomized
from penstock.worlds.loading import load_world
from penstock.worlds.randomization.distributions import Distribution, KeySource
from penstock.worlds.randomization.reading import read_randomization

KEY = jax.random.key(7)
HERE = __file__.rpartition("/")[0]
MECHANISM = f"{HERE}/mujoco_environments.py:Mechanism"


class Recording(Counting):
    """Remembers the actions that reach it; its box is not symmetric."""

    def __init__(self):
        super().__init__(limit=50, low=-1.0, high=3.0)

    def reset(self, *, seed=None, options=None):
        self.actions = []
        return super().reset(seed=seed)

    def step(self, action):
        self.actions.append(float(action[0]))
        return super().step(action)


def randomized(make, **terms):
    return Randomized(make(), read_randomization(terms), "mine", 0.05)


def received(steps, sent, **more):
    env = randomized(Recording, action_latency={"steps": steps, **more})
    for seed in range(12):
        env.reset(seed=seed)
        for action in sent:
            env.step(np.array([action], np.float32))
        yield env.unwrapped.actions


# ------------------------------------------------------------------------------------------------- latency


def test_actions_arrive_exactly_as_many_steps_late_as_was_drawn():
    sent = np.float32([0.1, 0.2, 0.3, 0.4, 0.5]).tolist()
    assert next(received([1, 1], sent)) == [1.0, *sent[:4]]  # at first the middle of the box, [-1, 3]
    assert next(received([2, 2], sent)) == [1.0, 1.0, *sent[:3]]
    drawn = {tuple(actions) for actions in received([0, 2], sent)}
    assert drawn == {tuple([1.0] * late + sent[: 5 - late]) for late in (0, 1, 2)}


def test_latencies_between_two_steps_interpolate_and_may_change_with_every_step():
    sent = [0.0, 0.5, -0.5, 0.25]
    between = next(received([1.25, 1.25], sent, interpolate=True))
    assert between == [1.0, 0.25, 0.375, -0.25]  # three quarters of the action of one step ago, one of that before
    several = {tuple(actions) for actions in received([0, 1], sent, per="step")}
    assert len(several) > 4 and all(actions[t] in (sent[t], [1.0, *sent][t]) for actions in several for t in range(4))


# ------------------------------------------------------------------------------------------------- noise


def noise_of(terms, steps=3000, make=Mechanism):
    noisy, clean = randomized(make, observation_noise=terms), make()
    first, _ = clean.reset(seed=1)
    found = [noisy.reset(seed=1)[0] - first]
    zeros = np.zeros(noisy.action_space.shape, np.float32)
    for _ in range(steps):
        found.append(noisy.step(zeros)[0] - clean.step(zeros)[0])
    return np.array(found)


def test_noise_has_the_spread_that_was_asked_for_where_it_was_asked_for():
    found = noise_of({"indices": [0, 12], "add": [-0.3, 0.3]})
    assert not np.delete(found, [0, 12], axis=1).any()
    there = found[:, [0, 12]]
    assert np.abs(there).max() <= 0.3 and there.mean(axis=0) == pytest.approx([0, 0], abs=0.01)
    assert there.std(axis=0) == pytest.approx([0.3 / 3**0.5] * 2, rel=0.03)
    assert abs(np.corrcoef(there.T)[0, 1]) < 0.06 and abs(np.corrcoef(there[1:, 0], there[:-1, 0])[0, 1]) < 0.06
    found = noise_of({"names": ["observation[1?]"], "add": {"normal": {"mean": 0.1, "std": 0.2}}})
    assert not found[:, :10].any()
    assert found[:, 10:].mean() == pytest.approx(0.1, abs=0.01) and found[:, 10:].std() == pytest.approx(0.2, rel=0.02)


def test_a_bias_holds_for_an_episode():
    found = noise_of({"indices": [3], "add": [0.5, 1.0], "per": "episode"}, steps=5)[:, 3]
    assert 0.5 <= found[0] <= 1.0 and np.ptp(found) < 1e-12


def test_names_of_gymnasium_and_nested_observations_are_noisy_in_their_place():
    class Nested(gymnasium.Env):
        max_episode_steps = 5
        action_space = gymnasium.spaces.Box(-1, 1, (1,))
        observation_space = gymnasium.spaces.Dict(
            arm=gymnasium.spaces.Tuple([gymnasium.spaces.Box(-9, 9, (2,)), gymnasium.spaces.Discrete(3)]),
            count=gymnasium.spaces.Box(0, 9, (1,), np.int64),
            speed=gymnasium.spaces.Box(-9, 9, ()),
        )

        def reset(self, *, seed=None, options=None):
            return {"arm": (np.zeros(2, np.float32), 2), "count": np.array([4]), "speed": np.float32(0)}, {}

    seen, _ = randomized(Nested, observation_noise={"add": [1, 2]}).reset(seed=0)
    assert (seen["arm"][0] >= 1).all() and seen["arm"][1] == 2 and seen["count"].tolist() == [4] and seen["speed"] >= 1
    assert seen["arm"][0].dtype == np.float32
    seen, _ = randomized(Nested, observation_noise={"names": "arm.0*", "add": [1, 2]}).reset(seed=0)
    assert (seen["arm"][0] >= 1).all() and seen["speed"] == 0
    for name in ("count", "arm.1==2"):
        with pytest.raises(ConfigurationError, match="stands for a choice, or is a whole number"):
            randomized(Nested, observation_noise={"names": name, "add": [1, 2]})
    cheetah = make_world(
        "gym/HalfCheetah-v5", 1, randomize={"observation_noise": {"names": "qpos.rootz", "add": [3, 4]}}
    )
    assert cheetah.reset(KEY).observation.vector[0, 0] > 2.5


# ------------------------------------------------------------------------------------------------- worlds

TERMS = {
    "mass": {"scale": [0.5, 2.0]},
    "action_latency": {"steps": [0, 2]},
    "pushes": {"interval": [0.04, 0.1], "velocity": [0, 1]},
    "observation_noise": {"add": [-0.1, 0.1]},
}


def played(world, steps=35):
    """Past the end of an episode of 30 steps."""
    state, seen = world.reset(KEY), []
    for t in range(steps):
        seen.append(state.observation.vector)
        state, transition = world.step(state, np.full((world.num_envs, 2), np.sin(t), np.float32))
        seen.append(transition.final_observation.vector)
    world.close()
    return np.array(seen)


def test_equal_seeds_bring_equal_episodes_wherever_environments_live():
    world = load_world(MECHANISM, 2, randomize=TERMS)
    first = played(world)
    assert np.array_equal(first, played(world))  # after a run of its own
    assert not np.array_equal(first[:, 0], first[:, 1])
    apart = load_world(MECHANISM, 2, randomize=TERMS, vectorization="processes")
    assert np.array_equal(first, played(apart))
    assert not np.array_equal(first, played(load_world(MECHANISM, 2)))


def test_evaluation_is_randomised_unless_the_nominal_world_is_asked_for():
    def mass(world):
        world.reset(KEY)
        env = world._present.vector.scene_source()
        world.close()
        return env.unwrapped.model.body_mass[1]

    world = load_world(MECHANISM, 1, randomize=TERMS)
    assert world.for_evaluation() is world and mass(world) != 2.0
    assert mass(world.for_evaluation("nominal").with_num_envs(3)) == 2.0
    world = load_world(MECHANISM, 1, randomize={**TERMS, "evaluation": "nominal"})
    assert mass(world.for_evaluation()) == 2.0 and mass(world.for_evaluation("randomized")) != 2.0
    assert mass(world) != 2.0
    with pytest.raises(ConfigurationError, match=r"nothing in '.*Mechanism' is randomised"):
        load_world(MECHANISM, 1).for_evaluation("nominal")
    with pytest.raises(ConfigurationError, match="evaluation = 'nominal': needs environments of its own"):
        load_world(MECHANISM, 1, randomize={**TERMS, "evaluation": "nominal"}, single_instance=True)


def test_vectors_of_environments_are_refused():
    with pytest.raises(ConfigurationError, match="randomize is of single environments, and these come as a vector"):
        load_world(f"{HERE}/hosted_environments.py:{next_step.__name__}", 2, randomize=TERMS)


def test_a_file_is_kept_with_the_run_and_another_content_is_another_arm(tmp_path):
    file, arms = tmp_path / "walker.yaml", []
    for text in ("mass: {scale: [0.5, 2]}", "mass: {scale: [0.5, 3]}"):
        file.write_text(text)
        plan = make_plan("sac", MECHANISM, world_options={"randomize": str(file)})
        plan.make_world()
        keep_copies(plan, tmp_path / "run")
        assert (tmp_path / "run/source/world_files/randomize/walker.yaml").read_text() == text
        arms.append(settings_that_count({**plan.to_config(), **sources_of(plan)}))
    assert arms[0] != arms[1]
    inline = make_plan("sac", MECHANISM, world_options={"randomize": {"mass": {"scale": [0.5, 2]}}})
    assert json.loads(json.dumps(inline.to_config()))["world_options"] == {"randomize": {"mass": {"scale": [0.5, 2]}}}
    file.write_text("mas: {scale: [0.5, 2]}")
    with pytest.raises(ConfigurationError, match=r"walker.yaml: unknown term 'mas'. Did you mean 'mass'\?"):
        make_plan("sac", MECHANISM, world_options={"randomize": str(file)}).make_world()
    with pytest.raises(ConfigurationError, match=r"There is no file gone.yaml"):
        load_world(MECHANISM, 1, randomize="gone.yaml")


# ------------------------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("source", [np.random.default_rng(0), KeySource(KEY)], ids=["numpy", "jax"])
def test_distributions_are_what_they_are_called(source):
    uniform = Distribution("uniform", 2.0, 5.0).draw(source, 20_000)
    assert 2 <= uniform.min() < 2.01 and 4.99 < uniform.max() <= 5 and uniform.mean() == pytest.approx(3.5, abs=0.03)
    log = np.log(Distribution("log_uniform", 0.1, 10.0).draw(source, 20_000))
    assert abs(log).max() <= np.log(10) + 1e-6
    assert log.std() == pytest.approx(2 * np.log(10) / 12**0.5, rel=0.02) and log.mean() == pytest.approx(0, abs=0.04)
    normal = Distribution("normal", 1.0, 0.5)
    drawn = normal.draw(source, 20_000)
    assert (normal.low, normal.high) == (-1.0, 3.0) and normal.low <= drawn.min() and drawn.max() <= normal.high
    assert drawn.std() == pytest.approx(0.5, rel=0.02) and drawn.mean() == pytest.approx(1.0, abs=0.015)


REFUSED = [
    ({}, "nothing is randomised. Name a term; there are friction, mass,"),
    ({"evaluation": "nominal"}, "nothing is randomised."),
    ({"frictoin": {"scale": [1, 2]}}, "unknown term 'frictoin'. Did you mean 'friction'?"),
    ({"mass": [1, 2]}, "mass[0] = 1: must map names to values, for example scale: [0.8, 1.2]."),
    ({"mass": {"scale": [2, 1]}}, "mass.scale = [2, 1]: the range is empty: write [low, high] with low <= high"),
    ({"mass": {"scale": [1, 1]}}, "mass.scale = [1, 1]: changes nothing; leave it out"),
    ({"mass": {"scale": 2}}, "mass.scale = 2: must be a list of 2: a number, a number."),
    ({"mass": {"scale": [0, 2]}}, "mass.scale = [0, 2]: factors must stay above 0"),
    ({"mass": {"scale": {"normal": {"mean": 1, "std": 0.3}}}}, "reaches to four standard deviations: from -0.2 here"),
    ({"mass": {"scale": {"normal": {"mean": 1}}}}, "mass.scale.normal: 'std' is missing."),
    ({"mass": {"scale": {"gauss": [1, 2]}}}, "must be [low, high], or name one distribution: uniform: [low, high],"),
    ({"mass": {"scale": {"log_uniform": [0, 2]}}}, "mass.scale.log_uniform = [0, 2]: logarithms need a range above 0"),
    ({"mass": {"scale": [1, float("inf")]}}, "mass.scale = inf: must be finite"),
    ({"mass": {"scale": [1, 2], "add": [0, 1]}}, "mass: has scale and add. Write exactly one of scale, add, set."),
    ({"kp": {"actuators": "x"}}, "kp: lacks a range. Write scale: [low, high]."),
    (
        {"mass": {"joints": "x", "scale": [1, 2]}},
        "mass: unknown entry 'joints'. Its entries are scale, add, set, bodies, shared.",
    ),
    ({"friction": {"set": [-1, 2]}}, "friction.set = [-1, 2]: must not be negative"),
    ({"friction": {"set": [1, 2], "geoms": "a", "pairs": "b"}}, "friction: names geoms and pairs. Write an entry of"),
    ({"mass": {"bodies": [], "scale": [1, 2]}}, "mass.bodies = []: must name at least one; leave it out for all"),
    ({"mass": {"scale": [1, 2], "shared": "yes"}}, "mass.shared = 'yes': must be true or false."),
    ({"action_latency": {"steps": [0, 0.5]}}, "action_latency.steps = [0, 0.5]: must be a list of 2: a whole number"),
    ({"action_latency": {"steps": [0, 0]}}, "action_latency.steps = [0, 0]: changes nothing"),
    ({"action_latency": {"steps": [3, 1]}}, "must be [least, most] control steps"),
    ({"action_latency": {}}, "action_latency: 'steps' is missing."),
    ({"pushes": {"velocity": [0, 1]}}, "pushes: 'interval' is missing."),
    ({"pushes": {"interval": [0, 1], "velocity": [0, 1]}}, "pushes.interval = [0, 1]: seconds must stay above 0"),
    ({"pushes": {"interval": [1, 2]}}, "pushes: lacks a range. Write exactly one of velocity, force."),
    ({"pushes": {"interval": [1, 2], "force": [0, 1]}}, "'duration' is missing. A force acts for a time, in seconds."),
    ({"pushes": {"interval": [1, 2], "force": [0, 1], "duration": 3}}, "not above the shortest interval, 1 s"),
    ({"pushes": {"interval": [1, 2], "velocity": [0, 1], "duration": 1}}, "does nothing with velocity, which changes"),
    ({"pushes": {"interval": [1, 2], "velocity": [-1, 1]}}, "a magnitude must not be negative; directions are drawn"),
    ({"pushes": {"interval": [1, 2], "velocity": [0, 1], "axes": "xy"}}, "pushes.axes = 'xy': must be a list"),
    ({"pushes": {"interval": [1, 2], "velocity": [0, 1], "axes": ["w"]}}, "must name some of x, y and z, each once"),
    ({"observation_noise": {"add": [0, 0]}}, "observation_noise.add = [0, 0]: changes nothing"),
    ({"observation_noise": {"add": [0, 1], "names": "a", "indices": [0]}}, "has names and indices. Write an entry of"),
    (
        {"observation_noise": {"add": [0, 1], "indices": [-1]}},
        "must be places in the observed vector, from 0, each once",
    ),
    (
        {"observation_noise": {"add": [0, 1], "per": "run"}},
        "observation_noise.per = 'run': must be one of 'episode', 'step'",
    ),
    (
        {"evaluation": "never", "mass": {"scale": [1, 2]}},
        "evaluation = 'never': must be one of 'randomized', 'nominal'",
    ),
]


@pytest.mark.parametrize(("terms", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_meant_is_refused(terms, sentence):
    with pytest.raises(ConfigurationError) as error:
        read_randomization(terms)
    assert str(error.value).startswith("randomize: ") and sentence in str(error.value)


def test_hyphens_and_lists_are_read():
    read = read_randomization({"observation-noise": [{"add": [0, 1], "indices": [1]}, {"add": [0, 2], "names": "x"}]})
    assert [noise.stream for noise in read.noise] == ["observation_noise[0]", "observation_noise[1]"]
    with pytest.raises(ConfigurationError, match="is there twice, with hyphens and with underscores"):
        read_randomization({"joint-offset": {"add": [0, 1]}, "joint_offset": {"add": [0, 1]}})
