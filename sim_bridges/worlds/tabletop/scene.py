"""The table, its cameras and lights, and the objects of the tasks.

Bowls are open shells: a bottom disc and a ring of thin boxes for the wall, so that things fall in and a
second bowl nests on top. The mango collides as an ellipsoid and is drawn as a slightly crooked one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import mujoco
import numpy as np

from lavla_ros.control.rotations import rotation_from_rpy
from lavla_ros.control.scene import Box
from sim_bridges.worlds.tabletop.robot import NO_CONTACT, WORLD_BITS, add_robot, look_at_quat

TABLE_Z_M = -0.10
"""Height of the table top in the robot's base frame: the arm stands on a 100 mm plinth."""
TIMESTEP_S = 0.004
FRONT_EYE_M, FRONT_AIM_M, FRONT_FOVY_DEG = (-0.86, -0.16, 0.40), (-0.245, 0.0, -0.02), 42
"""The front camera: where it is, what is in the middle of its square picture, its angle of view."""

MANGO_HALF_AXES_M = (0.040, 0.027, 0.026)
MANGO_MASS_KG = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class BowlShape:
    """A round bowl with a straight, sloping wall. Radii are those of the wall's inside."""

    bottom_radius_m: float
    top_radius_m: float
    height_m: float
    wall_m: float = 0.003
    floor_m: float = 0.004
    mass_kg: float = 0.12

    def __post_init__(self) -> None:
        if not 0 < self.bottom_radius_m < self.top_radius_m:
            raise ValueError(f"bowl radii {self.bottom_radius_m}, {self.top_radius_m}: the top must be the wider one")

    @property
    def slope_rad(self) -> float:
        """Lean of the wall from the vertical."""
        return math.atan2(self.top_radius_m - self.bottom_radius_m, self.height_m - self.floor_m)

    @property
    def nested_offset_m(self) -> float:
        """How far above the lower bowl an identical one sits when nested: wall on wall or floor on floor."""
        return max(self.wall_m / math.sin(self.slope_rad), self.floor_m)


FRUIT_BOWL = BowlShape(bottom_radius_m=0.042, top_radius_m=0.068, height_m=0.046, mass_kg=0.25)
STACK_BOWL = BowlShape(bottom_radius_m=0.0395, top_radius_m=0.0555, height_m=0.052, wall_m=0.004, mass_kg=0.10)
PLATE = BowlShape(bottom_radius_m=0.055, top_radius_m=0.077, height_m=0.014, mass_kg=0.25)
COASTER_RADIUS_M, COASTER_HEIGHT_M = 0.045, 0.004
SPONGE_HALF_M = (0.040, 0.026, 0.014)
BOTTLE_RADIUS_M, BOTTLE_HEIGHT_M = 0.022, 0.098

STAIN_CELL_M = 0.008
STAIN_CELLS = (14, 10)
"""Cells of the grid on which a stain is a shape, along its x and y."""
_TRIM = 1
"""Group of what is drawn on a cloth in a colour of its own."""
CLOTH_TILES = ("cloth_middle", "cloth_left", "cloth_left_hem", "cloth_right", "cloth_right_hem")
"""The parts of the cloth that lie on the table, and wipe."""

_SEGMENTS = 20
_OBJECT_CONTACT = {"solref": [0.01, 1.0], "solimp": [0.95, 0.99, 0.001, 0.5, 2], "condim": 4}


OBSTACLE = "obstacle: "
"""Begins the names of the geoms of what stands in the arm's way."""


def build_spec(objects: tuple[str, ...], obstacles: Sequence[Box] = ()) -> mujoco.MjSpec:
    """The whole scene with the named objects (keys of :data:`OBJECTS`), and with boxes that the cameras do not see: a
    policy does what it would do without them.

    Raises KeyError naming an unknown object.
    """
    spec = mujoco.MjSpec()
    spec.modelname = "tabletop"
    spec.compiler.degree = False
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    option.iterations = 30
    option.tolerance = 1e-10
    spec.visual.quality.shadowsize = 2048
    spec.stat.extent = 0.8
    spec.stat.center = [-0.2, 0.0, 0.0]
    spec.visual.quality.offsamples = 0
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 10.0
    spec.visual.headlight.ambient = [0.42, 0.42, 0.43]
    spec.visual.headlight.diffuse = [0.22, 0.22, 0.22]
    spec.visual.headlight.specular = [0.05, 0.05, 0.05]
    _add_room(spec)
    add_robot(spec, table_z_m=TABLE_Z_M)
    for name in objects:
        OBJECTS[name].add(spec, name)
    for box in obstacles:
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, rotation_from_rpy(*box.rpy_rad).ravel())
        spec.worldbody.add_geom(
            name=OBSTACLE + box.name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=list(box.centre_m),
            quat=quaternion.tolist(),
            size=[edge / 2 for edge in box.size_m],
            group=3,
            **WORLD_BITS,
        )
    return spec


