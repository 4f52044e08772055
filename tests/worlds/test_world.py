"""Episodes, automatic reset, the gradient firewall and the guards of `FunctionalWorld`."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Task, Vmapped
from penstock.worlds.firewall import gradient_firewall
from penstock.worlds.world import WorldState


class Counter(SingleTask):
    """Position p' = p + a; terminates above ``end``; starts at a random negative position."""

    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(1)
    episode_length: int = 4
    control_timestep: float = 0.1
    end: float = 1e9

    def initial(self, key):
        return -jax.random.uniform(key)

    def advance(self, state, action):
        state = state + action[0]
        return state, Outcome(2.0 * state, state > self.end, {"position": state})

    def observe(self, state):
        return Observation(state[None])


@jax.custom_vjp
def spoil(x, factor):
    """Returns x; multiplies the gradient that comes back by ``factor``."""
    del factor
    return x


spoil.defvjp(lambda x, factor: (x, factor), lambda factor, cotangent: (cotangent * factor, None))

FAULTS = {"none": 1.0, "nan": jnp.nan, "inf": jnp.inf, "huge": 1e30}


class Explosive(SingleTask):
    """In environments whose ``bad`` is set, the state (or only its gradient) is multiplied by the fault."""

    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(1)
    episode_length: int = 100
    control_timestep: float = 0.1
    fault: str = eqx.field(static=True, default="nan")

    def initial(self, key):
        return {"x": jax.random.uniform(key), "bad": jnp.zeros(())}

    def advance(self, state, action):
        x = state["x"] + 0.1 * jnp.sin(action[0])
        factor = jnp.where(state["bad"] > 0, FAULTS[self.fault.removesuffix(" gradient")], 1.0)
        x = spoil(x, factor) if self.fault.endswith("gradient") else x * factor
        return {"x": x, "bad": state["bad"]}, Outcome(x**2 - action[0] ** 2, jnp.zeros((), bool), {"x": x})

    def observe(self, state):
        return Observation(state["x"][None])


class Drawn(Counter):
    """Tells when an episode's start is drawn."""

    drawn: ClassVar[list[int]] = []

    def initial(self, key):
        jax.debug.callback(lambda: self.drawn.append(1))
        return super().initial(key)


def world_of(task, num_envs, **options):
    return FunctionalWorld("test", Vmapped(task), num_envs, **options)


def with_body(state: WorldState, **changes) -> WorldState:
    """The state with some of its parts replaced, the observation included."""
    return eqx.tree_at(lambda s: [getattr(s, n) for n in changes], state, list(changes.values()))


# --- flags ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminates", [False, True])
@pytest.mark.parametrize("times_out", [False, True])
def test_terminated_and_truncated_are_separate(terminates, times_out):
    world = world_of(Counter(end=5.0), 2)
    state = world.reset(jax.random.key(0))
    body, age = jnp.array([0.0, 0.0]), jnp.array([3 if times_out else 1, 0], jnp.int32)
    state = with_body(state, body=body, age=age, observation=Observation(body[:, None]))
    # Environment 0 jumps over the end by a body at 4.5 (actions are clipped to 1); environment 1 is untouched.
    state = with_body(state, body=jnp.array([4.5 if terminates else 0.5, 0.0]))
    after, transition = world.step(state, jnp.array([[1.0], [0.25]]))
    assert bool(transition.terminated[0]) == terminates
    assert bool(transition.truncated[0]) == times_out
    assert bool(transition.done[0]) == (terminates or times_out)
    assert not transition.done[1] and not transition.diverged.any()
    # Final observation: before any reset. Observation: after it.
    expected = 5.5 if terminates else 1.5
    np.testing.assert_allclose(transition.final_observation.vector[:, 0], [expected, 0.25])
    np.testing.assert_allclose(transition.reward, [2 * expected, 0.5])
    np.testing.assert_allclose(transition.diagnostics["position"], [expected, 0.25])
    np.testing.assert_array_equal(after.observation.vector, transition.observation.vector)
    if terminates or times_out:
        assert -1.0 <= float(after.body[0]) <= 0.0 and after.age[0] == 0
        assert float(transition.observation.vector[0, 0]) == float(after.body[0])
    else:
        assert float(transition.observation.vector[0, 0]) == 1.5 and after.age[0] == 2
    assert float(transition.observation.vector[1, 0]) == 0.25 and after.age[1] == 1


