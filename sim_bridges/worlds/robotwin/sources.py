"""Where tasks come from: a RoboTwin checkout (:mod:`.checkout`) or the stand-in."""

from __future__ import annotations

from sim_bridges.worlds.robotwin.task_source import TaskSource


def open_source(robotwin_root: str, task_config: str = "") -> TaskSource:
    """The checkout in a folder, or the stand-in for ``standin``. Raises RobotwinError for a folder that is none."""
    if robotwin_root == "standin":
        from sim_bridges.worlds.robotwin.standin_source import StandinSource

        return StandinSource()
    from sim_bridges.worlds.robotwin.checkout import DEFAULT_CONFIG, Checkout, find_root

    return Checkout(find_root(robotwin_root), task_config or DEFAULT_CONFIG)