def _add_room(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.86, 0.89, 0.92],
        rgb2=[0.62, 0.67, 0.72],
        width=64,
        height=384,
    )
    world.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[-0.5, -0.4, 1.2],
        dir=[0.25, 0.30, -1.0],
        diffuse=[0.55, 0.55, 0.53],
        specular=[0.15, 0.15, 0.15],
        castshadow=True,
    )
    world.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[-0.5, 0.8, 1.0],
        dir=[0.3, -0.8, -0.9],
        diffuse=[0.18, 0.18, 0.20],
        specular=[0, 0, 0],
        castshadow=False,
    )
    half = (0.42, 0.50, 0.02)
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[-0.20, 0, TABLE_Z_M - half[2]],
        size=list(half),
        rgba=[0.56, 0.60, 0.60, 1],
        friction=[0.9, 0.02, 0.001],
        **_OBJECT_CONTACT,
        **WORLD_BITS,
    )
    world.add_geom(
        name="table_edge",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[-0.20, 0, TABLE_Z_M - 0.055],
        size=[0.41, 0.49, 0.02],
        rgba=[0.34, 0.36, 0.38, 1],
        **NO_CONTACT,
    )
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=[0, 0, -0.85],
        size=[6, 6, 0.1],
        rgba=[0.72, 0.74, 0.76, 1],
        **NO_CONTACT,
    )
    for name, eye, target, fovy_deg in (
        ("front", FRONT_EYE_M, FRONT_AIM_M, FRONT_FOVY_DEG),
        # For people: the whole arm. Not part of any contract.
        ("overview", (-0.95, -0.62, 0.52), (-0.13, 0.02, 0.09), 42),
    ):
        quat = look_at_quat(np.array(eye), np.array(target), up=np.array([0.0, 0.0, 1.0]))
        world.add_camera(name=name, pos=list(eye), quat=quat, fovy=fovy_deg)


def _add_mango(spec: mujoco.MjSpec, name: str, *, irregular: bool = False) -> None:
    """``irregular``: a thicker end and a crooked back, and it collides as it is drawn, not as an ellipsoid."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    vertices, faces = _mango_mesh(full=0.22, bend_m=0.009) if irregular else _mango_mesh()
    mesh = spec.add_mesh(name=f"{name}_skin")
    mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
    shape: dict[str, object] = {"type": mujoco.mjtGeom.mjGEOM_ELLIPSOID, "size": list(MANGO_HALF_AXES_M)}
    if irregular:
        shape = {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": f"{name}_skin"}
    body.add_geom(
        name=name,
        mass=MANGO_MASS_KG,
        friction=[1.0, 0.02, 0.002],
        rgba=[0, 0, 0, 0],
        group=3,
        solref=[0.01, 1.0],
        solimp=[0.95, 0.99, 0.001, 0.5, 2],
        condim=6,
        **shape,
        **WORLD_BITS,
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"{name}_skin", rgba=[0.98, 0.67, 0.10, 1], mass=0, **NO_CONTACT
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        fromto=[0.039, 0.001, 0.0, 0.046, 0.002, 0.003],
        size=[0.0022, 0, 0],
        rgba=[0.28, 0.20, 0.10, 1],
        mass=0,
        **NO_CONTACT,
    )


def _mango_mesh(
    rings: int = 14, spokes: int = 22, *, full: float = 0.07, bend_m: float = 0.002
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) in metres and triangles (M, 3): an ellipsoid, by ``full`` fuller at the stem, and bent."""
    a, b, c = MANGO_HALF_AXES_M
    points: list[list[float]] = [[a, 0.001, 0.0]]
    for i in range(1, rings):
        polar = math.pi * i / rings
        u, r = math.cos(polar), math.sin(polar)
        width = 1.0 + full * u
        for k in range(spokes):
            azimuth = 2 * math.pi * k / spokes
            points.append(
                [a * u, b * r * width * math.cos(azimuth) + bend_m * (u * u - 0.5), c * r * width * math.sin(azimuth)]
            )
    points.append([-a, 0.001, 0.0])
    last = len(points) - 1
    faces: list[list[int]] = []
    for k in range(spokes):
        after = (k + 1) % spokes
        faces.append([0, 1 + k, 1 + after])
        for i in range(rings - 2):
            low, high = 1 + i * spokes, 1 + (i + 1) * spokes
            faces.append([low + k, high + k, high + after])
            faces.append([low + k, high + after, low + after])
        faces.append([last, last - spokes + after, last - spokes + k])
    return np.array(points), np.array(faces, dtype=np.int32)


