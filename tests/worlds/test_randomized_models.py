"""Domain randomisation of C MuJoCo: what is written into a model, against MuJoCo's own reading of other numbers."""

import mujoco
import numpy as np
import pytest
from mujoco_environments import TIMESTEP, Hidden, Mechanism, Remade, model, momentum

from penstock._errors import ConfigurationError, PenstockError
from penstock.worlds.hosted.randomized import Randomized
from penstock.worlds.randomization.reading import read_randomization

FIELDS = [name for name in dir(mujoco.MjModel) if isinstance(getattr(model(), name, None), np.ndarray)]


def randomized(make=Mechanism, numbers=(), **terms):
    return Randomized(make(**dict(numbers)), read_randomization(terms), "mine", TIMESTEP)


def read(made):
    """Every number of a model."""
    return {name: np.array(getattr(made, name)) for name in FIELDS}


CHANGED = [
    ("friction", {"set": [0.4, 1.0], "geoms": "floor"}, {"geom_friction": [(0, 0)]}, None),
    ("friction", {"scale": [0.5, 2.0]}, {"geom_friction": [(0, 0), (1, 0), (3, 0), (4, 0)]}, "scale"),
    ("friction", {"add": [0.1, 0.2], "pairs": ["gr*"]}, {"pair_friction": [(0, 0), (0, 1)]}, "add"),
    ("center_of_mass", {"add": [-0.1, 0.1], "bodies": ["pole"]}, {"body_ipos": [(2, 0), (2, 1), (2, 2)]}, "add"),
    ("armature", {"scale": [1.1, 1.5]}, {"dof_armature": [0, 8]}, "scale"),
    ("joint_damping", {"add": [0.5, 1.0], "joints": ["slide"]}, {"dof_damping": [0]}, "add"),
    ("joint_friction", {"set": [0.5, 1.0], "joints": ["hinge"]}, {"dof_frictionloss": [1]}, None),
    ("joint_offset", {"add": [-0.05, 0.05], "joints": ["h*", "elbow"]}, {"qpos0": [1, 9]}, "add"),
    ("kp", {"scale": [0.5, 0.9]}, {"actuator_gainprm": [(1, 0)], "actuator_biasprm": [(1, 1)]}, "scale"),
    ("kd", {"scale": [0.5, 0.9]}, {"actuator_biasprm": [(1, 2)]}, "scale"),
    (
        "motor_strength",
        {"scale": [0.5, 0.9], "actuators": ["motor"]},
        {"actuator_gainprm": [(0, 0)], "actuator_forcerange": [(0, 0), (0, 1)]},
        "scale",
    ),
]
DERIVED = {
    "dof_length",
    "dof_M0",
    "dof_invweight0",
    "body_invweight0",
    "actuator_acc0",
    "tendon_invweight0",
    "body_subtreemass",
}
PLACED = {"body_ipos": {"light_poscom0", "cam_poscom0"}, "qpos0": {"actuator_length0"}}


@pytest.mark.parametrize(
    ("term", "entry", "places", "kind"), CHANGED, ids=[f"{c[0]}-{i}" for i, c in enumerate(CHANGED)]
)
def test_a_term_changes_its_own_numbers_and_no_others(term, entry, places, kind):
    env, nominal = randomized(**{term: entry}), read(model())
    low, high = entry[next(name for name in entry if name in ("set", "scale", "add"))]
    drawn = []
    for seed in range(20):
        env.reset(seed=seed)
        now = read(env.unwrapped.model)
        for field, entries in places.items():
            for place in entries:
                before, after = nominal[field][place], now[field][place]
                drawn.append({"scale": after / before if before else np.nan, "add": after - before, None: after}[kind])
                now[field][place] = before
        derived = DERIVED | set().union(*(PLACED.get(field, set()) for field in places))
        different = {name for name in FIELDS if not np.array_equal(now[name], nominal[name], equal_nan=True)}
        assert different <= derived, different
    assert low - 1e-9 <= min(drawn) and max(drawn) <= high + 1e-9
    assert min(drawn) < low + 0.2 * (high - low) and max(drawn) > high - 0.2 * (high - low)


