import dataclasses
import itertools

import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.physics.mesh import surface, voxel_mesh
from penstock.render._ground import nice_length
from penstock.render._meshes import is_closed, mesh_of, outline, tint
from penstock.render._raster import rasterize
from penstock.render.camera import Camera, camera_path
from penstock.render.frames import render_scene, render_scenes
from penstock.scene.items import Ball, Scene, Segment, Surface

SIZE = (320, 180)


def box_scene(x=0.0, y=0.0, values=None, **changes):
    """A box of 3 x 2 x 1 voxels of 0.1 m whose lower face is at height y."""
    mesh = voxel_mesh(list(itertools.product(range(3), range(2), range(1))), 0.1)
    faces, _ = surface(mesh)
    rest = np.asarray(mesh.vertices, float)
    vertices = rest - rest.min(0) - [0.15, 0.0, 0.05] + [x, y, 0.0]
    tints = None if values is None else np.full(len(faces), float(values))
    body = Surface(vertices, np.asarray(faces), tints, color="#4c9f9a")
    return Scene([body], vertices.mean(0), 0.3, **changes)


def changed(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max(-1) > 8


def test_body_ground_shadow_and_caption_are_visible():
    empty = dataclasses.replace(box_scene(), items=[])
    bare, full = render_scene(empty, SIZE), render_scene(box_scene(), SIZE)
    assert full.shape == (180, 320, 3) and full.dtype == np.uint8
    below = bare[120:, :, 0].astype(int)
    assert below.std() > 8  # tiles of two tones
    body = changed(bare, full)
    assert 0.05 < body.mean() < 0.5
    middle = full[90, 160].astype(int)
    assert middle[1] > middle[0] + 20  # teal, lit
    shade = body & (full.max(-1).astype(int) - full.min(-1) < 35) & (full.sum(-1) < bare.sum(-1))
    assert shade.sum() > 200  # grey pixels that became darker: the shadow
    captioned = changed(render_scene(box_scene(caption="t = 1.20 s"), SIZE), full)
    assert captioned[:30, :120].any() and not captioned[60:].any()


def test_activation_tints_and_shows_a_legend():
    warm, cold = (render_scene(box_scene(values=v), SIZE).astype(int) for v in (1, -1))
    assert (warm[90, 160, 0] - warm[90, 160, 2]) > 60
    assert (cold[90, 160, 2] - cold[90, 160, 0]) > 60
    assert changed(render_scene(box_scene(), SIZE), render_scene(box_scene(values=0), SIZE))[:30, 200:].any()
    np.testing.assert_allclose(tint(np.array([0.0, np.nan])), np.broadcast_to(tint(np.array([0.0])), (2, 3)))
    np.testing.assert_allclose(tint(np.array([7.0])), tint(np.array([1.0])))


def test_ground_pattern_is_fixed_in_the_world():
    # The camera moves by two tiles: the same picture of the ground again. By one tile: light and dark exchanged.
    tile = nice_length(0.3 / 2.2)
    scene = dataclasses.replace(box_scene(), items=[])
    start = render_scene(scene, SIZE, Camera(np.zeros(3), 0.3)).astype(int)[110:, :, 0]
    two = render_scene(scene, SIZE, Camera(np.array([2 * tile, 0, 0]), 0.3)).astype(int)[110:, :, 0]
    one = render_scene(scene, SIZE, Camera(np.array([tile, 0, 0]), 0.3)).astype(int)[110:, :, 0]
    assert np.median(np.abs(two - start)) <= 1
    assert np.median(np.abs(one - start)) > 10


def test_projection_by_hand():
    camera = Camera(np.array([1.0, 2.0, 3.0]), extent=0.5, yaw=0.0, pitch=0.0)
    points = np.array([[1.0, 2.0, 3.0], [1.0, 2.5, 3.0], [1.5, 2.0, 3.0]])
    screen, depth = camera.project(points, (400, 200))
    # The target is the middle; half a metre up is the upper edge; half a metre along x is as far to the right.
    np.testing.assert_allclose(screen, [[200, 100], [200, 0], [300, 100]], atol=1e-9)
    np.testing.assert_allclose(depth, np.linalg.norm(camera.position - camera.target))


def test_camera_axes_are_right_handed_and_orthonormal():
    axes = np.stack(Camera(np.zeros(3), yaw=35.0, pitch=20.0).axes)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.cross(axes[0], axes[1]), -axes[2], atol=1e-12)
    assert axes[1][1] > 0


