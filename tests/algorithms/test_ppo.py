"""PPO and NFPO: advantages, ratios, the clipped loss, the adaptive rate, and whole updates against NumPy."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import CapabilityError, ConfigurationError
from penstock.algorithms import nfpo, ppo
from penstock.algorithms.learner import Clock, results
from penstock.data import Records
from penstock.policies.settings import POLICIES
from penstock.training.drivers.functional import begin, iterate
from penstock.worlds import make_world

TINY = {"window": 6, "epochs": 2, "minibatches": 3, "actor_hidden": (5,), "critic_hidden": (4,)}
DENSE = ("gaussian", "noisy-flow", "marginal-flow", "coupling")


def learner_of(config=ppo.Config, learner=ppo.Learner, num_envs=4, world="classic/double-integrator", **settings):
    return learner(config.preset(TINY, **settings), make_world(world, num_envs, episode_length=5), 4)


def records_of(learner, seed=0, **changes):
    """What a window brings, with its numbers drawn by chance but for the draws, which are the policy's."""
    generator = np.random.default_rng(seed)
    steps, num_envs = learner.config.window, learner.world.num_envs
    size = learner.world.observation_spec.vector
    vectors = jnp.asarray(generator.standard_normal((2, steps, num_envs, size)), jnp.float32)
    shape = learner.world.observation_spec
    observation, final = (jax.eval_shape(lambda: learner.world.reset(jax.random.key(0)).observation) for _ in range(2))
    observation, final = (
        dataclasses.replace(jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape)), part), vector=vector)
        for part, vector in zip((observation, final), vectors, strict=True)
    )
    del shape
    learned = learner.init(jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed + 1), steps)
    drawn = jax.vmap(lambda o, k: learner.explore(learned, o, k))(observation, keys)
    falses = jnp.zeros((steps, num_envs), bool)
    fields = {
        "reward": jnp.asarray(generator.standard_normal((steps, num_envs)), jnp.float32),
        "terminated": falses,
        "truncated": falses,
        "valid": ~falses,
        **{name: jnp.asarray(value) for name, value in changes.items()},
    }
    record = Records(observation, drawn.action, drawn.record, final_observation=final, **fields)
    return learned, record


def updated(learner, learned, records):
    made = jax.jit(lambda learned, records: learner.update(learned, records, jax.random.key(9), Clock.start()))(
        learned, records
    )
    return made.learned, results(made.metrics)


# ------------------------------------------------------------------------------------------------- advantages


def flags(learner, *places):
    found = np.zeros((learner.config.window, learner.world.num_envs), bool)
    for place in places:
        found[place] = True
    return found


@pytest.mark.parametrize(
    ("terminated", "truncated"),
    [((), ()), (((2, 0), (0, 1)), ((3, 2), (5, 3))), (((2, 1),), ((2, 1), (0, 0)))],
    ids=["the episode goes on", "it ends, and meets its limit", "both at once, and on the first step"],
)
def test_advantages_and_targets_by_their_definition(terminated, truncated):
    """GAE as the sum of discounted temporal differences, from every step to the end of its episode or the window."""
    learner = learner_of(discount=0.9, gae_lambda=0.7)
    ends = {"terminated": flags(learner, *terminated), "truncated": flags(learner, *truncated)}
    learned, records = records_of(learner, **ends)
    samples = learner.samples(learned, records)
    shape = records.reward.shape

    def values(observation):
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), observation)
        return np.asarray(learned.critic.values(flat, learned.normalizer)[0], float).reshape(shape)

    value, after = values(records.observation), values(records.final_observation)
    reward = np.asarray(records.reward, float)
    expected = np.zeros(shape)
    for env in range(shape[1]):
        for start in range(shape[0]):
            weight = 1.0
            for t in range(start, shape[0]):
                over, cut = ends["terminated"][t, env], ends["truncated"][t, env]
                expected[start, env] += weight * (reward[t, env] + 0.9 * (not over) * after[t, env] - value[t, env])
                if over or cut or t + 1 == shape[0]:
                    break
                # The temporal difference of the next step begins at its own observation.
                expected[start, env] += weight * 0.9 * 0.7 * (value[t + 1, env] - after[t, env])
                weight *= 0.9 * 0.7
    np.testing.assert_allclose(np.asarray(samples.target - samples.value).reshape(shape), expected, atol=1e-5)
    np.testing.assert_allclose(samples.advantage, (expected.ravel() - expected.mean()) / expected.std(), atol=1e-4)