def test_numbers_that_go_together_get_one_draw():
    """Of a servo its gain and its bias; of a motor the force and its limits; of all with shared."""
    env = randomized(
        kp={"scale": [0.5, 2]}, motor_strength={"scale": [0.5, 2]}, armature={"scale": [2, 3], "shared": True}
    )
    env.reset(seed=1)
    m = env.unwrapped.model
    assert m.actuator_gainprm[1, 0] == -m.actuator_biasprm[1, 1] and m.actuator_biasprm[1, 1] != -20
    assert m.actuator_forcerange[0].tolist() == pytest.approx(
        [-8 * m.actuator_gainprm[0, 0], 8 * m.actuator_gainprm[0, 0]]
    )
    assert m.dof_armature[0] / 0.5 == pytest.approx(m.dof_armature[8] / 0.01) and m.dof_armature[0] > 1.0
    env = randomized(armature={"scale": [2, 3]})
    env.reset(seed=1)
    assert env.unwrapped.model.dof_armature[0] / 0.5 != pytest.approx(env.unwrapped.model.dof_armature[8] / 0.01)


def test_a_changed_model_is_the_one_that_mujoco_compiles_from_the_changed_numbers():
    """Mass with inertia, centre of mass, armature: every constant that MuJoCo derives is right too."""
    env = randomized(
        mass=[{"scale": [0.5, 2.0]}, {"bodies": ["pole"], "add": [0.1, 0.4]}],
        center_of_mass={"bodies": ["pole"], "add": [-0.1, 0.1]},
        armature={"joints": ["slide"], "scale": [0.5, 2.0]},
    )
    env.reset(seed=5)
    now = env.unwrapped.model
    cart, pole = now.body_mass[1], now.body_mass[2]
    assert 1.0 < cart < 4.0 and cart != 2.0 and 0.6 < pole < 2.4
    numbers = {"cart": cart, "cart_inertia": 0.04 * cart / 2.0, "pole": pole, "pole_inertia": 0.02 * pole}
    x, y, z = now.body_ipos[2]
    numbers |= {"place": f"{z} ", "armature": now.dof_armature[0]}
    text = mujoco_text(numbers).replace(f'pos="0 0 {z} "', f'pos="{x} {y} {z}"')
    wanted = mujoco.MjModel.from_xml_string(text)
    for body in (3, 4):  # their geoms have masses of their own, which the text does not change
        wanted.body_mass[body], wanted.body_inertia[body] = now.body_mass[body], now.body_inertia[body]
        assert now.body_inertia[body] / model().body_inertia[body] == pytest.approx(
            now.body_mass[body] / model().body_mass[body]
        )
    mujoco.mj_setConst(wanted, mujoco.MjData(wanted))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(now, name), getattr(wanted, name), rtol=1e-9, atol=1e-12, err_msg=name)


def mujoco_text(numbers):
    from mujoco_environments import MODEL, NUMBERS

    return MODEL.format(**{**NUMBERS, **numbers})


def test_a_heavier_cart_accelerates_as_newton_says():
    for term in ({"mass": {"bodies": ["cart", "pole"], "scale": [0.5, 3.0]}}, {"armature": {"add": [0.5, 2.0]}}):
        env = randomized(**term)
        for seed in range(5):
            env.reset(seed=seed)
            m = env.unwrapped.model
            env.step(np.array([3.0, 0.0], np.float32))
            expected = 3.0 * TIMESTEP / (m.body_mass[1] + m.body_mass[2] + m.dof_armature[0])
            # The pole hangs in its middle of mass at first, and takes part of the motion.
            free = randomized(numbers={"place": 0.0}, **term)
            free.reset(seed=seed)
            free.step(np.array([3.0, 0.0], np.float32))
            assert free.unwrapped.data.qvel[0] == pytest.approx(expected, rel=1e-6)
            assert expected != pytest.approx(3.0 * TIMESTEP / 3.5, rel=1e-3)


