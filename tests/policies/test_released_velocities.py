"""SAC Flow's released networks, by hand, and their training rollout: BatchRenorm over the batch at each flow step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks import Trunk
from penstock.policies import NoisyFlow
from penstock.policies.released_velocities import make_released_velocity

B, K, FEATURES, D = 6, 3, 3, 2
EPSILON = 1e-3
SHAPES = {
    "mlp": {"hidden": (8, 8), "heads": 2},
    "gated": {"hidden": (8,), "heads": 1},
    "decoded": {"hidden": (8,), "heads": 2},
}


def field_of(name, warmup=100_000):
    return make_released_velocity(
        jax.random.key(0), name, FEATURES, D, **SHAPES[name], flow_steps=K, renorm_warmup=warmup
    )


def flow_of(name, warmup=100_000):
    """A flow whose parameters, scales and offsets are all in use."""
    field = field_of(name, warmup)
    flow = NoisyFlow(
        jax.random.key(1),
        field,
        FEATURES,
        D,
        Trunk((8, 8), "relu", False),
        flow_steps=K,
        drift=False,
        step_std=0.2,
        noise_enters="latent",
        noise_head=SHAPES[name]["heads"] == 2,
    )
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
    field = field_of("gated")
    np.testing.assert_array_equal(field.gate.output.weight, 0.0)
    np.testing.assert_array_equal(field.gate.output.bias, 5.0)
    assert field.time_encoder.layers[0].linear.weight.shape == (64, 32)


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("mlp", "decoded")), "gated"])
def test_the_training_rollout_normalises_by_the_batch_at_every_step(name):
    flow = flow_of(name)
    features = 1.0 + 2.0 * jax.random.normal(jax.random.key(3), (B, FEATURES))
    keys = jax.random.split(jax.random.key(4), B)
    sample, log_prob, moved = rollout(flow, features, keys)

    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (K + 1, D)))(keys), np.float64)
    x = noise[:, 0]
    density = -0.5 * np.square(noise).sum((1, 2)) - 0.5 * (K + 1) * D * np.log(2 * np.pi)
    seen = []
    for step in range(K):
        seen.append(np.concatenate([features, x, np.full((B, 1), step / K)], axis=1))
        v = oracle(flow, np.asarray(features, np.float64), x, step)
        if flow.noise_head:
            v, u = np.split(v, 2, axis=1)
            log_std = -5.0 + 3.5 * (np.tanh(u + np.arctanh(2.0 * (np.log(0.2) + 5.0) / 7.0 - 1.0)) + 1.0)
        else:
            log_std = np.asarray(jax.vmap(flow.log_sigma)(features))
        x = x + v / K + np.exp(log_std) * noise[:, step + 1]
        density -= log_std.sum(1)
    np.testing.assert_allclose(sample.latent, x, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(sample.action, np.tanh(x), rtol=2e-4, atol=2e-4)
    density -= np.log(1 - np.tanh(x) ** 2).sum(1)
    np.testing.assert_allclose(log_prob, density, rtol=1e-3, atol=1e-3)

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
    same = jax.vmap(lambda f, x: settled(settled.condition(f), x, tau))(features, x)
    np.testing.assert_allclose(same, outputs, rtol=1e-3, atol=1e-3)
    other = jax.vmap(lambda f, x: flow.field(flow.field.condition(f), x, tau))(features, x)
    assert np.abs(other - outputs).max() > 0.01
