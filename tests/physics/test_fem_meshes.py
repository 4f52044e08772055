"""Voxel meshes, surfaces, quality, files."""

import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.physics import (
    Material,
    SoftBody,
    TetMesh,
    check_mesh,
    inverted_elements,
    mean_ratio,
    read_mesh,
    require_not_inverted,
    surface,
    volume_ratios,
    voxel_mesh,
    write_mesh,
)
from penstock.physics.mesh import coinciding_vertices
from penstock.physics.stability import StabilityWarning, warn_if_absurd
from penstock.worlds.soft.jumper import SPACING, jumper_cells
from penstock.worlds.soft.jumper_mini import mini_cells

UNIT = TetMesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 1, 2, 3]], np.int32))


@pytest.mark.parametrize(
    ("cells", "spacing", "vertices", "tets"), [(mini_cells(), 0.1, 54, 80), (jumper_cells(), SPACING, 240, 550)]
)
def test_voxel_mesh_counts_volume_and_closed_surface(cells, spacing, vertices, tets):
    mesh = voxel_mesh(cells, spacing)
    assert (len(mesh.vertices), len(mesh.tets)) == (vertices, tets)
    volumes = np.sort(mesh.volumes.reshape(-1, 5), axis=1) / spacing**3
    np.testing.assert_allclose(volumes, np.tile([1 / 6] * 4 + [1 / 3], (len(cells), 1)))
    check_mesh(mesh)
    faces, owners = surface(mesh)
    a, b, c = (mesh.vertices[faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a) / 2
    # Divergence theorem: outward faces enclose the volume; conforming diagonals leave exactly the voxel faces.
    assert np.einsum("ij,ij->", a, area) / 3 == pytest.approx(mesh.volumes.sum())
    exposed = sum(
        tuple(np.add(cell, d)) not in set(cells)
        for cell in cells
        for d in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    )
    assert len(faces) == 2 * exposed
    center = mesh.vertices[mesh.tets[owners]].mean(axis=1)
    assert (np.einsum("ij,ij->i", a - center, area) > 0).all()


def test_lumped_masses():
    body = SoftBody(voxel_mesh(mini_cells(), 0.1), Material(1.0, 1.0, 0.0, 1000.0))
    assert body.masses.sum() == pytest.approx(16.0)
    assert body.masses.min() == pytest.approx(1000 * 0.1**3 / 6 / 4)


def test_mean_ratio():
    regular = TetMesh(np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), np.array([[0, 1, 2, 3]]))
    assert abs(mean_ratio(regular)[0]) == pytest.approx(1.0)
    assert mean_ratio(UNIT)[0] == pytest.approx(12 * 0.5 ** (2 / 3) / 9)


def test_bad_meshes_are_refused_by_element():
    good = voxel_mesh([(0, 0, 0), (1, 0, 0)], 0.1)
    turned = good.tets.copy()
    turned[3] = turned[3, [1, 0, 2, 3]]
    with pytest.raises(ConfigurationError, match=r"Element 3 .* volume -0\.000167 m\^3: inverted"):
        check_mesh(TetMesh(good.vertices, turned))
    with pytest.raises(ConfigurationError, match="element 3"):
        SoftBody(TetMesh(good.vertices, turned), Material(1.0, 1.0, 0.0, 1.0))
    flat = TetMesh(UNIT.vertices * [1, 1, 1e-4], UNIT.tets)
    with pytest.raises(ConfigurationError, match=r"Element 0 .* quality 0\.00\d+, below 0\.05"):
        check_mesh(flat)
    check_mesh(flat, min_quality=1e-4)
    with pytest.raises(ConfigurationError, match=r"\[4\].* belong to no element"):
        check_mesh(TetMesh(np.vstack([UNIT.vertices, [[2.0, 2, 2]]]), UNIT.tets))
    with pytest.raises(ConfigurationError, match=r"0\.\.3"):
        check_mesh(TetMesh(UNIT.vertices, np.array([[0, 1, 2, 4]])))
    with pytest.raises(ConfigurationError, match="finite"):
        check_mesh(TetMesh(UNIT.vertices * np.nan, UNIT.tets))
    with pytest.raises(ConfigurationError, match="twice"):
        voxel_mesh([(0, 0, 0), (0, 0, 0)], 0.1)


