"""Off-policy learners: one step by hand where it can be, what may not move, and resume."""

import dataclasses
import functools
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven
from tiny_worlds import differ, same, world

from benchmarks.released_flowrl import CodeWeighting, ConstantWeight, FlowRL
from penstock._errors import ConfigurationError
from penstock.algorithms import flowrl
from penstock.algorithms.off_policy import polyak
from penstock.algorithms.registry import ALGORITHMS, family
from penstock.data import Batch
from penstock.policies import NoisyFlowSettings
from penstock.training.drivers.functional import iterate
from penstock.training.drivers.memory import require_memory
from penstock.training.post_mortem import find_cause
from penstock.worlds import Observation

OFF_POLICY = tuple(family("off-policy"))
QUICKLY = [pytest.param(n, marks=[] if n == "sac" else pytest.mark.slow) for n in OFF_POLICY]
"""The others take long to compile: `make test-slow` has them."""
TINY = {"batch_size": 8, "warmup_steps": 8, "collect_steps": 4, "actor_hidden": (8,), "replay_capacity": 64}
SMALL_CRITIC = {"flowrl": {"critic_hidden": (8, 8, 8)}}


@functools.cache
def initial(algorithm):
    """What a learner begins with; compiled, as un-compiled operations take seconds."""
    return jax.jit(algorithm.init_learned)(jax.random.key(1))


def learner(name, planned=10, **settings):
    config = {**TINY, "critic_hidden": (8,), **SMALL_CRITIC.get(name, {}), **settings}
    return Driven(ALGORITHMS[name].learner(ALGORITHMS[name].config.of(**config), world(), planned))