def test_truncation_on_the_first_step():
    world = world_of(Counter(episode_length=1), 3)
    state = world.reset(jax.random.key(0))
    for _ in range(3):
        before = state.body
        state, transition = world.step(state, jnp.full((3, 1), 0.5))
        assert transition.truncated.all() and not transition.terminated.any()
        np.testing.assert_allclose(transition.final_observation.vector[:, 0], before + 0.5)
        assert np.all(np.asarray(state.age) == 0) and np.all(np.asarray(state.body) <= 0)


def test_episode_length_is_exact_and_episodes_restart_differently():
    world = world_of(Counter(), 2)
    state, step = world.reset(jax.random.key(0)), jax.jit(world.step)
    truncated, starts = [], []
    for _ in range(12):
        state, transition = step(state, jnp.zeros((2, 1)))
        truncated.append(bool(transition.truncated.all()))
        if truncated[-1]:
            starts.append(np.asarray(state.body))
    assert truncated == [False, False, False, True] * 3
    assert len({float(x) for pair in starts for x in pair}) == 6


def test_stagger_spreads_the_ages():
    world = world_of(Counter(episode_length=50), 64)
    ages = np.asarray(world.reset(jax.random.key(1), stagger=True).age)
    assert ages.min() >= 0 and ages.max() < 50 and len(set(ages.tolist())) > 20
    assert not world.reset(jax.random.key(1)).age.any()
    late = int(ages.argmax())
    state = world.reset(jax.random.key(1), stagger=True)
    for _ in range(50 - int(ages[late])):
        state, transition = world.step(state, jnp.zeros((64, 1)))
    assert transition.truncated[late]


def test_actions_are_clipped():
    world = world_of(Counter(), 2)
    state = world.reset(jax.random.key(0))
    after, _ = world.step(state, jnp.array([[7.0], [-3.0]]))
    np.testing.assert_allclose(after.body, state.body + jnp.array([1.0, -1.0]))


def test_a_task_without_floating_point_state_works():
    class Ticks(Counter):
        def initial(self, key):
            return jnp.zeros((), jnp.int32)

        def advance(self, state, action):
            return state + 1, Outcome(-(action[0] ** 2), jnp.zeros((), bool), {})

        def observe(self, state):
            return Observation(state.astype(jnp.float32)[None])

    world = world_of(Ticks(), 2)
    state, transition = world.step(world.reset(jax.random.key(0)), jnp.zeros((2, 1)))
    assert state.body.tolist() == [1, 1] and not transition.diverged.any()


# --- gradients at resets ----------------------------------------------------------------------------------------


def test_gradient_flows_within_an_episode_and_is_exactly_zero_across_a_reset():
    world = world_of(Counter(), 2)
    start = with_body(world.reset(jax.random.key(0)), age=jnp.array([3, 0], jnp.int32))

    def later_rewards(action):
        state, _ = world.step(start, action)  # environment 0 is reset here
        _, transition = world.step(state, jnp.zeros((2, 1)))
        return transition.reward.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(later_rewards))(jnp.full((2, 1), 0.1)), [[0.0], [2.0]])

    def observed(action):
        return world.step(start, action)[1].observation.vector.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(observed))(jnp.full((2, 1), 0.1)), [[0.0], [1.0]])

    def observed_before_reset(action):  # the bootstrap of a truncated episode keeps its gradient
        return world.step(start, action)[1].final_observation.vector.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(observed_before_reset))(jnp.full((2, 1), 0.1)), [[1.0], [1.0]])

    def own_reward(action):
        return world.step(start, action)[1].reward.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(own_reward))(jnp.full((2, 1), 0.1)), [[2.0], [2.0]])