def test_inverted_elements_of_a_deformed_body():
    body = SoftBody(UNIT, Material(1.0, 1.0, 0.0, 1.0))
    x = np.stack([UNIT.vertices, UNIT.vertices * [1, 0.5, 1], UNIT.vertices * [1, 1, -0.25]], axis=-1)
    soa = tuple(jnp.asarray(x[:, i]) for i in range(3))
    np.testing.assert_allclose(volume_ratios(body, soa), [[1.0, 0.5, -0.25]], rtol=1e-6)
    np.testing.assert_allclose(volume_ratios(body, jnp.asarray(x)), [[1.0, 0.5, -0.25]], rtol=1e-6)
    assert inverted_elements(body, soa).tolist() == [[False, False, True]]
    with pytest.raises(ConfigurationError, match=r"Element 0 of environment 2 is inverted: its volume is -0\.0417"):
        require_not_inverted(body, soa)
    require_not_inverted(body, tuple(c[:, :2] for c in soa))


@pytest.mark.parametrize("ending", ["msh", "vtk"])
def test_mesh_files_round_trip(tmp_path, ending):
    pytest.importorskip("meshio")
    mesh = voxel_mesh(mini_cells(), 0.1)
    path = tmp_path / f"body.{ending}"
    write_mesh(mesh, path)
    found = read_mesh(path)
    np.testing.assert_allclose(found.vertices, mesh.vertices, atol=1e-9)
    np.testing.assert_array_equal(found.tets, mesh.tets)
    assert read_mesh(path, scale=10.0).volumes.sum() == pytest.approx(16.0, rel=1e-6)


def test_mesh_files_are_cleaned_and_checked(tmp_path):
    meshio = pytest.importorskip("meshio")
    points = np.vstack([[[9.0, 9, 9]], UNIT.vertices])
    left_handed = UNIT.tets[:, [0, 2, 1, 3]] + 1
    meshio.Mesh(points, [("triangle", [[1, 2, 3]]), ("tetra", left_handed)]).write(tmp_path / "a.vtk")
    found = read_mesh(tmp_path / "a.vtk")
    assert len(found.vertices) == 4
    assert found.volumes == pytest.approx([1 / 6])
    meshio.Mesh(points, [("triangle", [[1, 2, 3]])]).write(tmp_path / "b.vtk")
    with pytest.raises(ConfigurationError, match=r"no four-node tetrahedra, only \['triangle'\]"):
        read_mesh(tmp_path / "b.vtk")
    (tmp_path / "c.vtk").write_text("not a mesh")
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_mesh(tmp_path / "c.vtk")
    with pytest.raises(ConfigurationError, match="no such file"):
        read_mesh(tmp_path / "d.vtk")


BAR = voxel_mesh([(x, 0, 0) for x in range(3)], 0.3)


def written(path, points, *cells):
    pytest.importorskip("meshio").Mesh(points, list(cells)).write(path)
    return path


def halves_with_vertices_of_their_own():
    """A bar whose last voxel was meshed apart, so that four vertices are there twice."""
    vertices, tets = [], []
    for part in (BAR.tets[:10], BAR.tets[10:]):
        used, inverse = np.unique(part, return_inverse=True)
        tets.append(inverse.reshape(-1, 4) + sum(map(len, vertices)))
        vertices.append(BAR.vertices[used])
    return np.vstack(vertices), np.vstack(tets)


