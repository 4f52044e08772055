"""Pendulum, cart-pole, double integrator and deceptive basins against independent mechanics."""

import math
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.worlds import make_world, world_entries
from penstock.worlds.classic.cartpole_swingup import CartpoleState, CartpoleSwingup
from penstock.worlds.classic.deceptive_basins import DeceptiveBasins
from penstock.worlds.classic.double_integrator import DoubleIntegrator
from penstock.worlds.classic.pendulum import Pendulum, PendulumState

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import best_policies

NAMES = [entry.name for entry in world_entries() if entry.name.startswith("classic/")]


def test_the_five_classic_worlds_are_registered():
    assert set(NAMES) >= {
        "classic/pendulum",
        "classic/cartpole-swingup",
        "classic/double-integrator",
        "classic/two-gap-wall",
        "classic/deceptive-basins",
    }


@pytest.mark.parametrize("name", NAMES)
def test_worlds_step_draw_and_describe_themselves(name):
    world = make_world(name, 3)
    state = jax.jit(world.reset)(jax.random.key(0))
    state, transition = jax.jit(world.step)(state, jnp.full((3, world.action_size), 0.3))
    assert np.all(np.isfinite(transition.reward))
    scene = world.task.scene(state.body, 1)
    assert scene is not None and scene.planar and len(scene.items) >= 2
    assert all(isinstance(value, (int, float, bool, tuple)) for value in world.task.describe().values())


def test_a_wrong_option_is_refused_in_a_sentence():
    with pytest.raises(ConfigurationError, match="episode_length = 0"):
        make_world("classic/pendulum", 2, episode_length=0)
    with pytest.raises(ConfigurationError, match="does not take the options"):
        make_world("classic/pendulum", 2, gravitation=3.0)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("classic/pendulum", {"episode_length": 10.5}, "episode_length = 10.5: must be a whole number"),
        ("classic/pendulum", {"mass": -1.0}, "mass = -1.0: must be a finite number, greater than 0"),
        ("classic/cartpole-swingup", {"rail": "wide"}, "rail = 'wide'"),
        (
            "classic/double-integrator",
            {"action_cost": -0.1},
            "action_cost = -0.1: must be a finite number, 0 or greater",
        ),
        ("classic/two-gap-wall", {"gap_width": 0.0}, "gap_width = 0.0"),
        ("classic/deceptive-basins", {"high_width": math.nan}, "high_width = nan"),
        ("soft/jumper-mini", {"friction": "a"}, "friction = 'a'"),
        ("soft/jumper-mini", {"episode_length": 10.5}, "episode_length = 10.5"),
    ],
)
def test_wrong_types_and_impossible_constants_are_refused(name, options, sentence):
    with pytest.raises(ConfigurationError) as caught:
        make_world(name, 2, **options)
    assert sentence in str(caught.value)


# --- pendulum ---------------------------------------------------------------------------------------------------


def test_pendulum_step_by_hand():
    # theta = pi/2, theta' = 1, a = 0.5 (1 N m): theta'' = 15 * 1 + 3 * 1 = 18; theta' = 1.9; theta = pi/2 + 0.095.
    task = Pendulum()
    after, outcome = task.advance(PendulumState(jnp.asarray(math.pi / 2), jnp.asarray(1.0)), jnp.array([0.5]))
    angle = math.pi / 2 + 0.05 * 1.9
    np.testing.assert_allclose(after.velocity, 1.9, rtol=1e-6)
    np.testing.assert_allclose(after.angle, angle, rtol=1e-6)
    np.testing.assert_allclose(outcome.reward, -(2 * (1 - math.cos(angle)) + 0.361 + 0.001), rtol=1e-5)


def test_pendulum_conserves_energy_without_torque():
    with jax.enable_x64(True):
        task = Pendulum(control_timestep=1e-4)
        state = PendulumState(jnp.asarray(2.0), jnp.asarray(0.5))
        last, energies = jax.lax.scan(
            lambda s, _: (task.advance(s, jnp.zeros(1))[0], task.energy(s)), state, None, length=20_000
        )
        assert abs(float(last.angle) - 2.0) > 0.1  # it moved
        np.testing.assert_allclose(energies, energies[0], rtol=1e-3)


def test_pendulum_is_too_weak_to_stand_up_at_once_and_brakes_above_the_speed_limit():
    task = Pendulum()
    still = PendulumState(jnp.asarray(math.pi), jnp.asarray(0.0))
    _, heights = jax.lax.scan(lambda s, _: (task.advance(s, jnp.ones(1))[0], jnp.cos(s.angle)), still, None, length=200)
    assert heights.max() < 0.0  # constant full torque does not even reach the horizontal
    fast, _ = task.advance(PendulumState(jnp.asarray(0.0), jnp.asarray(12.0)), jnp.zeros(1))
    np.testing.assert_allclose(fast.velocity, 10.0)
    slope = jax.grad(lambda v: task.advance(PendulumState(jnp.asarray(0.0), v), jnp.zeros(1))[0].velocity)
    assert slope(12.0) == 0.5 and slope(3.0) == 1.0


