"""What a node hears from others: every publisher is heard whatever its quality of service, or named with the reason.

A reliable subscription never hears a best-effort publisher, a latched one never a volatile publisher; DDS says so in
a log line at most. So streams (images, states) are subscribed reliably, which loses nothing, and best effort as soon
as a publisher offers no more than that. Latched topics are small and rare, and a lost one is a lost instruction: they
are subscribed in every way at once, and what arrives twice is taken once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from lavla_ros.contract import Contract
from lavla_ros.recording.types import CHUNK_TOPICS
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import wall_ns
from lavla_ros.ros.messages import latched_topics, type_name
from lavla_ros.ros.scope import Scope

FOLLOW_PERIOD_S = 0.25
UNNAMED = "_NODE_NAME_UNKNOWN_"
"""rclpy's word for a publisher that is found before the name of its node is."""
NAMELESS = "a node whose name is not known yet"
LOST_SHARE = 0.1
"""More lost messages than this since the last report are a warning."""

_LATCHED_DEPTH = 10
"""Deep enough for the latched messages of several publishers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """One publisher of a topic, as the graph knows it."""

    node: str
    type_name: str
    reliable: bool
    latched: bool

    def __str__(self) -> str:
        return f"{self.node} ({'reliable' if self.reliable else 'best effort'}{', latched' if self.latched else ''})"


def _name_of(endpoint: Any) -> str:
    if endpoint.node_name == UNNAMED:
        return NAMELESS
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def publishers_of(node: Any, topic: str) -> list[Publisher]:
    """Who publishes ``topic`` in this ROS domain, in the order of their names. A node just killed stays for ~20 s."""
    found = [
        Publisher(
            node=_name_of(info),
            type_name=info.topic_type,
            reliable=info.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT,
            latched=info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
        )
        for info in node.get_publishers_info_by_topic(topic)
    ]
    return sorted(found, key=lambda publisher: publisher.node)


class _NotWaitedFor(CallbackGroup):  # type: ignore[misc]  # rclpy is untyped
    """Its subscriptions wake no executor."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class Input:
    """One topic that others publish, relative or absolute. ``callback`` gets the message, or its bytes with ``raw``;
    None: of a stream only :meth:`newest` is wanted, and what nobody asks for costs no time."""

    def __init__(
        self,
        node: Any,
        kind: Any,
        topic: str,
        callback: Callable[[Any], None] | None,
        *,
        depth: int = _LATCHED_DEPTH,
        latched: bool = False,
        raw: bool = False,
        quiet_s: float = 0.0,
    ) -> None:
        """``quiet_s``: for how long nothing may come without being missed; infinity: for ever."""
        self.topic = node.resolve_topic_name(topic)  # its full name in the graph
        self.kind = type_name(kind)
        self.latched = latched
        self.quiet_s = quiet_s
        self.publishers: list[Publisher] = []
        self.lost = 0
        """Messages of a stream that did not arrive, by their sequence numbers (of a single publisher)."""
        self.received = 0
        self.last_ns: int | None = None
        """Arrival of the newest message that was handled."""
        self._node, self._class, self._callback, self._depth, self._raw = node, kind, callback, depth, raw
        self._group = _NotWaitedFor() if callback is None else None
        self._newest: Any = None
        self._changing = threading.RLock()
        self._taken: deque[tuple[int, int]] = deque(maxlen=64)
        self._sequence: int | None = None
        self._reported = (0, 0)
        self._since_ns = wall_ns()
        self._reliable = True
        self._subscriptions: list[Any] = []
        if latched:
            for reliable, durable in ((True, True), (True, False), (False, False)):
                self._subscribe(reliable, durable)
        else:
            self._subscribe(self._reliable)
        self.follow()

    def follow(self) -> None:
        """Look who publishes, and subscribe so that all of them are heard."""
        before, self.publishers = self.publishers, publishers_of(self._node, self.topic)
        if before != self.publishers:
            self._sequence = None
        heard = [p for p in self.publishers if p.type_name == self.kind]
        reliable = all(p.reliable for p in heard)
        if not self.latched and heard and reliable != self._reliable:
            with self._changing:
                self.take_waiting()
                self.close()
                self._reliable = reliable
                self._subscribe(reliable)
            names = ", ".join(str(p) for p in heard)
            self._node.get_logger().info(
                f"{self.topic} is subscribed {'reliably' if reliable else 'best effort'}, as it is published: {names}"
            )

    def take_waiting(self) -> None:
        """Handle every message that has arrived and still waits for the executor."""
        with self._changing:
            for subscription in self._subscriptions:
                with subscription.handle:
                    while (taken := subscription.handle.take_message(subscription.msg_type, self._raw)) is not None:
                        subscription.callback(*taken)

    def newest(self) -> tuple[int, Any]:
        """Of an input without a callback, from any thread: how many messages were taken, and the last; (0, None)."""
        with self._changing:
            self.take_waiting()
            return self.received, self._newest

    def silent_for_s(self, now_ns: int) -> float:
        """Since the newest message, or since the subscription if none has come."""
        return (now_ns - (self.last_ns if self.last_ns is not None else self._since_ns)) * 1e-9

    def is_missed(self, now_ns: int, after_s: float, *, from_the_first: bool = False) -> bool:
        """Whether it is silent for more than ``after_s`` and ``quiet_s``; ``from_the_first``: or nothing has come."""
        if self.quiet_s == inf:
            return False
        return (from_the_first and self.last_ns is None) or self.silent_for_s(now_ns) > max(after_s, self.quiet_s)

    def absence(self, now_ns: int) -> str:
        """Why nothing comes: there is no publisher, it publishes another type, or it is silent."""
        others = [p for p in self.publishers if p.type_name != self.kind]
        fitting = [p for p in self.publishers if p.type_name == self.kind]
        if fitting:
            since = f"for {self.silent_for_s(now_ns):.1f} s" if self.last_ns is not None else "so far"
            return f"{', '.join(map(str, fitting))} publishes {self.topic}, but nothing has arrived {since}"
        if others:
            what = ", ".join(f"{p.node} publishes it as {p.type_name}" for p in others)
            return f"no node publishes {self.topic} as {self.kind}; {what}"
        return f"no node publishes {self.topic}{self._elsewhere()}"

    def report(self, report: Report) -> None:
        """Who publishes, and what was lost on the way."""
        report.value(f"{self.topic}.publishers", ", ".join(map(str, self.publishers)) or "none")
        for publisher in self.publishers:
            if publisher.type_name != self.kind:
                report.warn(f"{publisher.node} publishes {self.topic} as {publisher.type_name}; expected {self.kind}")
        if not self.latched:
            report.value(f"{self.topic}.lost", self.lost)
        (received, lost), self._reported = self._reported, (self.received, self.lost)
        received, lost = self.received - received, self.lost - lost
        if lost > LOST_SHARE * (received + lost):
            names = ", ".join(map(str, self.publishers))
            report.warn(
                f"{lost} of {lost + received} messages of {self.topic} were lost on the way from {names}: this "
                "computer is too slow, or the publisher's process lacks the transport for large messages "
                "(FASTRTPS_DEFAULT_PROFILES_FILE=config/fastdds_profile.xml)"
            )

    def _elsewhere(self) -> str:
        """Topics that carry the type: the wanted one may have another name."""
        if self.latched:
            return ""
        own = self._node.get_fully_qualified_name()
        found = [
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if self.kind in kinds and any(p.node != own for p in publishers_of(self._node, topic))
        ]
        return f"; topics with {self.kind} are {found}" if found else ""

    def _subscribe(self, reliable: bool, durable: bool = False) -> None:
        qos = QoSProfile(
            depth=self._depth,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if durable else DurabilityPolicy.VOLATILE,
        )
        # rclpy's own event handlers would log "no messages will be received" of what another subscription hears
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._subscriptions.append(
            self._node.create_subscription(
                self._class,
                self.topic,
                self._on_message,
                qos,
                raw=self._raw,
                event_callbacks=silent,
                callback_group=self._group,
            )
        )

    def close(self) -> None:
        with self._changing:
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions = []

    def _on_message(self, message: Any, info: dict[str, Any]) -> None:
        sequence = info["publication_sequence_number"]
        if self.latched:
            key = (info["source_timestamp"], sequence)
            if key in self._taken:
                return
            self._taken.append(key)
        elif len(self.publishers) == 1 and self._group is None:  # numbers of several publishers cannot be told apart
            if self._sequence is not None and sequence > self._sequence:
                self.lost += sequence - self._sequence - 1
            self._sequence = sequence
        self.received += 1
        self.last_ns = info["received_timestamp"] or wall_ns()  # not every middleware says it
        if self._callback is None:
            self._newest = message
        else:
            self._callback(message)


