"""Scenes of MuJoCo models against MuJoCo's own poses."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from penstock.render.camera import camera_for  # noqa: E402
from penstock.scene.mujoco import MujocoScenes  # noqa: E402

ZOO = """
<mujoco>
  <asset>
    <texture name="half" type="2d" builtin="flat" rgb1=".5 1 0" width="8" height="8"/>
    <material name="plain" rgba=".2 .4 .6 1"/>
    <material name="painted" texture="half" rgba="1 .5 1 1"/>
    <mesh name="wedge" vertex="0 0 0  .3 0 0  0 .2 0  0 0 .1  .3 0 .1  0 .2 .1"/>
    <hfield name="hill" nrow="3" ncol="4" size=".4 .3 .2 .1" elevation="0 0 0 0  0 1 2 0  0 0 0 0"/>
  </asset>
  <worldbody>
    <camera name="look" pos="3 -3 2.5" xyaxes="1 1 0 -.5 .5 1.4"/>
    <geom name="floor" type="plane" size="0 0 1" pos="0 0 -.3"/>
    <geom name="wall" type="plane" size=".6 .4 1" pos="2 0 .5" zaxis="-1 0 0"/>
    <geom name="endless" type="plane" size="0 0 1" pos="9 0 .5" zaxis="-1 0 0"/>
    <geom name="hill" type="hfield" hfield="hill" pos="-1 -1 0"/>
    <body name="thing" pos=".1 .2 .9" euler="20 30 40">
      <joint name="swing" type="hinge" axis="0 1 0"/>
      <geom name="box" type="box" size=".1 .2 .3" euler="10 0 50" rgba="1 0 0 1"/>
      <geom name="ball" type="sphere" size=".1" pos="0 0 .5" material="plain"/>
      <geom name="capsule" type="capsule" fromto="0 0 0 .5 .1 0" size=".05" material="plain" rgba="0 1 0 1"/>
      <geom name="cylinder" type="cylinder" size=".1 .2" pos=".4 0 .3" material="painted"/>
      <geom name="ellipsoid" type="ellipsoid" size=".1 .2 .05" pos="-.4 0 .3"/>
      <geom name="wedge" type="mesh" mesh="wedge" pos="0 .5 0" euler="0 0 30"/>
      <geom name="hidden" type="box" size="1 1 1" group="3"/>
      <geom name="clear" type="box" size="1 1 1" rgba="1 1 1 0"/>
      <site name="goal" pos="0 0 1" size=".07" rgba="0 0 1 1"/>
      <site name="a" pos=".2 0 1" size=".01" group="4"/>
      <body name="child" pos="0 0 -.5"><geom name="tip" size=".02"/><site name="b" size=".01" group="4"/></body>
    </body>
  </worldbody>
  <tendon><spatial width=".01" rgba="1 1 0 1"><site site="a"/><site site="b"/></spatial></tendon>
</mujoco>
"""

CARTPOLE = """
<mujoco><worldbody>
  <geom type="plane" size="0 0 1"/>
  <camera pos="0 -4 1" zaxis="0 -1 0"/>
  <body name="cart" pos="0 0 1"><joint name="slide" type="slide" axis="1 0 0" range="-1.5 1.5" limited="true"/>
    <geom type="box" size=".1 .1 .1" mass="1"/>
    <body><joint name="pole" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 1" size=".04" mass=".1"/></body>
  </body>
</worldbody></mujoco>
"""

RUNNER = """
<mujoco><worldbody>
  <geom type="plane" size="0 0 1"/>
  <body name="torso" pos="0 0 1"><joint type="slide" axis="1 0 0" limited="false"/><joint type="slide" axis="0 0 1"/>
    <joint axis="0 1 0"/><geom type="capsule" fromto="-.5 0 0 .5 0 0" size=".05"/>
    <body pos=".5 0 0"><joint axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 -.7" size=".05"/></body>
  </body>
  <body name="toy" pos="1 1 .1"><joint type="slide" axis="1 0 0"/><geom size=".05" mass=".01"/></body>
</worldbody></mujoco>
"""

PLANAR = """
<mujoco><worldbody>
  <geom type="plane" size="1 1 1"/>
  <body pos="0 0 .01"><joint axis="0 0 1"/><geom type="capsule" fromto="0 0 0 .1 0 0" size=".01"/>
    <body pos=".1 0 0"><joint axis="0 0 1"/><geom type="capsule" fromto="0 0 0 .1 0 0" size=".01"/></body></body>
  <body pos=".1 .1 .01"><joint type="slide" axis="1 0 0" range="-.2 .2" limited="true"/><geom size=".01"/></body>
