"""A JAKA controller on this machine. :mod:`sim_bridges.jaka_controller.emulator` puts the parts together."""
