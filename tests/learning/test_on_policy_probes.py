"""PPO and NFPO find the known right answer of tiny worlds, within seconds (reliability: F41)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven

from penstock.algorithms.registry import algorithm_entry, family
from penstock.training.evaluation import run_episodes
from penstock.worlds import Observation
from tests.learning import probe_worlds as probes

DISCOUNT = 0.9
ON_POLICY = [pytest.param(name, marks=[] if name == "ppo" else pytest.mark.slow) for name in family("on-policy")]


def learn(algorithm, task, updates, history=1, **settings):
    """Trains on a probe and returns the learner and its last state."""
    entry = algorithm_entry(algorithm)
    defaults = {
        "window": 8,
        "epochs": 4,
        "minibatches": 4,
        "actor_hidden": (16, 16),
        "critic_hidden": (16, 16),
        "actor_learning_rate": 3e-3,
        "critic_learning_rate": 1e-2,
        "discount": DISCOUNT,
        "normalize_observations": False,
    }
    world = probes.probe(task, 32).with_history(history)
    learner = Driven(entry.learner(entry.config.preset(defaults, **settings), world, updates))

    @jax.jit
    def run(key):
        return jax.lax.fori_loop(0, updates, lambda _, state: learner.step(state)[0], learner.init(key))

    return learner, run(jax.random.key(0))


def values(state, observations):
    observation = Observation(jnp.asarray(observations, jnp.float32)[:, None])
    return np.asarray(eqx.filter_jit(state.learned.critic.values)(observation, state.learned.normalizer))[0]


def actions_at(learner, state, observations):
    observation = Observation(jnp.asarray(observations, jnp.float32)[:, None])
    return eqx.filter_jit(learner.agent(state).mode)(observation).action[:, 0]


def test_time_limits_bootstrap_and_terminations_do_not():
    """V = 1 / (1 - g) where a time limit cuts; V(0) = g, V(1) = 1 where the task ends."""
    limited = probes.ConstantRewardTruncated()
    _, state = learn("ppo", limited, 200)
    np.testing.assert_allclose(values(state, [0.0]), limited.right_value(DISCOUNT), rtol=0.05)
    _, state = learn("ppo", probes.TwoStepDiscount(), 100)
    np.testing.assert_allclose(values(state, [0.0, 1.0]), [DISCOUNT, 1.0], atol=0.05)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_actions_answer_the_observation(algorithm):
    """a = o / 2."""
    task = probes.ObservationActionReward()
    learner, state = learn(algorithm, task, 150 if algorithm == "ppo" else 500)
    observations = np.linspace(-0.9, 0.9, 7, dtype=np.float32)
    right = task.right_action(observations)
    np.testing.assert_allclose(actions_at(learner, state, observations), right, atol=0.12)


def test_what_was_seen_is_remembered():
    """Of a cue that is shown at the first of three steps alone: by a recurrent cell or a history, and not without."""
    found = {}
    memories = {"none": {}, "gru": {"recurrent": "gru", "recurrent_size": 8}, "history": {"history": 3}}
    for name, memory in memories.items():
        learner, state = learn("ppo", probes.Cue(), 80, window=9, minibatches=2, **memory)
        world = learner.world.with_num_envs(64)
        evaluation = eqx.filter_jit(run_episodes)(learner.agent(state), world, jax.random.key(1), deterministic=True)[0]
        found[name] = float(evaluation.episode_return.mean())
    assert found["none"] == pytest.approx(-0.25, abs=0.05)
    assert found["gru"] > -0.03 and found["history"] > -0.03


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_credit_through_the_state(algorithm):
    """a = -x brings the state to rest in one step.

    The actions' standard deviation falls to 0.01 on the way. Steps of a constant rate are then far too long for a
    coupling flow: at rates of 1e-3 and 3e-3 alike some seeds stop 0.3 from the answer, and with a rate that follows the
    KL divergence none does.
    """
    learner, state = learn(algorithm, probes.Regulator(), 300, kl_target=0.01)
    positions = np.linspace(-0.6, 0.6, 7, dtype=np.float32)
    np.testing.assert_allclose(actions_at(learner, state, positions), -positions, atol=0.05)