def test_parts_that_only_seem_to_touch_are_refused_or_joined(tmp_path):
    vertices, tets = halves_with_vertices_of_their_own()
    path = written(tmp_path / "halves.vtk", vertices, ("tetra", tets[:10]), ("tetra", tets[10:]))
    with pytest.raises(ConfigurationError, match=r"4 of 20 vertices coincide .* 2 pieces .*merge_tolerance=1e-6"):
        read_mesh(path)
    joined = read_mesh(path, merge_tolerance=1e-6)
    assert len(joined.vertices) == 16 and joined.volumes.sum() == pytest.approx(3 * 0.3**3)
    for tolerance, sentence in ((0.5, "must lie between 0 and 0.1"), (0.0, "must lie between 0 and 0.1")):
        with pytest.raises(ConfigurationError, match=sentence):
            read_mesh(path, merge_tolerance=tolerance)
    thin = written(tmp_path / "thin.vtk", UNIT.vertices * [1.0, 0.05, 1.0], ("tetra", UNIT.tets))
    with pytest.raises(ConfigurationError, match="makes 1 elements collapse"):
        read_mesh(thin, merge_tolerance=0.05)


def test_a_soup_of_elements(tmp_path):
    soup = BAR.vertices[BAR.tets].reshape(-1, 3)
    path = written(tmp_path / "soup.vtk", soup, ("tetra", np.arange(len(soup)).reshape(-1, 4)))
    with pytest.raises(ConfigurationError, match=r"44 of 60 vertices coincide .* 15 pieces"):
        read_mesh(path)
    joined = read_mesh(path, merge_tolerance=1e-6)
    assert len(joined.vertices) == 16 and len(joined.tets) == 15


def test_an_element_in_two_groups_counts_once(tmp_path):
    path = written(tmp_path / "groups.vtk", BAR.vertices, ("tetra", BAR.tets), ("tetra", BAR.tets[3:9, [1, 2, 0, 3]]))
    found = read_mesh(path)
    np.testing.assert_array_equal(found.tets, BAR.tets)
    with pytest.raises(ConfigurationError, match="6 of 21 elements are listed twice"):
        check_mesh(TetMesh(BAR.vertices, np.vstack([BAR.tets, BAR.tets[3:9]])))


def test_volume_cells_that_would_be_lost_are_refused(tmp_path):
    cube = np.array([[0, 1, 2, 3, 4, 5, 6, 7]])
    path = written(tmp_path / "mixed.vtk", BAR.vertices, ("hexahedron", cube), ("tetra", BAR.tets[5:]))
    with pytest.raises(ConfigurationError, match=r"1 cells of the kind hexahedron beside 10 four-node tetrahedra"):
        read_mesh(path)


def test_pieces_and_hinges(caplog):
    apart = voxel_mesh([(0, 0, 0), (2, 0, 0)], 0.3)
    with pytest.raises(ConfigurationError, match=r"2 pieces that share no vertex, of 5, 5 elements"):
        check_mesh(apart)
    check_mesh(BAR)
    assert not caplog.records
    check_mesh(voxel_mesh([(0, 0, 0), (1, 1, 0)], 0.3))
    assert "2 parts that hang together by single vertices or edges" in caplog.text


def test_vertices_that_coincide_by_brute_force():
    generator = np.random.default_rng(4)
    vertices = generator.integers(0, 4, (80, 3)) + generator.uniform(-1e-4, 1e-4, (80, 3))
    near = np.linalg.norm(vertices[:, None] - vertices[None], axis=2) < 0.5
    np.testing.assert_array_equal(coinciding_vertices(vertices, 1e-3), near.argmax(axis=1))


def test_a_body_of_absurd_size_is_warned_about():
    large = TetMesh(BAR.vertices * 1000, BAR.tets)
    with pytest.warns(StabilityWarning, match=r"900 x 300 x 300 m and weighs 8.1e\+10 kg.*mesh_scale"):
        warn_if_absurd(SoftBody(large, Material(1e4, 1e4, 0.0, 1000.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_absurd(SoftBody(BAR, Material(1e4, 1e4, 0.0, 1000.0)))


def test_missing_meshio_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.msh").write_text("")
    monkeypatch.setitem(sys.modules, "meshio", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'penstock\[meshes\]'"):
        read_mesh(tmp_path / "a.msh")
