"""Every learner finds the known right answer of tiny worlds, within seconds (reliability: F41).

Value probes look at the critic, action probes at the deterministic policy, and the bimodal probe at the expected
return of what the policy samples: there a Gaussian must fail and a flow must succeed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven

from penstock.algorithms.registry import algorithm_entry
from penstock.worlds import Observation
from tests.learning import probe_worlds as probes

DISCOUNT = 0.9
WITH_CRITIC = ["shac", "shac2", "sapo", "rfo"]
ALL = ["apg", *WITH_CRITIC]


def quickly(names, fast):
    """Those that differ little from others run in `make test-slow`."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names]


def learn(algorithm, task, updates, *, num_envs=16, seed=0, **settings):
    """Trains on a probe and returns the learner and its last state."""
    entry = algorithm_entry(algorithm)
    extra = {"learn_temperature": False, "initial_temperature": 0.0} if algorithm == "sapo" else {}
    if algorithm == "rfo":
        extra = {"past_coefficient": 0.02, "uniform_coefficient": 0.01}
    defaults = {
        "window": min(4, task.episode_length),
        "actor_hidden": (16, 16),
        "critic_hidden": (16, 16),
        "actor_learning_rate": 1e-2,
        "critic_learning_rate": 2e-2,
        "critic_passes": 4,
        "critic_minibatches": 1,
        "weight_decay": 0.0,
        "discount": DISCOUNT,
        "normalize_observations": False,
    }
    config = entry.config.preset(defaults, **{**extra, **settings})
    learner = Driven(entry.learner(config, probes.probe(task, num_envs), updates))

    @jax.jit
    def run(key):
        return jax.lax.fori_loop(0, updates, lambda _, state: learner.step(state)[0], learner.init(key))

    return learner, run(jax.random.key(seed))


def values(state, observations):
    """Mean over the ensemble, of a column of observations."""
    observation = Observation(jnp.asarray(observations, jnp.float32)[:, None])
    return np.asarray(eqx.filter_jit(state.learned.critic.values)(observation, state.learned.normalizer)).mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", WITH_CRITIC)
def test_time_limits_bootstrap(algorithm):
    """V = 1 / (1 - g): a learner that takes the time limit for an end reports at most 5.7 of 10."""
    task = probes.ConstantRewardTruncated()
    _, state = learn(algorithm, task, 400)
    np.testing.assert_allclose(values(state, [0.0]), task.right_value(DISCOUNT), rtol=0.05)


@pytest.mark.parametrize("algorithm", quickly(WITH_CRITIC, ["shac2"]))
def test_terminations_do_not_bootstrap_and_rewards_are_discounted(algorithm):
    """V(0) = g, V(1) = 1: a learner that bootstraps over the end reports up to 10."""
    task = probes.TwoStepDiscount()
    _, state = learn(algorithm, task, 300)
    np.testing.assert_allclose(values(state, [0.0, 1.0]), [DISCOUNT, 1.0], atol=0.05)


@pytest.mark.parametrize("algorithm", quickly(["shac2", "rfo"], []))
def test_values_depend_on_the_observation(algorithm):
    """V(o) = o, although o is drawn anew at every reset."""
    _, state = learn(algorithm, probes.ObservationReward(), 200)
    np.testing.assert_allclose(values(state, [-1.0, 1.0]), [-1.0, 1.0], atol=0.05)


@pytest.mark.parametrize("algorithm", quickly(ALL, []))
def test_actions_answer_the_observation(algorithm):
    """a = o / 2."""
    task = probes.ObservationActionReward()
    learner, state = learn(algorithm, task, 400)
    observations = np.linspace(-0.9, 0.9, 7, dtype=np.float32)
    actions = eqx.filter_jit(learner.agent(state).mode)(Observation(jnp.asarray(observations[:, None]))).action[:, 0]
    np.testing.assert_allclose(actions, task.right_action(observations), atol=0.12)


@pytest.mark.parametrize("algorithm", quickly(ALL, ["apg"]))
def test_credit_through_the_state(algorithm):
    """a = -x brings the state to rest in one step; the reward reaches the action through the next state only."""
    learner, state = learn(algorithm, probes.Regulator(), 400)
    positions = np.linspace(-0.6, 0.6, 7, dtype=np.float32)
    actions = eqx.filter_jit(learner.agent(state).mode)(Observation(jnp.asarray(positions[:, None]))).action[:, 0]
    np.testing.assert_allclose(actions, -positions, atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["shac2", "rfo"])
def test_gradient_reaches_the_policy_through_points(algorithm):
    """The right action is the mean of the points; the vector part says nothing."""
    learner, state = learn(algorithm, probes.PointCloud(), 150, num_envs=8, actor_learning_rate=3e-3)
    centers = jnp.asarray([-0.6, 0.0, 0.6])
    points = jnp.zeros((3, 6, 3)).at[..., 0].set(centers[:, None])
    actions = eqx.filter_jit(learner.agent(state).mode)(Observation(jnp.zeros((3, 1)), points)).action[:, 0]
    np.testing.assert_allclose(actions, centers, atol=0.2)


def expected_return(learner, state, samples=4096):
    """Expected return of independent draws from the policy at the bimodal probe."""
    observation = Observation(jnp.zeros((samples, 1)))
    actions = learner.agent(state).sample(observation, jax.random.key(99)).action[:, 0]
    task = probes.TwoDoors()
    return float(task.expected_return(actions, jnp.full((samples,), 1.0 / samples)))


BIMODAL = {
    "num_envs": 128,
    "actor_hidden": (64, 64),
    "actor_learning_rate": 3e-3,
    "discount": 1.0,
    "gradient_clip": 1.0,
}


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("seed", [0, 1])
def test_a_flow_opens_both_doors(seed):
    """0.94 is the best; every Gaussian stays below 0.56."""
    learner, state = learn(
        "rfo", probes.TwoDoors(), 1500, seed=seed, past_coefficient=0.0, uniform_coefficient=0.02, **BIMODAL
    )
    assert expected_return(learner, state) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["apg", "shac", "shac2", "sapo"])
def test_a_gaussian_cannot_open_both_doors(algorithm):
    """The bound holds for every Gaussian; the learners come near it, so they do learn."""
    learner, state = learn(algorithm, probes.TwoDoors(), 600, **BIMODAL)
    reached = expected_return(learner, state)
    assert 0.3 < reached < probes.TwoDoors.GAUSSIAN_BOUND