@pytest.mark.parametrize("reverse", [False, True])
def test_nearer_surfaces_hide_farther_ones(reverse):
    near, far = Ball(np.array([0, 0.5, 0.5]), 0.2, "#ff0000"), Ball(np.array([0, 0.5, -0.5]), 0.2, "#0000ff")
    camera = Camera(np.array([0, 0.5, 0.0]), 0.5, yaw=0.0, pitch=0.0)
    balls = [near, far] if not reverse else [far, near]
    layer = rasterize([mesh_of(ball) for ball in balls], camera, (200, 200))
    assert layer is not None
    (x, y), box = layer
    red, _, blue, cover = box[:, 100 - y, 100 - x]
    assert red > 0.5 and blue < 0.2 and cover == 1


def test_intersecting_triangles_hide_each_other_per_pixel():
    # Two crossing planes: left of the middle the first is in front, right of it the second.
    def plane(slope, color):
        vertices = np.array([[-1, 0, -slope], [1, 0, slope], [1, 1, slope], [-1, 1, -slope]], float)
        return mesh_of(Surface(vertices, np.array([[0, 1, 2], [0, 2, 3]]), color=color))

    camera = Camera(np.array([0, 0.5, 0.0]), 1.0, yaw=0.0, pitch=0.0)
    layer = rasterize([plane(0.5, "#ff0000"), plane(-0.5, "#0000ff")], camera, (200, 200))
    assert layer is not None
    (x, y), box = layer
    left, right = box[:, 100 - y, 60 - x], box[:, 100 - y, 140 - x]
    assert left[2] > 0.4 > left[0] and right[0] > 0.4 > right[2]


def test_coverage_is_the_area_of_a_triangle():
    triangle = Surface(np.array([[0, 0, 0], [0.6, 0, 0], [0, 0.8, 0]], float), np.array([[0, 1, 2]]))
    camera = Camera(np.array([0.3, 0.4, 0.0]), 0.5, yaw=0.0, pitch=0.0)
    layer = rasterize([mesh_of(triangle)], camera, (200, 200))
    assert layer is not None
    # 200 pixels per metre: half of 120 x 160 pixels.
    assert layer[1][3].sum() == pytest.approx(9600, rel=0.01)


def test_what_is_behind_the_camera_or_not_finite_is_left_out():
    camera = Camera(np.zeros(3), 1.0, yaw=0.0, pitch=10.0)
    behind = mesh_of(Ball(camera.position + np.array([0.0, 0.0, 1.0]), 0.3))
    assert rasterize([behind], camera, SIZE) is None
    broken = box_scene()
    broken.items[0].vertices[3] = np.nan
    assert render_scene(broken, SIZE).std() > 5
    everything = box_scene()
    everything.items[0].vertices[:] = np.nan
    render_scene(dataclasses.replace(everything, focus=np.zeros(3)), SIZE)


def test_mesh_lines_leave_out_the_diagonals_of_a_voxel_surface():
    body = box_scene().items[0]
    drawn = outline(body.vertices, body.faces)
    assert is_closed(body.faces) and not is_closed(body.faces[1:])
    assert (drawn.sum(1) == 2).all()  # each triangle keeps its two short edges


def test_solid_items_have_outward_faces():
    for item in (Ball(np.zeros(3), 0.5), Segment(np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0.5]], float), 0.1)):
        mesh = mesh_of(item)
        assert is_closed(mesh.faces)
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        assert np.einsum("fk,fk->f", a, np.cross(b, c)).sum() / 6 > 0  # signed volume
    assert np.einsum(
        "fk,fk->f",
        *(lambda m: (m.vertices[m.faces[:, 0]], np.cross(m.vertices[m.faces[:, 1]], m.vertices[m.faces[:, 2]])))(
            mesh_of(Ball(np.zeros(3), 0.5))
        ),
    ).sum() / 6 == pytest.approx(4 / 3 * np.pi * 0.125, rel=0.06)