def _add_bowl(
    spec: mujoco.MjSpec, name: str, shape: BowlShape, outside: tuple[float, ...], inside: tuple[float, ...]
) -> None:
    """A bowl whose body frame is at the centre of its underside, z up."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    contact = {**_OBJECT_CONTACT, **WORLD_BITS, "friction": [0.35, 0.01, 0.001], "rgba": [0, 0, 0, 0], "group": 3}
    wall_share = 0.7 * shape.mass_kg / _SEGMENTS
    body.add_geom(
        name=f"{name}_floor",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=[0, 0, shape.floor_m / 2],
        size=[shape.bottom_radius_m, shape.floor_m / 2, 0],
        mass=0.3 * shape.mass_kg,
        **contact,
    )
    lean = shape.slope_rad
    rise = shape.height_m - shape.floor_m
    length = math.hypot(rise, shape.top_radius_m - shape.bottom_radius_m)
    half_width = shape.top_radius_m * math.tan(math.pi / _SEGMENTS)
    middle = (shape.top_radius_m + shape.bottom_radius_m) / 2 + shape.wall_m / 2 * math.cos(lean)
    for i in range(_SEGMENTS):
        azimuth = 2 * math.pi * i / _SEGMENTS
        outward, up = np.array([math.cos(azimuth), math.sin(azimuth), 0.0]), np.array([0.0, 0.0, 1.0])
        along = math.sin(lean) * outward + math.cos(lean) * up
        normal = math.cos(lean) * outward - math.sin(lean) * up
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, np.column_stack([normal, np.cross(along, normal), along]).reshape(9))
        centre = middle * outward + (shape.floor_m + rise / 2 - shape.wall_m / 2 * math.sin(lean)) * up
        body.add_geom(
            name=f"{name}_wall_{i}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=centre,
            quat=quat,
            size=[shape.wall_m / 2, half_width, length / 2],
            mass=wall_share,
            **contact,
        )
    for part, (vertices, faces), rgba in (
        ("outside", _bowl_surface(shape, inner=False), outside),
        ("inside", _bowl_surface(shape, inner=True), inside),
    ):
        mesh = spec.add_mesh(name=f"{name}_{part}", inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"{name}_{part}", rgba=list(rgba), mass=0, **NO_CONTACT)


def _bowl_surface(shape: BowlShape, *, inner: bool) -> tuple[np.ndarray, np.ndarray]:
    """The inner (floor, wall, rim) or outer (foot, wall) surface: vertices (N, 3), triangles (M, 3)."""
    t = shape.wall_m
    if inner:
        profile = [
            (0.0, shape.floor_m),
            (shape.bottom_radius_m, shape.floor_m),
            (shape.top_radius_m, shape.height_m),
            (shape.top_radius_m + t, shape.height_m),
        ]
    else:
        profile = [
            (shape.top_radius_m + t, shape.height_m),
            (shape.bottom_radius_m + t, shape.floor_m),
            (shape.bottom_radius_m + t * 0.6, 0.0),
            (0.0, 0.0),
        ]
    return _revolved(profile)


def _revolved(profile: list[tuple[float, float]], spokes: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A profile of (radius, height), m, turned about z: vertices (N, 3), triangles (M, 3), seen from the side on which
    the profile goes down outside, and up inside."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    # Every band has its own vertices, so that edges stay sharp.
    for (r0, z0), (r1, z1) in itertools.pairwise(profile):
        start = len(vertices)
        for k in range(spokes):
            c, s = math.cos(2 * math.pi * k / spokes), math.sin(2 * math.pi * k / spokes)
            vertices.append([r0 * c, r0 * s, z0])
            vertices.append([r1 * c, r1 * s, z1])
        for k in range(spokes):
            a, b = start + 2 * k, start + 2 * ((k + 1) % spokes)
            if r0 > 0:
                faces.append([a, a + 1, b])
            if r1 > 0:
                faces.append([b, a + 1, b + 1])
    return np.array(vertices), np.array(faces, dtype=np.int32)


def _add_distractor(
    spec: mujoco.MjSpec, name: str, kind: mujoco.mjtGeom, size: list[float], mass: float, rgba: list[float]
) -> None:
    """A plain solid of the OOD layouts. ``size``: MuJoCo's for its kind, m; ``mass`` in kg."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=kind,
        size=size,
        mass=mass,
        rgba=rgba,
        friction=[0.9, 0.02, 0.001],
        **_OBJECT_CONTACT,
        **WORLD_BITS,
    )


