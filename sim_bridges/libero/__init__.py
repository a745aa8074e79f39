"""LIBERO as ROS topics: the benchmark's own simulation under the project's contract."""

from sim_bridges.tabletop.gl import choose_gl_backend

# MuJoCo reads MUJOCO_GL once, when it is first imported: before any module below here imports it.
choose_gl_backend()