# --- cart-pole --------------------------------------------------------------------------------------------------


def test_cartpole_accelerations_solve_the_euler_lagrange_equations():
    """Independent: the Lagrangian of a cart and a uniform rod, differentiated automatically."""
    with jax.enable_x64(True):
        task = CartpoleSwingup()
        M, m, half, g = task.cart_mass, task.pole_mass, task.half_length, task.gravity

        def lagrangian(q, dq):
            centre_rate = jnp.stack([dq[0] + half * jnp.cos(q[1]) * dq[1], -half * jnp.sin(q[1]) * dq[1]])
            kinetic = 0.5 * M * dq[0] ** 2 + 0.5 * m * centre_rate @ centre_rate + m * (2 * half) ** 2 / 24 * dq[1] ** 2
            return kinetic - m * g * half * jnp.cos(q[1])

        def euler_lagrange(q, dq, force):
            inertia = jax.hessian(lagrangian, 1)(q, dq)
            coupling = jax.jacobian(jax.grad(lagrangian, 1), 0)(q, dq) @ dq
            return jnp.linalg.solve(inertia, jax.grad(lagrangian)(q, dq) - coupling + jnp.stack([force, 0.0 * force]))

        def task_says(q, dq, force):
            return jnp.stack(task.accelerations(CartpoleState(q[0], dq[0], q[1], dq[1]), force))

        rng = np.random.default_rng(0)
        q, dq, force = jnp.asarray(rng.normal(size=(5, 2))), jnp.asarray(rng.normal(size=(5, 2))), rng.normal(size=5)
        expected = jax.jit(jax.vmap(euler_lagrange))(q, 2 * dq, jnp.asarray(force))
        got = jax.jit(jax.vmap(task_says))(q, 2 * dq, jnp.asarray(force))
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_cartpole_rail_ends_are_soft_and_stop_the_cart():
    world = make_world("classic/cartpole-swingup", 2)

    def step(state, _):
        state, transition = world.step(state, jnp.ones((2, 1)))
        return state, transition.diagnostics["position"]

    _, positions = jax.jit(lambda s: jax.lax.scan(step, s, None, length=150))(jax.jit(world.reset)(jax.random.key(0)))
    assert 1.8 < positions.max() < 2.6


# --- double integrator ------------------------------------------------------------------------------------------


def test_double_integrator_step_matches_its_matrices():
    task = DoubleIntegrator(axes=2)
    A, B, Q, R = task.matrices()
    rng = np.random.default_rng(1)
    s, a = rng.uniform(-1, 1, 4), rng.uniform(-1, 1, 2)
    after, outcome = task.advance(jnp.asarray(s, jnp.float32), jnp.asarray(a, jnp.float32))
    expected = A @ s + B @ a
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outcome.reward, -(expected @ Q @ expected + a @ R @ a), rtol=1e-5)


def test_double_integrator_pathwise_gradient_equals_the_analytic_lq_gradient():
    """dJ/dK by the Lyapunov recursions, in NumPy, against jax.grad through `world.step`, in float64."""
    horizon, num_envs = 20, 4
    with jax.enable_x64(True):
        world = make_world("classic/double-integrator", num_envs, axes=1)
        A, B, Q, R = world.task.single.matrices()
        K = np.array([[0.4, 0.3]])
        reset = jax.jit(world.reset)(jax.random.key(3))
        body = reset.body.astype(jnp.float64)
        reset = eqx.tree_at(lambda s: (s.body, s.observation.vector), reset, (body, body))

        def loss(gain):
            def step(state, _):
                state, transition = world.step(state, -state.observation.vector @ gain.T)
                return state, transition.reward

            return -jnp.sum(jax.lax.scan(step, reset, None, length=horizon)[1])

        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(K))

    # cost-to-go of s_t: V_t(s) = s' P_t s with P_H = 0 and stage cost (s' Q s)(t+1) + a' R a
    P = [np.zeros((2, 2))]
    closed = A - B @ K
    for _ in range(horizon):
        P.append(K.T @ R @ K + closed.T @ (Q + P[-1]) @ closed)
    P = P[::-1]
    sigma = np.asarray(body).T @ np.asarray(body)
    expected = np.zeros_like(K)
    np.testing.assert_allclose(value, np.trace(P[0] @ sigma), rtol=1e-10)
    for t in range(horizon):
        ahead = Q + P[t + 1]
        expected += 2 * ((R + B.T @ ahead @ B) @ K - B.T @ ahead @ A) @ sigma
        sigma = closed @ sigma @ closed.T
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)


# --- deceptive basins -------------------------------------------------------------------------------------------