def _add_lemon(spec: mujoco.MjSpec, name: str) -> None:
    """A lemon: it rolls a little, as the mango does."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=[0.028, 0.021, 0.021],
        mass=0.08,
        friction=[1.0, 0.02, 0.002],
        rgba=[0.95, 0.90, 0.25, 1],
        **{**_OBJECT_CONTACT, "condim": 6},
        **WORLD_BITS,
    )


def _add_coaster(spec: mujoco.MjSpec, name: str) -> None:
    """A thin round mat with a lighter ring; its frame is at the underside."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    half = COASTER_HEIGHT_M / 2
    for radius, low, rgba, extra in (
        (COASTER_RADIUS_M, half, [0.16, 0.34, 0.66, 1], {**_OBJECT_CONTACT, **WORLD_BITS, "mass": 0.15}),
        (0.032, half + 0.0002, [0.85, 0.88, 0.92, 1], {**NO_CONTACT, "mass": 0.0}),
        (0.026, half + 0.0004, [0.16, 0.34, 0.66, 1], {**NO_CONTACT, "mass": 0.0}),
    ):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=[0, 0, low],
            size=[radius, half, 0],
            rgba=rgba,
            friction=[0.9, 0.02, 0.001],
            **extra,
        )


def _add_bottle(spec: mujoco.MjSpec, name: str) -> None:
    """A small bottle with shoulder, neck and cap, standing; its frame is at the underside."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        fromto=[0, 0, 0, 0, 0, 0.070],
        size=[BOTTLE_RADIUS_M, 0, 0],
        mass=0.13,
        rgba=[0.20, 0.62, 0.45, 1],
        friction=[0.9, 0.02, 0.001],
        **_OBJECT_CONTACT,
        **WORLD_BITS,
    )
    glass, top = [0.20, 0.62, 0.45, 1], BOTTLE_HEIGHT_M
    shoulder = [(0.009 + 0.013 * math.cos(t), 0.070 + 0.014 * math.sin(t)) for t in np.linspace(0, math.pi / 2, 6)]
    for part, profile, rgba in (
        ("label", [(BOTTLE_RADIUS_M + 0.0004, 0.056), (BOTTLE_RADIUS_M + 0.0004, 0.022)], [0.94, 0.94, 0.90, 1]),
        ("neck", [(0.009, 0.090), *reversed(shoulder)], glass),
        ("cap", [(0.0, top), (0.010, top), (0.010, top - 0.010), (0.0, top - 0.010)], [0.80, 0.22, 0.20, 1]),
    ):
        mesh = spec.add_mesh(name=f"{name}_{part}", inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        vertices, faces = _revolved(profile)
        mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"{name}_{part}", rgba=rgba, mass=0, **NO_CONTACT)


def _add_sponge(spec: mujoco.MjSpec, name: str) -> None:
    """A sponge: its long sides are three pieces each on springs, so that fingers dent it; a rough green top."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    a, b, c = SPONGE_HALF_M
    yellow, green = [0.96, 0.80, 0.25, 1], [0.22, 0.48, 0.24, 1]
    soft = {**_OBJECT_CONTACT, **WORLD_BITS, "solref": [0.02, 1.0], "solimp": [0.8, 0.95, 0.004, 0.5, 2]}
    core = b * 0.45
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[a, core, c],
        mass=0.03,
        rgba=yellow,
        friction=[1.0, 0.02, 0.001],
        **soft,
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, 0, c], size=[a, core, 0.003], mass=0, rgba=green, **NO_CONTACT
    )
    # A side piece is as deep as its way in, and hides in the core when it is pressed there.
    half = (b - core * 0.4) / 2
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for i, x in enumerate((-2 * a / 3, 0.0, 2 * a / 3)):
            piece = body.add_body(name=f"{name}_{side}_{i}", pos=[x, sign * (b - half), 0])
            piece.add_joint(
                name=f"{name}_{side}_{i}",
                type=mujoco.mjtJoint.mjJNT_SLIDE,
                axis=[0, sign, 0],
                limited=True,
                range=[-0.011, 0.0],
                stiffness=[600.0, 0.0, 0.0],
                damping=[8.0, 0.0, 0.0],
                armature=0.02,
            )
            size = [a / 3 - 0.0004, half, c - 0.0003]
            piece.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=size,
                mass=0.004,
                rgba=yellow,
                friction=[1.0, 0.02, 0.001],
                **soft,
            )
            piece.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[0, 0, c],
                size=[size[0], half, 0.003],
                mass=0,
                rgba=green,
                **NO_CONTACT,
            )


