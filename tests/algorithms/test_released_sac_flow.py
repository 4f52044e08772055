"""SAC Flow as released, by hand: its networks, its training rollout, its density, and what SAC makes of it."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven
from tiny_worlds import Pendulum, world

from benchmarks.released_sac_flow import ACTORS, PostNormBlock, reference_code
from penstock.algorithms import sac_flow
from penstock.data import Batch
from penstock.networks import MLP, Trunk
from penstock.networks.batch_renorm import BatchRenorm
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Vmapped

B, K, FEATURES, D = 6, 3, 3, 2
EPSILON = 1e-3
HIDDEN = {"mlp": (8, 8), "gated": (8,), "decoded": (8,)}
SMALL = {"actor_hidden": (8,), "critic_hidden": (8,), "batch_size": 8, "warmup_steps": 8}


def built(name, warmup=100_000):
    settings = ACTORS[name][0](flow_steps=K, initial_log_sigma=math.log(0.2), renorm_calls=warmup)
    return settings.build(jax.random.key(0), FEATURES, D, Trunk(HIDDEN[name]))


def flow_of(name, warmup=100_000):
    """A flow whose parameters, scales and offsets are all in use."""
    flow = built(name, warmup)
    arrays, rest = eqx.partition(flow, eqx.is_inexact_array)
    rng = np.random.default_rng(0)

    def moved(path, leaf):
        if any(getattr(part, "name", "") in ("mean", "variance", "calls") for part in path):
            return leaf
        return jnp.asarray(leaf + np.float32(0.1) * rng.standard_normal(leaf.shape, np.float32))

    return eqx.combine(jax.tree_util.tree_map_with_path(moved, arrays), rest)


def normed(layer, batch):
    """Batch normalisation as it is before the warm-up ends."""
    return layer.scale * (batch - batch.mean(0)) / np.sqrt(batch.var(0) + EPSILON) + layer.offset


def dense(layer, batch):
    return np.asarray(batch @ layer.weight.T + layer.bias, np.float64)


def silu(x):
    return x / (1 + np.exp(-x))


def stack(network, batch, activation):
    for layer in network.layers:
        batch = activation(dense(layer.linear, batch))
    return dense(network.output, batch)


def oracle(flow, features, x, step):
    """The field's outputs for a whole batch, written with the batch in the rows."""
    field, tau = flow.field, np.full((B, 1), step / K)
    norms = field.norms
    if "state" in norms:
        token = stack(field.state_encoder, normed(norms["state"], features), silu)
        latent = jax.tree.map(lambda a: a[step], norms["latent"])
        y = dense(field.latent_encoder, normed(latent, x)) + stack(field.time_encoder, tau, silu)
        for index, block in enumerate(field.blocks):
            one, two, three = (norms[f"block {index}, sum {part}"] for part in range(3))
            y = normed(one, y + dense(block.self_out, dense(block.self_value, y)))
            y = normed(two, y + dense(block.out, dense(block.value, token)))
            y = normed(three, y + dense(block.narrow, np.asarray(jax.nn.gelu(dense(block.widen, y)))))
        return dense(field.output, y)
    if hasattr(field, "gate"):
        frequencies = 10_000.0 ** (-np.arange(16) / 15)
        time = np.concatenate([np.sin(tau * frequencies), np.cos(tau * frequencies)], axis=1)
        inputs = normed(norms["input"], np.concatenate([features, x], axis=1))
        u = np.concatenate([inputs, stack(field.time_encoder, time, silu)], axis=1)
        return (stack(field.candidate, u, silu) - x) / (1 + np.exp(-stack(field.gate, u, silu)))
    inputs = normed(norms["input"], np.concatenate([features, x, tau], axis=1))
    return stack(field.network, inputs, lambda h: np.maximum(h, 0))


def rollout(flow, features, keys):
    return jax.jit(lambda: flow.train(features, jax.vmap(flow.noise)(keys)))()


