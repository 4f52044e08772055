"""Pictures of any MuJoCo model without OpenGL: its visible things as a `Scene` that ``penstock.render`` draws.

What is visible, where, and in which colour is MuJoCo's own answer (``mjv_updateScene``, which needs no display): geoms
and sites of the groups 0 to 2, tendons and skins. Coordinates turn from ``z`` up to ``y`` up: scene x, y, z are
MuJoCo's x, z, -y, less the height of the ground. What this misses: textures (a material has the mean colour of its
texture), translucency (all but the fully transparent is solid), flexible bodies, and the far side of infinite walls.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from penstock.scene import shapes
from penstock.scene.items import Scene, Shape, Solid

UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Turns MuJoCo's ``z`` up into a scene's ``y`` up."""

VISIBLE_GROUPS = 3
"""Geoms of higher groups are hidden, as in MuJoCo's viewer."""

LOWEST_PITCH = 8.0
"""A camera nearer to the horizontal would see the ground from its edge, in degrees."""

WIDTH = 1.6
"""Width of a picture over its height, as far as framing counts on it."""

MARGIN = 1.12
"""Room above and below what moves."""


class MujocoScenes:
    """Scenes of one model (MuJoCo's, or dm_control's wrapper of it).

    Shapes, colours and the framing are worked out once.

    The camera follows a body that can leave its place (one with a free joint, or with an unlimited slide along the
    ground) and that has most of the moving mass and most of the joints; otherwise it stands still and shows everything
    that moves. It looks from the model's first camera that is fixed in the world without roll, if there is one, else
    straight down on a model that moves in the horizontal plane only.
    """

    def __init__(self, model: Any):
        import mujoco as compiled

        # A static checker cannot read MuJoCo's compiled classes.
        mujoco: Any = compiled
        self._mujoco = mujoco
        self._model: Any = getattr(model, "ptr", model)
        model = self._model
        room = model.ngeom + model.nsite + model.nskin + 64 * model.ntendon + 256
        self._abstract = mujoco.MjvScene(model, maxgeom=room)
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._shapes: dict[tuple, Shape | None] = {}
        self._colors: dict[tuple, str] = {}
        self._landscapes: dict[int, tuple[np.ndarray, Shape]] = {}
        self._skin_closed: dict[int, bool] = {}

        reference = mujoco.MjData(model)
        mujoco.mj_forward(model, reference)
        ground = _ground_height(mujoco, model, reference)
        self._has_ground = ground is not None
        self._origin = np.array([0.0, 0.0, ground or 0.0])
        self._view = _view(mujoco, model, reference)
        self._followed = _traveller(mujoco, model)
        if self._followed is None:
            self._focus, self._extent = _framed(mujoco, model, reference, self._view)
        else:
            self._extent = _reach(mujoco, model, reference, self._followed)

    def scene(self, data: Any, caption: str = "") -> Scene:
        """The scene of one state.

        Args:
            data: MuJoCo's (or dm_control's wrapper of it), with kinematics computed (as after a step or
                ``mj_forward``). Not changed.
            caption: a short text for the frame.
        """
        data = getattr(data, "ptr", data)
        mujoco, abstract = self._mujoco, self._abstract
        shown = int(mujoco.mjtCatBit.mjCAT_STATIC) | int(mujoco.mjtCatBit.mjCAT_DYNAMIC)
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, shown, abstract)
        items = []
        for geom in abstract.geoms[: abstract.ngeom]:
            shape = self._skin(geom) if geom.type == mujoco.mjtGeom.mjGEOM_SKIN else self._shape(geom)
            if shape is None:
                continue
            if geom.type == mujoco.mjtGeom.mjGEOM_SKIN:  # its vertices are in the world already
                place, turn = np.zeros(3), np.eye(3)
            else:
                place, turn = geom.pos.astype(float), geom.mat.reshape(3, 3).astype(float)
            items.append(Solid(shape, self._placed(place), UPRIGHT @ turn, self._color(geom)))
        focus = self._focus if self._followed is None else data.subtree_com[self._followed]
        return Scene(
            items=items,
            focus=self._placed(focus),
            extent=self._extent,
            ground=self._has_ground,
            caption=caption,
            view=self._view,
        )

    def _placed(self, point: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        return UPRIGHT @ (point - self._origin)

    def _shape(self, geom: Any) -> Shape | None:
        """The shape of an abstract geom, made when it is first seen. None where there is nothing to draw."""
        kinds = self._mujoco.mjtGeom
        if geom.type == kinds.mjGEOM_PLANE:
            return self._wall(geom)
        if geom.objtype == self._mujoco.mjtObj.mjOBJ_TENDON:  # a new length in every frame
            return self._make(geom)
        if geom.type == kinds.mjGEOM_HFIELD:
            return self._landscape(geom.dataid)
        key = (geom.type, geom.dataid, *geom.size.tolist())
        if key not in self._shapes:
            self._shapes[key] = self._make(geom)
        return self._shapes[key]

    def _make(self, geom: Any) -> Shape | None:
        kinds, (x, y, z) = self._mujoco.mjtGeom, geom.size.tolist()
        if geom.type == kinds.mjGEOM_SPHERE:
            return shapes.ball(x)
        if geom.type == kinds.mjGEOM_ELLIPSOID:
            return shapes.ellipsoid((x, y, z))
        if geom.type == kinds.mjGEOM_CAPSULE:
            return shapes.capsule(x, z)
        if geom.type == kinds.mjGEOM_CYLINDER:
            return shapes.cylinder(x, z)
        if geom.type == kinds.mjGEOM_BOX:
            return shapes.box((x, y, z))
        if geom.type in (kinds.mjGEOM_MESH, kinds.mjGEOM_SDF) and geom.dataid >= 0:
            return _mesh(self._model, geom.dataid // 2)  # the odd numbers are convex hulls
        return None

    def _landscape(self, index: int) -> Shape:
        """A height field, made anew when its heights have changed (as between episodes)."""
        heights = _heights(self._model, index)
        if index not in self._landscapes or not np.array_equal(self._landscapes[index][0], heights):
            half_width, half_depth, elevation, _ = self._model.hfield_size[index].tolist()
            self._landscapes[index] = heights, shapes.height_field(elevation * heights, half_width, half_depth)
        return self._landscapes[index][1]

    def _wall(self, geom: Any) -> Shape | None:
        """A plane that is not the ground: a rectangle, or nothing where it is infinite."""
        if geom.objtype != self._mujoco.mjtObj.mjOBJ_GEOM:
            return None
        half_width, half_height = self._model.geom_size[geom.objid, :2].tolist()
        level = geom.mat[2, 2] > 0.999 and abs(geom.pos[2] - self._origin[2]) < 1e-6
        if min(half_width, half_height) <= 0 or (level and self._has_ground):
            return None
        key = (geom.type, half_width, half_height)
        if key not in self._shapes:
            self._shapes[key] = shapes.rectangle(half_width, half_height)
        return self._shapes[key]

    def _skin(self, geom: Any) -> Shape:
        """The skin as MuJoCo has just bent it."""
        abstract, index = self._abstract, geom.objid
        first, count = int(abstract.skinvertadr[index]), int(abstract.skinvertnum[index])
        start, number = int(self._model.skin_faceadr[index]), int(self._model.skin_facenum[index])
        faces = self._model.skin_face[start : start + number]
        vertices = abstract.skinvert.reshape(-1, 3)[first : first + count].astype(float)
        normals = abstract.skinnormal.reshape(-1, 3)[first : first + count].astype(float)
        if index not in self._skin_closed:
            self._skin_closed[index] = shapes.is_closed(faces)
        return Shape(vertices, faces, normals[faces], closed=self._skin_closed[index], convex=False)

    def _color(self, geom: Any) -> str:
        material = getattr(geom, "matid", -1)  # before MuJoCo 3.2, scenes do not tell it
        key = (material, *geom.rgba.tolist())
        if key not in self._colors:
            color = np.asarray(geom.rgba[:3], float) * _texture_color(self._mujoco, self._model, material)
            self._colors[key] = "#" + "".join(f"{round(255 * c):02x}" for c in np.clip(color, 0, 1).tolist())
        return self._colors[key]


# ------------------------------------------------------------------------------------------------- shapes and colours


def _mesh(model: Any, index: int) -> Shape:
    start, count = int(model.mesh_faceadr[index]), int(model.mesh_facenum[index])
    first, number = int(model.mesh_vertadr[index]), int(model.mesh_vertnum[index])
    faces = np.array(model.mesh_face[start : start + count], int)
    normals = np.asarray(model.mesh_normal[int(model.mesh_normaladr[index]) :], float)
    corners = normals[model.mesh_facenormal[start : start + count]]
    vertices = np.array(model.mesh_vert[first : first + number], float)
    return Shape(vertices, faces, corners, closed=shapes.is_closed(faces), convex=False)


def _heights(model: Any, index: int) -> Float[np.ndarray, "rows columns"]:
    rows, columns = int(model.hfield_nrow[index]), int(model.hfield_ncol[index])
    start = int(model.hfield_adr[index])
    return np.array(model.hfield_data[start : start + rows * columns], float).reshape(rows, columns)


def _texture_color(mujoco: Any, model: Any, material: int) -> Float[np.ndarray, "3"]:
    """Mean colour of a material's texture; white where it has none."""
    texture = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]) if material >= 0 else -1
    if texture < 0:
        return np.ones(3)
    channels = int(model.tex_nchannel[texture])
    size = int(model.tex_height[texture]) * int(model.tex_width[texture]) * channels
    start = int(model.tex_adr[texture])
    texels = np.asarray(model.tex_data[start : start + size]).reshape(-1, channels)
    return np.resize(texels.mean(0)[: min(channels, 3)] / 255, 3)  # one channel is grey