def test_weaker_motors_push_less_and_weaker_servos_are_softer():
    for term, action, force, nominal in (
        ("motor_strength", [3.0, 0.0], 0, 3.0),
        ("motor_strength", [10.0, 0.0], 0, 8.0),  # at the limit of its force, which is weaker as well
        ("kp", [0.0, 0.2], 1, 4.0),
    ):
        env = randomized(**{term: {"scale": [0.5, 0.5]}})
        env.reset(seed=0)
        inner = env.unwrapped
        inner.data.ctrl[:] = action
        mujoco.mj_forward(inner.model, inner.data)
        assert inner.data.actuator_force[force] == pytest.approx(0.5 * nominal)


@pytest.mark.parametrize("which", ["mine", "humanoid"])
def test_episodes_do_not_depend_on_those_before_and_nominal_numbers_come_back(which):
    if which == "mine":
        make, body = Mechanism, "cart"
    else:
        import gymnasium

        make, body = lambda: gymnasium.make("Humanoid-v5").unwrapped, "torso"
    terms = {
        "mass": [{"scale": [0.5, 2.0]}, {"bodies": body, "add": [0.5, 1.0]}],
        "armature": {"scale": [1.0, 2.0]},
        "joint_offset": {"add": [-0.1, 0.1]},
        "friction": {"scale": [0.5, 2.0]},
        "center_of_mass": {"add": [-0.1, 0.1]},
    }
    env, fresh = randomized(make, **terms), randomized(make, **terms)
    nominal = read(env.unwrapped.model)
    for seed in range(20):
        env.reset(seed=seed)
        env.step(env.action_space.sample())
    env.reset(seed=77), fresh.reset(seed=77)
    after, first = read(env.unwrapped.model), read(fresh.unwrapped.model)
    assert all(np.array_equal(after[name], first[name], equal_nan=True) for name in FIELDS)
    assert not np.array_equal(after["body_mass"], nominal["body_mass"])
    changes = env._model.changes
    for field, values in changes.with_values([]).items():
        getattr(env.unwrapped.model, field)[...] = values
    mujoco.mj_setConst(env.unwrapped.model, mujoco.MjData(env.unwrapped.model))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(env.unwrapped.model, name), nominal[name], rtol=1e-12, err_msg=name)


def test_one_more_term_leaves_the_draws_of_the_others_as_they_were():
    one, two = (
        randomized(mass={"scale": [0.5, 2.0]}),
        randomized(friction={"scale": [0.5, 2]}, mass={"scale": [0.5, 2.0]}),
    )
    one.reset(seed=3), two.reset(seed=3)
    assert np.array_equal(one.unwrapped.model.body_mass, two.unwrapped.model.body_mass)
    two.reset(seed=4)
    assert not np.array_equal(one.unwrapped.model.body_mass, two.unwrapped.model.body_mass)


def test_joints_start_elsewhere_within_their_limits_and_are_observed_there():
    terms = {"initial_joint_position": {"joints": ["hinge", "elbow"], "add": [-1.0, 1.0]}}
    env, places = randomized(numbers={"limited": "true"}, **terms), []
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        assert np.array_equal(observation, env.unwrapped._get_obs())
        places.append(observation[[1, 9]])
        assert 0 <= observation[0] <= 0.1 and observation[2:5].tolist() == [0, 3, 1]
    hinge, elbow = np.array(places).T
    assert np.abs(hinge).max() == pytest.approx(0.3) and 0.8 < np.abs(elbow).max() <= 1.0
    now, data = mujoco.MjData(env.unwrapped.model), env.unwrapped.data
    now.qpos[:] = data.qpos
    mujoco.mj_forward(env.unwrapped.model, now)
    assert np.array_equal(now.xipos, data.xipos) and data.time == 0.0


