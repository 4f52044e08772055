"""The verbs of `import penstock`: the same runs as the command's, agents that act, scripts that watch."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "faults"))
from tiny_runs import SharedProgram

import penstock
from penstock import ConfigurationError, PenstockError
from penstock.observation import Observation

SMALL = {"window": 4, "actor_hidden": (8,), "critic_hidden": (8,), "critic_passes": 1, "critic_minibatches": 1}
RUN = {"steps": 64, "num_envs": 4, "log_every": 1, "evaluate_every": 32, "evaluation_episodes": 2, "progress": False}


class Reach(gymnasium.Env):
    """Observes where it is; actions between 10 and 30 move it."""

    max_episode_steps = 5

    def __init__(self):
        self.observation_space = gymnasium.spaces.Dict(
            {"at": gymnasium.spaces.Box(-9.0, 9.0, (2, 2)), "age": gymnasium.spaces.Box(0.0, 9.0, (1,))}
        )
        self.action_space = gymnasium.spaces.Box(10.0, 30.0, (2,), np.float32)

    def seen(self):
        return {"at": np.full((2, 2), self.x, np.float32), "age": np.array([self.age], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.age = float(self.np_random.uniform()), 0
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action))
        self.x, self.age = self.x + 0.01 * float(action[0] - 20.0), self.age + 1
        return self.seen(), -abs(self.x), False, self.age >= self.max_episode_steps, {}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    options = {"episode_length": 10}
    folder = tmp_path_factory.mktemp("runs") / "run"
    return penstock.train(
        *("shac2", "classic/double-integrator"),
        run_dir=folder,
        seeds=2,
        world_options=options,
        chunk_length=2,
        **RUN,
        **SMALL,
    )


@pytest.fixture(scope="module")
def remembering(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "remembering"
    small = {"window": 8, "epochs": 1, "minibatches": 2, "actor_hidden": (8,), "critic_hidden": (8,)}
    memory = {"history": 2, "recurrent": "gru", "recurrent_size": 6}
    return penstock.train("ppo", f"{__file__}:Reach", run_dir=folder, **{**RUN, **small, **memory})


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "hosted"
    small = {"batch_size": 8, "warmup_steps": 8, "collect_steps": 4, "actor_hidden": (8,), "critic_hidden": (8,)}
    return penstock.train("sac", f"{__file__}:Reach", run_dir=folder, **{**RUN, "num_envs": 2, **small})


def test_importing_is_light():
    code = "import sys, time; t = time.process_time(); import penstock; dir(penstock); print(time.process_time() - t);"
    code += "print([name for name in ('jax', 'numpy', 'equinox') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert float(told[0]) < 0.2 and told[1] == "[]"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = penstock.trian


def test_a_run_from_python_is_the_command_s(run):
    config = json.loads((run.path / "config.json").read_text())
    assert config["settings"]["window"] == 4 and config["seeds"] == 2 and config["world_options"]
    assert run.finished and [row["seed"] for row in run.metrics()[-2:]] == [0, 1]
    assert (run.path / "checkpoints").is_dir() and run.result is not None and run.result.worked
    again = penstock.resume(run.path, progress=False)
    assert again.finished and again.result is not None and not again.result.worked
    with pytest.raises(ConfigurationError, match=r"windo'.*Did you mean 'window'"):
        penstock.train("shac2", "classic/pendulum", windo=4)


def test_agents_act_on_what_comes(run):
    agent = penstock.load(run.path).agent(seed=1)
    world = penstock.make_world("classic/double-integrator", 3, episode_length=10)
    state = world.reset(jax.random.key(0))
    batch = np.asarray(state.observation.vector)

    def first(observation, **how):
        agent.reset()
        return agent.act(observation, **how)

    actions = first(batch)
    assert isinstance(actions, np.ndarray) and actions.shape == (3, 1) and np.abs(actions).max() <= 1.0
    one = first(batch[1])
    assert one.shape == (1,)
    np.testing.assert_allclose(one, actions[1], rtol=1e-5)
    in_jax = first(jnp.asarray(batch))
    assert isinstance(in_jax, jax.Array)
    np.testing.assert_allclose(in_jax, actions, rtol=1e-5)
    np.testing.assert_allclose(first(Observation(batch)), actions, rtol=1e-5)
    np.testing.assert_allclose(agent.agent.mode(state.observation).action[:, :1], actions, rtol=1e-5)
    noisy = [first(batch, deterministic=False) for _ in range(2)]
    assert not np.allclose(noisy[0], noisy[1]) and not np.allclose(noisy[0], actions)
    other = penstock.load(run.path).agent(seed=0).act(batch)
    assert not np.allclose(other, actions)
    with pytest.raises(ConfigurationError, match=r"have 2 entries, and this one has the shape \(3, 5\)"):
        agent.act(np.zeros((3, 5)))
    with pytest.raises(ConfigurationError, match="holds NaN or infinity"):
        agent.act(np.array([0.1, np.nan]))
    with pytest.raises(ConfigurationError, match=r"seed = 7: this run has the seeds \[0, 1\]"):
        penstock.load(run.path).agent(seed=7)


def test_agents_act_in_the_environment_s_own_box(hosted):
    agent, env = hosted.agent(), Reach()
    observation, _ = env.reset(seed=1)
    for _ in range(5):
        action = agent.act(observation)
        assert action.shape == (2,) and action.dtype == np.float32
        observation, *_ = env.step(action)  # which asserts that it lies in its box
    batch = {name: np.stack([part, part]) for name, part in observation.items()}
    actions = agent.act(batch)
    assert actions.shape == (2, 2)
    np.testing.assert_allclose(actions[0], agent.act(observation), rtol=1e-5)
    with pytest.raises(ConfigurationError, match=r"age \(1,\) and at \(2, 2\)"):
        agent.act({"at": np.zeros((2, 2))})


def test_a_plan_of_actions_is_followed(run):
    agent, observation = run.agent(), np.array([0.3, -0.2], np.float32)
    plan = np.asarray(agent.agent.mode(Observation(observation[None])).action[0])
    other = np.array([-1.0, 1.0], np.float32)
    np.testing.assert_allclose([agent.act(observation)[0], agent.act(other)[0]], plan, rtol=1e-5)
    agent.act(observation)
    agent.reset()
    np.testing.assert_allclose(agent.act(observation)[0], plan[0], rtol=1e-5)
    both = [observation, observation]
    agent.act(both)
    agent.reset([True, False])
    agent.reset([False, True])
    np.testing.assert_allclose(np.ravel(agent.act(both)), [plan[0], plan[0]], rtol=1e-5)


def test_agents_remember_and_forget(remembering):
    """What an agent does with single observations is what the run's own world shows it with histories."""
    agent, world = remembering.agent(), remembering.plan.make_world().with_num_envs(2)
    state, memory = world.reset(jax.random.key(0)), agent.agent.initial_memory(2)
    for step in range(8):  # over the end of both episodes
        seen = jax.tree.map(jnp.asarray, state.observation)
        assert seen.vector.shape == (2, 10)
        memory, action, _ = agent.agent.act(memory, jnp.asarray(step), seen, None)
        given = Observation(np.asarray(state.observation.vector)[:, -5:])
        mine = agent.act(given)
        np.testing.assert_allclose(mine, world.declared.actions.from_unit(np.asarray(action)), rtol=1e-5)
        state, transition = world.step(state, np.asarray(action))
        memory = memory.after(jnp.asarray(transition.done))
        if transition.done.any():
            agent.reset(transition.done)
    first = agent.act(given)
    agent.reset([True, False])
    assert not np.allclose(agent.act(given), first), "what was seen before matters"
    agent.reset()
    alone = np.asarray(agent.act(given))
    agent.act(given)
    agent.reset([True, False])
    again = np.asarray(agent.act(given))
    np.testing.assert_allclose(again[0], alone[0], rtol=1e-5)
    assert not np.allclose(again[1], alone[1])
    agent.reset([True, False])
    agent.reset([False, True])  # one after the other, before the next action
    np.testing.assert_allclose(agent.act(given), alone, rtol=1e-5)
    with pytest.raises(ConfigurationError, match="is not one flag for each of the 2 environments"):
        agent.reset([True, False, True])
    world.close()


