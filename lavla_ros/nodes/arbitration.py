"""Who may command the arm: one publisher of /action_chunk at a time, and one executor in the graph.

A message does not say who published it, but the graph says who could: where that is ambiguous nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ANY = "*"
UNNAMED = "_NODE_NAME_UNKNOWN_"
UNNAMED_GRACE_NS = 2_000_000_000
"""A publisher is found before the name of its node is; one that stays without a name is none of ROS."""
LEASE = "a node that was killed stays in the graph for up to 20 s"


class CommandSources:
    """Judges the publishers of /action_chunk. ``allowed``: node names, separated by commas; ``*`` stands for one
    node of any name. Empty is ``*``."""

    def __init__(self, allowed: str = ANY) -> None:
        names = [name.strip() for name in allowed.split(",") if name.strip()] or [ANY]
        self._any = ANY in names
        self._allowed = {absolute(name) for name in names if name != ANY}
        self._unnamed_since_ns: dict[bytes, int] = {}

    def conflict(self, publishers: Iterable[Any], now_ns: int) -> str | None:
        """Why nobody's chunks may be executed now, or None. ``publishers``: rclpy's TopicEndpointInfo."""
        known: list[str] = []
        unnamed: dict[bytes, int] = {}
        for endpoint in publishers:
            if endpoint.node_name != UNNAMED:
                known.append(absolute(f"{endpoint.node_namespace}/{endpoint.node_name}"))
                continue
            key = bytes(endpoint.endpoint_gid)
            unnamed[key] = self._unnamed_since_ns.get(key, now_ns)
            if now_ns - unnamed[key] > UNNAMED_GRACE_NS:
                known.append("a publisher without a node")
        self._unnamed_since_ns = unnamed
        others = [name for name in known if name not in self._allowed]
        if len(others) > self._any:
            if self._allowed and not self._any:
                return (
                    f"{' and '.join(sorted(others))} may not publish /action_chunk: the parameter command_source names "
                    f"{', '.join(sorted(self._allowed))}; stop the former"
                )
            return (
                f"/action_chunk is published by {' and '.join(sorted(known))}: one may command the arm; stop the "
                f"others ({LEASE}), or name those that take turns in the parameter command_source"
            )
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            return f"several nodes of the name {' and '.join(twice)} publish /action_chunk; stop all but one ({LEASE})"
        return None


def absolute(name: str) -> str:
    """A node's name with one slash before it and before each part."""
    return "/" + "/".join(part for part in name.split("/") if part)


def node_names(endpoints: Iterable[Any]) -> list[str]:
    """Full names of the nodes that rclpy's TopicEndpointInfo belong to, sorted."""
    return sorted(absolute(f"{e.node_namespace}/{e.node_name}") for e in endpoints)
