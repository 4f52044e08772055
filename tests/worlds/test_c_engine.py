"""C MuJoCo in the place of MJX, against the library by hand. MJX's type of states is made here: MJX is not needed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.worlds.jax_packages import c_engine
from penstock.worlds.jax_packages.c_engine import GIVEN, CEngine

mujoco: Any = pytest.importorskip("mujoco")

LEG = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 0.1"/>
    <body name="trunk" pos="0 0 0.5">
      <joint type="slide" axis="0 0 1"/>
      <geom type="sphere" size="0.1" mass="2"/>
      <body name="leg" pos="0 0 -0.1">
        <joint name="hip" type="hinge" axis="0 1 0" damping="0.1"/>
        <site name="sole" pos="0.1 0 -0.3" size="0.06"/>
        <geom name="foot" type="capsule" fromto="0 0 0 0.1 0 -0.3" size="0.05" mass="1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="hip" gear="5"/></actuator>
  <sensor><jointpos joint="hip"/><touch name="touch" site="sole"/></sensor>
</mujoco>
"""

READ = ("sensordata", "xpos", "xmat", "qacc", "actuator_force")
FIELDS = (*GIVEN, *READ)


def _data_type():
    made = dataclasses.make_dataclass(
        "Data", [(name, Any) for name in FIELDS], namespace={"replace": dataclasses.replace}
    )
    return jax.tree_util.register_dataclass(made)


Data = _data_type()


@dataclasses.dataclass
class Model:
    """The part of an ``mjx.Model`` that a world replaces."""

    body_mass: Any


@pytest.fixture
def leg():
    return mujoco.MjModel.from_xml_string(LEG)


def started(model, height=0.5, angle=0.3):
    """A state as MJX keeps it: float32, matrices of three rows."""
    data = mujoco.MjData(model)
    data.qpos[:] = height, angle
    fields = {name: np.asarray(getattr(data, name)) for name in FIELDS}
    fields["xmat"] = fields["xmat"].reshape(-1, 3, 3)
    kinds = {name: bool if array.dtype == bool else np.float32 for name, array in fields.items()}
    return Data(**{name: jnp.asarray(array, kinds[name]) for name, array in fields.items()})


def by_hand(model, data, control, substeps):
    """The library itself, from a state of float32."""
    known = mujoco.MjData(model)
    for name in ("qpos", "qvel", "qacc_warmstart", "time"):
        setattr(known, name, np.asarray(getattr(data, name)))
    known.ctrl[:] = control
    mujoco.mj_step(model, known, substeps)
    return known


def test_control_steps_are_those_of_the_library(leg):
    """From the air to the floor and on, for 40 control steps of five substeps, everything that is read."""
    engine = CEngine(leg, nominal := Model(jnp.asarray(leg.body_mass)))
    step = jax.jit(lambda data, control: engine.control_step(nominal, data, control, 5))
    data, touched = started(leg), False
    for t in range(40):
        control = np.sin(0.4 * t)
        known = by_hand(leg, data, np.float32(control), 5)
        data = step(data, jnp.full((1,), control))
        for name in ("qpos", "qvel", "qacc_warmstart", *READ):
            expected = np.asarray(getattr(known, name)).reshape(getattr(data, name).shape)
            np.testing.assert_array_equal(getattr(data, name), expected.astype(np.float32), err_msg=name)
        touched |= known.sensordata[1] > 0
    assert touched and float(data.time) == pytest.approx(1.0)
    forward = jax.jit(lambda data: engine.forward(nominal, data))(data)
    np.testing.assert_array_equal(forward.qpos, data.qpos)
    assert not np.array_equal(forward.xpos, data.xpos)  # a step leaves places behind by a substep


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_of_batches_is_its_environments_one_by_one(leg, threads, monkeypatch):
    monkeypatch.setattr(c_engine, "FEWEST", 2)
    engine = CEngine(leg, nominal := Model(jnp.asarray(leg.body_mass)))
    engine._threads = threads
    starts = [[started(leg, 0.4 + 0.03 * i, 0.1 * j) for j in range(4)] for i in range(3)]
    stacked = jax.tree.map(
        lambda *rows: jnp.stack(rows), *[jax.tree.map(lambda *d: jnp.stack(d), *row) for row in starts]
    )
    controls = jnp.linspace(-1, 1, 12).reshape(3, 4, 1)
    both = jax.jit(jax.vmap(jax.vmap(lambda data, control: engine.control_step(nominal, data, control, 20))))(
        stacked, controls
    )
    assert len(engine._workers) == threads
    for i in range(3):
        for j in range(4):
            alone = engine.control_step(nominal, starts[i][j], controls[i, j], 20)
            jax.tree.map(lambda one, all_, i=i, j=j: np.testing.assert_array_equal(one, all_[i, j]), alone, both)


def test_every_environment_has_the_masses_that_it_was_given(leg):
    """And who comes after has the nominal ones again."""
    engine = CEngine(leg, nominal := Model(jnp.asarray(leg.body_mass)))
    masses = jnp.asarray([[0.0, 2.0, 1.0], [0.0, 8.0, 1.0], [0.0, 2.0, 4.0]])
    moved = jax.jit(jax.vmap(lambda mass: engine.control_step(Model(mass), started(leg), jnp.ones(1), 60)))(masses)
    for mass, qpos in zip(masses, moved.qpos, strict=True):
        other = mujoco.MjModel.from_xml_string(LEG)
        other.body_mass[:] = mass
        np.testing.assert_array_equal(qpos, by_hand(other, started(leg), 1.0, 60).qpos.astype(np.float32))
    assert len(np.unique(np.asarray(moved.qpos[:, 1]))) == 3
    after = engine.control_step(nominal, started(leg), jnp.ones(1), 60)
    np.testing.assert_array_equal(after.qpos, moved.qpos[0])
    assert leg.body_mass.tolist() == [0.0, 2.0, 1.0]


def test_a_state_that_became_none_is_handed_on(leg, capfd):
    """The library would set it back to its first, silently, and write a file."""
    engine = CEngine(leg, nominal := Model(jnp.asarray(leg.body_mass)))
    lost = started(leg).replace(qvel=jnp.asarray([jnp.nan, 0.0]))
    after = engine.control_step(nominal, lost, jnp.zeros(1), 5)
    assert jnp.isnan(after.qpos).any()
    fine = engine.control_step(nominal, started(leg), jnp.zeros(1), 5)
    assert jnp.isfinite(fine.qpos).all()
    assert capfd.readouterr() == ("", "")


def test_what_the_library_cannot_be_told_is_refused(leg):
    engine = CEngine(leg, Model(jnp.asarray(leg.body_mass)))
    with pytest.raises(ConfigurationError, match=r"changes 'body_mass' of its model while it runs.*impl=jax"):
        engine.forward(Model(body_mass="heavy"), started(leg))