def _expected_gradient(task, std):
    """d/dmu E[first reward of N(mu, std^2)] at mu = 0, from the score function on a fine grid (no autodiff)."""
    grid = np.linspace(-1.8, 1.8, 361)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    density = np.exp(-0.5 * (x**2 + y**2) / std**2)
    density /= density.sum()
    reward = np.asarray(task.landscape(jnp.stack([jnp.asarray(x), jnp.asarray(y)], -1)))
    return np.array([(density * reward * x).sum(), (density * reward * y).sum()]) / std**2


def test_the_basin_near_the_start_deceives_a_narrow_gaussian():
    task = DeceptiveBasins()
    low, high = np.array(task.low), np.array(task.high)
    for std in (0.05, 0.1, 0.2, 0.25):
        gradient = _expected_gradient(task, std)
        assert gradient @ low / np.linalg.norm(low) > 0.5 * np.linalg.norm(gradient)
        assert gradient @ high < 0
    # Following the pathwise gradient of the first cast from the start ends on the low hill.
    noise = 0.1 * jax.random.normal(jax.random.key(0), (512, 2))
    climb = jax.jit(jax.grad(lambda mean: jnp.mean(task.landscape(mean + noise))))
    mean = jnp.zeros(2)
    for _ in range(200):
        mean = mean + 0.02 * climb(mean)
    np.testing.assert_allclose(mean, low, atol=0.05)


def test_the_best_gaussian_empties_one_hill_and_two_aims_empty_both():
    best = {name: row["return"] for name, row in best_policies.deceptive_basins(400, 33, 18).items()}
    bound = DeceptiveBasins.GAUSSIAN_BOUND
    assert best["low hill alone"] + 0.5 < best["high hill alone"] < best["tanh-Gaussian"] < bound
    assert best["clipped Gaussian"] < bound < best["any law"] - 1.5
    assert 4.9 < best["any law"] < 5.0


def _cast(policy, key, episodes=2048):
    """Mean return and share of successes, by playing."""
    world = make_world("classic/deceptive-basins", episodes)

    @jax.jit
    def play(key):
        def step(state, key):
            state, transition = world.step(state, policy(key, (episodes, 2)))
            return state, (transition.reward, transition.diagnostics["success"])

        return jax.lax.scan(step, world.reset(key), jax.random.split(key, world.episode_length))[1]

    reward, success = play(key)
    return float(reward.sum(0).mean()), float(success.max(0).mean())


def test_playing_deceptive_basins_gives_the_predicted_returns():
    task = DeceptiveBasins(episode_length=8)
    tops = jnp.asarray([task.low, task.high])

    def coin(key, shape):
        return tops[jax.random.bernoulli(key, shape=shape[:1]).astype(int)]

    played, success = _cast(coin, jax.random.key(0))
    assert abs(played - float(task.expected_return(task.catch(tops).mean(0)))) < 0.1  # the start's noise costs 0.02
    assert success > 0.95
    edges, grid = best_policies.cells(400)
    mean, std = (0.51, 0.38), (0.549, 0.05)
    weights = np.stack([best_policies.gaussian_weights(edges, [m], [s])[0, 0] for m, s in zip(mean, std, strict=True)])
    predicted = float(task.expected_return(jnp.asarray(best_policies.mean_catches(task, weights, grid)[0, 1])))

    def gaussian(key, shape):
        return jnp.tanh(jnp.asarray(mean) + jnp.asarray(std) * jax.random.normal(key, shape))

    played, success = _cast(gaussian, jax.random.key(1))
    assert abs(played - predicted) < 0.1 and success < 0.2


def test_what_has_been_taken_is_gone():
    world = make_world("classic/deceptive-basins", 4)
    state, step = jax.jit(world.reset)(jax.random.key(0)), jax.jit(world.step)
    there = jnp.broadcast_to(jnp.asarray(world.task.single.high), (4, 2)) - state.observation.vector
    rewards = []
    for _ in range(3):
        before = state.observation.vector
        state, transition = step(state, there)
        rewards.append(float(transition.reward[0]))
        np.testing.assert_array_equal(state.observation.vector, before)  # nothing to tell the casts apart
        assert float(transition.diagnostics["on_high"].min()) == 1.0
    np.testing.assert_allclose(rewards, [3.0, 0.0, 0.0], atol=0.12)
    with jax.enable_x64(True):
        task = DeceptiveBasins()

        def total(actions):
            state = task.initial(jax.random.key(0))
            return jax.lax.scan(lambda s, a: (lambda n, o: (n, o.reward))(*task.advance(s, a)), state, actions)[1].sum()

        actions = jax.random.uniform(jax.random.key(1), (3, 2), jnp.float64, -0.5, 0.8)
        slope = jax.jit(jax.grad(total))(actions)
        for i in range(3):
            bump = jnp.zeros((3, 2), jnp.float64).at[i, 0].set(1e-6)
            np.testing.assert_allclose(slope[i, 0], (total(actions + bump) - total(actions - bump)) / 2e-6, rtol=1e-5)
