"""Affine, Flow-G and Flow-T: what they are at the start, what noise they can shape, the decoder against attention."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks import Normalizer, Trunk, VectorEncoder
from penstock.policies import (
    Actor,
    Agent,
    DecodedVelocity,
    GatedVelocity,
    SquashedGaussian,
    VelocityFlow,
)
from penstock.policies.velocity_fields import AffineVelocity, make_velocity
from penstock.worlds import Observation

TRUNK = Trunk((16,), "silu", False)
FEATURES = jnp.array([0.5, -1.0, 2.0])


def test_gate_starts_open_and_one_step_keeps_three_quarters():
    """g = sigmoid(5); with a zero candidate one of four steps keeps 1 - g / 4 of the latent."""
    field = GatedVelocity(jax.random.key(0), 3, 2, TRUNK)
    field = eqx.tree_at(lambda f: f.candidate.output.weight, field, jnp.zeros((2, 16)))
    x = jnp.array([0.7, -0.4])
    velocity = field(field.condition(FEATURES), x, jnp.asarray(0.25))
    np.testing.assert_allclose(velocity, -0.99330715 * x, rtol=1e-6)
    policy = VelocityFlow(field=field, flat_size=2, flow_steps=4, stepper="euler")
    np.testing.assert_allclose(policy.draw(FEATURES, x).latent, 0.31924 * x, rtol=1e-4)
    one = VelocityFlow(field=field, flat_size=2, flow_steps=1, stepper="euler")
    np.testing.assert_allclose(one.draw(FEATURES, x).latent, (1 - 0.99330715) * x, rtol=1e-4)


def test_gated_velocity_by_hand():
    field = GatedVelocity(jax.random.key(1), 3, 2, TRUNK, output_gain=100.0)
    x, tau = jnp.array([0.7, -0.4]), jnp.asarray(0.5)
    whole = np.concatenate([FEATURES, x, [0.5]])

    def network(part):
        first = part.feature_layer.linear
        weight = np.concatenate([first.weight, part.latent_weight, part.time_weight[:, None]], axis=1)
        h = weight @ whole + first.bias
        return part.output.weight @ (h / (1 + np.exp(-h))) + part.output.bias

    gate = 1 / (1 + np.exp(-network(field.gate)))
    expected = gate * (50.0 * np.tanh(network(field.candidate)) - x)
    np.testing.assert_allclose(field(field.condition(FEATURES), x, tau), expected, rtol=1e-5)


def test_the_gates_first_layer_wakes_after_one_update():
    field = GatedVelocity(jax.random.key(2), 3, 2, TRUNK)
    x = jnp.array([0.7, -0.4])

    def loss(field):
        return jnp.sum(jnp.square(field(field.condition(FEATURES), x, jnp.asarray(0.25)) - 1.0))

    gradient = eqx.filter_grad(loss)(field)
    assert not np.any(gradient.gate.feature_layer.linear.weight)
    assert np.any(gradient.gate.output.weight) and np.any(gradient.candidate.feature_layer.linear.weight)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, field, gradient)
    assert np.any(eqx.filter_grad(loss)(moved).gate.feature_layer.linear.weight)


def shaken(field):
    """The field with 0.1 of normal noise on every parameter."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(p + np.float32(0.1) * rng.standard_normal(p.shape, np.float32)), field)


def attention(queries, keys, values, heads):
    """Multi-head scaled dot-product attention: ``(Q, D), (S, D), (S, D) -> (Q, D)``."""
    q, k, v = (t.reshape(t.shape[0], heads, -1) for t in (queries, keys, values))
    weights = jax.nn.softmax(jnp.einsum("qhd,shd->hqs", q, k) / jnp.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("hqs,shd->qhd", weights, v).reshape(queries.shape)


def dense(layer, h):
    return layer.weight @ h + layer.bias


def embeddings(field, x, tau):
    """The context token of the state, and the query token: latent plus time."""
    first, second = field.state_encoder
    token = dense(second, jax.nn.silu(dense(first, FEATURES)))
    h = tau[None]
    for layer in field.time_encoder[:-1]:
        h = jax.nn.silu(dense(layer, h))
    return token, dense(field.latent_encoder, x) + dense(field.time_encoder[-1], h)


def decoder_oracle(field, projections, x, tau, heads=4):
    """Flow-T as a transformer decoder: one query token, one context token, pre-norm, with query and key projections."""

    def norm(h):
        return (h - h.mean()) / jnp.sqrt(h.var() + 1e-5)

    token, y = embeddings(field, x, tau)
    for block, (query, key) in zip(field.blocks, projections, strict=True):
        context = norm(token)
        attended = attention((query @ norm(y))[None], (key @ context)[None], dense(block.value, context)[None], heads)
        y = y + dense(block.out, attended[0])
        y = y + dense(block.narrow, jax.nn.gelu(dense(block.widen, norm(y))))
    return dense(field.output, norm(y))


def test_folded_decoder_equals_attention_and_queries_and_keys_have_no_gradient():
    field = shaken(DecodedVelocity(jax.random.key(3), 3, 2, width=16, layers=3, output_gain=1.0))
    for block in field.blocks:  # the oracle's norms have neither scale nor shift
        for norm in (block.context_norm, block.norm):
            assert norm.weight.shape == (16,)
    plain = eqx.tree_at(
        lambda f: [n for b in f.blocks for n in (b.context_norm.weight, b.norm.weight)] + [f.final_norm.weight],
        field,
        [jnp.ones(16)] * 7,
    )
    plain = eqx.tree_at(
        lambda f: [n for b in f.blocks for n in (b.context_norm.bias, b.norm.bias)] + [f.final_norm.bias],
        plain,
        [jnp.zeros(16)] * 7,
    )
    projections = [tuple(jax.random.normal(jax.random.key(10 * i + j), (16, 16)) for j in range(2)) for i in range(3)]
    x, tau = jnp.array([0.7, -0.4]), jnp.asarray(0.25)
    expected = jax.jit(decoder_oracle)(plain, projections, x, tau)
    folded = jax.jit(lambda field: field(field.condition(FEATURES), x, tau))(plain)
    np.testing.assert_allclose(folded, expected, rtol=2e-5, atol=2e-6)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(decoder_oracle(plain, p, x, tau)))))(projections)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("make", [GatedVelocity, pytest.param(DecodedVelocity, marks=pytest.mark.slow)])
