"""Files of policies that remember, and of policies that see a history: they do what the agent does, step after step."""

import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.export import reader
from penstock.export.files import FORMATS, Player, open_policy, write
from penstock.export.metadata import HISTORY_LAYOUT, names_in_history
from penstock.export.parity import SEQUENCE, compare
from penstock.observation import Observation, ObservationSpec
from penstock.policies.settings import POLICIES
from penstock.worlds.history import begun, shifted
from tests.export.exported_agents import ACTIONS, SIZE, decision

METADATA = {"world": {"name": "mine"}, "action": {"size": ACTIONS}}
STACKED = {"observation": {"history": {"length": 2, "sensed": SIZE, **HISTORY_LAYOUT}}}
SEEN = (3.0 + 2.0 * np.random.default_rng(1).standard_normal((6, SIZE))).astype(np.float32)


def acted(made, vectors, noises=None):
    """What the agent does in an episode."""
    agent, memory = made.agent, made.agent.initial_memory(1)
    actions = []
    for step, vector in enumerate(vectors):
        observation = Observation(jnp.asarray(vector)[None])
        if noises is None:
            memory, action, _ = agent.act(memory, jnp.asarray(step), observation, None)
        else:
            hidden, features = agent.recall(memory.hidden, observation)
            memory, action = memory._replace(hidden=hidden), agent.actor.policy.draw(features[0], noises[step]).action
        actions.append(np.ravel(action))
    return np.stack(actions)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("target", FORMATS)
def test_a_file_remembers_what_the_agent_remembers(target, kind, tmp_path):
    made = decision(POLICIES["gaussian"], recurrent=kind)
    path = tmp_path / f"policy{FORMATS[target].suffix}"
    write(made, METADATA, path, target)
    file = open_policy(path)
    assert file.inputs["memory"] == ((6 if kind == "gru" else 12,), "float32")
    player, expected = Player(file, np.random.default_rng(0)), acted(made, SEEN)
    for _ in range(2):
        found = [player.act({"observation": vector}) for vector in SEEN]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        player.reset()
    assert np.abs(player.act({"observation": SEEN[1]}) - expected[1]).max() > 1e-3, "what was seen before matters"


def test_a_file_that_is_fed_noise_remembers_too(tmp_path):
    made = decision(POLICIES["noisy-flow"], recurrent="lstm", mode="noise-fed")
    write(made, METADATA, tmp_path / "policy.onnx", "onnx")
    random = np.random.default_rng(0)
    noises = jnp.asarray(random.standard_normal((6, *made.inputs["noise"].shape)), jnp.float32)
    player = Player(open_policy(tmp_path / "policy.onnx"), np.random.default_rng(0))
    found = [player.act({"observation": vector}) for vector in SEEN]
    np.testing.assert_allclose(found, acted(made, SEEN, noises), atol=1e-5)


def test_the_check_runs_sequences(tmp_path):
    """A file that forgets does not pass, nor one that remembers beyond the end of a sequence."""
    made = decision(POLICIES["gaussian"], recurrent="gru")
    write(made, METADATA, tmp_path / "policy.npz", "numpy")
    file = open_policy(tmp_path / "policy.npz")
    assert compare(made, file, count=SEQUENCE + 10).passed
    right = file.outputs
    file.outputs = lambda inputs: (right(inputs)[0], file.no_memory())
    assert not compare(made, file, count=10).passed
    kept = []

    def lasting(inputs):
        action, memory = right({**inputs, "memory": kept[-1]} if kept else inputs)
        kept.append(memory)
        return action, memory

    file.outputs = lasting
    assert not compare(made, file, count=SEQUENCE + 10).passed


@pytest.mark.parametrize("recurrent", [None, "lstm"])
def test_a_history_is_kept_by_whoever_runs_the_file(recurrent, tmp_path):
    """The module with NumPy alone, and the player of every file: each is given what is observed now."""
    made = decision(POLICIES["coupling"], recurrent=recurrent, spec=ObservationSpec(2 * SIZE, history=2))
    stacked = [begun(SEEN[0], 2)]
    for vector in SEEN[1:]:
        stacked.append(shifted(stacked[-1], vector))
    expected = acted(made, stacked)
    write(made, {**METADATA, **STACKED}, tmp_path / "policy.npz", "numpy")
    policy = reader.Policy(tmp_path / "policy.npz")
    player, sensors = Player(open_policy(tmp_path / "policy.npz"), np.random.default_rng(0)), np.zeros(SIZE)
    for _ in range(2):
        found = []
        for sensors[:] in SEEN:  # a robot's driver writes where it wrote before
            found.append(policy(sensors))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose([player.act({"observation": vector}) for vector in SEEN], expected, atol=1e-5)
        policy.reset()
        player.reset()
    for vector, expectation in zip(SEEN, expected, strict=True):  # what a sensor failed to tell is not remembered
        with pytest.raises(ValueError, match="observation: it holds NaN"):
            policy(np.nan * vector)
        np.testing.assert_allclose(policy(vector), expectation, atol=1e-5)
    with pytest.raises(ValueError, match=f"must have \\[{2 * SIZE}\\]"):
        policy.decide(SEEN[0])  # which takes all of it


def test_names_tell_how_long_ago():
    assert names_in_history(["hip", "knee"], 3) == ["hip@-2", "knee@-2", "hip@-1", "knee@-1", "hip", "knee"]
    assert names_in_history(["hip"], 1) == ["hip"]


def test_plans_and_a_recurrence_do_not_go_together():
    with pytest.raises(ConfigurationError, match="chunk_length = 2: must be 1 with a recurrence"):
        decision(POLICIES["gaussian"], chunk=2, recurrent="gru")