def test_planar_scenes_are_drawn_to_scale():
    bar = Segment(np.array([[0.0, -0.5, 0.0], [0.0, 0.5, 0.0]]), width=0.25, color="#000000")
    disc = Ball(np.array([1.0, 0.0, 0.0]), 0.25, "#ff0000")
    frame = render_scene(Scene([bar, disc], np.zeros(3), 1.0, ground=False, planar=True), (400, 200)).astype(int)
    # 100 pixels per metre, ends cut straight.
    assert (frame.sum(-1) < 100).sum() == pytest.approx(25 * 100, rel=0.05)
    red = (frame[..., 0] > 200) & (frame[..., 1] < 60)
    assert red.sum() == pytest.approx(np.pi * 25**2, rel=0.03)
    assert np.argwhere(red).mean(0) == pytest.approx([100, 300], abs=1)


def test_planar_ground_is_marked():
    scene = Scene([], np.array([0.0, 0.3, 0.0]), 0.5, planar=True)
    with_ground = render_scene(scene, (400, 200))
    without = render_scene(dataclasses.replace(scene, ground=False), (400, 200))
    difference = changed(with_ground, without)
    assert difference[165:].mean() > 0.5 and not difference[:155].any()


def test_camera_follows_without_lag_and_without_shaking():
    time = np.arange(120) * 0.016
    hops = 0.02 * np.abs(np.sin(12 * time))
    scenes = [box_scene(x=1.5 * t, y=h) for t, h in zip(time, hops, strict=True)]
    focus = np.stack([scene.focus for scene in scenes])
    path = np.stack([camera.target for camera in camera_path(scenes)])
    np.testing.assert_allclose(path[:, 0], focus[:, 0], atol=1e-9)  # steady motion: exactly on it, also at the ends
    assert np.abs(np.diff(path[:, 1])).max() < 0.3 * np.abs(np.diff(focus[:, 1])).max()


def test_camera_cuts_where_an_episode_ends():
    scenes = [box_scene(x=0.02 * k) for k in range(50)] + [box_scene() for _ in range(20)]
    path = np.array([camera.target[0] for camera in camera_path(scenes)])
    assert path[49] == pytest.approx(0.98) and path[50] == pytest.approx(0.0)
    assert camera_path([]) == []


def test_sequence_states_time_and_speed(monkeypatch):
    seen = []
    from penstock.render import frames as rendering

    monkeypatch.setattr(rendering, "_render", lambda scene, *_: seen.append(scene.caption) or np.zeros((2, 2, 3), "u1"))
    list(render_scenes([box_scene(x=0.03 * k) for k in range(40)], SIZE, timestep=0.02))
    assert seen[20] == "t = 0.40 s   +1.50 m/s"
    seen.clear()
    list(render_scenes([box_scene(caption="still")] * 3, SIZE, timestep=0.02))
    assert seen == ["still"] * 3


@pytest.mark.parametrize(("length", "nice"), [(0.13, 0.1), (0.2, 0.2), (0.7, 0.5), (1.0, 1.0), (19.0, 10.0)])
def test_nice_length(length, nice):
    assert nice_length(length) == pytest.approx(nice)


def test_errors_are_sentences():
    with pytest.raises(ConfigurationError, match="must be even"):
        render_scene(box_scene(), (321, 180))
    with pytest.raises(ConfigurationError, match="at least 64"):
        render_scene(box_scene(), (32, 32))
    with pytest.raises(ConfigurationError, match="#rrggbb"):
        render_scene(Scene([Ball(np.zeros(3), 0.1, "red")], np.zeros(3)), SIZE)


def test_a_leap_is_followed_and_a_hop_is_not():
    time = np.arange(120) / 30.0
    for height, rate, least, most in ((0.05, 12.0, 0.0, 0.035), (10.0, 2.0, 9.0, 10.0)):
        focus = np.stack([2.0 * time, height * np.abs(np.sin(rate * time)), 0.0 * time], axis=1)
        path = camera_path([Scene([], point, 2.0) for point in focus])
        seen = np.array([camera.target[1] for camera in path])
        assert np.abs(seen - focus[:, 1]).max() < 0.65, "the body stays in the picture"
        assert least <= np.ptp(seen) <= most
