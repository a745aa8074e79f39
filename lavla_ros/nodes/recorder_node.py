"""Episodes → rosbag2 MCAP: raw messages of the contract's topics, one bag per episode, ended by services.

``/episode/start``, ``/episode/stop``, ``/episode/discard`` (Trigger) and ``/episode/mark`` (SetBool:
success or failure of the episode in progress). ``/episode/check`` (Trigger) answers, before an episode or within it,
whether every stream of the contract comes. ``/episode/state`` says, latched, what is going on.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.contract import IMAGE_KINDS, load_contract
from lavla_ros.episode import RECORDER, EpisodeError, EpisodePhase, EpisodeState, recorded_outcome
from lavla_ros.recording.stream_stats import StreamStats, behind, raw_stamp_ns
from lavla_ros.recording.types import CHUNK_TOPICS, EPISODE_TOPIC
from lavla_ros.recording.writer import EpisodeRecorder, RecordingError
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import LavlaNode, wall_ns
from lavla_ros.ros.messages import LATCHED_QOS, RECORDING_DEPTH, latched_topics, recorded_topics, type_name
from lavla_ros.ros.parameters import NodeParameters, parameter
from lavla_ros.ros.process import run_node

LATE_S = 2.0
"""How long the last pictures of an episode may take, which another node prepares on their way here."""


@dataclass(frozen=True, kw_only=True)
class RecorderParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file; it names the topics.")
    root: str = parameter(
        "runs/bags", "Folder of the bags, one per episode. In a namespace they go to its subfolder of that name."
    )
    images: str = parameter(
        IMAGE_KINDS[0],
        "Camera images to record: observation is what the policy sees, the others are what the driver sends.",
        choices=IMAGE_KINDS,
    )
    auto_start: bool = parameter(False, "Record from activation on, without waiting for episode/start.")
    silent_after_s: float = parameter(
        2.0, "Warn if a topic has been silent for this long.", low=0.1, high=60.0, unit="s"
    )


class RecorderNode(LavlaNode):
    """The inputs of an episode, its writer, and the services that begin and end it."""

    parameters_type = RecorderParameters
    parameters: RecorderParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("recorder", **options)

    def setup(self) -> None:
        self._contract = contract = load_contract(self.parameters.contract)
        self._topics = recorded_topics(contract, self.parameters.images)
        self._latched = latched_topics(contract)
        self._headless = {t for t, kind in self._topics.items() if "header" not in kind.get_fields_and_field_types()}
        root = Path(self.parameters.root).expanduser() / self.get_namespace().strip("/")
        root.mkdir(parents=True, exist_ok=True)
        self._recorder = EpisodeRecorder(root, {topic: type_name(kind) for topic, kind in self._topics.items()})
        self._told: dict[str, bytes] = {}
        """Newest message of each latched topic: published once, before an episode, and part of it all the same."""
        self._simulated: EpisodeState | None = None
        self._written: Counter[str] = Counter()
        self._stats: dict[str, StreamStats] = {}
        self._mark: bool | None = None
        self._state = self.configured.publisher(String, topics.EPISODE_STATE, LATCHED_QOS)

    def start(self) -> None:
        # What arrived before a service's request is taken before it is answered.
        self._inputs = Inputs(self.activated)
        self._inputs.add_recorded(self._contract, self._topics, self._on_message, RECORDING_DEPTH)
        for name, kind, handler in (
            (topics.EPISODE_START, Trigger, self._on_start),
            (topics.EPISODE_STOP, Trigger, self._on_stop),
            (topics.EPISODE_DISCARD, Trigger, self._on_discard),
            (topics.EPISODE_MARK, SetBool, self._on_mark),
            (topics.EPISODE_CHECK, Trigger, self._on_check),
        ):
            self.activated.service(kind, name, handler)
        self._announce(EpisodePhase.IDLE)
        if self.parameters.auto_start:
            self._begin()

    def stop(self) -> None:
        """An episode in progress is finished and kept."""
        if self._recorder.recording:
            self._finish()

    # Messages.

    def _on_message(self, topic: str, raw: bytes) -> None:
        now_ns = wall_ns()
        if topic == EPISODE_TOPIC and not self._note_simulation(raw):
            return  # our own announcement: the episode writer puts it into the bag itself
        if topic in self._latched:
            self._told[topic] = raw
        self._write(topic, raw, now_ns)

    def _write(self, topic: str, raw: bytes, stamp_ns: int) -> None:
        try:
            if self._recorder.write(topic, raw, stamp_ns):
                self._written[topic] += 1
                if topic in self._stats:
                    self._stats[topic].add(stamp_ns if topic in self._headless else raw_stamp_ns(raw))
        except RecordingError as error:
            self.fail(str(error))

    def _note_simulation(self, raw: bytes) -> bool:
        """Remember what a simulator says of its episode; False when the message is the recorder's own."""
        try:
            state = EpisodeState.from_json(deserialize_message(raw, String).data)
        except EpisodeError as error:
            self.get_logger().warning(str(error))
            return True
        if state.source == RECORDER:
            return False
        self._simulated = state
        if state.phase is EpisodePhase.RUNNING:
            self._recorder.describe(self._about())
        return True

    def _silent(self) -> list[str]:
        """Streams of which nothing comes, each with the reason."""
        now_ns, after_s = wall_ns(), self.parameters.silent_after_s
        return [s.absence(now_ns) for s in self._inputs.streams() if s.is_missed(now_ns, after_s, from_the_first=True)]

    # Episodes.

    def _begin(self) -> str:
        now_ns = wall_ns()
        metadata = {**self._contract.described(), **self._about()}
        path = self._recorder.start(metadata, stamp_ns=now_ns)
        self._mark = None
        self._written.clear()
        self._stats = {topic: StreamStats() for topic in self._topics if topic not in {*self._latched, *CHUNK_TOPICS}}
        for topic in filter(self._told.__contains__, self._latched):
            self._write(topic, self._told[topic], now_ns)
        self._announce(EpisodePhase.RUNNING, path.name)
        self.get_logger().info(f"recording {path}")
        return str(path)

    def _finish(self) -> str:
        outcome = recorded_outcome(self._mark, self._simulated)
        summary = self._recorder.stop(outcome, stamp_ns=wall_ns())
        self._announce(outcome, summary.path.name)
        text = "\n  ".join([str(summary), *(f"{topic}: {stats}" for topic, stats in self._stats.items())])
        self.get_logger().info(f"recorded {text}")
        return text

    def _about(self) -> dict[str, Any]:
        """What the simulator says about the episode, and the instruction in force."""
        about = self._simulated.scene if self._simulated is not None else {}
        if (raw := self._told.get(self._contract.instruction_topic)) is not None:
            about["instruction"] = deserialize_message(raw, String).data
        return about

    def _announce(self, phase: EpisodePhase, episode: str | None = None) -> None:
        state = EpisodeState(RECORDER, phase, {"episode": episode, **self._about()})
        self._state.publish(String(data=state.to_json()))

    # Services.

    def _on_start(self, _: Any, response: Any) -> Any:
        self._inputs.take_waiting()
        return self._answer(response, self._begin)

    def _on_stop(self, _: Any, response: Any) -> Any:
        self._inputs.take_waiting()
        contract = self._contract
        if self._recorder.recording:  # the last pictures may still be on their way
            others = {contract.action.topic, *(piece.topic for piece in contract.action.sources)}
            others |= {each.topic for each in contract.record}
            seen = {topic: s for topic, s in self._stats.items() if topic not in others | self._headless}
            late = partial(behind, seen, [piece.topic for piece in contract.state.sources], within_s=LATE_S)
            self._inputs.take_while(lambda: map(contract.wire, late()), LATE_S)
        return self._answer(response, self._finish)

    def _on_discard(self, _: Any, response: Any) -> Any:
        def discard() -> str:
            path = self._recorder.discard()
            self._announce(EpisodePhase.DISCARDED, path.name)
            return f"{path} was discarded"

        return self._answer(response, discard)

    def _on_mark(self, request: Any, response: Any) -> Any:
        def mark() -> str:
            if (path := self._recorder.path) is None:
                begin = self.resolve_service_name(topics.EPISODE_START)
                raise RecordingError(f"no episode is being recorded; call {begin} first")
            self._mark = bool(request.data)
            return f"{path.name} is marked as a {'success' if self._mark else 'failure'}"

        return self._answer(response, mark)

    def _on_check(self, _: Any, response: Any) -> Any:
        self._inputs.take_waiting()
        silent = self._silent()
        response.success, response.message = not silent, "; ".join(silent) or "every stream comes"
        return response

    def _answer(self, response: Any, action: Callable[[], str]) -> Any:
        try:
            response.success, response.message = True, action()
        except RecordingError as error:
            response.success, response.message = False, str(error)
        return response

    def diagnose(self, report: Report) -> None:
        path = self._recorder.path
        report.value("episode", path.name if path is not None else "none")
        for topic in self._topics:
            report.value(f"{topic}.messages", self._written[topic])
        if self.active:
            self._inputs.report(report)
        if path is not None:
            for text in self._silent():
                report.warn(f"recording, but {text}")


def main() -> int:
    return run_node(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