def test_time_embedding_and_gate_at_the_start():
    field = built("gated").field
    np.testing.assert_array_equal(field.gate.output.weight, 0.0)
    np.testing.assert_array_equal(field.gate.output.bias, 5.0)
    assert field.time_encoder.layers[0].linear.weight.shape == (64, 32)


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("mlp", "decoded")), "gated"])
def test_the_training_rollout_normalises_by_the_batch_at_every_step(name):
    flow = flow_of(name)
    features = np.random.default_rng(3).normal(1.0, 2.0, (B, FEATURES)).astype(np.float32)
    keys = jax.random.split(jax.random.key(4), B)
    sample, log_prob, moved = rollout(flow, features, keys)

    noise = np.asarray(jax.jit(jax.vmap(lambda key: jax.random.normal(key, (K + 1, D))))(keys), np.float64)
    x = noise[:, 0]
    density = -0.5 * np.square(noise).sum((1, 2)) - 0.5 * (K + 1) * D * np.log(2 * np.pi)
    seen = []
    for step in range(K):
        seen.append(np.concatenate([features, x, np.full((B, 1), step / K)], axis=1))
        v = oracle(flow, np.asarray(features, np.float64), x, step)
        if name == "gated":
            u = stack(flow.noise_network, np.asarray(features, np.float64), lambda h: np.maximum(h, 0))
        else:
            v, u = np.split(v, 2, axis=1)
            u = u + np.arctanh(2.0 * (np.log(0.2) + 5.0) / 7.0 - 1.0)
        log_std = -5.0 + 3.5 * (np.tanh(u) + 1.0)
        if name == "decoded":  # the noise is added to the velocity, and its scale is missing in the density
            log_std = log_std - np.log(K)
        else:
            density -= log_std.sum(1)
        x = x + v / K + np.exp(log_std) * noise[:, step + 1]
    np.testing.assert_allclose(sample.latent, x, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(sample.action, np.tanh(x), rtol=2e-4, atol=2e-4)
    density -= np.log(1 - np.tanh(x) ** 2 + 1e-6).sum(1)
    # Where tanh saturates the code's log-determinant is noise: 1 - tanh^2 is known to a few roundings of 1.
    noise_of_squash = (8 * 2.0**-24 / (1.0 - np.tanh(x) ** 2 + 1e-6)).sum(1)
    assert (np.abs(log_prob - density) <= 2e-3 + noise_of_squash).all()

    norms = moved.field.norms
    if name == "decoded":  # one call for the state, one for each step's own layer of the latent
        np.testing.assert_allclose(norms["state"].mean, 0.01 * features.mean(0), rtol=1e-5, atol=1e-7)
        for step, inputs in enumerate(seen):
            latent = norms["latent"].mean[step]
            np.testing.assert_allclose(latent, 0.01 * inputs[:, 3:5].mean(0), rtol=2e-3, atol=1e-6)
        np.testing.assert_array_equal(norms["latent"].calls, np.ones(K))
        assert norms["block 1, sum 2"].calls == K and norms["state"].calls == 1
    else:  # one layer, called at each step
        mean = np.zeros(norms["input"].mean.shape)
        for inputs in seen:
            mean = 0.99 * mean + 0.01 * inputs[:, : mean.size].mean(0)
        np.testing.assert_allclose(norms["input"].mean, mean, rtol=2e-3, atol=1e-6)
        assert norms["input"].calls == K


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "gated", "decoded"])
def test_other_uses_normalise_by_running_statistics(name):
    """With the statistics of one batch as the running ones, past the warm-up, both forms agree on that batch."""
    flow = flow_of(name, warmup=0)
    features = jax.random.normal(jax.random.key(5), (B, FEATURES))
    x = jax.random.normal(jax.random.key(6), (B, D))
    tau = jnp.asarray(1 / K)

    def train(field):
        def one(features, x):
            condition, field_ = field.train_condition(features, "batch")
            outputs, field_ = field_.train(condition, x, tau, "batch")
            return outputs, field_

        return jax.vmap(one, axis_name="batch", out_axes=(0, None))(features, x)

    settled = jax.jit(lambda field: jax.lax.fori_loop(0, 2_000, lambda _, f: train(f)[1], field))(flow.field)
    outputs, _ = train(settled)
    same = jax.jit(jax.vmap(lambda f, x: settled(settled.condition(f), x, tau)))(features, x)
    np.testing.assert_allclose(same, outputs, rtol=1e-3, atol=1e-3)
    other = jax.jit(jax.vmap(lambda f, x: flow.field(flow.field.condition(f), x, tau)))(features, x)
    assert np.abs(other - outputs).max() > 0.01


def mean_ratio(old):
    """Mean of exp(log p_new - log p_old) over paths of ``old``, and its standard error; p_new is a Gaussian walk."""

    def exact(path):
        steps = jnp.diff(path, axis=0) / 0.3
        normal = -0.5 * (jnp.square(path[0]).sum() + jnp.square(steps).sum())
        log_det = 2.0 * (jnp.log(2.0) - path[-1] - jax.nn.softplus(-2.0 * path[-1])).sum()
        return normal - 0.5 * path.size * math.log(2.0 * math.pi) - steps.size * math.log(0.3) - log_det

    @jax.jit
    def ratio(key):
        drawn, log_prob = old.draw_with_log_prob(jnp.ones(FEATURES), old.noise(key))
        return jnp.exp(exact(drawn.record) - log_prob)

    ratios = np.asarray(jax.jit(jax.vmap(ratio))(jax.random.split(jax.random.key(6), 100_000)))
    return ratios.mean(), ratios.std() / math.sqrt(ratios.size)