</worldbody></mujoco>
"""


LIFT = np.array([0, 0.3, 0])
"""The ground of the zoo lies at -0.3."""


def upright(points):
    """MuJoCo's x, y, z as a scene's x, z, -y."""
    points = np.asarray(points)
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def load(xml, seed=None):
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    if seed is not None:
        mujoco.mj_integratePos(model, data.qpos, np.random.default_rng(seed).normal(size=model.nv), 1.0)
    mujoco.mj_forward(model, data)
    return model, data


def placed(item):
    return item.shape.vertices @ np.asarray(item.rotation).T + item.position


@pytest.fixture(scope="module")
def zoo():
    model, data = load(ZOO, seed=1)
    return model, data, MujocoScenes(model).scene(data, caption="a zoo")


def found(zoo, name):
    """The solid whose position and rotation are those of a geom."""
    model, data, scene = zoo
    geom = model.geom(name).id
    place = upright(data.geom_xpos[geom]) + LIFT
    turn = upright(data.geom_xmat[geom].reshape(3, 3).T).T
    match = [
        item
        for item in scene.items
        if np.allclose(item.position, place, atol=1e-6) and np.allclose(item.rotation, turn, atol=1e-6)
    ]
    assert len(match) == 1, name
    return match[0], geom


def test_everything_visible_is_there_once(zoo):
    _, _, scene = zoo
    names = ("wall", "hill", "box", "ball", "capsule", "cylinder", "ellipsoid", "wedge", "tip")
    for name in names:
        found(zoo, name)
    assert len(scene.items) == len(names) + 2  # the goal's site and the tendon; nothing hidden, clear or endless
    assert scene.ground and not scene.planar and scene.caption == "a zoo"
    assert np.isfinite(scene.extent) and scene.extent > 0


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("box", "#ff0000"),
        ("ball", "#336699"),  # of the material
        ("capsule", "#00ff00"),  # its own colour wins over the material's
        ("cylinder", "#808000"),  # of the material times the mean of the texture
        ("ellipsoid", "#808080"),
    ],
)
def test_colours(zoo, name, color):
    got = found(zoo, name)[0].color
    differences = [abs(int(got[i : i + 2], 16) - int(color[i : i + 2], 16)) for i in (1, 3, 5)]
    assert max(differences) <= 1, (got, color)


def test_sizes(zoo):
    _, data, _ = zoo
    for name, half in (
        ("box", (0.1, 0.2, 0.3)),
        ("ball", (0.1, 0.1, 0.1)),
        ("cylinder", (0.1, 0.1, 0.2)),
        ("ellipsoid", (0.1, 0.2, 0.05)),
        ("wall", (0.6, 0.4, 0.0)),
    ):
        np.testing.assert_allclose(found(zoo, name)[0].shape.vertices.max(0), half, rtol=0.01, atol=1e-9)
    item, _ = found(zoo, "capsule")
    body = data.body("thing")
    ends = np.array([[0, 0, 0], [0.5, 0.1, 0]]) @ body.xmat.reshape(3, 3).T + body.xpos
    tips = placed(item)[-2:]  # the poles
    outward = upright(ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    expected = upright(ends) + LIFT + 0.05 * np.array([-outward, outward])
    order = np.argsort(tips @ outward)
    np.testing.assert_allclose(tips[order], expected, atol=1e-6)


def test_mesh_vertices_stand_where_mujoco_has_them(zoo):
    model, data, _ = zoo
    item, geom = found(zoo, "wedge")
    vertices = model.mesh_vert @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
    np.testing.assert_allclose(placed(item), upright(vertices) + LIFT, atol=1e-6)
    a, b, c = (item.shape.vertices[item.shape.faces[:, i]] for i in range(3))
    assert item.shape.closed
    assert np.einsum("fk,fk->f", a, np.cross(b, c)).sum() / 6 == pytest.approx(0.5 * 0.3 * 0.2 * 0.1, rel=1e-5)


def test_landscape(zoo):
    item, _ = found(zoo, "hill")
    heights = item.shape.vertices.reshape(3, 4, 3)
    np.testing.assert_allclose(heights[1, :, 2], [0, 0.1, 0.2, 0], atol=1e-6)
    np.testing.assert_allclose(heights[2, 3, :2], [0.4, 0.3], atol=1e-6)


def test_tendon_runs_from_site_to_site(zoo):
    _, data, scene = zoo
    (tendon,) = (item for item in scene.items if item.color == "#ffff00")
    ends = upright(np.stack([data.site("a").xpos, data.site("b").xpos])) + LIFT
    np.testing.assert_allclose(tendon.position, ends.mean(0), atol=1e-5)
    along = np.ptp(tendon.shape.vertices[:, 2])
    assert along == pytest.approx(np.linalg.norm(ends[1] - ends[0]), abs=0.025)


def test_the_state_is_not_touched(zoo):
    model, data, _ = zoo
    kind = mujoco.mjtState.mjSTATE_INTEGRATION

    def state():
        values = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, values, kind)
        return values, data.geom_xpos.copy(), data.geom_xmat.copy()

    before = state()
    MujocoScenes(model).scene(data)
    for old, new in zip(before, state(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_view_is_that_of_the_fixed_camera(zoo):
    _, data, scene = zoo
    axes = np.stack(camera_for(scene).axes)
    right, up, backward = upright(data.cam("look").xmat.reshape(3, 3).T)
    np.testing.assert_allclose(axes, [right, up, -backward], atol=1e-6)


def test_scenes_follow_the_state_and_keep_their_shapes():
    model, data = load(ZOO)
    scenes = MujocoScenes(model)
    first = scenes.scene(data)
    data.qpos[:] = 0.7
    mujoco.mj_forward(model, data)
    second = scenes.scene(data)
    moved = [not np.allclose(placed(a), placed(b)) for a, b in zip(first.items, second.items, strict=True)]
    assert sum(moved) == len(moved) - 2  # all but wall and hill
    kept = [a.shape is b.shape for a, b in zip(first.items, second.items, strict=True)]
    assert sum(kept) == len(kept) - 1  # a tendon may have another length
    model.hfield_data[:] = 0.5
    (hill,) = (i for i, item in enumerate(second.items) if len(item.shape.vertices) == 12)
    np.testing.assert_allclose(scenes.scene(data).items[hill].shape.vertices[:, 2], 0.1)


def test_what_stays_in_its_place_is_framed_and_what_runs_is_followed():
    cart, data = load(CARTPOLE)
    scenes = MujocoScenes(cart)
    focus = scenes.scene(data).focus
    np.testing.assert_allclose(focus, [0, 1, 0], atol=1e-9)
    data.joint("slide").qpos[:] = 1.4
    mujoco.mj_forward(cart, data)
    np.testing.assert_array_equal(scenes.scene(data).focus, focus)

    runner, data = load(RUNNER, seed=3)
    data.qpos[0] += 20.0
    mujoco.mj_forward(runner, data)
    torso = runner.body("torso").id
    np.testing.assert_allclose(MujocoScenes(runner).scene(data).focus, upright(data.subtree_com[torso]), atol=1e-9)


@pytest.mark.parametrize("xml", [CARTPOLE, RUNNER, PLANAR], ids=["cartpole", "runner", "planar"])
def test_everything_that_moves_stays_in_the_picture_and_fills_it(xml):
    model, data = load(xml)
    scenes, size = MujocoScenes(model), (960, 540)
    seen = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        for joint in range(model.njnt):
            low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-3.0, 3.0)
            data.qpos[model.jnt_qposadr[joint]] = generator.uniform(low, high)
        if xml is RUNNER:
            data.qpos[1] = 0.3
            data.qpos[3] = generator.uniform(-0.4, 0.4)  # the leg; framing goes by the reference pose
        mujoco.mj_forward(model, data)
        scene = scenes.scene(data)
        agent = scene.items if xml is not RUNNER else scene.items[:2]
        screen, depth = camera_for(scene).project(np.concatenate([placed(item) for item in agent]), size)
        assert (depth > 0).all() and (screen > 0).all() and (screen < size).all()
        seen.append(screen)
    spread = np.ptp(np.concatenate(seen), axis=0) / size
    assert spread.max() > 0.5  # not a dot in the distance


def test_planar_models_are_seen_from_above():
    model, data = load(PLANAR)
    assert MujocoScenes(model).scene(data).view == (0.0, 90.0)
    model, data = load(RUNNER)
    assert MujocoScenes(model).scene(data).view is None


def test_skins_bend_with_their_bones():
    """A tetrahedron of which three corners hang on one body and the fourth on another."""
    model, data = load("""
    <mujoco><worldbody>
      <body name="a"><freejoint/><geom size=".1" group="3"/></body>
      <body name="b" pos="0 0 1"><freejoint/><geom size=".1" group="3"/></body>
    </worldbody><deformable>
      <skin name="s" vertex="0 0 0 1 0 0 0 1 0 0 0 1" face="0 2 1 0 1 3 0 3 2 1 2 3" rgba="1 0 0 1">
        <bone body="a" bindpos="0 0 0" bindquat="1 0 0 0" vertid="0 1 2" vertweight="1 1 1"/>
        <bone body="b" bindpos="0 0 1" bindquat="1 0 0 0" vertid="3" vertweight="1"/>
      </skin></deformable></mujoco>""")
    data.qpos[:3] = [0.5, 0, 0]
    data.qpos[7:10] = [0, 2, 3]
    mujoco.mj_forward(model, data)
    scene = MujocoScenes(model).scene(data)
    (skin,) = scene.items
    expected = upright([[0.5, 0, 0], [1.5, 0, 0], [0.5, 1, 0], [0, 2, 3]])
    np.testing.assert_allclose(placed(skin), expected, atol=1e-6)
    assert skin.shape.closed and skin.color == "#ff0000" and not scene.ground
