"""Bad numbers from a world: caught within one update, named, dumped, replayed (F14, F15, F16)."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int
from tiny_runs import STEPS_PER_UPDATE, SharedProgram, rows, tiny_plan

from penstock.storage.store import find_non_finite, list_checkpoints, load_checkpoint
from penstock.training import loop, running
from penstock.training.drivers import functional
from penstock.training.drivers.functional import FunctionalDriver, seed_keys
from penstock.training.loop import train
from penstock.training.post_mortem import find_cause
from penstock.training.record import TrainingFailedError
from penstock.worlds import Observation, ObservationSpec, Outcome, SingleTask, Vmapped
from penstock.worlds.registry import _entries, register_world

SOUND, OBSERVATION, REWARD, STATE, GRADIENT, HUGE_REWARD, ZERO_REWARD, CONSTANT = range(8)
UPDATE, STEP, ENV = 3, 2, 1
"""Where the fault is: in the window of this iteration, at this step of it, in this environment."""


class FaultyState(eqx.Module):
    """``fault`` and ``clock`` are data, so that one compiled program serves every kind of fault."""

    x: Float[Array, ""]
    clock: Int[Array, ""]
    fault: Int[Array, ""]


class Faulty(SingleTask):
    """A leaky integrator that misbehaves once, when its clock runs out, in the way that its state says."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2))
    episode_length: int = eqx.field(static=True, default=10_000)
    control_timestep: float = eqx.field(static=True, default=0.1)

    def initial(self, key):
        return FaultyState(jax.random.normal(key), jnp.asarray(-1), jnp.asarray(SOUND))

    def advance(self, state, action):
        now = state.clock == 0
        x = 0.9 * state.x + action[0]
        # sqrt has an infinite slope at 0, which meets a zero: the number is fine, its gradient is not.
        broken = x * jnp.sqrt(jnp.where(now & (state.fault == GRADIENT), 0.0 * x, 1.0))
        x = jnp.where(state.fault == GRADIENT, broken, x)
        x = jnp.where(now & (state.fault == STATE), jnp.inf, x)
        reward = -(x**2)
        reward = jnp.where(now & (state.fault == REWARD), jnp.nan, reward)
        reward = jnp.where(now & (state.fault == HUGE_REWARD), 1e30, reward)
        reward = jnp.where(state.fault == ZERO_REWARD, 0.0, reward)
        return FaultyState(x, state.clock - 1, state.fault), Outcome(reward, jnp.zeros((), bool), {"x": x})

    def observe(self, state):
        bad = (state.clock == -1) & (state.fault == OBSERVATION)
        second = jnp.where(bad, jnp.nan, 1.0)
        return Observation(jnp.stack([jnp.where(state.fault == CONSTANT, 0.5, state.x), second]))


@pytest.fixture(scope="module", autouse=True)
def world():
    register_world("test/faulty", "misbehaves on demand", lambda: Vmapped(Faulty()))
    yield
    del _entries["test/faulty"]


def plan(**changes):
    return tiny_plan("shac", world="test/faulty", world_options={}, evaluate_every=10**9, steps=96, **changes)


def with_fault(state, fault, step, env):
    """The state of all seeds, with a fault that breaks out ``step`` steps later in one environment, or in all."""
    body = state.world.body
    where = np.arange(4) == env if env is not None else np.ones(4, bool)
    return eqx.tree_at(
        lambda s: (s.world.body.clock, s.world.body.fault),
        state,
        (
            jnp.where(where, step, body.clock).astype(body.clock.dtype),
            jnp.where(where, fault, body.fault).astype(body.fault.dtype),
        ),
    )


@pytest.fixture
def run_with(in_process, monkeypatch, tmp_path):
    """Trains with a fault in the initial state; returns result, messages and folder."""

    def go(fault, env=ENV, name="run", edit=lambda state: state):
        class Edited(SharedProgram):
            def __init__(self, *arguments, **named):
                super().__init__(*arguments, **named)
                sound = self.init

                def init(keys):
                    state = sound(keys)
                    if isinstance(keys, jax.core.Tracer):
                        return state
                    return edit(with_fault(state, fault, UPDATE * 4 + STEP, env))

                self.init = init

        monkeypatch.setattr(running, "FunctionalDriver", Edited)
        messages = []
        result = train(plan(), tmp_path / name, observer=loop.Silent(messages.append))
        return result, messages, tmp_path / name

    return go