def test_window_gradient_equals_finite_differences():
    with jax.enable_x64(True):
        world = world_of(Explosive(fault="none"), 3)
        start = world.reset(jax.random.key(0))
        body = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start.body)
        start = with_body(start, body=body, observation=Observation(body["x"][:, None]))

        @jax.jit
        def window(weight):
            def step(state, _):
                state, transition = world.step(state, jnp.tanh(weight * state.observation.vector))
                return state, transition.reward.sum()

            return jax.lax.scan(step, start, None, length=6)[1].sum()

        weight = jnp.asarray(0.7)
        numeric = (window(weight + 1e-6) - window(weight - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.jit(jax.grad(window))(weight), numeric, rtol=1e-7)


# --- divergence -------------------------------------------------------------------------------------------------


def _rollout(world, start, weights, probe=None, steps=4):
    """Rewards ``(H, N)`` of the policy a_i = tanh(weights_i * x_i + 0.1): one weight per environment."""

    def step(state, _):
        action = jnp.tanh(weights[:, None] * state.observation.vector + 0.1)
        state, transition = world.step(state, action, probe)
        return state, transition

    return jax.lax.scan(step, start, None, length=steps)


def _start(world, bad):
    state = world.reset(jax.random.key(4))
    flags = jnp.zeros(world.num_envs).at[1].set(1.0 if bad else 0.0)
    return with_body(state, body={**state.body, "bad": flags})


@pytest.mark.parametrize("fault", ["nan", "inf", "huge", "nan gradient", "inf gradient", "huge gradient"])
def test_one_bad_environment_leaves_the_others_bitwise_unaffected(fault):
    world = world_of(Explosive(fault=fault), 4)
    weights = jnp.array([0.3, 0.5, -0.2, 0.9])

    @jax.jit
    def evaluate(start):
        def total(weights, probe):
            end, transitions = _rollout(world, start, weights, probe)
            return transitions.reward.sum(), (end, transitions)

        (_, (end, transitions)), (gradient, cut) = jax.value_and_grad(total, (0, 1), has_aux=True)(
            weights, jnp.zeros((2, 4))
        )
        return end, transitions, gradient, cut

    end, bad, gradient, cut = evaluate(_start(world, bad=True))
    _, good, clean, clean_cut = evaluate(_start(world, bad=False))
    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(np.asarray(bad.reward)[:, others], np.asarray(good.reward)[:, others])
    np.testing.assert_array_equal(np.asarray(gradient)[others], np.asarray(clean)[others])
    assert np.all(np.asarray(clean)[others] != 0.0)
    assert np.all(np.isfinite(np.asarray(gradient)))
    np.testing.assert_array_equal(np.asarray(clean_cut), np.zeros((2, 4)))
    np.testing.assert_array_equal(np.asarray(cut)[:, others], np.zeros((2, 3)))
    assert not np.asarray(good.diverged).any() and not np.asarray(bad.diverged)[:, others].any()
    for leaf in jax.tree.leaves((bad.observation, bad.final_observation, bad.diagnostics, bad.reward, end.body)):
        assert np.all(np.isfinite(np.asarray(leaf)))
    if "gradient" in fault:
        assert not np.asarray(bad.diverged).any()
        # One cut per step whose state carried a gradient; a huge one passes, as there is no limit, until it overflows.
        assert cut[0, 1] >= (1 if fault == "huge gradient" else 3)
        assert cut[1, 1] == cut[0, 1]
    else:
        # Diverges once; the reset makes it healthy.
        np.testing.assert_array_equal(np.asarray(bad.diverged)[:, 1], [True, False, False, False])
        assert bool(bad.terminated[0, 1]) and float(bad.reward[0, 1]) == 0.0
        assert float(bad.final_observation.vector[0, 1, 0]) == 0.0 and float(bad.diagnostics["x"][0, 1]) == 0.0
        assert 0.0 <= float(bad.observation.vector[0, 1, 0]) <= 1.0


@pytest.mark.parametrize("entry", [1e-30, 2.0, 3e25, 1e38, 3e38])
@pytest.mark.parametrize("constant", [False, True], ids=["traced", "constant"])
def test_a_gradient_is_cut_to_the_limit_whatever_its_size(entry, constant):
    """Numbers whose squares, sums of squares or reciprocals leave the range; compilers rearrange those of constants."""
    gradient = np.array([[entry, 0.0], [entry, entry], [0.0, 0.0]], np.float32)

    def returned(gradient):
        through = lambda x: gradient_firewall(x, jnp.zeros((3, 1)), jnp.zeros((2, 3)), 0, 1e-3)[0]  # noqa: E731
        return jax.vjp(through, jnp.zeros((3, 2)))[1](gradient)[0]

    cut = jax.jit(lambda: returned(jnp.asarray(gradient)))() if constant else jax.jit(returned)(jnp.asarray(gradient))
    norm = np.linalg.norm(gradient.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(cut, gradient * np.minimum(1.0, 1e-3 / np.maximum(norm, 1e-300)), rtol=1e-6)


def test_shared_parameters_get_exactly_the_healthy_environments_gradient():
    world = world_of(Explosive(fault="nan"), 4)

    def loss(weight, start, keep):
        _, transitions = _rollout(world, start, weight * jnp.ones(4), steps=1)
        return (transitions.reward * keep).sum()

    gradient = jax.jit(jax.grad(loss))
    keep = jnp.array([1.0, 0.0, 1.0, 1.0])
    poisoned = gradient(jnp.asarray(0.4), _start(world, bad=True), jnp.ones(4))
    np.testing.assert_array_equal(poisoned, gradient(jnp.asarray(0.4), _start(world, bad=False), keep))


def test_a_nan_action_resets_its_environment_only():
    world = world_of(Explosive(fault="none"), 3)
    state = world.reset(jax.random.key(0))
    _, transition = world.step(state, jnp.array([[0.1], [jnp.nan], [0.2]]))
    assert transition.diverged.tolist() == [False, True, False]
    assert np.isfinite(np.asarray(transition.reward)).all()


# --- firewall ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_axis", [0, -1])
def test_firewall_is_the_identity_forward_and_scales_whole_environments_backward(env_axis):
    rng = np.random.default_rng(0)
    body = {"a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "tick": jnp.arange(3)}
    if env_axis == -1:
        body["a"] = body["a"].T
    action = jnp.asarray(rng.normal(size=(3, 1)), jnp.float32)
    pull = np.array([[3.0, 4.0, 0.0], [30.0, 40.0, 120.0], [np.nan, 1.0, 1.0]], np.float32)  # norms 5, 130, NaN
    pull_body = jnp.asarray(pull[:, :2] if env_axis == 0 else pull[:, :2].T)

    def loss(a, action, probe):
        passed, acted = gradient_firewall({"a": a, "tick": body["tick"]}, action, probe, env_axis, 13.0)
        np.testing.assert_array_equal(passed["tick"], body["tick"])
        return jnp.sum(passed["a"] * pull_body) + jnp.sum(acted * pull[:, 2:])

    got_body, got_action, cut = jax.jit(jax.grad(loss, (0, 1, 2)))(body["a"], action, jnp.zeros((2, 3)))
    expected = np.array([[3.0, 4.0, 0.0], [3.0, 4.0, 12.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(got_body if env_axis == 0 else got_body.T, expected[:, :2], rtol=1e-6)
    np.testing.assert_allclose(got_action, expected[:, 2:], rtol=1e-6)
    np.testing.assert_array_equal(cut, [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    passed, acted = gradient_firewall(body, action, jnp.zeros((2, 3)), env_axis, 13.0)
    np.testing.assert_array_equal(passed["a"], body["a"])
    np.testing.assert_array_equal(acted, action)


def test_a_huge_but_finite_gradient_is_scaled_not_lost():
    """Its square overflows in float32; its direction is kept."""
    pull = jnp.array([[3e25, -4e25]])

    def loss(a, probe, pull):
        passed, _ = gradient_firewall({"a": a}, jnp.zeros((1, 1)), probe, 0, 10.0)
        return jnp.sum(passed["a"] * pull)

    got, events = jax.jit(jax.grad(loss, (0, 1)))(jnp.zeros((1, 2)), jnp.zeros((2, 1)), pull)
    np.testing.assert_allclose(got, [[6.0, -8.0]], rtol=1e-5)
    np.testing.assert_array_equal(events, [[1.0], [0.0]])


def test_gradient_limit_of_the_world_bounds_each_environment_and_counts():
    world = world_of(Explosive(fault="none"), 2, gradient_limit=0.5)
    free = world_of(Explosive(fault="none"), 2)
    start = free.reset(jax.random.key(0))
    action = jnp.array([[0.9], [0.05]])

    def total(action, probe, world):
        return world.step(start, action, probe)[1].reward.sum()

    unlimited, none = jax.grad(total, (0, 1))(action, jnp.zeros((2, 2)), free)
    limited, cut = jax.grad(total, (0, 1))(action, jnp.zeros((2, 2)), world)
    assert not none.any() and abs(unlimited[0, 0]) > 0.5
    assert cut[0].tolist() == [1.0, 0.0] and not cut[1].any()  # scaled down, not lost
    assert abs(float(limited[0, 0])) < 0.5
    # The direction (here the sign) is kept.
    assert np.sign(limited[0, 0]) == np.sign(unlimited[0, 0])


def test_probe_counts_cuts_over_a_window():
    world = world_of(Explosive(fault="nan gradient"), 3)
    start = _start(world, bad=True)

    def total(probe):
        return _rollout(world, start, jnp.full(3, 0.4), probe, steps=5)[1].reward.sum()

    assert jax.jit(jax.grad(total))(jnp.zeros((2, 3))).tolist() == [[0.0, 5.0, 0.0]] * 2


# --- coordinate-major tasks -------------------------------------------------------------------------------------


class CoordinateMajor(Task):
    """Two coordinates first, environments last, as soft bodies keep them."""

    action_size: int = 2
    observation_spec: ObservationSpec = ObservationSpec(2)
    episode_length: int = 3
    control_timestep: float = 0.1
    env_axis: ClassVar[int] = -1

    def initial(self, key, num_envs):
        return jax.random.uniform(key, (2, num_envs))

    def advance(self, state, action):
        state = state + action.T
        return state, Outcome(state.sum(0), state[0] > 2.0, {})

    def observe(self, state):
        return Observation(state.T)


def test_env_axis_last_resets_the_right_environments():
    world = FunctionalWorld("test", CoordinateMajor(), 4)
    state = world.reset(jax.random.key(0))
    state = with_body(state, body=jnp.array([[0.0, 1.9, 0.0, jnp.nan], [5.0, 5.0, 5.0, 5.0]]))
    after, transition = world.step(state, jnp.full((4, 2), 0.5))
    assert transition.terminated.tolist() == [False, True, False, True]
    assert transition.diverged.tolist() == [False, False, False, True]
    np.testing.assert_allclose(after.body[:, [0, 2]], [[0.5, 0.5], [5.5, 5.5]])
    assert np.all(np.asarray(after.body)[:, [1, 3]] <= 1.0)
    np.testing.assert_allclose(transition.final_observation.vector, [[0.5, 5.5], [2.4, 5.5], [0.5, 5.5], [0.0, 0.0]])


def test_starts_are_drawn_only_where_an_episode_ends():
    """Episodes of 4 steps, all in step: at the reset, and after steps 4 and 8."""
    world = world_of(Drawn(), 3)
    step = jax.jit(world.step)
    state = jax.jit(world.reset)(jax.random.key(0))
    counts = []
    for _ in range(9):
        state, _ = step(state, jnp.zeros((3, 1)))
        jax.effects_barrier()
        counts.append(len(Drawn.drawn))
    assert counts == [1, 1, 1, 2, 2, 2, 2, 3, 3]
