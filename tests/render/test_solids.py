"""Rigid solids in pictures: shape, shadow, view."""

import dataclasses

import numpy as np
import pytest

from penstock.render._ground import _shadows
from penstock.render._meshes import meshes_of_solids
from penstock.render.camera import Camera, camera_for, camera_path
from penstock.render.frames import render_scene
from penstock.scene import shapes
from penstock.scene.items import Ball, Scene, Segment, Solid

SIZE = (320, 180)
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # z of the shape is y of the scene


def solid(shape, position=(0.0, 0.5, 0.0), turn=None, color="#d1495b"):
    return Solid(shape, np.array(position), np.eye(3) if turn is None else turn, color)


def changed(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max(-1) > 8


def test_a_ball_is_a_ball_and_a_cylinder_a_tube():
    place = np.array([0.1, 0.5, -0.2])
    pairs = (
        (solid(shapes.ball(0.25), place), Ball(place, 0.25, "#d1495b")),
        (
            solid(shapes.cylinder(0.1, 0.3), place, UPRIGHT),
            Segment(place + np.array([[0, -0.3, 0], [0, 0.3, 0]]), 0.2, "#d1495b"),
        ),
    )
    for new, old in pairs:
        frames = [render_scene(Scene([item], place, 0.6, ground=False), SIZE) for item in (new, old)]
        bare = render_scene(Scene([], place, 0.6, ground=False), SIZE)
        areas = [changed(frame, bare).sum() for frame in frames]
        assert areas[0] > 800 and areas[0] == pytest.approx(areas[1], rel=0.05)
        assert changed(*frames).sum() < 0.15 * areas[0]


def test_solids_hide_each_other_and_keep_their_colours():
    front = solid(shapes.box((0.2, 0.2, 0.2)), (0, 0.5, 0.5), color="#ff0000")
    back = solid(shapes.box((0.2, 0.2, 0.2)), (0, 0.5, -0.5), color="#0000ff")
    for items in ([front, back], [back, front]):
        frame = render_scene(
            Scene(items, np.array([0, 0.5, 0]), 0.5), SIZE, Camera(np.array([0, 0.5, 0.0]), 0.5, 0.0, 1.0)
        )
        red, _, blue = frame[90, 160].astype(int)
        assert red > 120 and blue < 60


@pytest.mark.parametrize("shape", [shapes.box((0.2, 0.1, 0.3)), shapes.capsule(0.1, 0.3), shapes.ball(0.2)])
@pytest.mark.parametrize("extent", [0.5, 5.0])
def test_the_shadow_of_the_hull_is_that_of_the_faces(shape, extent):
    """At the larger extent the faces are smaller than the shadow's pixels."""
    camera = Camera(np.array([0.0, 0.2, 0.0]), extent)
    (whole,) = meshes_of_solids([solid(shape, (0.0, 0.4, 0.0))])
    assert len(whole.hulls) == 1
    by_hull, by_face, by_soup = (
        _shadows([mesh], camera, (960, 540))
        for mesh in (whole, dataclasses.replace(whole, hulls=()), dataclasses.replace(whole, hulls=(), closed=False))
    )
    assert by_hull.max() > 0.15
    for other in (by_face, by_soup):
        # Pillow draws the pixels on an edge whole, which tells where the shadow is a few pixels wide.
        assert np.abs(by_hull - other).sum() < (0.08 if extent < 1 else 0.3) * by_hull.sum()


def test_a_scene_may_say_where_to_look_from():
    scene = Scene([], np.array([1.0, 2.0, 3.0]), 0.5, view=(30.0, 40.0))
    for camera in (camera_for(scene), camera_path([scene, scene])[1]):
        assert (camera.yaw, camera.pitch, camera.extent) == (30.0, 40.0, 0.5)
    default = camera_for(dataclasses.replace(scene, view=None))
    assert (default.yaw, default.pitch) == (Camera(np.zeros(3)).yaw, Camera(np.zeros(3)).pitch)


def test_straight_down_the_ground_is_a_map():
    """Right in the picture is +x, up is -z, and the ground's tiles are squares."""
    mark = solid(shapes.ball(0.1), (0.5, 0.1, -0.4), color="#d00000")
    scene = Scene([mark], np.zeros(3), 1.0, view=(0.0, 90.0))
    frame = render_scene(scene, (400, 400)).astype(int)
    red = np.argwhere((frame[..., 0] > 100) & (frame[..., 1] < 60))
    y, x = red.mean(0)
    assert (x, y) == (pytest.approx(200 + 100, abs=6), pytest.approx(200 - 80, abs=6))
    bare = render_scene(dataclasses.replace(scene, items=[]), (400, 400)).astype(int)[..., 0]
    assert np.abs(np.diff(bare[60])).max() > 15 and np.abs(np.diff(bare[:, 60])).max() > 15


def test_planar_scenes_draw_solids_too():
    scene = Scene([solid(shapes.box((0.3, 0.2, 0.1)), (0, 0, 0))], np.zeros(3), 1.0, ground=False, planar=True)
    frame = render_scene(scene, (400, 200)).astype(int)
    red = (frame[..., 0] > 150) & (frame[..., 1] < 120)
    assert red.sum() == pytest.approx(60 * 40, rel=0.05)