def test_evaluation_remembers(remembering):
    """On a world of the host, step by step: the return that is logged is that of an agent with its memory."""
    world, agent = remembering.plan.make_world().with_num_envs(2), remembering.agent().agent
    key_world, _ = jax.random.split(jax.random.split(jax.random.key(12345))[1])
    state, memory, total = world.reset(jax.random.fold_in(key_world, 0)), agent.initial_memory(2), np.zeros(2)
    for step in range(5):
        seen = jax.tree.map(jnp.asarray, state.observation)
        memory, action, _ = agent.act(memory, jnp.asarray(step), seen, None)
        state, transition = world.step(state, np.asarray(action))
        total += transition.reward
    assert transition.done.all()
    world.close()
    found = remembering.evaluate(episodes=2)[0]["eval/return_deterministic"]
    np.testing.assert_allclose(found, total.mean(), rtol=1e-6)


def test_an_exported_file_remembers_in_the_environment_itself(remembering):
    from penstock.export.files import open_policy
    from penstock.export.playing import play

    agent, env, rewards = remembering.agent(), Reach(), []
    observation, _ = env.reset(seed=3)
    for _ in range(5):
        observation, reward, *_ = env.step(agent.act(observation))
        rewards.append(reward)
    file = open_policy(remembering.export("numpy"))
    about = file.metadata["observation"]
    assert about["size"] == 10 and about["names"][0] == "age@-1" and about["names"][5] == "age"
    assert about["history"] == {"length": 2, "sensed": 5, "order": "oldest first", "begins_with": "copies of the first"}
    memory = file.metadata["policy"]["memory"]
    assert memory == {
        "cell": "gru",
        "size": 6,
        "input": "memory",
        "output": "next_memory",
        "begins_with": "zeros",
    }
    world = penstock.make_world(f"{__file__}:Reach")
    np.testing.assert_allclose([step.reward for step in play(file, world, 3)], rewards, rtol=1e-5)


