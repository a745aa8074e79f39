"""The table, its cameras and lights, and the objects of the tasks.

Bowls are open shells: a bottom disc and a ring of thin boxes for the wall, so that things fall in and a
second bowl nests on top. The mango collides as an ellipsoid and is drawn as a slightly crooked one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import mujoco
import numpy as np

from sim_bridges.worlds.tabletop.robot import NO_CONTACT, WORLD_BITS, add_robot, look_at_quat

TABLE_Z_M = -0.10
"""Height of the table top in the robot's base frame: the arm stands on a 100 mm plinth."""
TIMESTEP_S = 0.004

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

_SEGMENTS = 20
_OBJECT_CONTACT = {"solref": [0.01, 1.0], "solimp": [0.95, 0.99, 0.001, 0.5, 2], "condim": 4}


def build_spec(objects: tuple[str, ...]) -> mujoco.MjSpec:
    """The whole scene with the named free objects (keys of :data:`OBJECTS`).

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
        OBJECTS[name](spec, name)
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
        ("front", (-0.86, -0.16, 0.40), (-0.245, 0.0, -0.02), 42),
        # For people: the whole arm. Not part of any contract.
        ("overview", (-0.95, -0.62, 0.52), (-0.13, 0.02, 0.09), 42),
    ):
        quat = look_at_quat(np.array(eye), np.array(target), up=np.array([0.0, 0.0, 1.0]))
        world.add_camera(name=name, pos=list(eye), quat=quat, fovy=fovy_deg)


def _add_mango(spec: mujoco.MjSpec, name: str) -> None:
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=list(MANGO_HALF_AXES_M),
        mass=MANGO_MASS_KG,
        friction=[1.0, 0.02, 0.002],
        rgba=[0, 0, 0, 0],
        group=3,
        solref=[0.01, 1.0],
        solimp=[0.95, 0.99, 0.001, 0.5, 2],
        condim=6,
        **WORLD_BITS,
    )
    vertices, faces = _mango_mesh()
    mesh = spec.add_mesh(name=f"{name}_skin")
    mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
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


def _mango_mesh(rings: int = 14, spokes: int = 22) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) in metres and triangles (M, 3): an ellipsoid, fuller at the stem and bent a little."""
    a, b, c = MANGO_HALF_AXES_M
    points: list[list[float]] = [[a, 0.001, 0.0]]
    for i in range(1, rings):
        polar = math.pi * i / rings
        u, r = math.cos(polar), math.sin(polar)
        full = 1.0 + 0.07 * u
        for k in range(spokes):
            azimuth = 2 * math.pi * k / spokes
            points.append(
                [a * u, b * r * full * math.cos(azimuth) + 0.002 * (u * u - 0.5), c * r * full * math.sin(azimuth)]
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


def _bowl_surface(shape: BowlShape, *, inner: bool, spokes: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Revolve the inner (floor, wall, rim) or outer (foot, wall) profile: vertices (N, 3), triangles (M, 3)."""
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


def _add_block(spec: mujoco.MjSpec, name: str) -> None:
    """A green block."""
    _add_distractor(spec, name, mujoco.mjtGeom.mjGEOM_BOX, [0.022, 0.022, 0.022], 0.08, [0.20, 0.55, 0.32, 1])


def _add_can(spec: mujoco.MjSpec, name: str) -> None:
    """A purple tin."""
    _add_distractor(spec, name, mujoco.mjtGeom.mjGEOM_CYLINDER, [0.022, 0.030, 0], 0.10, [0.48, 0.30, 0.60, 1])


OBJECTS = {
    "mango": _add_mango,
    "bowl": lambda spec, name: _add_bowl(spec, name, FRUIT_BOWL, (0.20, 0.42, 0.72, 1), (0.66, 0.72, 0.80, 1)),
    "red_bowl": lambda spec, name: _add_bowl(spec, name, STACK_BOWL, (0.80, 0.25, 0.22, 1), (0.86, 0.62, 0.56, 1)),
    "blue_bowl": lambda spec, name: _add_bowl(spec, name, STACK_BOWL, (0.20, 0.42, 0.72, 1), (0.60, 0.70, 0.82, 1)),
    "block": _add_block,
    "can": _add_can,
}
"""Object name → function that adds it to a scene as a free body of that name."""
