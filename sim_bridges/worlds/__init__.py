"""Simulators: each a folder, whose `suite.py` is the face that everything else sees (``sim_bridges.world.Suite``)."""