def test_dm_control_is_randomised_and_observed_again():
    from penstock.worlds.hosted.dm_control import DMControlEnvironment

    env = DMControlEnvironment("cartpole", "balance")
    terms = {"mass": {"scale": [2, 2]}, "initial_joint_position": {"joints": "slider", "add": [0.5, 0.5]}}
    wrapped = Randomized(env, read_randomization(terms), "dmc/cartpole-balance", 0.01)
    nominal = DMControlEnvironment("cartpole", "balance")
    (there, _), (here, _) = wrapped.reset(seed=1), nominal.reset(seed=1)
    assert there[0] - here[0] == pytest.approx(0.5, abs=1e-6) and there[1:3].tolist() == here[1:3].tolist()
    assert (env.physics.model.body_mass[1:] == 2 * nominal.physics.model.body_mass[1:]).all()
    # Twice the mass everywhere, and so half the acceleration of the cart by the same force.
    before = env.physics.data.qvel[0], nominal.physics.data.qvel[0]
    for one in (wrapped, nominal):
        one.step(np.ones(1, np.float32))
    heavy, light = env.physics.data.qvel[0] - before[0], nominal.physics.data.qvel[0] - before[1]
    assert heavy == pytest.approx(0.5 * light, rel=0.02)


# ------------------------------------------------------------------------------------------------- pushes


def test_a_push_changes_the_momentum_by_its_velocity_times_the_mass():
    env = randomized(pushes={"interval": [0.1, 0.1], "velocity": [0.7, 0.7], "axes": ["x"]})
    env.reset(seed=2)
    before, jumps = momentum(env), []
    for _ in range(20):
        env.step(np.zeros(2, np.float32))
        after = momentum(env)
        jumps.append(after - before)
        before = after
    jumps = np.array(jumps)
    pushed = np.flatnonzero(np.abs(jumps).max(axis=1) > 1e-6)
    assert pushed.tolist() == [5, 10, 15]  # every 0.1 s of steps of 0.02 s
    assert np.abs(jumps[pushed, 0]) == pytest.approx(0.75 * 0.7, rel=1e-9)
    assert np.abs(jumps[pushed, 1:]).max() < 1e-9


def test_a_force_changes_the_momentum_by_force_times_duration_and_ends():
    push = {"interval": [0.2, 0.2], "force": [5, 5], "duration": 0.06, "body": "cart", "axes": ["x"]}
    env = randomized(numbers={"place": 0.0}, pushes=push)
    env.reset(seed=2)
    env.unwrapped.data.xfrc_applied[2, 2] = 7.0  # somebody else's, along no joint: it stays
    speeds = [0.0]
    for _ in range(19):
        env.step(np.zeros(2, np.float32))
        speeds.append(env.unwrapped.data.qvel[0])
    acts = np.flatnonzero(np.abs(np.diff(speeds)) > 1e-9).tolist()
    assert acts == [10, 11, 12]
    inertia = 2.0 + 1.0 + 0.5  # cart, pole, and the rotor of the motor
    assert np.abs(np.diff(speeds)[acts]) * inertia == pytest.approx(5 * TIMESTEP, rel=1e-9)
    assert abs(speeds[-1]) * inertia == pytest.approx(5 * 0.06, rel=1e-9)
    assert np.argwhere(env.unwrapped.data.xfrc_applied).tolist() == [[2, 2]]