def state_shapes(learner):
    """A template of one seed's state."""
    return jax.eval_shape(lambda key: functional.begin(learner, key), jax.random.key(0))


def column(run_dir, name):
    return [json.loads(row).get(name) for row in rows(run_dir) if json.loads(row)["update"] > 0]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        pytest.param(OBSERVATION, "observation.vector is nan", marks=pytest.mark.slow),
        pytest.param(REWARD, "reward is nan", marks=pytest.mark.slow),
        (STATE, "state.x is inf"),
    ],
)
def test_a_bad_number_is_caught_named_and_replayed(run_with, fault, what):
    result, messages, run_dir = run_with(fault)
    diverged = column(run_dir, "world/diverged")
    assert diverged == [0.0] * UPDATE + [1.0] + [0.0] * (len(diverged) - UPDATE - 1), (
        "counted in its update, only there"
    )
    assert result.finished and not find_non_finite(result.state)
    told = [message for message in messages if "world/diverged" in message]
    assert len(told) == 1
    expected = f"Seed 0, iteration {UPDATE}: {what} at step {STEP} of the window in environment {ENV}."
    assert expected in told[0]
    dump = list_checkpoints(run_dir / "crash")[0][1]
    assert str(dump) in told[0]
    # The dump alone, in the hands of somebody else, shows the same fault.
    learner = result.driver.learner
    state, manifest = load_checkpoint(dump, state_shapes(learner))
    assert int(state.clock.update) == UPDATE and manifest.step == UPDATE * STEPS_PER_UPDATE
    assert find_cause(learner, functional.iterate, state, {}) in told[0]
    assert manifest.extra["cause"] in told[0] and manifest.extra["counts"] == {"world/diverged": 1}


def test_a_bad_gradient_is_cut_counted_named_and_replayed(run_with):
    result, messages, run_dir = run_with(GRADIENT)
    told = [message for message in messages if "world/gradients_lost" in message]
    assert len(told) == 1
    cause = (
        f"the gradient with respect to state and action is not finite at step {STEP} of the window in environment {ENV}"
    )
    assert f"Seed 0, iteration {UPDATE}: {cause}." in told[0]
    learner = result.driver.learner
    dump = list_checkpoints(run_dir / "crash")[0][1]
    state, _ = load_checkpoint(dump, state_shapes(learner))
    assert find_cause(learner, functional.iterate, state, {}) == cause
    cut = column(run_dir, "world/gradients_cut")
    assert cut == column(run_dir, "world/gradients_lost")
    assert cut[UPDATE] >= 1 and sum(cut) == cut[UPDATE]
    assert result.finished and not find_non_finite(result.state)
    assert all(column(run_dir, "actor/skipped")[i] == 0 for i in range(6)), "the others' gradients were still used"
    assert all(np.isfinite(column(run_dir, "actor/gradient_norm")))


# ------------------------------------------------------------------------------------------------- one iteration


@pytest.fixture
def iterate(in_process):
    """Iterates from a fresh state with a fault at `STEP` of its window; returns one seed's state and metrics."""
    the_plan = plan()
    world = the_plan.make_world()
    program = SharedProgram(the_plan.make_learner(world), world.with_num_envs(2))
    keys = seed_keys(0, 1)
    program.compile(program.init(keys), jnp.asarray(1, jnp.int32), keys)

    def go(fault, env=ENV, edit=lambda state: state, iterations=1):
        state = edit(with_fault(program.init(keys), fault, STEP, env))
        after, metrics = program.train(state, jnp.asarray(iterations, jnp.int32))
        return after.seed(0), {name: float(value[0]) for name, value in metrics.items()}

    return go


