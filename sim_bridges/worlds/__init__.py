"""Simulators: each a folder, whose ``suite.py`` is the face that everything else sees (``sim_bridges.world.Suite``).

Imports nothing: a command's help is not to wait for a simulator.
"""

SUITES = {
    "tabletop": "sim_bridges.worlds.tabletop.suite:TabletopSuite",
    "libero_spatial": "sim_bridges.worlds.libero.suite:libero_spatial",
    "libero_object": "sim_bridges.worlds.libero.suite:libero_object",
    "libero_goal": "sim_bridges.worlds.libero.suite:libero_goal",
    "libero_10": "sim_bridges.worlds.libero.suite:libero_10",
    "libero_90": "sim_bridges.worlds.libero.suite:libero_90",
    "robotwin": "sim_bridges.worlds.robotwin.suite:robotwin",
    "robotwin_standin": "sim_bridges.worlds.robotwin.suite:robotwin_standin",
}
"""Name → factory of the suites that come with the package."""
DEFAULT_SUITE = next(iter(SUITES))
"""The one that is recorded, studied and shown if none is named: it needs nothing but the package."""