@pytest.mark.parametrize("name", ["mlp", pytest.param("decoded", marks=pytest.mark.slow)])
def test_without_the_scale_of_the_noise_the_density_is_wrong(name):
    """Of a law the mean ratio is 1. Flow-T's misses the factor std^(K d), here of noise that is 0.3 everywhere."""
    settings = ACTORS[name][0](flow_steps=K, initial_log_sigma=math.log(0.3 * (K if name == "decoded" else 1)))
    flow = settings.build(jax.random.key(0), FEATURES, D, Trunk(HIDDEN[name]))
    last = (lambda f: f.field.network.output.weight) if name == "mlp" else (lambda f: f.field.output.weight)
    flow = eqx.tree_at(last, flow, replace_fn=jnp.zeros_like)
    mean, error = mean_ratio(flow)
    expected = 0.3 ** (-K * D) if name == "decoded" else 1.0
    assert abs(mean / expected - 1.0) < 0.01 and error < 0.01 * expected


@pytest.mark.parametrize("name", ["gated", pytest.param("decoded", marks=pytest.mark.slow)])
def test_a_recorded_path_has_the_density_it_was_drawn_with(name):
    flow = flow_of(name)
    drawn, log_prob = flow.draw_with_log_prob(jnp.ones(FEATURES), flow.noise(jax.random.key(5)))
    np.testing.assert_allclose(flow.log_prob(jnp.ones(FEATURES), drawn.record), log_prob, rtol=1e-4, atol=1e-3)


def attention(query, key, value, heads):
    """Multi-head attention of one token."""

    def split(x):
        return x.reshape(x.shape[0], heads, -1).swapaxes(0, 1)

    q, k, v = split(query), split(key), split(value)
    weight = jax.nn.softmax(q @ k.swapaxes(1, 2) / jnp.sqrt(q.shape[-1]))
    return (weight @ v).swapaxes(0, 1).reshape(query.shape)


def test_the_decoder_s_block_equals_attention():
    """Queries and keys, which the block leaves out, change nothing."""
    block = PostNormBlock(jax.random.key(3), 16)
    generator = np.random.default_rng(4)
    y, token = generator.normal(size=(2, 16)).astype(np.float32)
    sq, sk, cq, ck = generator.normal(size=(4, 16, 16)).astype(np.float32)
    norms = [jnp.tanh, jnp.sin, jnp.cos]  # any

    @jax.jit
    def by_hand(y, token):
        own = attention((sq @ y)[None], (sk @ y)[None], block.self_value(y)[None], 4)[0]
        after = norms[0](y + block.self_out(own))
        state = attention((cq @ after)[None], (ck @ token)[None], block.value(token)[None], 4)[0]
        after = norms[1](after + block.out(state))
        return norms[2](after + block.narrow(jax.nn.gelu(block.widen(after))))

    found = jax.jit(lambda y, token: block(y, block.state_bias(token), norms))(y, token)
    np.testing.assert_allclose(found, by_hand(y, token), rtol=1e-4, atol=1e-5)


# --- under SAC --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("velocity", ACTORS)
def test_the_preset_differs_in_exactly_the_listed_ways(velocity):
    found, default = reference_code(velocity).flat(), sac_flow.Config().flat()
    differs = {name for name, value in found.items() if value != default.get(name)}
    assert differs == {"policy", "actor_hidden", "warmup_steps", "initial_log_sigma", "renorm_calls"}
    assert found["actor_hidden"] == {"mlp": (512, 512), "gated": (512,), "decoded": (96,)}[velocity]
    assert found["initial_log_sigma"] == -1.5 and found["flow_steps"] == 4


