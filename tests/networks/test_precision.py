"""Products in bfloat16: against products of numbers rounded by hand."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from penstock.networks import MLP, Trunk
from penstock.networks.precision import SHORTEST_SIDE, in_precision
from tests.products import products


def rounded(x):
    """To 8 significant bits, as float64."""
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def in_bfloat16(function):
    return jax.jit(in_precision("bfloat16", function))


def close(a, b):
    """Equal but for the order of float32 sums; products of unrounded numbers differ by a thousand times as much."""
    np.testing.assert_allclose(np.asarray(a), b, rtol=2e-5, atol=2e-5)


def test_a_product_is_of_rounded_factors_and_its_sum_is_not_rounded():
    x, w = normal(0, 64, 48), normal(1, 48, 32)
    y = in_bfloat16(lambda x, w: x @ w)(x, w)
    assert y.dtype == jnp.float32
    close(y, rounded(x) @ rounded(w))
    assert np.abs(np.asarray(y) - rounded(y)).max() > 1e-3
    assert np.abs(np.asarray(y) - np.asarray(x, np.float64) @ np.asarray(w, np.float64)).max() > 1e-3


def test_gradients_are_products_of_rounded_factors_too():
    x, w, g = normal(0, 64, 48), normal(1, 32, 48), normal(2, 64, 32)

    def pull_back(x, w, g):
        def loss(x, w):
            return (jax.vmap(lambda row: w @ row)(x) * g).sum()

        return jax.grad(loss, argnums=(0, 1))(x, w)

    dx, dw = in_bfloat16(pull_back)(x, w, g)
    close(dx, rounded(g) @ rounded(w))
    close(dw, rounded(g).T @ rounded(x))


@pytest.mark.parametrize("side", ["rows", "inner", "columns"])
def test_a_product_with_a_short_side_stays_float32(side):
    sizes = {"rows": 32, "inner": 32, "columns": 32, side: SHORTEST_SIDE - 1}
    x, w = normal(0, sizes["rows"], sizes["inner"]), normal(1, sizes["inner"], sizes["columns"])
    close(in_bfloat16(lambda x, w: x @ w)(x, w), np.asarray(x, np.float64) @ np.asarray(w, np.float64))


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("of_y", ORDERS, ids=str)
@pytest.mark.parametrize("of_x", ORDERS, ids=str)
def test_any_order_of_axes(of_x, of_y):
    """``sum_k x[b, m, k] y[b, k, n]``, with the axes of each factor stored in any order."""
    x, y = normal(0, 3, 17, 19), normal(1, 3, 19, 23)
    numbers = (((of_x.index(2),), (of_y.index(1),)), ((of_x.index(0),), (of_y.index(0),)))
    product = in_bfloat16(lambda x, y: jax.lax.dot_general(x, y, numbers))(x.transpose(of_x), y.transpose(of_y))
    close(product, np.einsum("bmk,bkn->bmn", rounded(x), rounded(y)))


def test_several_axes_of_each_kind_and_factors_that_were_transposed():
    x, y = normal(0, 4, 5, 6, 7), normal(1, 6, 20, 4, 5)

    def product(x, y):
        x = jax.lax.optimization_barrier(jnp.transpose(x, (3, 1, 0, 2)))
        return jnp.einsum("dbac,ceab->de", x, y)

    expected = np.einsum("abcd,ceab->de", np.tile(rounded(x), 3), rounded(y))
    close(in_bfloat16(product)(jnp.tile(x, (1, 1, 1, 3)), y), expected)


def test_products_within_loops_branches_and_calls_are_rounded():
    w = normal(0, 32, 32) / 6

    def network(x, w, deep):
        def layer(x, w):
            return jnp.tanh(x @ w), (x @ w).sum()

        x, sums = jax.lax.scan(layer, x, jnp.stack([w, w.T, w]))
        x = jax.lax.cond(deep, lambda x: jax.jit(jnp.dot)(x, w), lambda x: x, x)
        return x, sums

    def by_hand(x, deep):
        sums = []
        for matrix in (w, w.T, w):
            z = rounded(x) @ rounded(matrix)
            x = np.tanh(z)
            sums.append(z.sum())
        return (rounded(x) @ rounded(w) if deep else x), np.array(sums)

    x = normal(1, 64, 32)
    for deep in (False, True):
        ours, (last, sums) = in_bfloat16(network)(x, w, deep), by_hand(x, deep)
        # a sum that falls to the other side of a rounding moves what is rounded after it
        np.testing.assert_allclose(ours[0], last, atol=4e-3)
        np.testing.assert_allclose(ours[1], sums, rtol=1e-3, atol=1e-2)
    program = jax.make_jaxpr(in_precision("bfloat16", network))(x, w, True)
    kinds = [kinds for kinds, _ in products(program.jaxpr)]
    assert kinds == 3 * [("bfloat16", "bfloat16")]


def test_every_large_product_of_a_network_and_its_gradient_is_rounded():
    network = MLP(jax.random.key(0), 20, 1, Trunk((32, 48), "gelu", layer_norm=True))
    x = normal(1, 64, 20)

    def gradient(network, x):
        return eqx.filter_value_and_grad(lambda network: jnp.square(jax.vmap(network)(x)).mean())(network)

    program = jax.make_jaxpr(in_precision("bfloat16", gradient))(network, x)
    kinds = [kinds for kinds, _ in products(program.jaxpr)]
    assert kinds.count(("bfloat16", "bfloat16")) == 2 + 3  # forward; weights twice and the first layer's output
    assert kinds.count(("float32", "float32")) == len(kinds) - 5  # those of the output layer: a side of 1
    (value, grads), (exact, exact_grads) = in_bfloat16(gradient)(network, x), jax.jit(gradient)(network, x)
    assert value == pytest.approx(float(exact), rel=2e-2)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(exact_grads), strict=True):
        assert ours.dtype == jnp.float32
        assert np.linalg.norm(ours - theirs) < 2e-2 * np.linalg.norm(theirs) + 1e-6


def test_a_branch_for_another_platform_is_not_compiled():
    """`platform_dependent` stays a choice of the compiler, as the pixel encoder needs it."""

    def by_platform(x):
        return jax.lax.platform_dependent(
            x, cpu=lambda x: jnp.sin(x @ x), cuda=lambda x: jnp.cos(x @ x), default=jnp.exp
        )

    x = normal(0, 32, 32)
    close(in_bfloat16(by_platform)(x), np.sin(rounded(x) @ rounded(x)))
    text = in_bfloat16(by_platform).lower(x).as_text()
    assert "sine" in text and "cosine" not in text and "exponential" not in text


def test_rules_of_derivatives_are_left_behind():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

    @jax.custom_jvp
    def twice(x):
        return 2 * (x @ x)

    twice.defjvp(lambda primals, tangents: (twice(*primals), 2 * tangents[0]))
    x, w = normal(0, 32, 32), normal(1, 32, 32)
    close(in_bfloat16(product)(x, w), rounded(x) @ rounded(w))
    close(in_bfloat16(twice)(x), 2 * rounded(x) @ rounded(x))
    close(in_bfloat16(jax.grad(lambda x, w: product(x, w).sum()))(x, w), np.ones((32, 32)) @ rounded(w).T)


def test_one_square_matrix_in_every_role():
    x = normal(0, 32, 32)
    results = in_bfloat16(lambda x: (x @ x, x.T @ x, x @ x.T, x.T @ x.T))(x)
    r = rounded(x)
    for ours, hand in zip(results, (r @ r, r.T @ r, r @ r.T, r.T @ r.T), strict=True):
        close(ours, hand)


def test_a_scan_backward_stays_backward():
    w = normal(0, 3, 32, 32) / 6
    x = normal(1, 32, 32)

    def run(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, x.sum()), x, w, reverse=True)

    ours, sums = in_bfloat16(run)(x, w)
    hand = rounded(rounded(rounded(x) @ rounded(w[2])) @ rounded(w[1])) @ rounded(w[0])
    np.testing.assert_allclose(ours, hand, atol=2e-2)
    assert sums[2] == pytest.approx(float(x.sum()), rel=1e-3)


def test_the_shortest_side_is_large_enough():
    x, w = normal(0, SHORTEST_SIDE, 32), normal(1, 32, 32)
    close(in_bfloat16(lambda x, w: x @ w)(x, w), rounded(x) @ rounded(w))


def test_a_product_that_asks_for_a_precision_gets_it():
    x, w = normal(0, 32, 32), normal(1, 32, 32)
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    close(in_bfloat16(lambda x, w: jnp.dot(x, w, precision="highest"))(x, w), exact)


def test_several_seeds_under_vmap():
    x, w = normal(0, 2, 64, 32), normal(1, 2, 48, 32)
    y = jax.jit(jax.vmap(in_precision("bfloat16", lambda x, w: x @ w.T)))(x, w)
    close(y, np.einsum("sbi,soi->sbo", rounded(x), rounded(w)))


def test_float64_and_integers_are_left_alone():
    with jax.enable_x64(True):
        x = jnp.asarray(normal(0, 32, 32), jnp.float64)
        np.testing.assert_allclose(in_bfloat16(lambda x: x @ x)(x), np.asarray(x) @ np.asarray(x), rtol=1e-13)
    i = jnp.arange(1024).reshape(32, 32)
    assert (in_bfloat16(lambda i: i @ i)(i) == i @ i).all()


def test_float32_is_the_function_itself():
    def function(x):
        return x

    assert in_precision("float32", function) is function


def test_arguments_and_results_keep_their_structure():
    network = MLP(jax.random.key(0), 20, 1, Trunk((32,)))
    after, extra = in_bfloat16(lambda n, x: (n, {"a": x, "b": (None, 2 * x)}))(network, jnp.ones(3))
    assert jax.tree.structure(after) == jax.tree.structure(network)
    assert extra["b"][0] is None
    assert (extra["b"][1] == 2).all()