def test_steps_at_which_nothing_happened_change_nothing():
    learner = learner_of(minibatches=1, epochs=1, entropy_coefficient=0.1)
    valid = ~flags(learner, (3, 1), (4, 2))
    ends = flags(learner, (2, 1), (3, 2))
    learned, records = records_of(learner, valid=valid, truncated=ends)
    noisy = dataclasses.replace(
        records,
        reward=jnp.where(valid, records.reward, 1e3),
        record=jnp.where(valid[..., None], records.record, 4.0),
    )
    same = updated(learner, learned, records)[0]
    other = updated(learner, learned, noisy)[0]
    for part in ("actor", "critic"):
        for one, two in zip(jax.tree.leaves(getattr(same, part)), jax.tree.leaves(getattr(other, part)), strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6)


# ------------------------------------------------------------------------------------------------- ratios


@pytest.mark.parametrize(
    ("policy", "settings"),
    [*((name, {}) for name in DENSE), *((name, {"squash": "clip"}) for name in ("gaussian", "coupling"))],
)
def test_ratios_are_one_before_the_first_gradient_step(policy, settings):
    """F35: also after statistics of observations have moved, and for draws that a run made."""
    learner = learner_of(policy=policy, **settings, world="classic/multi-goal", epochs=1, minibatches=1)
    state = begin(learner, jax.random.key(0))
    iteration = jax.jit(lambda state: iterate(learner, state)[:2])
    for _ in range(3):
        state, metrics = iteration(state)
        metrics = results(metrics)
        assert metrics["actor/largest_log_ratio"] < 2e-5 and abs(metrics["actor/kl"]) < 1e-6
        assert metrics["actor/clipped"] == 0.0 and metrics["actor/skipped"] == 0.0


def test_clipped_entries_are_counted_and_keep_their_density():
    learner = learner_of(squash="clip", initial_log_std=1.0, minibatches=1, epochs=1)
    learned, records = records_of(learner)
    latent, action = np.asarray(records.record), np.asarray(records.action)
    np.testing.assert_allclose(action, np.clip(latent, -1.0, 1.0), atol=1e-6)
    assert 0.2 < (np.abs(latent) > 1.0).mean() < 0.95
    assert updated(learner, learned, records)[1]["policy/saturation"] == np.float32((np.abs(latent) >= 1.0).mean())
    found = learner.samples(learned, records).log_prob
    features = jax.vmap(learned.actor.encoder)(learner.samples(learned, records).observation)
    mean = np.asarray(jax.vmap(learned.actor.policy.network)(features))
    standardised = (latent.reshape(mean.shape) - mean) / np.e
    expected = (-0.5 * standardised**2 - 1.0 - 0.5 * np.log(2.0 * np.pi)).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_second_pass_meets_other_ratios():
    learner = learner_of(epochs=2, minibatches=1, actor_learning_rate=1e-2)
    learned, records = records_of(learner)
    assert updated(learner, learned, records)[1]["actor/largest_log_ratio"] > 1e-3


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - set(DENSE)))
def test_a_policy_without_a_density_is_refused(policy):
    with pytest.raises(CapabilityError, match=r"ppo needs a log-density.*Use --policy gaussian, coupling"):
        learner_of(policy=policy)


# ------------------------------------------------------------------------------------------------- the losses


def sample_of(learner, learned, records, **changes):
    samples = learner.samples(learned, records)
    return dataclasses.replace(samples, **changes)