def batch(size=8, bootstrap=0.9, seed=0):
    generator = np.random.default_rng(seed)
    spec = world().observation_spec.vector

    def normal(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    return Batch(
        Observation(normal(size, spec)),
        jnp.asarray(np.tanh(generator.normal(size=(size, world().action_size))), jnp.float32),
        normal(size),
        jnp.asarray(np.full(size, bootstrap), jnp.float32),
        Observation(normal(size, spec)),
    )


@pytest.fixture(scope="module", params=QUICKLY)
def trained(request):
    """A learner, its first state, the states after each of three iterations, and the metrics."""
    algorithm = learner(request.param)
    step = jax.jit(algorithm.step)
    states, rows = [algorithm.init(jax.random.key(0))], []
    for _ in range(5):
        state, metrics = step(states[-1])
        states.append(state)
        rows.append({name: float(value) for name, value in metrics.items()})
    return algorithm, states, rows, step


def test_iterations_count_collect_and_learn(trained):
    algorithm, states, rows, step = trained
    num_envs = algorithm.world.num_envs
    for index, state in enumerate(states):
        assert int(state.clock.update) == index and int(state.clock.env_steps) == 4 * num_envs * index
        assert int(state.memory.filled) == min(4 * index, 64 // num_envs)
    assert rows[0]["train/gradient_steps"] == 3.0  # 4 environments: ready after the second control step
    assert rows[1]["train/gradient_steps"] == 4.0
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert differ(states[1].learned, states[-1].learned)
    assert rows[-1]["critic/skipped"] == rows[-1]["actor/skipped"] == rows[-1]["world/diverged"] == 0.0
    assert step._cache_size() == 1, "one trace"


def test_the_same_key_gives_the_same_run(trained):
    algorithm, states, _, step = trained
    state = algorithm.init(jax.random.key(0))
    for _ in range(2):
        state, _ = step(state)
    same(state, states[2])
    other, _ = step(algorithm.init(jax.random.key(1)))
    assert differ(other.learned, states[1].learned)


def test_stored_actions_are_inside_the_box_and_warm_up_is_uniform(trained):
    _, states, _, _ = trained
    actions = np.asarray(states[-1].memory.ring.action)
    assert np.abs(actions).max() <= 1.0
    algorithm = learner("sac", warmup_steps=100_000 - 1, planned=100_000)
    state = algorithm.init(jax.random.key(0))
    step = jax.jit(algorithm.step)
    for _ in range(4):
        state, metrics = step(state)
    assert float(metrics["train/gradient_steps"]) == 0.0
    same(state.learned, algorithm.init(jax.random.key(0)).learned)
    filled = np.asarray(state.memory.ring.action).ravel()
    assert filled.min() < -0.8 and filled.max() > 0.8 and abs(filled.mean()) < 0.2


@pytest.mark.parametrize("name", QUICKLY)
@pytest.mark.slow
def test_terminations_do_not_bootstrap(name):
    """F23: with bootstrap 0 the next observation changes nothing; with more it does. (BatchRenorm sees it anyway.)"""
    algorithm = learner(name, **({"critic": "target"} if name in ("crossq", "sac-flow") else {}))
    learned = initial(algorithm)
    step = jax.jit(lambda b: algorithm.gradient_step(learned, b, jax.random.key(2), jnp.asarray(1))[0])

    def after(bootstrap, seed):
        other = batch(seed=seed).next_observation
        return step(dataclasses.replace(batch(bootstrap=bootstrap), next_observation=other)).critic

    same(after(0.0, 3), after(0.0, 4))
    assert differ(after(0.9, 3), after(0.9, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", OFF_POLICY)
def test_actor_waits_and_critics_do_not_move_with_it(name):
    algorithm = learner(name, policy_delay=2)
    learned = initial(algorithm)
    step = jax.jit(algorithm.gradient_step)
    even, _ = step(learned, batch(), jax.random.key(2), jnp.asarray(0))
    odd, metrics = step(learned, batch(), jax.random.key(2), jnp.asarray(1))
    same(odd.actor, learned.actor)
    assert float(metrics["actor/steps"]) == 0.0
    assert differ(even.actor, learned.actor)
    if name in ("flowrl", "td3"):  # their targets wait, too
        same(odd.target, learned.target)
        assert differ(even.target, learned.target)
    same(even.critic, odd.critic)  # the actor's step leaves the critics alone
    same(even.critic_optimizer, odd.critic_optimizer)


def test_target_update_weighs_old_and_new():
    old, new = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 6.0])}
    np.testing.assert_allclose(polyak(old, new, 0.25)["w"], [1.5, 3.0])
    same(polyak(old, new, 1.0), new)
    same(polyak(old, new, 0.0), old)


@pytest.mark.parametrize(("gap", "alpha"), [(-1.0, 0.2030), (1.0, 0.1970)])
def test_temperature_moves_the_right_way(gap, alpha):
    """Fifty steps of Adam at 3e-4 from 0.2: up while the entropy is below the target, down above."""
    algorithm = learner("sac", initial_temperature=0.2, temperature_learning_rate=3e-4)
    learned = initial(algorithm)
    step = jax.jit(lambda learned: algorithm._temperature_step(learned, jnp.asarray(algorithm.entropy_target + gap))[0])
    for _ in range(50):
        learned = step(learned)
    np.testing.assert_allclose(jnp.exp(learned.log_alpha), alpha, atol=1e-4)


@pytest.mark.parametrize(("target", "sign"), [(-50.0, -1.0), (0.0, 1.0)])
@pytest.mark.slow
def test_a_gradient_step_moves_the_temperature_the_right_way(target, sign):
    """Down where the policy has more entropy than it should (2 (1.42 - 2) nats at the start), up where less.

    The second target lies between that entropy and its negative, which is the mean of log p.
    """
    algorithm = learner("sac", target_entropy=target, initial_log_std=-2.0)
    learned = initial(algorithm)
    after, metrics = jax.jit(algorithm.gradient_step)(learned, batch(), jax.random.key(2), jnp.asarray(0))
    assert -3.0 < float(metrics["policy/entropy"]) < -0.3
    assert sign * float(after.log_alpha - learned.log_alpha) > 0


@dataclasses.dataclass(frozen=True)
class ConstantNoise(NoisyFlowSettings):
    learn_noise: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class NoDrift(NoisyFlowSettings):
    drift: ClassVar[bool] = False


def with_policy(policy, **settings):
    """SAC Flow with a policy as somebody's file may have it."""
    config = ALGORITHMS["sac-flow"].config.of(**TINY, critic_hidden=(8,), **settings)
    return ALGORITHMS["sac-flow"].learner(dataclasses.replace(config, policy=policy), world(), 10)


def test_target_entropy_of_paths_follows_steps_and_noise():
    c = 0.5 * math.log(2 * math.pi * math.e)
    for steps in (1, 4, 10):
        algorithm = learner("sac-flow", flow_steps=steps, target_step_std=0.2)
        assert abs(algorithm.entropy_target - 2 * (c * (steps + 1) + steps * math.log(0.2))) < 1e-5
    assert abs(learner("sac-flow").entropy_target) < 2e-3
    with pytest.raises(ConfigurationError, match=r"learn_noise = False.*--no-learn-temperature"):
        with_policy(ConstantNoise())
    with_policy(ConstantNoise(), target_entropy=-20.0)
    with_policy(ConstantNoise(), learn_temperature=False)


def test_crossq_has_no_target_and_no_gradient_through_it():
    algorithm = learner("crossq")
    learned = initial(algorithm)
    assert learned.target is None

    def loss(reward):
        after, _ = algorithm.gradient_step(
            learned, dataclasses.replace(batch(), reward=reward), jax.random.key(1), jnp.asarray(1)
        )
        return after.critic.norms[0].mean.sum()

    assert float(jnp.abs(jax.jit(jax.grad(loss))(jnp.zeros(8))).max()) == 0.0


def test_crossq_actor_has_running_statistics_that_its_own_steps_move_alone():
    """Not the critics' steps, not what is acted on or bootstrapped from, and not a step that was refused."""
    algorithm = learner("crossq")
    learned, data = initial(algorithm), batch()
    step = jax.jit(lambda b, count: algorithm.gradient_step(learned, b, jax.random.key(2), count)[0])
    after = step(data, jnp.asarray(0))
    norms, x = after.actor.policy.network.norms, np.asarray(data.observation.vector)
    assert len(norms) == 2  # on the input, and after the one hidden layer
    np.testing.assert_allclose(norms[0].mean, 0.01 * x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(norms[0].variance, 0.99 + 0.01 * x.var(0), rtol=1e-5)
    assert [float(norm.calls) for norm in norms] == [1.0, 1.0]

    same(step(data, jnp.asarray(1)).actor, learned.actor)  # the critics' turn
    other = dataclasses.replace(data, next_observation=batch(seed=3).next_observation)
    np.testing.assert_array_equal(step(other, jnp.asarray(0)).actor.policy.network.norms[0].mean, norms[0].mean)
    broken = dataclasses.replace(data, observation=Observation(data.observation.vector.at[0, 0].set(jnp.inf)))
    same(step(broken, jnp.asarray(0)).actor, learned.actor)

    act, one = eqx.filter_jit(algorithm.agent(after).mode), jax.tree.map(lambda leaf: leaf[:1], data.observation)
    np.testing.assert_allclose(act(data.observation).action[:1], act(one).action, rtol=1e-5)


def test_without_batch_renorm_crossq_has_sacs_actor():
    plain = jax.eval_shape(learner("crossq", actor_batch_renorm=False).init_learned, jax.random.key(0)).actor
    assert eqx.tree_equal(plain, jax.eval_shape(learner("sac").init_learned, jax.random.key(0)).actor)


def test_batch_renorm_warms_up_for_as_long_as_published():
    crossq = ALGORITHMS["crossq"].config
    assert crossq.of(critic="target").actor_trunk().renorm_warmup == 100_000
    (norm, *_) = jax.eval_shape(learner("crossq").init_learned, jax.random.key(0)).critic.norms
    assert norm.warmup == 100_000
    assert crossq.of(actor_batch_renorm=False).actor_trunk().renorm_warmup is None
    with pytest.raises(ConfigurationError, match=r"policy = 'noisy-flow': has no form with BatchRenorm"):
        learner("crossq", policy="noisy-flow")


# ------------------------------------------------------------------------------------------------- FlowRL


def test_weights_of_the_paper_by_hand():
    config = flowrl.Config(constraint_coefficient=0.1)
    difference = jnp.array([1.0, -2.0, 0.0, 4.0])  # mean 0.75
    weight = flowrl.flow_matching_weight(config, difference)
    np.testing.assert_allclose(weight, [0.1 * math.exp(0.25), 0.0, 0.0, 1.0], rtol=1e-6)  # 0.1 e^3.25 = 2.58 is capped


def test_weight_of_the_released_code_by_hand():
    algorithm = CodeWeighting(flowrl.Config.of(**TINY, constraint_coefficient=0.1), world(), 10)
    positive = np.array([1.0, 0.0, 0.0, 4.0])
    expected = np.clip(0.1 * np.exp(positive - 1.25), 1e-3, 1.0).mean()
    weight = algorithm.weight(jnp.array([1.0, -2.0, 0.0, 4.0]))
    np.testing.assert_allclose(weight, np.full(4, expected), rtol=1e-6)


@pytest.mark.parametrize("kind", [flowrl.Learner, CodeWeighting])
def test_removed_constraint_and_huge_differences(kind):
    removed = kind(flowrl.Config.of(**TINY, constraint_coefficient=0.0), world(), 10)
    assert not np.any(removed.weight(jnp.array([1.0, -1.0])))
    wild = kind(flowrl.Config.of(**TINY), world(), 10).weight(jnp.array([1e6, -1e6, 0.0]))
    assert np.all(np.isfinite(wild)) and np.all(np.asarray(wild) <= 1.0)


def test_where_the_policy_is_better_flow_matching_teaches_nothing():
    """paper: samples with D <= 0 contribute no flow-matching gradient: the actor step ignores the stored action."""
    algorithm = learner("flowrl", policy_delay=1)
    learned = initial(algorithm)

    step = jax.jit(lambda data, stored: algorithm._actor_step(learned, data, stored, jax.random.key(1))[0].actor)

    def moved(stored, seed):
        return step(dataclasses.replace(batch(), action=batch(seed=seed).action), jnp.full((8,), stored))

    same(moved(-1e3, 5), moved(-1e3, 6))
    assert differ(moved(1e3, 5), moved(1e3, 6))


def test_released_policy_has_the_published_size_and_clips_its_noise():
    config = FlowRL.settings()
    assert config.policy.flow_steps == 1 and config.policy.stepper == "midpoint" and config.value_activation == "gelu"
    algorithm = FlowRL(config.changed(**TINY), world(), 10)
    learned = jax.eval_shape(algorithm.init, jax.random.key(0))
    policy = learned.actor.policy
    assert "gelu" in repr(learned.critic) and "mish" not in repr(learned.critic)
    assert policy.network_evaluations == 2
    noise = policy.base_noise(jax.random.normal(jax.random.key(0), (10_000,)))
    assert float(jnp.abs(noise).max()) == 1.0 and 0.29 < float((jnp.abs(noise) == 1.0).mean()) < 0.35


def test_recent_share_is_52_of_256():
    algorithm = learner("flowrl", batch_size=256, replay_capacity=4096, planned=300)
    replay = jax.jit(lambda key: algorithm.init(key).memory)(jax.random.key(0))
    slots = replay.slots  # full; the reward counts control steps
    reward = jnp.asarray(np.broadcast_to(np.arange(slots, dtype=np.float32)[:, None], replay.ring.reward.shape))
    replay = dataclasses.replace(
        replay, ring=dataclasses.replace(replay.ring, reward=reward), filled=jnp.asarray(slots, jnp.int32)
    )
    sample = jax.jit(lambda replay, key: replay.sample(key, 256, 0.99, **algorithm.sampling()).reward)
    age = np.asarray(sample(replay, jax.random.key(0)))
    assert age.size == 256 and (age[:52] >= slots - 2048 // 4).all() and age[52:].min() < slots / 8


# ------------------------------------------------------------------------------------------------- refusals


def test_refusals():
    with pytest.raises(ConfigurationError, match=r"warmup_steps = 5000: the whole run has 160 environment steps"):
        learner("sac", warmup_steps=5000)
    with pytest.raises(ConfigurationError, match=r"batch_size = 128: must not exceed replay_capacity = 64"):
        learner("sac", batch_size=128)
    with pytest.raises(ConfigurationError, match=r"cannot be learned from 0"):
        learner("sac", initial_temperature=0.0)
    with pytest.raises(ConfigurationError, match=r"initial_temperature = 1e-40: cannot be learned from 0"):
        learner("sac", initial_temperature=1e-40)
    with pytest.raises(ConfigurationError, match=r"target_entropy = -inf: must be finite"):
        learner("sac", target_entropy=-math.inf)
    with pytest.raises(ConfigurationError, match=r"batch_size = 161: the whole run has 160 environment steps"):
        learner("sac", batch_size=161, replay_capacity=200)
    with pytest.raises(ConfigurationError, match=r"chunk_length = 3: must divide collect_steps = 4"):
        learner("sac", chunk_length=3)
    with pytest.raises(ConfigurationError, match=r"does nothing beside .* Leave one of the two out"):
        learner("sac", chunk_length=2, n_step=3)
    with pytest.raises(ConfigurationError, match=r"batch_size = 33: must not exceed replay_capacity = 64 / chunk_le"):
        learner("sac", batch_size=33, chunk_length=2)
    with pytest.raises(
        ConfigurationError, match=r"batch_size = 81: .* 160 environment steps in chunks of chunk_length"
    ):
        learner("sac", batch_size=81, chunk_length=2, replay_capacity=200)
    with pytest.raises(ConfigurationError, match=r"n_step = 17: must not exceed the 16 control steps that the replay"):
        learner("sac", n_step=17)
    with pytest.raises(ConfigurationError, match=r"target_noise_clip = 0\.1: does nothing with target_noise = 0\.0"):
        learner("td3", target_noise=0.0, target_noise_clip=0.1)
    with pytest.raises(ConfigurationError, match=r"newest = 3000000000: must lie between 1 and"):
        learner("flowrl", newest=3 * 10**9)
    with pytest.raises(ConfigurationError, match=r"expectile = 1\.0"):
        learner("flowrl", expectile=1.0)
    for name in OFF_POLICY:
        with pytest.raises(ConfigurationError, match="discount"):
            learner(name, discount=1.5)
    with pytest.raises(ConfigurationError, match=r"replay_capacity = 1000000000000: .* GiB"):
        require_memory(learner("sac", replay_capacity=10**12, planned=10**8).learner, 1)


def test_a_temperature_of_zero_is_zero_and_can_be_stored():
    log_alpha = initial(learner("sac", initial_temperature=0.0, learn_temperature=False)).log_alpha
    assert np.isfinite(log_alpha) and np.exp(np.float32(log_alpha)) == 0.0


def test_the_target_entropy_is_that_of_a_whole_chunk():
    single, chunked = (learner("sac", chunk_length=chunk_length) for chunk_length in (1, 4))
    assert single.entropy_target == -single.world.action_size and chunked.entropy_target == 4 * single.entropy_target


def test_a_memory_holds_whole_control_steps_and_a_batch():
    """World of four environments: 62 transitions are 15 steps, unless a batch needs more."""
    assert learner("sac", replay_capacity=62).capacity == 60
    assert learner("sac", replay_capacity=62, chunk_length=4).capacity == 48  # whole stretches
    algorithm = learner("sac", replay_capacity=64, batch_size=16, chunk_length=4)
    assert algorithm.capacity == 80 == jax.eval_shape(algorithm.init, jax.random.key(0)).memory.ring.reward.size
    algorithm = learner("sac", replay_capacity=62, batch_size=62)
    assert algorithm.capacity == 64 == jax.eval_shape(algorithm.init, jax.random.key(0)).memory.ring.reward.size


@pytest.mark.slow
def test_a_fault_of_the_critic_is_explained():
    """The world is sound and the critic is not: the post-mortem names the loss."""
    algorithm = learner("td3")
    state, _ = algorithm.step(algorithm.init(jax.random.key(0)))
    poisoned = jax.tree.map(lambda leaf: leaf * jnp.nan, eqx.filter(state.learned.critic, eqx.is_inexact_array))
    critic = eqx.combine(poisoned, state.learned.critic)
    state = dataclasses.replace(state, learned=dataclasses.replace(state.learned, critic=critic))
    metrics = {name: float(value) for name, value in algorithm.step(state)[1].items()}
    assert metrics["critic/skipped"] > 0 and metrics["world/diverged"] == 0
    assert "critic/loss is nan" in find_cause(algorithm.learner, iterate, state, metrics)


@pytest.mark.parametrize(
    ("name", "settings"), [("sac", {}), ("crossq", {}), ("sac-flow", {"policy": "marginal-flow", "velocity": "mlp"})]
)
def test_an_entropy_that_no_action_can_have_is_refused(name, settings):
    """Actions in [-1, 1]^2 have at most 2 log 2 nats."""
    with pytest.raises(ConfigurationError, match=r"target_entropy = 1\.4: actions in .* at most 1\.386 nats"):
        learner(name, target_entropy=1.4, **settings)
    learner(name, target_entropy=1.38, **settings)


@pytest.mark.parametrize("drift", [True, False])
def test_an_entropy_that_no_path_can_have_is_refused(drift):
    """Four steps, two entries; sigma is at most 1 with the drift and e^2 without, of which a step adds half."""
    policy = (NoisyFlowSettings if drift else NoDrift)(velocity="mlp")
    most = 2.0 * (5 * 0.5 * math.log(2 * math.pi * math.e) + 4 * math.log((1.0 if drift else math.exp(2.0)) / 2.0))
    with pytest.raises(ConfigurationError, match=r"paths of 4 steps have less than"):
        with_policy(policy, target_entropy=most + 0.01)
    with_policy(policy, target_entropy=most - 0.01)


def test_only_the_codes_weight_has_a_floor():
    config = flowrl.Config.of(**TINY, weight_ceiling=1e-4)
    flowrl.Learner(config, world(), 10)
    with pytest.raises(ConfigurationError, match=r"weight_ceiling = 0\.0001: must be at least the floor, 0\.001"):
        CodeWeighting(config, world(), 10)
    with pytest.raises(ConfigurationError, match=r"weight_ceiling = 0\.0001: does nothing with a constant weight"):
        ConstantWeight(config, world(), 10)
    with pytest.raises(ConfigurationError, match=r"policy = 'noisy-flow': the released code clips"):
        FlowRL(FlowRL.settings.of(**TINY, policy="noisy-flow"), world(), 10)


def test_a_critic_whose_layers_have_no_activation_is_refused():
    with pytest.raises(ConfigurationError, match=r"critic_hidden = \(8, 8\): needs at least 3 layers"):
        flowrl.Config.of(critic_hidden=(8, 8))
