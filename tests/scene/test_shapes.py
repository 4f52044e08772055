"""Shapes against hand geometry: volumes and orientation by the divergence theorem, normals, placement."""

import itertools

import numpy as np
import pytest

from penstock.scene import shapes
from penstock.scene.items import Solid

CLOSED = {
    "ball": (shapes.ball(0.3), 4 / 3 * np.pi * 0.3**3),
    "ellipsoid": (shapes.ellipsoid((0.5, 0.2, 0.1)), 4 / 3 * np.pi * 0.5 * 0.2 * 0.1),
    "capsule": (shapes.capsule(0.1, 0.4), np.pi * 0.01 * 0.8 + 4 / 3 * np.pi * 1e-3),
    "cylinder": (shapes.cylinder(0.2, 0.3), np.pi * 0.04 * 0.6),
    "box": (shapes.box((0.1, 0.2, 0.3)), 8 * 0.006),
}


def corners(shape):
    return (shape.vertices[shape.faces[:, i]] for i in range(3))


@pytest.mark.parametrize("name", CLOSED)
def test_volume_and_outward_faces(name):
    """The flux of x / 3 through the surface is the volume, and positive only if the faces look outward."""
    shape, volume = CLOSED[name]
    a, b, c = corners(shape)
    assert shapes.is_closed(shape.faces) and shape.closed and shape.convex
    assert np.einsum("fk,fk->f", a, np.cross(b, c)).sum() / 6 == pytest.approx(volume, rel=0.02)
    # Convex around the origin: every face, not only most of them, looks outward.
    outward = np.cross(b - a, c - a)
    assert (np.einsum("fk,fk->f", outward, a) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=-1), 1.0, atol=1e-12)
    assert (np.einsum("fk,fck->fc", outward, shape.normals) > 0).all()


def test_capsule_has_its_length_and_radius():
    vertices = CLOSED["capsule"][0].vertices
    assert vertices[:, 2].max() == pytest.approx(0.5) and vertices[:, 2].min() == pytest.approx(-0.5)
    axis = np.clip(vertices[:, 2], -0.4, 0.4)[:, None] * [0.0, 0.0, 1.0]
    np.testing.assert_allclose(np.linalg.norm(vertices - axis, axis=1), 0.1, rtol=0.01)
    shape = CLOSED["capsule"][0]
    middle = np.abs(shape.vertices[shape.faces][..., 2]).max(1) <= 0.4 + 1e-9
    np.testing.assert_allclose(shape.normals[middle][..., 2], 0.0, atol=1e-12)  # the side is a cylinder's


def test_ellipsoid_normals_are_those_of_its_equation():
    shape = CLOSED["ellipsoid"][0]
    point = shape.vertices[shape.faces]
    gradient = point / np.square([0.5, 0.2, 0.1])
    gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.einsum("fck,fck->fc", gradient, shape.normals), 1.0, atol=1e-12)


def test_cylinder_has_flat_ends_and_a_round_side():
    shape = CLOSED["cylinder"][0]
    height = np.abs(shape.vertices[shape.faces][..., 2].mean(1))
    flat = height > 0.299
    np.testing.assert_allclose(np.abs(shape.normals[flat][..., 2]), 1.0)
    side = shape.vertices[shape.faces[~flat]] * [1, 1, 0]
    np.testing.assert_allclose(np.cross(side, shape.normals[~flat]), 0.0, atol=1e-12)


def test_box_corners_under_rotation():
    """A quarter turn about y carries x to -z and z to x."""
    from penstock.render._meshes import meshes_of_solids

    turn = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    (mesh,) = meshes_of_solids([Solid(shapes.box((0.1, 0.2, 0.3)), np.array([1.0, 2.0, 3.0]), turn)])
    expected = [(1 + 0.3 * i, 2 + 0.2 * j, 3 + 0.1 * k) for i, j, k in itertools.product((-1, 1), repeat=3)]
    np.testing.assert_allclose(sorted(map(tuple, mesh.vertices.round(9))), sorted(expected))
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    flat = np.cross(b - a, c - a)
    assert mesh.normals is not None
    np.testing.assert_allclose(mesh.normals[:, 0], flat / np.linalg.norm(flat, axis=1, keepdims=True), atol=1e-12)


def test_height_field_of_a_ramp():
    heights = np.linspace(0.0, 1.0, 5)[None].repeat(3, 0)  # rises along x, by 1 over 4 metres
    shape = shapes.height_field(heights, 2.0, 0.5)
    np.testing.assert_allclose(shape.vertices[:, 2], 0.5 + shape.vertices[:, 0] / 4)
    assert np.ptp(shape.vertices[:, 1]) == 1.0 and not shape.closed
    np.testing.assert_allclose(shape.normals, np.broadcast_to(np.array([-0.25, 0, 1]) / np.hypot(1, 0.25), (16, 3, 3)))
    a, b, c = corners(shape)
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(4 * np.hypot(1, 0.25))


def test_rectangle_faces_up():
    shape = shapes.rectangle(2.0, 0.5)
    a, b, c = corners(shape)
    np.testing.assert_allclose(np.cross(b - a, c - a).sum(0) / 2, [0, 0, 4 * 2.0 * 0.5])