def test_the_clipped_loss_by_hand():
    """Four draws with ratios of 1.5, 0.5, 1.5 and 0.5, advantages of both signs; epsilon is 0.2."""
    learner = learner_of()
    learned, records = records_of(learner)
    samples = jax.tree.map(lambda leaf: leaf[:4], learner.samples(learned, records))
    ratio, advantage = np.array([1.5, 0.5, 1.5, 0.5]), np.array([1.0, 1.0, -2.0, -2.0])
    samples = dataclasses.replace(
        samples,
        log_prob=samples.log_prob - jnp.asarray(np.log(ratio), jnp.float32),
        advantage=jnp.asarray(advantage, jnp.float32),
    )
    loss, seen = learner._actor_loss(learned.actor, samples, jax.random.key(0))
    np.testing.assert_allclose(loss, -np.mean([1.2, 0.5, -3.0, -1.6]), rtol=1e-5)
    np.testing.assert_allclose(seen["actor/kl"], np.mean(ratio - 1.0 - np.log(ratio)), rtol=1e-4)
    np.testing.assert_allclose(seen["actor/clipped"], 1.0)
    np.testing.assert_allclose(seen["actor/largest_log_ratio"], np.log(2.0), rtol=1e-5)
    clipped = dataclasses.replace(samples, weight=jnp.array([1.0, 0.0, 0.0, 1.0]))
    gradient = eqx.filter_grad(lambda actor: learner._actor_loss(actor, clipped, jax.random.key(0))[0])(learned.actor)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient)), "where clipping pays nothing more"


def test_a_density_that_explodes_poisons_nothing():
    learner = learner_of(minibatches=1, epochs=1)
    learned, records = records_of(learner)
    samples = sample_of(learner, learned, records)
    samples = dataclasses.replace(samples, log_prob=samples.log_prob - 1e4)
    after, (seen, skipped) = learner.gradient_step(learned, samples, jax.random.key(0))
    leaves = [leaf for leaf in jax.tree.leaves(after) if eqx.is_inexact_array(leaf)]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves) and float(seen["actor/largest_log_ratio"]) > 9e3
    broken = dataclasses.replace(samples, log_prob=samples.log_prob + jnp.nan)
    after, (_, skipped) = learner.gradient_step(learned, broken, jax.random.key(0))
    assert bool(skipped["actor/skipped"]) and float(after.rate) == 1.0
    np.testing.assert_array_equal(*(jax.tree.leaves(one.actor)[0] for one in (after, learned)))


def test_the_clipped_value_loss_by_hand():
    learner = learner_of(value_clip=0.1)
    learned, records = records_of(learner)
    samples = jax.tree.map(lambda leaf: leaf[:2], learner.samples(learned, records))
    now = np.asarray(learned.critic.normalized_values(samples.observation)[0], float)
    before, target = now - np.array([0.5, 0.05]), now + np.array([1.0, 1.0])
    samples = dataclasses.replace(
        samples, value=jnp.asarray(before, jnp.float32), target=jnp.asarray(target, jnp.float32)
    )
    expected = 0.5 * np.mean([max(1.0, 1.4**2), 1.0])
    np.testing.assert_allclose(learner._critic_loss(learned.critic, samples), expected, rtol=1e-4)


def test_the_estimate_of_the_divergence_is_unbiased():
    """Between two Gaussians, against the closed form (F37)."""
    learner = learner_of()
    learned, records = records_of(learner)
    moved = eqx.tree_at(lambda a: a.policy.network.output.bias, learned.actor, jnp.array([0.3]))
    moved = eqx.tree_at(lambda a: a.policy.global_log_std, moved, jnp.array([0.2]))
    count = 100_000
    observation = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0, 0], (count, *leaf.shape[2:])), records.observation)
    drawn = learner.explore(learned, observation, jax.random.key(1))
    normal = learned.normalizer(observation)
    old = learner._log_prob(learned.actor, normal, drawn.record)
    ones = jnp.ones(count)
    batch = ppo.Samples(normal, drawn.record, old, ones, ones, ones, ones, ones)
    estimate = learner._actor_loss(moved, batch, jax.random.key(0))[1]["actor/kl"]
    features = learned.actor.encoder(jax.tree.map(lambda leaf: leaf[0], normal))
    (mean,), (log_std,) = learned.actor.policy.mean_and_log_std(features)
    (other,), (other_log_std,) = moved.policy.mean_and_log_std(features)
    closed = (
        other_log_std - log_std + (np.exp(2 * log_std) + (mean - other) ** 2) / (2 * np.exp(2 * other_log_std)) - 0.5
    )
    np.testing.assert_allclose(estimate, closed, rtol=0.03)