@pytest.mark.parametrize(
    "velocity", [pytest.param(name, marks=pytest.mark.slow) if name == "decoded" else name for name in ACTORS]
)
def test_the_preset_reaches_the_policy(velocity):
    """Where its network says 0 the noise is exp(-1.5), through the velocity a quarter; H is 0."""
    learner = sac_flow.Learner(reference_code(velocity, **SMALL), world(), 10_000)
    flow = jax.jit(lambda key: learner.init(key).actor.policy)(jax.random.key(0))
    last = {"mlp": lambda f: f.field.network, "decoded": lambda f: f.field, "gated": lambda f: f.noise_network}
    silent = eqx.tree_at(lambda f: last[velocity](f).output.weight, flow, replace_fn=jnp.zeros_like)

    @jax.jit
    def log_std_of(flow, features, x):
        outputs = flow.field(flow.field.condition(features), x, jnp.asarray(0.0))
        return flow.moments(outputs, features, x)[1]

    log_std = log_std_of(silent, jnp.ones(3), jnp.zeros(2))
    np.testing.assert_allclose(log_std, [-1.5 - (math.log(4) if velocity == "decoded" else 0.0)] * 2, rtol=1e-5)
    assert isinstance(flow.noise_network, MLP) == (velocity == "gated")
    if velocity == "gated":
        assert [layer.linear.out_features for layer in flow.noise_network.layers] == [512, 512]
    assert learner.entropy_target == 0.0


@pytest.mark.parametrize(("velocity", "size"), [("gated", 342_688), ("decoded", 311_998 - 74_496)])
def test_released_actors_have_the_measured_sizes(velocity, size):
    """HalfCheetah, statistics not counted. Flow-T's queries and keys, which do nothing, have 74,496."""

    def is_norm(node):
        return isinstance(node, BatchRenorm)

    task = Pendulum(action_size=6, observation_spec=ObservationSpec(17))  # its shapes are all that is used
    learner = sac_flow.Learner(reference_code(velocity), FunctionalWorld("shapes", Vmapped(task), 1), 10**6)
    policy = jax.eval_shape(learner.init, jax.random.key(0)).actor.policy
    norms = [n for n in jax.tree.leaves(policy, is_leaf=is_norm) if is_norm(n)]
    kept = sum(leaf.size for n in norms for leaf in (n.mean, n.variance, n.calls))
    assert sum(leaf.size for leaf in jax.tree.leaves(policy)) - kept == size


def released_step(gradient_steps=1, reward=0.0, **settings):
    """A learner with released networks, what it begins with, and what gradient steps make of that."""
    learner = Driven(sac_flow.Learner(reference_code("gated", **{**SMALL, **settings}), world(), 10_000))
    begin = jax.jit(learner.init_learned)(jax.random.key(0))
    generator = np.random.default_rng(1)
    seen = [Observation(jnp.asarray(generator.normal(2.0, 1.0, (8, 3)), jnp.float32)) for _ in range(2)]
    action = jnp.asarray(np.tanh(generator.normal(size=(8, 2))), jnp.float32)
    reward, bootstrap = (jnp.asarray(np.full(8, value, np.float32)) for value in (reward, 0.9))
    batch = Batch(seen[0], action, reward, bootstrap, seen[1])
    step = jax.jit(learner.gradient_step)
    after = begin
    for count in range(gradient_steps):
        after, _ = step(after, batch, jax.random.key(count), jnp.asarray(0))
    return learner, begin, after, batch


@pytest.mark.slow
def test_an_actor_step_moves_the_statistics():
    _, begin, after, batch = released_step(critic="target", policy_delay=1, flow_steps=3)
    norm = after.actor.policy.field.norms["input"]
    assert begin.actor.policy.field.norms["input"].calls == 0 and norm.calls == 3
    seen = batch.observation.vector.mean(axis=0)
    np.testing.assert_allclose(norm.mean[:3], (1.0 - 0.99**3) * seen, rtol=1e-4)
    assert np.any(np.asarray(norm.scale) != 1.0)  # learned


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["target", "crossq"])
def test_a_refused_step_leaves_no_statistics(critic):
    learner, begin, _, batch = released_step(0, critic=critic, policy_delay=1)
    bad = dataclasses.replace(batch.observation, vector=batch.observation.vector.at[0, 0].set(jnp.nan))
    step = jax.jit(learner.gradient_step)
    after, metrics = step(begin, dataclasses.replace(batch, observation=bad), jax.random.key(2), jnp.asarray(0))
    assert metrics["actor/skipped"] == 1.0 and metrics["critic/skipped"] == 1.0
    new, old = ((state.actor, state.critic) for state in (after, begin))
    for one, other in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_in_play_one_state_is_looked_at_alone():
    learner, _, after, batch = released_step(critic="target", policy_delay=1)
    agent, one = learner.agent(after), jax.tree.map(lambda x: x[:1], batch.observation)
    np.testing.assert_allclose(agent.mode(batch.observation).action[:1], agent.mode(one).action, rtol=1e-5)
