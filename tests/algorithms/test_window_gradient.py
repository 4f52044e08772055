"""The gradient of a whole window, against finite differences and against closed forms, in double precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tiny_worlds import Pendulum, as_float64, begin, compiled, learner, learning, vector, world

from penstock.algorithms.keys import purpose_key
from penstock.algorithms.window import rollout_window
from penstock.critics import segment_return
from penstock.networks import Normalizer, VectorEncoder
from penstock.policies import Actor, Agent, Draw, Policy
from penstock.worlds import FunctionalWorld, Vmapped
from penstock.worlds.classic.double_integrator import DoubleIntegrator

CASES = {
    "apg": ("apg", {}),
    "shac": ("shac", {}),
    "shac2 with a flow": ("shac2", {"policy": "flow", "stepper": "midpoint", "flow_steps": 1}),
    "sapo": ("sapo", {"initial_temperature": 0.7}),
    "rfo with chunks": ("rfo", {"chunk_length": 2}),
}
QUICK = ("sapo",)


def brute_force_return(window, discount):
    """Sum over the episodes of each environment, in NumPy. See tests of the returns for all patterns of ends."""
    reward = np.asarray(window.reward + window.bonus)
    total = np.zeros(reward.shape[1])
    for env in range(reward.shape[1]):
        weight = 1.0
        for t in range(reward.shape[0]):
            total[env] += weight * reward[t, env]
            weight *= discount
            ended = window.terminated[t, env] or window.truncated[t, env]
            if (ended or t == reward.shape[0] - 1) and not window.terminated[t, env]:
                total[env] += weight * window.next_value[t, env]
            if ended:
                weight = 1.0
    return total


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in CASES])
def test_return_gradient_equals_finite_differences(case):
    """With episode ends inside the window, the bootstrap value, and the bonus of SAPO; all noise held fixed."""
    name, settings = CASES[case]
    judged = {} if name == "apg" else {"critic_minibatches": 1}
    algorithm = learner(name, world(num_envs=3), gradient_limit=1e12, **judged, **settings)
    start = begin(algorithm)
    with jax.enable_x64(True):
        state = as_float64(start)
        ages = jnp.array([0, 3, 5], jnp.int32)  # time limits at no, the third and the first step
        state = eqx.tree_at(
            lambda s: (s.world.age, s.learned.normalizer.variance), state, (ages, jnp.array([0.3, 2.0, 1.5]))
        )

        program = jax.jit(lambda actor: algorithm.return_gradient(learning(state, actor=actor)))
        gradient, window, _, metrics = program(state.learned.actor)
        assert window.truncated.sum() == 2 and not window.truncated[-1].any()
        assert window.next_value.any() == (name != "apg")
        assert window.bonus.any() == (name == "sapo")
        assert float(metrics["world/gradients_cut"]) == 0.0

        flat, unflatten = ravel_pytree(state.learned.actor)

        def loss(flat):
            _, window, _, _ = program(unflatten(jnp.asarray(flat)))
            assert (window.truncated == truncated).all()
            return -brute_force_return(window, algorithm.config.discount).mean() / algorithm.config.window

        truncated = window.truncated
        generator, step = np.random.default_rng(0), 1e-5
        for _ in range(3):
            direction = generator.normal(size=flat.size)
            difference = (loss(flat + step * direction) - loss(flat - step * direction)) / (2 * step)
            assert abs(difference) > 1e-3
            np.testing.assert_allclose(vector(gradient) @ direction, difference, rtol=2e-6, atol=1e-9)


@pytest.mark.slow
def test_values_and_bonus_reach_the_actor():
    """Bootstrap values and bonus carry gradient: without either, the gradient is another one."""
    program, state = compiled("sapo").return_gradient, compiled("sapo").start
    full = vector(program(state)[0])
    without_value = learning(state, critic=jax.tree.map(jnp.zeros_like, state.learned.critic))
    without_bonus = eqx.tree_at(lambda s: s.learned.memory.log_alpha, state, jnp.asarray(-1e9))
    assert np.abs(full - vector(program(without_value)[0])).max() > 1e-3
    assert np.abs(full - vector(program(without_bonus)[0])).max() > 1e-3


def test_rollout_starts_from_a_constant():
    """No gradient flows into the state that a window begins with, and none out of the state it ends with."""
    algorithm = learner("shac2")
    state = algorithm.init(jax.random.key(1))

    def total(body):
        begun = eqx.tree_at(lambda s: s.world.body, state, body)
        window, after = rollout_window(algorithm.agent(begun), algorithm.world, begun.world, 2, jax.random.key(0))
        return window.reward.sum() + after.body.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(state.world.body), 0.0)

    def end(actor):
        agent = Agent(actor, state.learned.normalizer)
        _, after = rollout_window(agent, algorithm.world, state.world, 2, jax.random.key(0))
        return after.body.sum()

    assert not vector(jax.jit(jax.grad(end))(state.learned.actor)).any()


def test_noise_is_fresh_for_every_step_and_environment():
    program = compiled("shac2")
    state = program.learner.init(jax.random.key(1))
    _, window, _, _ = program.return_gradient(state)
    # The policy is nearly constant at the start, so equal noise would give nearly equal latents.
    latents = np.asarray(window.latent).reshape(-1, 2)
    gaps = np.abs(latents[:, None] - latents[None]).max(-1) + np.eye(len(latents))
    assert gaps.min() > 1e-3
    # And it is the noise of the purpose key, drawn anew in the next iteration.
    one, other = (purpose_key(state.key, jnp.asarray(i), "policy noise") for i in (0, 1))
    assert (jax.random.key_data(one) != jax.random.key_data(other)).any()


# --- the linear-quadratic world ---------------------------------------------------------------------------------


class LinearPolicy(Policy):
    """a = -K s, unsquashed and without noise: the policy of the linear-quadratic regulator."""

    gain: jax.Array
    flat_size: int = eqx.field(static=True, default=1)

    def draw(self, features, noise):
        action = -self.gain @ features
        return Draw(action, action)


@pytest.mark.parametrize(
    ("axes", "terminal"),
    [(1, 0.0), (2, 3.0), pytest.param(1, 3.0, marks=pytest.mark.slow), pytest.param(2, 0.0, marks=pytest.mark.slow)],
)
def test_linear_quadratic_gradient_in_closed_form(axes, terminal):
    """Window return of a = -K s with terminal value V(s) = -terminal |s|^2, against the matrix recursion

        P_H = terminal I,   P_t = K' R K + M' (Q + g P_{t+1}) M,      M = A - B K,   J = -s_0' P'_0 s_0 ...
        dJ/dK = -2 sum_t g^t [R K - B' (Q + g P_{t+1}) M] s_t s_t'

    where the cost of a step is s_{t+1}' Q s_{t+1} + a_t' R a_t.
    """
    task, steps, discount = DoubleIntegrator(axes=axes), 12, 0.95
    A, B, Q, R = task.matrices()
    generator = np.random.default_rng(0)
    K = 0.3 * np.hstack([np.eye(axes), np.eye(axes)]) + 0.05 * generator.normal(size=(axes, 2 * axes))
    starts = 0.4 * generator.uniform(-1, 1, size=(3, 2 * axes))

    with jax.enable_x64(True):
        place = FunctionalWorld("test", Vmapped(task), len(starts))
        state = place.reset(jax.random.key(0))
        state = eqx.tree_at(lambda s: (s.body, s.observation.vector), state, (jnp.asarray(starts),) * 2)
        unnormalised = Normalizer.create(2 * axes, enabled=False)

        @jax.jit
        @jax.value_and_grad
        def window_return(gain):
            actor = Actor(VectorEncoder(2 * axes), LinearPolicy(gain, axes))
            window, _ = rollout_window(
                Agent(actor, unnormalised),
                place,
                state,
                steps,
                jax.random.key(0),
                value=lambda o, phase: -terminal * jnp.sum(o.vector**2, axis=-1),
            )
            columns = (window.reward, window.terminated, window.truncated, window.next_value)
            return jax.vmap(segment_return, in_axes=(1, 1, 1, 1, None))(*columns, discount).mean()

        value, gradient = window_return(jnp.asarray(K))

    M = A - B @ K
    P = [terminal * np.eye(2 * axes)]
    for _ in range(steps):
        P.insert(0, K.T @ R @ K + M.T @ (Q + discount * P[0]) @ M)
    expected_value, expected = 0.0, np.zeros_like(K)
    for s in starts:
        expected_value -= s @ P[0] @ s / len(starts)
        for t in range(steps):
            assert np.abs(K @ s).max() < 1.0  # inside the action box, where the world is linear
            slope = R @ K - B.T @ (Q + discount * P[t + 1]) @ M
            expected -= 2 * discount**t * slope @ np.outer(s, s) / len(starts)
            s = M @ s
    np.testing.assert_allclose(value, expected_value, rtol=1e-10)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


# --- what a window records --------------------------------------------------------------------------------------


def test_window_records_what_happened():
    """Replays the recorded latents in the world, step by step and outside of the scan."""
    algorithm = learner("shac2", world(Pendulum(terminates=True)))
    state = begin(algorithm)
    # Time limits at the third, first and second step; and environment 2 swings too fast from the start.
    state = eqx.tree_at(lambda s: s.world.age, state, jnp.array([0, 3, 5, 4], jnp.int32))
    body = jnp.array([[0.0, 0.0], [0.5, -1.0], [-1.0, 1.5], [0.2, -0.5]])
    state = eqx.tree_at(
        lambda s: (s.world.body, s.world.observation), state, (body, jax.vmap(Pendulum().observe)(body))
    )
    _, window, after, _ = jax.jit(algorithm.return_gradient)(state)
    step, place = jax.jit(algorithm.world.step), state.world
    mean_value = jax.jit(
        lambda observation: state.learned.critic.values(observation, state.learned.normalizer).mean(axis=0)
    )
    for t in range(4):
        np.testing.assert_allclose(window.observation.vector[t], place.observation.vector, atol=1e-5)
        place, transition = step(place, jnp.tanh(window.latent[t]))
        np.testing.assert_allclose(window.reward[t], transition.reward, atol=1e-5)
        np.testing.assert_array_equal(window.terminated[t], transition.terminated)
        np.testing.assert_array_equal(window.truncated[t], transition.truncated)
        np.testing.assert_allclose(window.final_observation.vector[t], transition.final_observation.vector, atol=1e-5)
        np.testing.assert_allclose(window.diagnostics["speed"][t], transition.diagnostics["speed"], atol=1e-5)
        values = mean_value(transition.final_observation)
        wanted = (transition.truncated | (t == 3)) & ~transition.terminated
        np.testing.assert_allclose(window.next_value[t], np.where(wanted, values, 0.0), atol=1e-5)
        saturated = np.mean(np.abs(np.tanh(window.latent[t])) > 0.99, axis=-1)
        np.testing.assert_array_equal(window.saturation[t], saturated)
    np.testing.assert_allclose(after.body, place.body, atol=1e-5)
    assert window.terminated.any() and window.truncated.any() and window.decision.all()