# ------------------------------------------------------------------------------------------------------------ framing


def _ground_height(mujoco: Any, model: Any, data: Any) -> float | None:
    """Height of the first horizontal plane that does not move, or None."""
    for geom in range(model.ngeom):
        still = model.body_weldid[model.geom_bodyid[geom]] == 0
        plane = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE
        if plane and still and model.geom_group[geom] < VISIBLE_GROUPS and data.geom_xmat[geom, 8] > 0.999:
            return float(data.geom_xpos[geom, 2])
    return None


def _view(mujoco: Any, model: Any, data: Any) -> tuple[float, float] | None:
    """Yaw and pitch in degrees: of the first camera that is fixed in the world, or from above a planar model."""
    for camera in range(model.ncam):
        if model.cam_bodyid[camera] == 0 and model.cam_mode[camera] == mujoco.mjtCamLight.mjCAMLIGHT_FIXED:
            right, _, backward = (UPRIGHT @ data.cam_xmat[camera].reshape(3, 3)).T
            pitch = math.degrees(math.asin(np.clip(backward[1], -1, 1)))
            if abs(right[1]) > 0.05 or pitch < -30:  # with roll, or from below
                continue
            return math.degrees(math.atan2(-right[2], right[0])), max(pitch, LOWEST_PITCH)
    return (0.0, 90.0) if _flat(mujoco, model, data) else None