def test_fields_depend_on_state_latent_and_time(make):
    args = (TRUNK,) if make is GatedVelocity else (16,)
    field = make(jax.random.key(4), 3, 2, *args, output_gain=1.0)

    def velocity(features, x, tau):
        return field(field.condition(features), x, tau)

    point = (FEATURES, jnp.array([0.7, -0.4]), jnp.asarray(0.25))
    for jacobian in jax.jit(jax.jacobian(velocity, argnums=(0, 1, 2)))(*point):
        assert np.abs(jacobian).max() > 1e-4


# --- affine -----------------------------------------------------------------------------------------------------


def test_affine_velocity_by_hand():
    field = AffineVelocity(jax.random.key(1), 3, 2, TRUNK, output_gain=2.0)
    x, tau = jnp.array([0.7, -0.4]), jnp.asarray(0.5)
    first = field.network.feature_layer.linear
    weight = np.concatenate([first.weight, field.network.latent_weight, field.network.time_weight[:, None]], axis=1)
    h = weight @ np.concatenate([FEATURES, x, [0.5]]) + first.bias
    heads = field.network.output.weight @ (h / (1 + np.exp(-h))) + field.network.output.bias
    expected = heads[:2] + heads[2:] * x
    np.testing.assert_allclose(field(field.condition(FEATURES), x, tau), expected, rtol=1e-5)


def test_affine_flow_starts_near_the_identity():
    field = AffineVelocity(jax.random.key(2), 3, 2, TRUNK)
    policy = VelocityFlow(field=field, flat_size=2, flow_steps=4, stepper="euler")
    x = jnp.array([1.5, -0.8])
    np.testing.assert_allclose(policy.draw(FEATURES, x).latent, x, atol=0.05)


def test_bias_of_the_gain_alone_sets_every_standard_deviation():
    """With p = 0 and a constant gain q, K Euler steps multiply the noise by (1 + q / K)^K, entry by entry."""
    field = AffineVelocity(jax.random.key(3), 3, 3, TRUNK)
    gain = jnp.array([-4.0, -2.0, 1.0])
    output = field.network.output
    field = eqx.tree_at(
        lambda f: (f.network.output.weight, f.network.output.bias),
        field,
        (jnp.zeros_like(output.weight), jnp.concatenate([jnp.zeros(3), gain])),
    )
    policy = VelocityFlow(field=field, flat_size=3, flow_steps=4, stepper="euler")
    x = jnp.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(policy.draw(FEATURES, x).latent, [0.0, -0.0625, 2.0 * 1.25**4], rtol=1e-6)
    normalizer = Normalizer.create(3, enabled=False)
    agent = Agent(Actor(VectorEncoder(3), policy), normalizer)
    latent_std = jax.jit(functools.partial(agent.latent_std, draws=4000))
    std = latent_std(Observation(jnp.stack([FEATURES, -FEATURES])), jax.random.key(0))
    np.testing.assert_allclose(std, [0.0, 0.0625, 1.25**4], rtol=0.03)


@pytest.mark.parametrize(
    ("name", "rank"),
    [("affine", 6), ("gated", 6), ("mlp", 5), ("decoded", 3), ("gaussian", 6), ("chunks", 5), ("waist", 5)],
)
def test_rank_of_the_noise_that_can_be_shaped(name, rank):
    """Counted from the Jacobian of the flow: in so many directions it differs from the identity."""
    if name == "gaussian":
        assert SquashedGaussian(jax.random.key(0), 3, 6, TRUNK).noise_rank == rank
        return
    hidden = {"decoded": (4,), "waist": (5, 8)}.get(name, (8, 5))
    kind = "mlp" if name in ("chunks", "waist") else name
    field = make_velocity(jax.random.key(0), kind, 3, 6, Trunk(hidden, "silu", False), 1.0)
    policy = VelocityFlow(field=shaken(field), flat_size=6, flow_steps=3, stepper="euler")
    jacobian = jax.jit(jax.jacfwd(lambda x: policy.draw(FEATURES, x).latent))(jnp.linspace(-1.0, 1.0, 6))
    singular = np.linalg.svd(np.asarray(jacobian, np.float64) - np.eye(6))[1]
    assert (singular > 1e-5).sum() == rank
    assert policy.noise_rank == rank