def test_directions_and_waits_are_drawn():
    env = randomized(pushes={"interval": [0.1, 0.4], "velocity": [0.1, 2.0]})
    found, waits = [], []
    for seed in range(40):
        env.reset(seed=seed)
        before = momentum(env)
        for t in range(25):
            env.step(np.zeros(2, np.float32))
            jump = (momentum(env) - before) / 0.75
            if np.linalg.norm(jump) > 1e-6:
                found.append(jump)
                waits.append(t)
                break
    found = np.array(found)
    assert len(found) == 40 and min(waits) == 5 and max(waits) >= 18 and max(waits) <= 20
    size = np.linalg.norm(found, axis=1)
    assert 0.1 <= size.min() < 0.4 and 1.7 < size.max() <= 2.0 and np.abs(found[:, 2]).max() < 1e-9
    signs = {(bool(x > 0), bool(y > 0)) for x, y, _ in found}
    assert len(signs) == 4


# ------------------------------------------------------------------------------------------------- what models lack

REFUSED = [
    (
        {"mass": {"bodies": "cort", "scale": [1, 2]}},
        "mass.bodies = 'cort': there is no such name. Did you mean 'cart'? The",
    ),
    ({"mass": {"bodies": ["world"], "scale": [1, 2]}}, "mass.bodies = 'world': has no mass. Leave it out."),
    (
        {"mass": {"bodies": ["pole"], "add": [-1.5, 1]}},
        "mass.add = [-1.5, 1]: body 'pole' has 1 kg in the model and could",
    ),
    (
        {"joint_damping": {"add": [-0.1, 1]}},
        "joint_damping.add = [-0.1, 1]: joint 'slide' has 0 N m s/rad in the model",
    ),
    (
        {"joint_friction": {"scale": [0.5, 2]}},
        "joint_friction.scale = [0.5, 2]: changes nothing, because all of these joints",
    ),
    ({"kp": {"actuators": "motor", "scale": [0.5, 2]}}, "kp.actuators = 'motor': is no position servo; a"),
    (
        {"friction": {"geoms": "geom2", "scale": [0.5, 2]}},
        "friction.geoms = 'geom2': collides with nothing, or in pairs",
    ),
    ({"friction": {"pairs": "feet", "scale": [0.5, 2]}}, "The pairs of the model are: ground."),
    ({"joint_offset": {"joints": "free", "add": [0, 1]}}, "joint_offset.joints = 'free': is a free or ball joint"),
    (
        {"pushes": {"interval": [1, 2], "velocity": [0, 1], "body": "cart"}},
        "pushes.velocity: 'cart' has no free joint, so its velocity is not its own. Write force and duration",
    ),
    ({"pushes": {"interval": [1, 2], "velocity": [0, 1], "body": "world"}}, "is the world, which nothing moves"),
    (
        {"observation_noise": {"names": "gyro*", "add": [-1, 1]}},
        "observation_noise.names = 'gyro*': there is no such name.",
    ),
    ({"observation_noise": {"indices": [19], "add": [-1, 1]}}, "observed vector has 19 numbers: places are 0 to 18"),
]


@pytest.mark.parametrize(
    ("terms", "sentence"), REFUSED, ids=[f"{next(iter(t))}-{i}" for i, (t, _) in enumerate(REFUSED)]
)
def test_what_a_model_lacks_is_refused(terms, sentence):
    with pytest.raises(ConfigurationError) as error:
        randomized(**terms)
    assert str(error.value).startswith("'mine': randomize: ") and sentence in str(error.value)


def test_an_environment_without_a_model_of_its_own_is_refused():
    from hosted_environments import Counting

    with pytest.raises(ConfigurationError, match="mass needs a MuJoCo model, and this environment shows none"):
        randomized(Counting, mass={"scale": [1, 2]})
    with pytest.raises(ConfigurationError, match=r"Give the environment \(Hidden\) a method _get_obs"):
        randomized(Hidden, initial_joint_position={"add": [0, 1]})
    env = randomized(Remade, mass={"scale": [1, 2]})
    with pytest.raises(PenstockError, match=r"makes a new MuJoCo model in reset.*leave out mass"):
        env.reset(seed=0)
