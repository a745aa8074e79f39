"""Who may command the arm: one publisher of its chunks at a time, and one executor in its namespace.

A message does not say who published it, but the graph says who could have: if those are several, nothing is executed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.approved import Approvals
from lavla_ros.errors import FailedError
from lavla_ros.ros.inputs import NAMELESS, UNNAMED, publishers_of
from lavla_ros.ros.messages import MessageError, trajectory_to_chunk

ANY = "*"
DISCOVERY_S = 2.0
"""By then nodes of the same computer have found one another, also on a busy one. Large policies load for longer."""
UNNAMED_GRACE_NS = 2_000_000_000
"""A publisher is found before the name of its node is; one that stays without a name is none of ROS."""
CONTEST_NS = 500_000_000
"""Publishers that take turns may both be seen for a moment: nothing is executed then, and later it is a fault."""
LEASE = "a node that was killed stays in the graph for up to 20 s"


class CommandSources:
    """Judges the publishers of ``topic``. ``allowed``: node names, separated by commas, those without a slash relative
    to ``namespace``; ``*`` stands for one node of any name. Empty is ``*``."""

    def __init__(self, allowed: str = ANY, *, namespace: str = "/", topic: str = "/action_chunk") -> None:
        names = [name.strip() for name in allowed.split(",") if name.strip()] or [ANY]
        self._any = ANY in names
        self._allowed = {absolute(name if name[0] == "/" else f"{namespace}/{name}") for name in names if name != ANY}
        self._topic = topic
        self._unnamed_since_ns: dict[bytes, int] = {}

    def conflict(self, publishers: Iterable[Any], now_ns: int) -> str | None:
        """Why no chunk may be executed now, or None. ``publishers``: rclpy's TopicEndpointInfo."""
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
                    f"{' and '.join(sorted(others))} may not publish {self._topic}: the parameter command_source names "
                    f"{', '.join(sorted(self._allowed))}; stop the former"
                )
            return (
                f"{self._topic} is published by {' and '.join(sorted(known))}: one may command the arm; stop the "
                f"others ({LEASE}), or name those that take turns in the parameter command_source"
            )
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            return f"several nodes of the name {' and '.join(twice)} publish {self._topic}; stop all but one ({LEASE})"
        return None


class ChunkGate:
    """What comes from a topic of chunks: from whom, and only of the size that the contract has."""

    def __init__(
        self,
        node: Any,
        contract: Contract,
        allowed: str = ANY,
        topic: str = topics.ACTION_CHUNK,
        *,
        person: bool = False,
        approvals: Approvals | None = None,
        unapproved: float = 1.0,
    ) -> None:
        """``person``: a person's topic, whose chunks come before those of the policy's. ``approvals``: whoever is not
        among them is followed at the speed scale ``unapproved`` at most; None: all are."""
        self._node, self._contract, self.person = node, contract, person
        self.topic, self._topic = topic, node.resolve_topic_name(topic)
        self._approvals, self._unapproved = approvals, unapproved
        self.most_speed, self.slow = 1.0, ""
        """At which speed scale the newest chunk may be followed at most, and why."""
        self.allow(allowed)
        dims = contract.action.names
        # Deserializing costs 10 µs a point: what is too large to be a chunk is not read at all. Four times
        # the positions leaves room for velocities, accelerations and efforts.
        self._largest = 4096 + 2 * sum(map(len, dims)) + contract.chunk_size * (64 + 4 * 8 * (len(dims) + 1))

    def allow(self, allowed: str) -> None:
        """Other sources from now on: see :class:`CommandSources`."""
        self._sources = CommandSources(allowed, namespace=self._node.get_namespace(), topic=self._topic)
        self._since_ns: int | None = None

    def look(self) -> str | None:
        """Ask the graph: why no chunk may be executed now, or None."""
        now_ns = time.monotonic_ns()
        conflict = self._sources.conflict(self._node.get_publishers_info_by_topic(self._topic), now_ns)
        if conflict is None:
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = now_ns
        return conflict

    def lasting_conflict(self) -> str | None:
        """A conflict that is no changing of turns."""
        conflict = self.look()
        lasting = self._since_ns is not None and time.monotonic_ns() - self._since_ns > CONTEST_NS
        return conflict if lasting else None

    def read(self, payload: bytes) -> ActionChunk:
        """A serialized JointTrajectory → the chunk. Raises MessageError."""
        if len(payload) > self._largest:
            raise MessageError(
                f"{self._topic} carries a message of {len(payload)} bytes; a chunk of {self._contract.chunk_size} "
                f"steps (contract {self._contract.name}) has at most {self._largest}"
            )
        message = deserialize_message(payload, JointTrajectory)
        if len(message.points) > self._contract.chunk_size:
            raise MessageError(
                f"{self._topic} carries {len(message.points)} points; contract {self._contract.name} has at most "
                f"{self._contract.chunk_size} (chunk_size)"
            )
        chunk = trajectory_to_chunk(message, self._contract)
        objection = "" if self._approvals is None else self._approvals.objection(message.header.frame_id)
        self.most_speed = self._unapproved if objection else 1.0
        self.slow = f"at a speed scale of at most {self._unapproved:g}: {objection}" if objection else ""
        return chunk


def conflict_of(gates: Sequence[ChunkGate], *, lasting: bool = False) -> str | None:
    """The first conflict of the gates, all of which are asked; ``lasting``: see :meth:`ChunkGate.lasting_conflict`."""
    conflicts = [gate.lasting_conflict() if lasting else gate.look() for gate in gates]
    return next(filter(None, conflicts), None)


def rivals_of(node: Any, topic: str) -> list[str]:
    """Nodes that publish ``topic`` already, sorted, as soon as one is found by its name; once ``node`` has been there
    for ``DISCOVERY_S``, whatever there is. To be asked before ``node``, a LavlaNode, publishes it itself.
    """
    while True:
        found = [publisher.node for publisher in publishers_of(node, topic)]
        if set(found) - {NAMELESS} or time.monotonic() >= node.made_s + DISCOVERY_S:
            return found
        time.sleep(0.02)


def require_no_rival(node: Any, topic: str, obeyed: str, advice: str = "end it first") -> None:
    """Raise FailedError if others publish ``topic`` already, see :func:`rivals_of`. ``obeyed``: "one person", say;
    ``advice``: what to do about it."""
    if rivals := rivals_of(node, topic):
        raise FailedError(
            f"{', '.join(rivals)} publishes {node.resolve_topic_name(topic)} already, and the arm obeys {obeyed}: "
            f"{advice} ({LEASE})"
        )


def other_publishers(node: Any, topic: str, *, itself: bool) -> list[str]:
    """Who else publishes ``topic``, by the names of their nodes, which may be that of ``node`` as well. ``itself``:
    whether ``node`` publishes it."""
    names = [publisher.node for publisher in publishers_of(node, topic)]
    if itself and (own := node.get_fully_qualified_name()) in names:
        names.remove(own)
    return names


def absolute(name: str) -> str:
    """A node's name with one slash before it and before each part."""
    return "/" + "/".join(part for part in name.split("/") if part)