def _add_cloth(spec: mujoco.MjSpec, name: str) -> None:
    """A cloth gathered to a ridge along its x, by which it is gripped; to either side two hinged strips lie on the
    table. Its frame is at the underside of the ridge. Its colour is the episode's."""
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    lies = {**_OBJECT_CONTACT, **WORLD_BITS, "friction": [0.5, 0.01, 0.001]}
    half, thick = 0.036, 0.0016
    body.add_geom(
        name=f"{name}_middle",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0, 0, 0.0125],
        size=[half, 0.010, 0.0125],
        mass=0.02,
        rgba=[0, 0, 0, 0],
        group=3,
        **lies,
    )
    # What is seen of the ridge: folds.
    for x0, y0, z0, x1, y1, z1, radius in (
        (-0.033, -0.001, 0.011, 0.033, 0.001, 0.012, 0.0115),
        (-0.022, 0.003, 0.019, 0.026, -0.004, 0.020, 0.0070),
        (-0.030, -0.005, 0.016, 0.010, 0.004, 0.023, 0.0055),
    ):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[x0, y0, z0, x1, y1, z1],
            size=[radius, 0, 0],
            mass=0,
            **NO_CONTACT,
        )
    for side, sign in (("left", 1.0), ("right", -1.0)):
        parent, at, width = body, 0.009, 0.010
        for part, twist in (("", 0.02), ("_hem", -0.02)):
            strip = parent.add_body(name=f"{name}_{side}{part}", pos=[0, sign * at, 0.0])
            strip.add_joint(
                name=f"{name}_{side}{part}",
                type=mujoco.mjtJoint.mjJNT_HINGE,
                pos=[0, 0, thick],
                axis=[sign, 0, 0],
                limited=True,
                range=[-0.5, 0.4],
                stiffness=[0.004, 0.0, 0.0],
                damping=[0.0006, 0.0, 0.0],
                armature=1e-5,
            )
            strip.add_geom(
                name=f"{name}_{side}{part}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[twist * 0.1, sign * width, thick],
                size=[half, width, thick],
                mass=0.004,
                **lies,
            )
            if part:
                strip.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_BOX,
                    pos=[0, sign * 0.016, thick],
                    size=[half, 0.0015, thick + 0.0002],
                    rgba=[0.97, 0.96, 0.92, 1],
                    group=_TRIM,
                    mass=0,
                    **NO_CONTACT,
                )
            parent, at = strip, 2 * width


def _add_stain(spec: mujoco.MjSpec, name: str) -> None:
    """A spill: a grid of flat dark discs on the table, each shown while its cell is dirty. Nothing touches it."""
    body = spec.worldbody.add_body(name=name, mocap=True)
    for i, (x, y) in enumerate(stain_cells()):
        body.add_geom(
            name=f"{name}_{i}",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=[x, y, 0.0004],
            size=[0.68 * STAIN_CELL_M, 0.0003, 0],
            rgba=[0.20, 0.10, 0.05, 1],
            mass=0,
            **NO_CONTACT,
        )