def test_evaluation_tells_of_every_seed(run):
    found = penstock.load(run.path).evaluate(episodes=4)
    assert len(found) == 2 and all(np.isfinite(seed["eval/return_deterministic"]) for seed in found)
    assert found == run.evaluate(episodes=4), "the same episodes, whoever asks"


def test_a_script_watches_and_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.training.running.FunctionalDriver", SharedProgram)
    seen = []

    def enough(rows):
        seen.append(rows)
        return rows[0]["env_steps"] >= 32

    class Collected:
        def __init__(self):
            self.got = []

        def begin(self, run_dir, config):
            self.got.append((run_dir, config["algorithm"]))

        def write(self, row):
            self.got.append(row["env_steps"])

        def close(self):
            self.got.append("closed")

    first, second = Collected(), Collected()
    world = {"world_options": {"episode_length": 10}}
    small = {"window": 4, "actor_hidden": (8,)}
    options = {"run_dir": tmp_path / "run", "on_metrics": enough, "loggers": [first], **world, **RUN, **small}
    stopped = penstock.train("apg", "classic/double-integrator", **options)
    assert [rows[0]["env_steps"] for rows in seen] == [16, 32] and not stopped.finished
    assert stopped.result is not None and stopped.result.exit_code == 75
    more = {"on_metrics": lambda rows: seen.append(rows), "loggers": [second]}
    resumed = penstock.resume(tmp_path / "run", progress=False, **more)
    assert resumed.finished and [rows[0]["env_steps"] for rows in seen] == [16, 32, 48, 64]
    begun = (tmp_path / "run", "apg")
    assert first.got == [begun, 0, 16, 32, "closed"] and second.got == [begun, 48, 64, "closed"]


def test_a_file_gives_what_a_script_leaves_open(run, tmp_path):
    again = penstock.train(config=run.path / "config.json", run_dir=run.path, progress=False)
    assert again.finished and again.plan == run.plan and again.result is not None and not again.result.worked
    (tmp_path / "x.yaml").write_text(f"algorithm: shac2\nrun_dir: {run.path}\nsteps: no\n")
    with pytest.raises(ConfigurationError, match=r"x\.yaml: steps = 'no': must be a whole number"):
        penstock.train(config=tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text(f"algorithm: shac2\nrun_dir: {run.path}\nchunk_length: 2\nseeds: 2\n")
    small = {"world_options": {"episode_length": 10}, **RUN, **SMALL}
    same = penstock.train(world="classic/double-integrator", config=tmp_path / "x.yaml", **small)
    assert same.path == run.path and same.plan == run.plan
    with pytest.raises(ConfigurationError, match="world is missing"):
        penstock.train(config=tmp_path / "x.yaml")


def test_no_run_is_no_run(tmp_path):
    with pytest.raises(PenstockError, match="holds no run"):
        penstock.load(tmp_path)
