"""Window returns and value targets: hand numbers, and brute force over every pattern of episode ends."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.critics.returns import segment_discounts, segment_return, td_lambda_targets

KINDS = {"continue": (False, False), "terminate": (True, False), "truncate": (False, True), "both": (True, True)}
STEPS = 4
PATTERNS = list(itertools.product(KINDS, repeat=STEPS))
"""Every combination of continue, terminate, truncate and both at every step: 256 windows, all their episode ends."""


def every(function, *constants):
    """The function for all windows at once, with its constants."""
    return jax.jit(jax.vmap(lambda *window: function(*window, *constants)))(*map(jnp.asarray, windows()))


def windows():
    generator = np.random.default_rng(0)
    reward, value = generator.normal(size=(2, len(PATTERNS), STEPS))
    terminated = np.array([[KINDS[kind][0] for kind in pattern] for pattern in PATTERNS])
    truncated = np.array([[KINDS[kind][1] for kind in pattern] for pattern in PATTERNS])
    return reward, terminated, truncated, value


def episodes(terminated, truncated):
    """The index ranges of the episodes in one window, each with the factor of the value that follows it."""
    ranges, start = [], 0
    for t in range(len(terminated)):
        if terminated[t] or truncated[t] or t == len(terminated) - 1:
            ranges.append((start, t, 0.0 if terminated[t] else 1.0))
            start = t + 1
    return ranges


def brute_force_return(reward, terminated, truncated, value, discount):
    total = 0.0
    for start, end, bootstrap in episodes(terminated, truncated):
        total += sum(discount ** (t - start) * reward[t] for t in range(start, end + 1))
        total += discount ** (end + 1 - start) * bootstrap * value[end]
    return total


def brute_force_targets(reward, terminated, truncated, value, discount, mixing):
    """The lambda return as it is defined: the weighted sum of all n-step returns, forward in time."""
    targets = np.zeros(len(reward))
    for start, end, bootstrap in episodes(terminated, truncated):
        for t in range(start, end + 1):
            longest = end + 1 - t

            def n_step(n, t=t, end=end, bootstrap=bootstrap, longest=longest):
                rewards = sum(discount**i * reward[t + i] for i in range(n))
                after = bootstrap * value[end] if n == longest else value[t + n - 1]
                return rewards + discount**n * after

            weights = [(1 - mixing) * mixing ** (n - 1) for n in range(1, longest)] + [mixing ** (longest - 1)]
            targets[t] = sum(w * n_step(n) for n, w in enumerate(weights, start=1))
    return targets


@pytest.mark.parametrize("discount", [0.9, 1.0, 0.0])
def test_window_return_by_brute_force(discount):
    reward, terminated, truncated, value = windows()
    found = every(segment_return, discount)
    expected = [
        brute_force_return(*window, discount) for window in zip(reward, terminated, truncated, value, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("discount", "mixing"), [(0.9, 0.7), (0.9, 0.0), (0.9, 1.0), (1.0, 0.95)])
def test_targets_by_brute_force(discount, mixing):
    reward, terminated, truncated, value = windows()
    found = every(td_lambda_targets, discount, mixing)
    expected = [
        brute_force_targets(*window, discount, mixing)
        for window in zip(reward, terminated, truncated, value, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [(False, False, 4.625), (True, False, 1.0), (False, True, 6.0), (True, True, 1.0)],
)
def test_two_by_two_table_by_hand(terminated, truncated, expected):
    """r = 1, then 2; V = 10, then 5; gamma = lambda = 1/2. The first step's target, for the four kinds of end.

    Goes on: G_1 = 2 + 5/2 = 4.5 and G_0 = 1 + (10/2 + 4.5/2)/2 = 4.625. Ends: 1, or 1 + 10/2 = 6.
    """
    end = jnp.array([terminated, False]), jnp.array([truncated, False])
    targets = td_lambda_targets(jnp.array([1.0, 2.0]), *end, jnp.array([10.0, 5.0]), 0.5, 0.5)
    np.testing.assert_allclose(targets, [expected, 4.5], rtol=1e-6)
    window = segment_return(jnp.array([1.0, 2.0]), *end, jnp.array([10.0, 5.0]), 0.5)
    # Goes on: 1 + 2/2 + 5/4. Ends: the first episode's own return, and then 2 + 5/2 undiscounted.
    np.testing.assert_allclose(window, expected + 4.5 if terminated or truncated else 3.25, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_end_at_the_first_and_only_step(kind):
    terminated, truncated = (jnp.array([flag]) for flag in KINDS[kind])
    expected = 3.0 if kind in ("terminate", "both") else 3.0 + 0.9 * 7.0
    for found in (
        segment_return(jnp.array([3.0]), terminated, truncated, jnp.array([7.0]), 0.9),
        td_lambda_targets(jnp.array([3.0]), terminated, truncated, jnp.array([7.0]), 0.9, 0.95)[0],
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_discount_restarts_after_an_end():
    done = jnp.array([False, True, False, False, True])
    np.testing.assert_allclose(segment_discounts(done, 0.5), [1.0, 0.5, 1.0, 0.5, 0.25])


def test_values_that_are_not_consulted_do_not_matter_even_if_not_finite():
    reward, terminated = jnp.ones(4), jnp.array([False, True, False, True])
    value = jnp.array([2.0, jnp.nan, 2.0, jnp.nan])
    assert np.isfinite(segment_return(reward, terminated, jnp.zeros(4, bool), value.at[0].set(jnp.nan), 0.9))
    assert np.isfinite(td_lambda_targets(reward, terminated, jnp.zeros(4, bool), value, 0.9, 0.95)).all()


def test_gradient_of_the_return_is_its_weights():
    """Rewards weigh gamma^i, bootstrapping values gamma^(i + 1), the others nothing."""
    terminated, truncated = jnp.array([False, False, True, False]), jnp.array([False, True, False, False])
    of_reward, of_value = jax.grad(segment_return, argnums=(0, 3))(
        jnp.zeros(4), terminated, truncated, jnp.zeros(4), 0.5
    )
    np.testing.assert_allclose(of_reward, [1.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(of_value, [0.0, 0.25, 0.0, 0.5])


# --- action chunks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [None, ("terminate", 3), ("truncate", 3), ("both", 7), ("truncate", 5), ("terminate", 1)]
)
@pytest.mark.parametrize("chunk", [2, 4])
def test_targets_at_decisions_equal_macro_steps(end, chunk):
    """With values consulted only at decisions, targets there are TD(lambda) of the macro process.

    An end inside a chunk begins a new plan, whose first macro step is shorter; the macro step that was cut short
    has its own length too. Macro rewards, lengths and flags are put together here by hand.
    """
    steps, discount, mixing = 8, 0.9, 0.7
    generator = np.random.default_rng(1)
    reward, value = generator.normal(size=(2, steps))
    terminated, truncated = np.zeros((2, steps), bool)
    if end is not None:
        terminated[end[1]], truncated[end[1]] = KINDS[end[0]]
    done = terminated | truncated
    decision = np.array([t % chunk == 0 or (t > 0 and done[t - 1]) for t in range(steps)])
    next_decision = np.append(decision[1:], True)

    starts = np.flatnonzero(decision)
    macro = []
    for start, following in zip(starts, [*starts[1:], steps], strict=True):
        length = following - start
        macro.append(
            (
                start,
                sum(discount**i * reward[start + i] for i in range(length)),
                discount**length,
                terminated[following - 1],
                done[following - 1] or following == steps,
                value[following - 1],
            )
        )
    expected, after = {}, 0.0
    for start, macro_reward, macro_discount, ends_for_good, closes, next_value in reversed(macro):
        if closes:
            future = 0.0 if ends_for_good else next_value
        else:
            future = (1 - mixing) * next_value + mixing * after
        after = expected[start] = macro_reward + macro_discount * future

    value[~next_decision] = 1e6  # values in the middle of a chunk are not looked at
    targets = td_lambda_targets(
        *map(jnp.asarray, (reward, terminated, truncated, value)), discount, mixing, jnp.asarray(next_decision)
    )
    np.testing.assert_allclose(np.asarray(targets)[starts], [expected[s] for s in starts], atol=1e-5)


def test_without_chunks_all_states_are_decisions():
    reward, value = np.random.default_rng(2).normal(size=(2, 5))
    none = jnp.zeros(5, bool)
    one = td_lambda_targets(jnp.asarray(reward), none, none, jnp.asarray(value), 0.9, 0.7)
    other = td_lambda_targets(jnp.asarray(reward), none, none, jnp.asarray(value), 0.9, 0.7, jnp.ones(5, bool))
    np.testing.assert_allclose(one, other, rtol=1e-6)