@pytest.mark.parametrize("fault", [OBSERVATION, REWARD, STATE, HUGE_REWARD, GRADIENT])
def test_one_bad_environment_does_not_touch_the_others(iterate, fault):
    """F16: the other environments do, bit for bit, what they do without it, and their gradients are used."""
    bad, metrics = iterate(fault)
    sound, reference = iterate(SOUND)
    others = np.arange(4) != ENV
    assert np.array_equal(np.asarray(bad.world.body.x)[others], np.asarray(sound.world.body.x)[others])
    assert np.array_equal(np.asarray(bad.world.observation.vector)[others], sound.world.observation.vector[others])
    counter = "world/gradients_cut" if fault == GRADIENT else "world/diverged"
    assert metrics[counter] >= 1 and reference[counter] == 0
    assert metrics["actor/skipped"] == metrics["critic/skipped"] == 0
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["actor/return_gradient_norm"] > 0 and not find_non_finite(bad)
    # The sound three quarters of the batch keep their weight.
    assert metrics["actor/return_gradient_norm"] < 10 * reference["actor/return_gradient_norm"]


@pytest.mark.parametrize("fault", [ZERO_REWARD, CONSTANT, HUGE_REWARD])
def test_every_environment_strange(iterate, fault):
    """F15: zero rewards, constant observations (variance zero), 1e30 everywhere: finite, and counted if absurd."""
    state, metrics = iterate(fault, env=None, iterations=3)
    assert np.isfinite(list(metrics.values())).all() and not find_non_finite(state)
    assert metrics["actor/skipped"] == metrics["critic/skipped"] == 0
    assert metrics["world/diverged"] == (4 if fault == HUGE_REWARD else 0)
    if fault == ZERO_REWARD:
        assert metrics["train/reward"] == 0


def spoil(part):
    """Puts a NaN into one array of a state: memory that went bad, or an update that no guard foresaw."""

    def edit(state):
        def first_weight(path, leaf):
            hit = jax.tree_util.keystr(path).startswith(part) and eqx.is_inexact_array(leaf) and not found
            found.extend([path] if hit else [])
            return leaf.at[(0,) * leaf.ndim].set(jnp.nan) if hit else leaf

        found = []
        return jax.tree_util.tree_map_with_path(first_weight, state)

    return edit


def test_a_bad_actor_skips_its_update(iterate):
    before, _ = iterate(SOUND, iterations=0)
    after, metrics = iterate(SOUND, edit=spoil(".learned.actor."))
    assert metrics["actor/skipped"] == 1 and metrics["world/diverged"] > 0
    moments = jax.tree.leaves(after.learned.actor_optimizer)
    assert all(
        np.array_equal(a, b) for a, b in zip(moments, jax.tree.leaves(before.learned.actor_optimizer), strict=True)
    )


def test_a_bad_critic_skips_its_update(iterate):
    after, metrics = iterate(SOUND, edit=spoil(".learned.critic."))
    assert metrics["critic/skipped"] >= 1 and not np.isfinite(metrics["critic/loss"])
    assert not find_non_finite(after.learned.critic_optimizer) and not find_non_finite(after.world)


# ------------------------------------------------------------------------------------------------- the state is lost


@pytest.mark.parametrize(
    ("part", "cause"),
    [(".learned.actor.", "action is nan at step 0"), (".learned.critic.", "is nan")],
)
def test_a_state_with_nan_is_never_saved_and_ends_the_run_with_a_sentence(run_with, tmp_path, part, cause):
    with pytest.raises(TrainingFailedError) as caught:
        run_with(SOUND, edit=spoil(part))
    message = str(caught.value)
    assert part in message and "NaN" in message and "crash" in message and "actor_learning_rate" in message
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []
    (_, dump), *_ = list_checkpoints(tmp_path / "run" / "crash")
    learner = next(value for key, value in SharedProgram.compiled.items() if key[0] == "shac" and key[-1] == "learner")
    template = FunctionalDriver(learner, learner.world).template(seed_keys(0, 1))
    state, manifest = load_checkpoint(dump, template)
    assert part in manifest.extra["crash"]["sentence"]
    assert cause in find_cause(learner, functional.iterate, state.seed(0), {"critic/loss": float("nan")})