def stain_cells() -> np.ndarray:
    """(cells, 2) centres of the cells in the stain's frame, m."""
    counts = np.array(STAIN_CELLS)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray((grid - (counts - 1) / 2) * STAIN_CELL_M)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKind:
    """Something that may lie on the table."""

    add: Callable[[mujoco.MjSpec, str], None]
    """Adds it to a scene as a body of that name: a free one, or a mocap body that nothing moves."""
    stand_m: float = 0.0
    """Height of its frame above the table when it stands there."""
    radius_m: float
    """Of the upright cylinder around it."""
    height_m: float
    shadow_m: float = 0.028
    """Radius of the soft shadow below it; 0: none."""


def _bowl(shape: BowlShape, outside: tuple[float, ...], inside: tuple[float, ...]) -> ObjectKind:
    return ObjectKind(
        add=partial(_add_bowl, shape=shape, outside=outside, inside=inside),
        radius_m=shape.top_radius_m + shape.wall_m,
        height_m=shape.height_m,
        shadow_m=0.045,
    )


def _distractor(kind: mujoco.mjtGeom, size: list[float], mass: float, rgba: list[float]) -> ObjectKind:
    box = kind == mujoco.mjtGeom.mjGEOM_BOX
    half = size[2] if box else size[1]
    return ObjectKind(
        add=partial(_add_distractor, kind=kind, size=size, mass=mass, rgba=rgba),
        stand_m=half,
        radius_m=math.hypot(size[0], size[1]) if box else size[0],
        height_m=2 * half,
    )


_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
OBJECTS: Mapping[str, ObjectKind] = {
    "mango": ObjectKind(
        add=_add_mango, stand_m=MANGO_HALF_AXES_M[2], radius_m=MANGO_HALF_AXES_M[0], height_m=2 * MANGO_HALF_AXES_M[2]
    ),
    "crooked_mango": ObjectKind(
        add=partial(_add_mango, irregular=True),
        stand_m=MANGO_HALF_AXES_M[2],
        radius_m=MANGO_HALF_AXES_M[0],
        height_m=2 * MANGO_HALF_AXES_M[2],
    ),
    "sponge": ObjectKind(add=_add_sponge, stand_m=SPONGE_HALF_M[2], radius_m=0.048, height_m=0.03, shadow_m=0.034),
    "bottle": ObjectKind(add=_add_bottle, radius_m=BOTTLE_RADIUS_M, height_m=BOTTLE_HEIGHT_M),
    "cloth": ObjectKind(add=_add_cloth, radius_m=0.060, height_m=0.028, shadow_m=0.040),
    "stain": ObjectKind(add=_add_stain, radius_m=0.060, height_m=0.001, shadow_m=0.0),
    "bowl": _bowl(FRUIT_BOWL, (0.20, 0.42, 0.72, 1), (0.66, 0.72, 0.80, 1)),
    "plate": _bowl(PLATE, (0.42, 0.52, 0.62, 1), (0.76, 0.80, 0.82, 1)),
    "coaster": ObjectKind(add=_add_coaster, radius_m=COASTER_RADIUS_M, height_m=COASTER_HEIGHT_M, shadow_m=0.045),
    "red_bowl": _bowl(STACK_BOWL, (0.80, 0.25, 0.22, 1), (0.86, 0.62, 0.56, 1)),
    "blue_bowl": _bowl(STACK_BOWL, (0.20, 0.42, 0.72, 1), (0.60, 0.70, 0.82, 1)),
    "green_bowl": _bowl(STACK_BOWL, (0.22, 0.56, 0.30, 1), (0.62, 0.80, 0.62, 1)),
    "yellow_bowl": _bowl(STACK_BOWL, (0.88, 0.70, 0.16, 1), (0.94, 0.86, 0.58, 1)),
    "block": _distractor(_BOX, [0.022, 0.022, 0.022], 0.08, [0.20, 0.55, 0.32, 1]),
    "can": _distractor(_CYLINDER, [0.022, 0.030, 0], 0.10, [0.48, 0.30, 0.60, 1]),
    "carton": _distractor(_BOX, [0.030, 0.018, 0.026], 0.08, [0.86, 0.42, 0.50, 1]),
    "lemon": ObjectKind(add=_add_lemon, stand_m=0.021, radius_m=0.028, height_m=0.042),
}
"""Name → what it is. Distractors: a green block and a purple tin, a pink carton and a lemon."""
