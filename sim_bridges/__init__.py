"""Simulators as the topics of the arm, and evaluation in them."""

from sim_bridges.gl import choose_gl_backend

# MuJoCo reads MUJOCO_GL once, when it is first imported: before any module below here imports it.
choose_gl_backend()