def _flat(mujoco: Any, model: Any, data: Any) -> bool:
    """Whether everything moves in the horizontal plane: upright hinges and level slides."""
    kinds, upright = mujoco.mjtJoint, np.abs(data.xaxis[:, 2])
    hinges = (model.jnt_type == kinds.mjJNT_HINGE) & (upright > 0.999)
    slides = (model.jnt_type == kinds.mjJNT_SLIDE) & (upright < 0.001)
    return model.njnt > 0 and bool((hinges | slides).all())


def _traveller(mujoco: Any, model: Any) -> int | None:
    """The body that can leave its place and has most of the moving mass and of the degrees of freedom, or None."""
    kinds = mujoco.mjtJoint
    mass = sum(float(model.body_subtreemass[body]) for body in _roots(model))
    for body in _roots(model):
        freedom = int(model.body_dofnum[model.body_rootid == body].sum())
        if 2 * float(model.body_subtreemass[body]) <= mass or 2 * freedom <= model.nv:
            continue
        for joint in np.flatnonzero(model.jnt_bodyid == body):
            along_ground = not model.jnt_limited[joint] and abs(model.jnt_axis[joint, 2]) < 0.5
            kind = model.jnt_type[joint]
            if kind == kinds.mjJNT_FREE or (kind == kinds.mjJNT_SLIDE and along_ground):
                return body
    return None


