"""The checker passes good worlds and names the fault of broken ones."""

import dataclasses
import itertools
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.worlds import (
    FunctionalWorld,
    Observation,
    ObservationSpec,
    Outcome,
    SingleTask,
    Task,
    Transition,
    Vmapped,
    World,
    make_world,
)
from penstock.worlds.check import Finding, check_world, iterate_checks
from penstock.worlds.check._gradients import gradient_findings
from penstock.worlds.check._steps import Played
from penstock.worlds.loading import load_world


class Good(SingleTask):
    """A point that a force moves; the broken tasks below change one thing each."""

    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(2)
    episode_length: int = 6
    control_timestep: float = 0.1

    def initial(self, key):
        return jax.random.normal(key, (2,))

    def advance(self, state, action):
        state = state + 0.1 * jnp.stack([state[1], action[0]])
        return state, self.outcome(state, action)

    def outcome(self, state, action):
        return Outcome(-jnp.sum(state**2), state[0] > 100.0, {"speed": jnp.abs(state[1])})

    def observe(self, state):
        return Observation(state)


def found(world, title) -> Finding:
    """The first finding of that title that is not ok; fails with the whole list where there is none."""
    findings = []
    # Lazily: what comes after the expected finding would only cost compilations.
    for finding in iterate_checks(world, jax.random.key(0), 1000):
        findings.append(finding)
        if finding.title == title and finding.severity != "ok":
            assert finding.explanation and finding.next_action
            assert "Traceback" not in finding.explanation and len(finding.explanation) < 700
            return finding
    raise AssertionError("\n".join(f"{f.severity}: {f.title}: {f.explanation}" for f in findings))


@pytest.mark.parametrize("world", [make_world("classic/deceptive-basins", 2)], ids=["registered"])
def test_good_worlds_pass(world):
    findings = check_world(world)
    assert {f.severity for f in findings} == {"ok"}, findings
    titles = {f.title for f in findings}
    assert {"Environment axis", "Step is pure", "Time limit", "Gradients are right", "Picture"} <= titles


# --- faults that abstract evaluation finds ----------------------------------------------------------------------


class NoActions(Good):
    action_size: int = 0


class WrongVector(Good):
    observation_spec: ObservationSpec = ObservationSpec(3)


class ForgottenPoints(Good):
    observation_spec: ObservationSpec = ObservationSpec(2, points=5)


class WrongPoints(Good):
    observation_spec: ObservationSpec = ObservationSpec(2, points=5)

    def observe(self, state):
        return Observation(state, jnp.zeros((4, 3)))


class VectorReward(Good):
    def outcome(self, state, action):
        return Outcome(-(state**2), state[0] > 100.0, {})


class NumberAsFlag(Good):
    def outcome(self, state, action):
        return Outcome(-jnp.sum(state**2), jnp.zeros(()), {})


class VectorDiagnostic(Good):
    def outcome(self, state, action):
        return Outcome(-jnp.sum(state**2), state[0] > 100.0, {"both": state})


class GrowingState(Good):
    def initial(self, key):
        return jnp.zeros((2,), jnp.int32)

    def advance(self, state, action):
        state = state + 0.1 * jnp.stack([action[0], action[0]])
        return state, self.outcome(state, action)

    def observe(self, state):
        return Observation(state.astype(jnp.float32))


class PythonIf(Good):
    def outcome(self, state, action):
        return Outcome(jnp.ones(()) if state[0] > 0 else jnp.zeros(()), state[0] > 100.0, {})


class HalfPrecision(Good):
    def initial(self, key):
        return jax.random.normal(key, (2,)).astype(jnp.float16)

    def advance(self, state, action):
        after, outcome = super().advance(state.astype(jnp.float32), action)
        return after.astype(jnp.float16), outcome

    def observe(self, state):
        return Observation(state.astype(jnp.float32))


class WrongAxis(Task):
    """Keeps coordinates first, but does not say so."""

    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(2)
    episode_length: int = 6
    control_timestep: float = 0.1

    def initial(self, key, num_envs):
        return jax.random.normal(key, (2, num_envs))

    def advance(self, state, action):
        state = state + action.T
        return state, Outcome(-jnp.sum(state**2, 0), state[0] > 100.0, {})

    def observe(self, state):
        return Observation(state.T)


