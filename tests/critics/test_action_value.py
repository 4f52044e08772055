"""Action-value ensembles: sizes, statistics, expectiles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.critics.action_value import ActionCritic, NormedHead, RenormCritic, make_action_critic
from penstock.critics.expectile import expectile_loss
from penstock.networks import Trunk, VectorEncoder
from penstock.networks.batch_renorm import with_statistics
from penstock.worlds import Observation, ObservationSpec


def count(module):
    return sum(leaf.size for leaf in jax.tree.leaves(module))


def test_flowrl_value_networks_have_the_published_sizes():
    """dog: 223 observations, 38 actions (bytedance/FlowRL): a twin 1,853,442, one state value 907,265."""
    widths = (512,) * 4

    def twin():
        return ActionCritic(
            jax.random.key(0), VectorEncoder(223), lambda k: NormedHead(k, 261, widths, "gelu"), 2
        ).networks

    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(twin))) == 1_853_442
    value = jax.eval_shape(lambda: NormedHead(jax.random.key(0), 223, widths, "gelu"))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(value)) == 907_265


@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_folded_form_is_the_network_layer_after_layer(layer_norm):
    """Values and all gradients in float64, with gains and biases that are not 1 and 0."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        head = NormedHead(jax.random.key(0), 5, (32,) * 4, "gelu", layer_norm)
        head = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.3 * rng.standard_normal(leaf.shape), head)
        x = jnp.asarray(rng.standard_normal((7, 5)))
        assert head.folded and not NormedHead(jax.random.key(0), 9, (32,) * 4, "gelu").folded

        def layer_after_layer(head, x):
            for layer in head.layers:
                x = layer(x)
            return head.output(x)

        def value(form, head, x):
            return jnp.sin(jax.vmap(lambda x: form(head, x))(x)).sum()

        ours = jax.jit(jax.value_and_grad(lambda *a: value(NormedHead.__call__, *a), argnums=(0, 1)))(head, x)
        plain = jax.jit(jax.value_and_grad(lambda *a: value(layer_after_layer, *a), argnums=(0, 1)))(head, x)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_an_ensemble_of_one_is_its_member():
    critic = make_action_critic(jax.random.key(0), ObservationSpec(3), 2, Trunk((8,)), 1)
    observation, action = jax.random.normal(jax.random.key(1), (4, 3)), jnp.zeros((4, 2))
    member = jax.tree.map(lambda leaf: leaf[0], critic.networks)
    np.testing.assert_allclose(
        critic.values(Observation(observation), action)[0],
        jax.vmap(member)(jnp.concatenate([observation, action], axis=1))[:, 0],
        rtol=1e-5,
    )


def test_members_differ_and_see_observation_and_action():
    critic = make_action_critic(jax.random.key(0), ObservationSpec(3), 2, Trunk((8,)), 2)
    observation, action = Observation(jnp.ones((4, 3))), jnp.zeros((4, 2))
    values = critic.values(observation, action)
    assert values.shape == (2, 4) and float(jnp.abs(values[0] - values[1]).max()) > 1e-3
    gradient = jax.jit(jax.grad(lambda a: critic.values(observation, a).sum()))(action)
    assert np.abs(gradient).min() > 1e-4


def test_crossq_statistics_come_from_the_joint_batch():
    critic = RenormCritic(jax.random.key(0), ObservationSpec(2), 1, Trunk((8,), "relu", False), 2)
    now, then = Observation(jnp.zeros((4, 2))), Observation(2.0 * jnp.ones((4, 2)))
    joint = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), now, then)
    action = jnp.linspace(-1.0, 1.0, 8)[:, None]
    values, moved = critic.train_values(joint, action)
    assert values.shape == (2, 8)
    after = eqx.tree_at(lambda c: c.norms, critic, with_statistics(critic.norms, moved, unless=jnp.asarray(False)))
    np.testing.assert_allclose(after.norms[0].mean, 0.01 * np.tile([1.0, 1.0, 0.0], (2, 1)), atol=1e-6)
    np.testing.assert_array_equal(after.norms[0].calls, [1.0, 1.0])
    for ours, theirs in zip(jax.tree.leaves(after.linears), jax.tree.leaves(critic.linears), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert float(jnp.abs(critic.values(joint, action) - values).max()) > 1e-3  # running statistics differ


def test_expectiles():
    """Level 1/2 gives the mean, a level near 1 the maximum (both by the sign of the derivative)."""
    targets = jnp.array([0.0, 1.0, 5.0])

    def slope(level, prediction):
        return float(jax.grad(lambda v: expectile_loss(targets - v, level).mean())(prediction))

    assert abs(slope(0.5, 2.0)) < 1e-6
    assert slope(0.999, 4.9) < 0 < slope(0.999, 5.0)
    np.testing.assert_allclose(expectile_loss(jnp.array([2.0, -2.0]), 0.9), [3.6, 0.4], rtol=1e-6)