def test_the_rate_follows_the_divergence():
    learner = learner_of(kl_target=0.01, actor_learning_rate=1e-3)
    rate = lambda now, kl: float(learner._adapted(jnp.asarray(now), jnp.asarray(kl)))  # noqa: E731
    np.testing.assert_allclose([rate(1.0, 0.021), rate(1.0, 0.004), rate(1.0, 0.012)], [1 / 1.5, 1.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose([rate(0.011, 1.0), rate(9.0, 1e-4)], [0.01, 10.0], rtol=1e-6)
    assert rate(1.0, 0.0) == rate(1.0, np.nan) == rate(1.0, np.inf) == 1.0
    assert float(learner_of()._adapted(jnp.asarray(1.0), jnp.asarray(5.0))) == 1.0


def test_entropy_is_worth_something():
    """With no advantage at all the loss is -c H: its value, and its slope in the standard deviation."""
    learner = learner_of(entropy_coefficient=0.5, epochs=1, minibatches=1)
    learned, records = records_of(learner)
    samples = sample_of(learner, learned, records, advantage=jnp.zeros(24))

    def at(log_std):
        actor = eqx.tree_at(lambda actor: actor.policy.global_log_std, learned.actor, jnp.array([log_std]))
        return learner._actor_loss(actor, samples, jax.random.key(0))[0]

    features = jax.vmap(learned.actor.encoder)(samples.observation)
    mean, _ = (np.asarray(x, float)[:, 0] for x in jax.vmap(learned.actor.policy.mean_and_log_std)(features))
    noise = np.random.default_rng(0).standard_normal(200_000)

    def entropy(log_std):
        latent = mean[:, None] + np.exp(log_std) * noise
        return 0.5 * np.log(2 * np.pi * np.e) + log_std + np.log(1 - np.tanh(latent) ** 2).mean()

    np.testing.assert_allclose(at(-2.0), -0.5 * entropy(-2.0), atol=0.1)
    slope = (entropy(-1.99) - entropy(-2.01)) / 0.02
    np.testing.assert_allclose(jax.grad(at)(-2.0), -0.5 * slope, atol=0.05)


# ------------------------------------------------------------------------------------------------- whole updates


def test_an_update_is_that_of_an_implementation_in_numpy():
    """Two passes over a window in one batch each: losses in NumPy, gradients by central differences, Adam by hand."""
    with jax.enable_x64(True):
        settings = {"actor_hidden": (3,), "critic_hidden": (2,), "epochs": 2, "minibatches": 1, "window": 3}
        learner = learner_of(num_envs=2, gradient_clip=0.05, actor_learning_rate=0.03, value_clip=0.2, **settings)
        learned, records = records_of(learner, terminated=np.array([[0, 0], [1, 0], [0, 0]], bool))
        learned, records = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, (learned, records)
        )
        after, _ = updated(learner, learned, records)
        samples = jax.tree.map(np.asarray, learner.samples(learned, records))
    vector = samples.observation.vector
    latent = np.asarray(records.record, float).reshape(-1, 1)

    def network(weights, x):
        hidden, out = weights
        return np.tanh(x @ hidden[0].T + hidden[1]) @ out[0].T + out[1]

    def unpacked(flat, shapes):
        parts, place = [], 0
        for shape in shapes:
            size = int(np.prod(shape))
            parts.append(flat[place : place + size].reshape(shape))
            place += size
        return parts

    size = vector.shape[1]
    actor_shapes = [(3, size), (3,), (1, 3), (1,), (1,)]
    critic_shapes = [(2, size), (2,), (1, 2), (1,)]

    def log_prob(flat):
        w, b, v, c, log_std = unpacked(flat, actor_shapes)
        mean = network(((w, b), (v, c)), vector)
        normal = -0.5 * ((latent - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        return (normal - np.log(1.0 - np.tanh(latent) ** 2)).sum(axis=1)

    def actor_loss(flat):
        ratio = np.exp(log_prob(flat) - samples.log_prob)
        return -np.minimum(ratio * samples.advantage, np.clip(ratio, 0.8, 1.2) * samples.advantage).mean()

    def critic_loss(flat):
        w, b, v, c = unpacked(flat, critic_shapes)
        value = network(((w, b), (v, c)), vector)[:, 0]
        near = samples.value + np.clip(value - samples.value, -0.2, 0.2)
        return 0.5 * np.maximum((value - samples.target) ** 2, (near - samples.target) ** 2).mean()

    def slopes(loss, flat):
        steps = 1e-6 * np.eye(len(flat))
        return np.array([(loss(flat + step) - loss(flat - step)) / 2e-6 for step in steps])

    def trained(loss, flat, rate):
        m, v = np.zeros_like(flat), np.zeros_like(flat)
        for count in (1, 2):
            gradient = slopes(loss, flat)
            gradient = gradient * min(1.0, 0.05 / np.linalg.norm(gradient))
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            flat = flat - rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        return flat

    def of_actor(actor):
        net = actor.policy.network
        parts = (net.layers[0].linear.weight, net.layers[0].linear.bias, net.output.weight, net.output.bias)
        return np.concatenate([np.ravel(part) for part in (*parts, actor.policy.global_log_std)])

    def of_critic(critic):
        layer, output = critic.networks.layers[0].linear, critic.networks.output
        return np.concatenate([np.ravel(part[0]) for part in (layer.weight, layer.bias, output.weight, output.bias)])

    start = of_actor(learned.actor)
    np.testing.assert_allclose(log_prob(start), samples.log_prob, rtol=1e-9)
    np.testing.assert_allclose(of_actor(after.actor), trained(actor_loss, start, 0.03), atol=2e-6)
    start = of_critic(learned.critic)
    np.testing.assert_allclose(of_critic(after.critic), trained(critic_loss, start, 3e-4), atol=1e-7)
    assert np.abs(of_actor(after.actor) - of_actor(learned.actor)).max() > 0.01


def test_every_sample_is_used_once_in_a_pass():
    learner = learner_of(epochs=1, minibatches=3)
    learned, records = records_of(learner)
    seen = []

    def watched(learned, batch, key):
        jax.debug.callback(lambda target: seen.append(np.asarray(target)), batch.target)
        return type(learner).gradient_step(learner, learned, batch, key)

    learner.gradient_step = watched
    updated(learner, learned, records)
    jax.effects_barrier()
    targets = np.asarray(learner.samples(learned, records).target)
    assert len(seen) == 3
    np.testing.assert_allclose(np.sort(np.concatenate(seen)), np.sort(targets), rtol=1e-6)
    assert not np.allclose(np.concatenate(seen), targets), "in another order"


def test_statistics_of_observations_move_behind_the_update():
    learner = learner_of()
    learned, records = records_of(learner)
    after, _ = updated(learner, learned, records)
    seen = np.asarray(records.observation.vector).reshape(-1, 2)
    np.testing.assert_allclose(after.normalizer.mean, seen.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(after.normalizer.variance, seen.var(axis=0), rtol=1e-3)
    samples = learner.samples(learned, records)
    np.testing.assert_allclose(samples.observation.vector, seen / np.sqrt(1.0 + 1e-5), rtol=1e-5)  # as they were


def test_nfpo_is_ppo_with_a_coupling_flow():
    learner = learner_of(nfpo.Config, nfpo.Learner, world="classic/multi-goal")
    state = begin(learner, jax.random.key(0))
    assert type(state.learned.actor.policy).__name__ == "CouplingFlow"
    measured = learner.measure(state.learned, state.world.observation, jax.random.key(1))
    assert {"policy/log_det", "policy/scale", "policy/round_trip", "policy/latent_std_min"} <= set(measured)
    assert float(measured["policy/scale"]) == 0.0 and float(measured["policy/round_trip"]) < 1e-6
    same = learner_of(policy="coupling", world="classic/multi-goal")
    begun = [jax.tree.leaves(each.init(jax.random.key(3))) for each in (same, learner)]
    for one, other in zip(*begun, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"minibatches": 5}, r"minibatches = 5: must divide num_envs \* window = 4 \* 6 = 24"),
        ({"epochs": 0}, "epochs = 0: must be at least 1"),
        ({"gae_lambda": 1.5}, r"gae_lambda = 1.5: must lie in \[0, 1\]"),
        ({"clip_range": 0.0}, "clip_range = 0.0: must be greater than 0"),
        ({"kl_target": 0.0}, "kl_target = 0.0: must be greater than 0, or None"),
        (
            {"kl_target": 0.01, "actor_learning_rate": 0.05},
            r"actor_learning_rate = 0.05: must lie in \[1e-05, 0.01\] with",
        ),
        ({"value_clip": -1.0}, "value_clip = -1.0: must be greater than 0, or None"),
        ({"entropy_coefficient": -0.1}, "entropy_coefficient = -0.1: must be 0 or greater"),
        (
            {"squash": "clip", "policy": "noisy-flow"},
            "squash = 'clip': policy = 'noisy-flow' has its density behind tanh",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        learner_of(**settings)
