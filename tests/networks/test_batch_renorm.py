"""BatchRenorm against its definition, before and after the warm-up."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from penstock.networks.batch_renorm import BatchRenorm


def layer(calls, warmup=10):
    base = BatchRenorm(2, warmup=warmup)
    return eqx.tree_at(
        lambda n: (n.scale, n.offset, n.mean, n.variance, n.calls),
        base,
        (
            jnp.array([2.0, 0.5]),
            jnp.array([0.1, -0.2]),
            jnp.array([0.3, 5.0]),
            jnp.array([4.0, 0.01]),
            jnp.asarray(float(calls)),
        ),
    )


X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0], [2.0, 4.0]], np.float32)


def test_before_the_warm_up_it_is_batch_normalisation():
    y, after = layer(9).train(jnp.asarray(X))
    normalised = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-3)
    np.testing.assert_allclose(y, np.array([2.0, 0.5]) * normalised + [0.1, -0.2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.mean, 0.99 * np.array([0.3, 5.0]) + 0.01 * X.mean(0), rtol=1e-6)
    np.testing.assert_allclose(after.variance, 0.99 * np.array([4.0, 0.01]) + 0.01 * X.var(0), rtol=1e-6)
    assert float(after.calls) == 10.0


def test_after_it_the_correction_is_clipped():
    """First entry: r and q inside their limits. Second: sigma_B / sigma_R = 18 is cut to 3, and q = -37 to -5."""
    y, _ = layer(10).train(jnp.asarray(X))
    deviation, running = np.sqrt(X.var(0) + 1e-3), np.sqrt(np.array([4.0, 0.01]) + 1e-3)
    r = np.clip(deviation / running, 1 / 3, 3)
    q = np.clip((X.mean(0) - [0.3, 5.0]) / running, -5, 5)
    assert r[1] == 3 and q[1] == -5 and 1 / 3 < r[0] < 3 and abs(q[0]) < 5
    expected = np.array([2.0, 0.5]) * ((X - X.mean(0)) / deviation * r + q) + [0.1, -0.2]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_inside_the_limits_training_and_inference_agree():
    norm = eqx.tree_at(lambda n: (n.mean, n.variance), layer(10), (jnp.array([1.0, 1.0]), jnp.array([1.5, 3.0])))
    trained, _ = norm.train(jnp.asarray(X))
    np.testing.assert_allclose(trained, norm(jnp.asarray(X)), rtol=1e-5, atol=1e-6)


def test_running_statistics_receive_no_gradient():
    gradient = jax.grad(lambda n: jnp.sum(n.train(jnp.asarray(X))[0] ** 3))(layer(10))
    assert not np.any(gradient.mean) and not np.any(gradient.variance) and not np.any(gradient.calls)
    assert np.all(np.asarray(gradient.scale) != 0.0)
    moved = jax.grad(lambda x: jnp.sum(layer(10).train(x)[1].mean))(jnp.asarray(X))
    assert not np.any(moved)


def test_within_a_mapped_axis_it_is_the_same():
    """Value, statistics and gradient; before the warm-up, and after it with a clipped and an unclipped entry."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=X.shape), jnp.float32)
    for calls in (9, 10):

        def whole(x, calls=calls):
            return layer(calls).train(x)

        def mapped(x, calls=calls):
            one = jax.vmap(lambda v: layer(calls).train_within(v, "batch"), axis_name="batch", out_axes=(0, None))
            return one(x)

        (y, after), (same, also) = whole(jnp.asarray(X)), mapped(jnp.asarray(X))
        np.testing.assert_allclose(y, same, rtol=1e-5, atol=1e-6)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(also), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        slopes = [jax.grad(lambda x, f=f: jnp.sum(weights * f(x)[0]))(jnp.asarray(X)) for f in (whole, mapped)]
        np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-5)
        assert np.abs(slopes[0]).max() > 0.1