@pytest.mark.parametrize(
    ("broken", "title", "word"),
    [
        (NoActions(), "Declaration", "action_size = 0"),
        (WrongVector(), "Observation", "observation_spec.vector = 3"),
        (ForgottenPoints(), "Observation", "observation_spec.points = 5"),
        (WrongPoints(), "Observation", "(3, 4, 3)"),
        (VectorReward(), "Outcome", "reward has shape (3, 2)"),
        (NumberAsFlag(), "Outcome", "terminated is float32"),
        (VectorDiagnostic(), "Outcome", "diagnostic 'both'"),
        (GrowingState(), "State keeps its shape", "int32"),
        (PythonIf(), "advance() fails", "traced array"),
        (WrongAxis(), "Environment axis", "(2, 3)"),
        (Good(episode_length=0), "Declaration", "episode_length = 0"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, eqx.Module) else "",
)
def test_wrong_shapes_and_types(broken, title, word):
    finding = found(broken, title)
    assert finding.severity == "error" and word in finding.explanation


def test_check_world_returns_what_came_before_the_fatal_finding():
    findings = check_world(WrongVector())
    assert [f.severity for f in findings] == ["ok", "ok", "error"]


def test_python_control_flow_gets_advice():
    assert "jnp.where" in found(PythonIf(), "advance() fails").next_action


# --- faults that playing finds ----------------------------------------------------------------------------------

_clock = itertools.count()


class Impure(Good):
    def outcome(self, state, action):
        return Outcome(-jnp.sum(state**2) + float(next(_clock)), state[0] > 100.0, {})


class UnseededReset(Good):
    def initial(self, key):
        return jnp.zeros(2)


class OwnTimeLimit(Good):
    """Counts steps itself and reports the limit as a termination."""

    observation_spec: ObservationSpec = ObservationSpec(1)

    def initial(self, key):
        return {"x": jax.random.normal(key), "count": jnp.zeros(())}

    def advance(self, state, action):
        state = {"x": 0.9 * state["x"] + action[0], "count": state["count"] + 1.0}
        return state, Outcome(-(state["x"] ** 2), state["count"] >= 6.0, {})

    def observe(self, state):
        return Observation(state["x"][None])


class BlowsUp(Good):
    def advance(self, state, action):
        state = 100.0 * state + action[0]
        return state, self.outcome(state, action)


class NanStart(Good):
    def initial(self, key):
        return jnp.log(jax.random.uniform(key, (2,)) - 2.0)


class Mixes(WrongAxis):
    """Subtracts the mean over environments."""

    def initial(self, key, num_envs):
        return jax.random.normal(key, (num_envs, 2))

    def advance(self, state, action):
        state = state + action - state.mean(0) + 0.1 * action.mean(0)
        return state, Outcome(-jnp.sum(state**2, 1), state[:, 0] > 100.0, {})

    def observe(self, state):
        return Observation(state)


class NumberedEnvironments(Mixes):
    """Environment i weighs i + 1: what differs is not in the state."""

    def advance(self, state, action):
        state = state + action / (1.0 + jnp.arange(len(state)))[:, None]
        return state, Outcome(-jnp.sum(state**2, 1), state[:, 0] > 100.0, {})


@pytest.mark.parametrize(
    ("broken", "title", "severity"),
    [
        (Impure(), "Step is pure", "error"),
        (UnseededReset(), "Starts differ", "warning"),
        (OwnTimeLimit(), "Termination", "warning"),
        (BlowsUp(), "Stability", "error"),
        (NanStart(), "Start is finite", "error"),
        (Mixes(), "Environments are independent", "error"),
        (NumberedEnvironments(), "Environments are alike", "warning"),
        (HalfPrecision(), "Number types", "warning"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, eqx.Module) else "",
)
def test_faults_found_by_playing(broken, title, severity):
    assert found(broken, title).severity == severity


# --- gradients --------------------------------------------------------------------------------------------------


class StopsGradient(Good):
    def outcome(self, state, action):
        return Outcome(-jnp.sum(jax.lax.stop_gradient(state) ** 2), state[0] > 100.0, {})


class NanGradient(Good):
    def outcome(self, state, action):
        return Outcome(-jnp.sqrt(0.0 * state[0]) - action[0] ** 2, state[0] > 100.0, {})


class SparseReward(Good):
    def outcome(self, state, action):
        return Outcome((state[0] > 50.0).astype(jnp.float32), state[0] > 100.0, {})


class IgnoresAction(Good):
    def advance(self, state, action):
        state = 0.9 * state
        return state, self.outcome(state, action)


class DeclaresNoGradient(StopsGradient):
    @property
    def differentiable(self):
        return False


@pytest.mark.parametrize(
    ("broken", "title", "severity", "word"),
    [
        (StopsGradient(), "Gradients are right", "error", "rewards"),
        (NanGradient(), "Gradients are finite", "error", "the state"),
        (SparseReward(), "Gradients reach the action", "warning", "though the observations have one"),
        (IgnoresAction(), "Gradients reach the action", "warning", "so have the observations"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, eqx.Module) else "",
)
def test_gradient_faults(broken, title, severity, word):
    world = FunctionalWorld("broken", Vmapped(broken), 4)
    state, _ = jax.jit(world.step)(jax.jit(world.reset)(jax.random.key(0)), jnp.zeros((4, 1)))
    played = Played(state, state, jnp.linspace(-0.8, 0.7, 4)[:, None])
    faults = [f for f in gradient_findings(world, played, jax.random.key(1)) if f.severity != "ok"]
    assert [f.title for f in faults][:1] == [title], faults
    assert faults[0].severity == severity and word in faults[0].explanation and faults[0].next_action


def test_gradient_faults_are_part_of_the_whole_check():
    assert found(StopsGradient(), "Gradients are right").severity == "error"


def test_a_world_may_declare_that_it_has_no_gradients():
    findings = check_world(DeclaresNoGradient())
    assert {f.severity for f in findings} == {"ok"}
    assert any(f.title == "Gradients" and "refuse" in f.explanation for f in findings)


# --- worlds that are no FunctionalWorld -------------------------------------------------------------------------


@dataclasses.dataclass
class Tampered(World):
    """Passes a good world through and falsifies its transitions."""

    inner: FunctionalWorld
    fault: str
    name: str = "tampered"
    num_envs: int = 3
    action_size: int = 1
    observation_spec = ObservationSpec(2)
    episode_length: int = 6
    control_timestep: float = 0.1
    functional = True

    def with_num_envs(self, num_envs):
        return Tampered(self.inner.with_num_envs(num_envs), self.fault, num_envs=num_envs)

    def describe(self):
        return {}

    def axes(self, state):
        return self.inner.axes(state)

    def reset(self, key):
        return self.inner.reset(key)

    def step(self, state, action):
        after, transition = self.inner.step(state, action)
        changes = {}
        if self.fault == "early":
            changes["truncated"] = after.age == 4
        if self.fault == "never":
            changes["truncated"] = jnp.zeros_like(transition.truncated)
        if self.fault == "final":
            changes["final_observation"] = transition.observation
        if self.fault == "unclipped":
            changes["reward"] = transition.reward - jnp.sum(action**2, 1)
        if self.fault == "shape":
            changes["reward"] = transition.reward[:2]
        names = Transition.__dataclass_fields__
        fields = {name: changes.get(name, getattr(transition, name)) for name in names}
        if self.fault == "shape":
            transition = eqx.tree_at(lambda t: t.reward, transition, fields["reward"])
            return after, transition
        return after, Transition(**fields)


@pytest.mark.parametrize(
    ("fault", "title", "word"),
    [
        ("early", "Truncation", "before the time limit"),
        ("never", "Truncation", "after the time limit"),
        ("final", "Final observation", "next episode"),
        ("unclipped", "Actions outside the box", "action of 3"),
        ("shape", "Transition", "reward has shape (2,)"),
    ],
)
def test_faults_of_custom_worlds(fault, title, word):
    world = Tampered(FunctionalWorld("good", Vmapped(Good()), 3), fault)
    assert word in found(world, title).explanation


# --- loading ----------------------------------------------------------------------------------------------------

FILE = """
    import jax, jax.numpy as jnp
    from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped

    class Slide(SingleTask):
        action_size: int = 1
        observation_spec: ObservationSpec = ObservationSpec(1)
        episode_length: int = 5
        control_timestep: float = 0.1
        friction: float = 0.1

        def initial(self, key):
            return jax.random.normal(key, (1,))

        def advance(self, state, action):
            state = (1 - self.friction) * state + action
            return state, Outcome(-jnp.sum(state**2), jnp.zeros((), bool), {})

        def observe(self, state):
            return Observation(state)

    ready = Slide()

    def build(num_envs, friction=0.2):
        return FunctionalWorld("slide", Vmapped(Slide(friction=friction)), num_envs)

    def broken():
        raise RuntimeError("no disc")

    number = 3
"""


@pytest.fixture
def world_file(tmp_path):
    path = tmp_path / "slide_world.py"
    path.write_text(textwrap.dedent(FILE))
    return path


def test_loading_by_name_file_and_module(world_file, monkeypatch):
    assert load_world("classic/pendulum", 3).num_envs == 3
    world = load_world(f"{world_file}:Slide", 2, friction=0.5)
    assert isinstance(world, FunctionalWorld) and world.num_envs == 2 and world.task.single.friction == 0.5
    assert load_world(f"{world_file}:ready", 7).num_envs == 7
    assert load_world(f"{world_file}:build", 4, friction=0.3).task.single.friction == 0.3
    monkeypatch.syspath_prepend(world_file.parent)
    assert load_world("slide_world:Slide", 2).action_size == 1
    sys.modules.pop("slide_world")
    _, transition = world.step(world.reset(jax.random.key(0)), jnp.zeros((2, 1)))
    assert np.isfinite(np.asarray(transition.reward)).all()


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("classic/pendulun", {}, "Did you mean 'classic/pendulum'"),
        ("FILE", {}, "names a file but nothing in it"),
        ("FILE:Slid", {}, "no attribute 'Slid'. Did you mean 'Slide'"),
        ("FILE:Slide", {"frictoin": 1}, "cannot be called with the options"),
        ("FILE:ready", {"friction": 1.0}, "already made"),
        ("FILE:broken", {}, "RuntimeError: no disc"),
        ("FILE:number", {}, "is a int, not a world"),
        ("FILE:ObservationSpec", {}, "which is no World"),
        ("nowhere.py:Task", {}, "There is no file"),
        ("no_such_package_at_all:Task", {}, "is the module installed"),
        (":Task", {}, "package.module:attribute"),
    ],
)
def test_loading_errors_are_sentences(world_file, spec, options, message):
    with pytest.raises(ConfigurationError) as caught:
        load_world(spec.replace("FILE", str(world_file)), 2, **options)
    assert message in str(caught.value)
    with pytest.raises(ConfigurationError, match="num_envs = 0"):
        load_world("classic/pendulum", 0)