def _roots(model: Any) -> list[int]:
    """Bodies that move and hang on nothing but the world."""
    return [body for body in range(1, model.nbody) if model.body_parentid[body] == 0 and model.body_weldid[body] != 0]


def _spheres(mujoco: Any, model: Any, data: Any, root: int) -> Float[np.ndarray, "n 4"]:
    """Centre and radius of a sphere around each visible finite geom of a body and what hangs on it."""
    finite = (model.body_rootid[model.geom_bodyid] == root) & (model.geom_rbound > 0)
    chosen = finite & (model.geom_group < VISIBLE_GROUPS) & (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE)
    if not chosen.any():  # nothing but a skin, or hidden geoms
        chosen = finite
    return np.concatenate([data.geom_xpos[chosen], model.geom_rbound[chosen, None]], 1)


def _reach(mujoco: Any, model: Any, data: Any, root: int) -> float:
    """Half the height of a picture that holds a body in its reference pose, however it turns."""
    spheres = _spheres(mujoco, model, data, root)
    if not len(spheres):
        return float(model.stat.extent)
    away = np.linalg.norm(spheres[:, :3] - data.subtree_com[root], axis=1) + spheres[:, 3]
    return MARGIN * float(away.max())


def _framed(mujoco: Any, model: Any, data: Any, view: Any) -> tuple[Float[np.ndarray, "3"], float]:
    """Middle, and half the height of a picture, of everything that moves, wherever it may go."""
    boxes, slacks = [], []
    for root in _roots(model):
        spheres = _spheres(mujoco, model, data, root)
        if len(spheres):
            hinge = data.xpos[root]
            reach = float((np.linalg.norm(spheres[:, :3] - hinge, axis=1) + spheres[:, 3]).max())
            boxes.append((hinge - reach, hinge + reach))
            slacks.append(_slack(mujoco, model, data, root))
    if not boxes:
        return np.array(model.stat.center), float(model.stat.extent)
    low, high = np.min([box[0] for box in boxes], 0), np.max([box[1] for box in boxes], 0)
    size = float((high - low).max())
    # A slide that leads far out of the picture is a way of saying "anywhere".
    boxes += [
        (box[0] + slack[0], box[1] + slack[1])
        for box, slack in zip(boxes, slacks, strict=True)
        if np.abs(slack).max() <= size
    ]
    low, high = np.min([box[0] for box in boxes], 0), np.max([box[1] for box in boxes], 0)
    middle, half = (low + high) / 2, (high - low) / 2
    yaw, pitch = (math.radians(angle) for angle in (view or (24.0, 17.0)))
    across = half[0] * abs(math.cos(yaw)) + half[1] * abs(math.sin(yaw))
    depth = half[0] * abs(math.sin(yaw)) + half[1] * abs(math.cos(yaw))
    above = half[2] * math.cos(pitch) + depth * math.sin(pitch)
    return middle, float(max(MARGIN * above, across / WIDTH))


def _slack(mujoco: Any, model: Any, data: Any, root: int) -> tuple[np.ndarray, np.ndarray]:
    """How far limited slides of a body may carry it, down and up each axis."""
    low, high = np.zeros(3), np.zeros(3)
    for joint in np.flatnonzero(model.jnt_bodyid == root):
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE and model.jnt_limited[joint]:
            ends = np.outer(model.jnt_range[joint], data.xaxis[joint])
            low += ends.min(0)
            high += ends.max(0)
    return low, high