class Inputs:
    """The inputs of a node while ``scope`` lasts, in the order in which waiting messages are taken."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._inputs: dict[str, Input] = {}
        scope.timer(FOLLOW_PERIOD_S, self._follow)

    def add(self, kind: Any, topic: str, callback: Callable[[Any], None] | None, **options: Any) -> Input:
        """See :class:`Input`."""
        made = self._inputs[topic] = Input(self._scope.node, kind, topic, callback, **options)
        self._scope.callback(made.close)
        return made

    def add_recorded(
        self, contract: Contract, kinds: Mapping[str, Any], callback: Callable[[str, bytes], None], depth: int
    ) -> None:
        """Hear topics of :func:`~lavla_ros.ros.messages.recorded_topics`. ``callback``: topic, message in CDR."""
        latched = latched_topics(contract)
        for topic, kind in kinds.items():
            quiet_s = inf if topic in CHUNK_TOPICS else contract.quiet_s(topic)
            options = {"depth": depth, "latched": topic in latched, "raw": True, "quiet_s": quiet_s}
            self.add(kind, contract.wire(topic), partial(callback, topic), **options)

    def __getitem__(self, topic: str) -> Input:
        return self._inputs[topic]

    def streams(self) -> list[Input]:
        """Those that send again and again."""
        return [found for found in self._inputs.values() if not found.latched]

    def take_waiting(self) -> None:
        for found in self._inputs.values():
            found.take_waiting()

    def take_while(self, missing: Callable[[], Iterable[str]], timeout_s: float) -> None:
        """Handle what arrives on the topics that ``missing`` names, until it names none or the time is over."""
        deadline = time.monotonic() + timeout_s
        while (names := list(missing())) and time.monotonic() < deadline:
            for name in names:
                self._inputs[name].take_waiting()
            time.sleep(0.005)

    def report(self, report: Report) -> None:
        for found in self._inputs.values():
            found.report(report)

    def _follow(self) -> None:
        for found in self._inputs.values():
            found.follow()
