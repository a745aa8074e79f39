"""The one alignment code path: messages in, aligned observations out, live and from bags alike.

What a step contains is decided from capture stamps alone, never from which message happened to be
processed first: a step at ``t`` is decided once every other stream has shown a sample stamped
``>= t`` (then nothing better can come), so the interleaving of the streams cannot change it. (A piece
of the state that is held, ``hold_s``, is not waited for: it comes when something changes.) A
stream that stays silent holds steps back for ``wait_s`` of the reference camera's own stamps; then
they are dropped and counted. Nothing is ever filled in. Memory is bounded by ``wait_s`` and by count, and where
steps pile up, what waits is kept at the contract's size, not at the driver's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import CameraSpec, Contract, Observation
from lavla_ros.errors import InputError
from lavla_ros.observation.images import ImageError, check_image, decode_depth, decode_image, prepare_image
from lavla_ros.pieces import Decoder, Piece, RefusedError, shifted_ns, stamp_ns
from lavla_ros.typing import NS_PER_S

CLOCK_JUMP_NS = 5 * NS_PER_S
"""A stream that steps back by more than this has a new clock: everything buffered is void."""

_IN_STEP = 0.03
"""A camera that has so nearly a whole number of frames in a step has just that number: its clock is not quite ours."""
_MAX_FRAMES = 512
_MAX_STATES = 8192
_RAW_STEPS, _RAW_FRAMES = 3, 12
"""Number of waiting steps, or frames of one camera, that are kept as they came (in 4K 25 MB each)."""


class Thinner:
    """Choose frames of the reference camera at the contract's rate, from their stamps alone.

    A frame is taken when it lies less than half a camera period before a due time, one of a grid that begins with the
    first frame. Where the camera runs at the contract's rate or a multiple of it (within 3% of a camera period), the
    grid follows the accepted frames: a quarter of each deviation moves it, so it tracks the camera's phase and drift. A
    30 Hz camera at 10 Hz therefore gives every third frame, and jitter below half a camera period neither skips nor
    doubles one. At any other ratio, as of 30 Hz to 12.5, the grid stands: steps are half a camera period from their
    times at most, jitter aside, however long the episode. With a period of 0 every frame is taken.
    """

    def __init__(self, dt_ns: int) -> None:
        self._dt_ns = dt_ns
        self._due_ns: int | None = None
        self._last_ns: int | None = None
        self._periods_ns: deque[int] = deque(maxlen=31)

    def accept(self, frame_ns: int) -> bool:
        """Whether the frame is a step. Stamps must rise strictly."""
        if self._last_ns is not None:
            self._periods_ns.append(frame_ns - self._last_ns)
        self._last_ns = frame_ns
        if self._due_ns is None:
            self._due_ns = frame_ns + self._dt_ns
            return True
        period_ns = min(median(self._periods_ns), self._dt_ns)
        slack_ns = min(round(0.4 * self._dt_ns), round(0.5 * period_ns))
        error_ns = frame_ns - self._due_ns
        if error_ns < -slack_ns:
            return False
        if error_ns > max(0.5 * self._dt_ns, 0.75 * period_ns):  # frames were lost: start a new grid here
            self._due_ns = frame_ns + self._dt_ns
        else:
            seen = len(self._periods_ns)
            frames = self._dt_ns * seen / sum(self._periods_ns)  # by the mean period: jitter cancels out of it
            in_step = abs(frames - round(frames)) < _IN_STEP + 0.3 / seen
            self._due_ns += self._dt_ns + (error_ns // 4 if in_step else 0)
        return True


@dataclass(slots=True)
class _Stream:
    """Samples of one stream in strictly rising stamps; ``newest_ns`` outlives their removal."""

    tolerance_ns: int
    samples: deque[tuple[int, Any]]
    newest_ns: int | None = None

    def prune(self, before_ns: int) -> None:
        """Forget samples that no step at or after ``before_ns`` can use."""
        limit = before_ns - self.tolerance_ns
        samples = self.samples
        while samples and samples[0][0] < limit:
            samples.popleft()


class ObservationPipeline:
    """Align the streams of one contract. Not thread-safe: one caller, or a lock around it.

    ``camera_topics`` maps camera → the topic that its frames come from (default: the prepared
    ``/observation/<cam>``). Frames of a prepared topic must have the contract's size and encoding;
    those of any other topic are rotated, cropped and resized here. ``instruction`` is in force until
    the first message on the instruction topic (for bags that have none); without either, steps are
    dropped as ``no_instruction``. ``depth_topics`` maps depth cameras → topics, for observations that have them too:
    aligned as the other cameras are, unprepared. ``log_clock`` names the streams (cameras, ``state``) that are stamped
    by ``received_ns``, because their drivers do not stamp, or by another clock.

    ``counters`` counts everything that came in, went out or was refused, by name; ``examples`` has the first case of
    each refusal in words.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        camera_topics: Mapping[str, str] | None = None,
        depth_topics: Mapping[str, str] | None = None,
        instruction: str | None = None,
        wait_s: float = 1.0,
        log_clock: Collection[str] = (),
    ) -> None:
        self.contract = contract
        topics = {spec.name: spec.observation_topic for spec in contract.cameras} | dict(camera_topics or {})
        unknown = sorted(set(topics) - set(contract.camera_names))
        if unknown:
            raise InputError(
                f"camera_topics names {unknown}; contract {contract.name!r} has {list(contract.camera_names)}"
            )
        self.counters: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._log_clock = frozenset(log_clock)
        self._camera_of_topic = {topic: contract.camera(name) for name, topic in topics.items()}
        if len(self._camera_of_topic) != len(topics):
            raise InputError(f"one topic serves two cameras: {topics}")
        self._reference = contract.alignment.reference
        self._depth_of_topic = {topic: name for name, topic in (depth_topics or {}).items()}
        colour = (name for name in contract.camera_names if name != self._reference)
        self._others = (*colour, *self._depth_of_topic.values())
        self._wait_ns = round(wait_s * NS_PER_S)
        self._initial_instruction = instruction
        self._decoder = Decoder(
            contract.state.sources,
            contract.state.units,
            lambda kind, text: self._refuse(f"state.{kind}", text),
            lambda kind: self.counters.update([f"state.{kind}"]),
        )
        self.reset()

    @property
    def joint_names_seen(self) -> set[str]:
        """Names in messages that lacked some of a piece's."""
        return self._decoder.names_seen

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that :meth:`add` takes."""
        numbers = self._decoder.topics
        return (*self._camera_of_topic, *self._depth_of_topic, *numbers, self.contract.instruction_topic)

    @property
    def state_topics(self) -> tuple[str, ...]:
        """Those of the state."""
        return self._decoder.topics

    @property
    def pending(self) -> int:
        """Steps that wait for other streams."""
        return len(self._pending)

    def reset(self) -> None:
        """Forget all streams (new episode, or a clock that jumped); counters stay."""
        alignment = self.contract.alignment
        camera_ns = round(alignment.camera_tolerance_s * NS_PER_S)
        names = (self._reference, *self._others)
        self._cameras = {name: _Stream(camera_ns, deque(maxlen=_MAX_FRAMES)) for name in names}
        self._states = [  # one for each piece
            _Stream(round((piece.hold_s or alignment.state_tolerance_s) * NS_PER_S), deque(maxlen=_MAX_STATES))
            for piece in self._decoder.pieces
        ]
        # (stamp, frame, received): steps that are not decided yet
        self._pending: deque[tuple[int, Any, int]] = deque()
        # Where a step is a command, every frame is one, however soon it comes.
        self._thinner = Thinner(self.contract.dt_ns if self.contract.step == "period" else 0)
        self._decided_ns: int | None = None
        self._instructions: deque[tuple[int, str]] = deque(maxlen=64)
        if self._initial_instruction is not None:
            self._instructions.append((-(2**63), self._initial_instruction))

    def add(self, topic: str, msg: Any, received_ns: int) -> None:
        """Take one message, O(1) unless steps pile up; the message must not be changed afterwards.

        ``received_ns`` is the arrival time live and the log time of a bag. It orders instructions
        (std_msgs/String has no stamp) against frames, and stamps the streams of ``log_clock``. Unusable messages
        are counted. Raises ValueError for a topic that the pipeline was not built for.
        """
        spec = self._camera_of_topic.get(topic)
        if spec is not None:
            self._add_frame(topic, spec, msg, received_ns)
        elif topic in self._depth_of_topic:
            self._add_depth(self._depth_of_topic[topic], msg, received_ns)
        elif topic in self._decoder.topics:
            self._add_state(topic, msg, received_ns)
        elif topic == self.contract.instruction_topic:
            self._add_instruction(str(msg.data), received_ns)
        else:
            raise InputError(
                f"topic {topic!r} is not one of the pipeline's: {list(self.topics)}; "
                "name a camera's topic in camera_topics"
            )

    def pop(self) -> list[Observation]:
        """Every step that can be decided now, oldest first."""
        return self._decide(flush=False)

    def flush(self) -> list[Observation]:
        """End of the streams: decide every waiting step with what is there."""
        return self._decide(flush=True)

    # ------------------------------------------------------------------ taking messages

    def _add_frame(self, topic: str, spec: CameraSpec, msg: Any, received_ns: int) -> None:
        name = spec.name
        self.counters[f"{name}.frames"] += 1
        prepared = topic == spec.observation_topic
        try:
            check_image(msg, spec.channel_order)
        except ImageError as error:
            self._refuse(f"{name}.{error.kind}", f"on {topic}: {error}")
            return
        if prepared and not hasattr(msg, "format"):
            if msg.encoding != spec.encoding:
                self._refuse(
                    f"{name}.wrong_encoding",
                    f"on {topic}: prepared image's encoding is {msg.encoding!r}; expected {spec.encoding!r}",
                )
                return
            if (msg.height, msg.width) != (spec.height, spec.width):
                self._refuse(
                    f"{name}.wrong_size",
                    f"on {topic}: prepared image is {msg.width}x{msg.height}; the contract has "
                    f"{spec.width}x{spec.height}",
                )
                return
        stamp = received_ns if name in self._log_clock or spec.clock == "log" else stamp_ns(msg)
        try:
            stamp = shifted_ns(stamp, spec.time_offset_s, received_ns)
        except RefusedError as error:
            self._refuse(f"{name}.{error.kind}", f"on {topic}: {error}")
            return
        if not self._in_order(self._cameras[name], name, stamp):
            return
        stream = self._cameras[name]  # a clock jump has replaced it
        stream.newest_ns = stamp
        if name != self._reference:
            self._keep(stream, stamp, self._slim(topic, spec, msg))
        elif self._thinner.accept(stamp):
            self._pending.append((stamp, self._slim(topic, spec, msg), received_ns))
            if len(self._pending) > _MAX_FRAMES:  # only if pop() is not called
                self._pending.popleft()
                self.counters["steps.dropped"] += 1
                self.counters["steps.dropped.overflow"] += 1
        else:
            self.counters["steps.thinned"] += 1

    def _add_depth(self, name: str, msg: Any, received_ns: int) -> None:
        self.counters[f"{name}.frames"] += 1
        stamp = received_ns if name in self._log_clock else stamp_ns(msg)
        if self._in_order(self._cameras[name], name, stamp):
            stream = self._cameras[name]  # a clock jump has replaced it
            stream.newest_ns = stamp
            self._keep(stream, stamp, msg)

    def _slim(self, topic: str, spec: CameraSpec, msg: Any) -> Any:
        """The frame as it is to be kept: prepared where many wait and the driver's are larger."""
        if len(self._pending) < _RAW_STEPS and len(self._cameras[spec.name].samples) < _RAW_FRAMES:
            return msg
        if topic == spec.observation_topic and not hasattr(msg, "format"):
            return msg
        try:
            return self._image(spec, msg)
        except ImageError:
            return msg  # counted when its step is decided

    def _add_state(self, topic: str, msg: Any, received_ns: int) -> None:
        self.counters["state.samples"] += 1
        for number, values in self._decoder.read(topic, msg):
            stamp = self._decoder.stamp_ns(number, msg, received_ns, by_log="state" in self._log_clock)
            if stamp is None or not self._in_order(self._states[number], "state", stamp):
                continue
            stream = self._states[number]  # a clock jump has replaced it
            stream.newest_ns = stamp
            self._keep(stream, stamp, values)

    def _add_instruction(self, text: str, received_ns: int) -> None:
        self.counters["instruction.messages"] += 1
        if self._instructions and self._instructions[-1][0] - received_ns > CLOCK_JUMP_NS:
            self.counters["instruction.clock_jumps"] += 1
            self._instructions.clear()
        if self._instructions and received_ns < self._instructions[-1][0]:
            self.counters["instruction.out_of_order"] += 1
            return
        if self._instructions and text == self._instructions[-1][1]:
            return  # a publisher that repeats itself must not push older texts out
        self._instructions.append((received_ns, text))

    def _in_order(self, stream: _Stream, name: str, stamp: int) -> bool:
        if stream.newest_ns is None or stamp > stream.newest_ns:
            return True
        if stamp == stream.newest_ns:
            why = " (its driver does not stamp)" if stamp == 0 else ""
            self._refuse(f"{name}.duplicate", f"the stamp {stamp} ns came again{why}")
            return False
        if stream.newest_ns - stamp > CLOCK_JUMP_NS:
            self.counters["clock_jumps"] += 1
            self.counters["steps.dropped"] += len(self._pending)
            self.counters["steps.dropped.clock_jump"] += len(self._pending)
            instructions = self._instructions
            self.reset()
            self._instructions = instructions
            return True
        self._refuse(f"{name}.out_of_order", f"a stamp {(stream.newest_ns - stamp) / 1e6:.1f} ms before the one before")
        return False

    def _refuse(self, counter: str, example: str) -> None:
        self.counters[counter] += 1
        self.examples.setdefault(counter, example)

    def _keep(self, stream: _Stream, stamp: int, sample: Any) -> None:
        if self._decided_ns is not None and stamp + stream.tolerance_ns < self._decided_ns:
            self.counters[f"{self._name_of(stream)}.late"] += 1
            return
        if len(stream.samples) == stream.samples.maxlen:
            self.counters[f"{self._name_of(stream)}.overflow"] += 1
        stream.samples.append((stamp, sample))
        # without waiting steps nothing older than wait_s can be asked for any more
        stream.prune(self._pending[0][0] if self._pending else stamp - self._wait_ns)

    def _name_of(self, stream: _Stream) -> str:
        return next((name for name, other in self._cameras.items() if other is stream), "state")

    # ------------------------------------------------------------------ deciding steps

    def _decide(self, *, flush: bool) -> list[Observation]:
        steps: list[Observation] = []
        while self._pending and (flush or self._is_decidable(self._pending[0][0])):
            stamp, frame, received_ns = self._pending.popleft()
            observation = self._assemble(stamp, frame, received_ns)
            self._decided_ns = stamp
            for name in self._others:
                self._cameras[name].prune(stamp)
            for stream in self._states:
                stream.prune(stamp)
            if observation is not None:
                steps.append(observation)
        self.counters["steps.emitted"] += len(steps)
        return steps

    def _is_decidable(self, t_ns: int) -> bool:
        newest_reference = self._cameras[self._reference].newest_ns
        if newest_reference is not None and newest_reference >= t_ns + self._wait_ns:
            return True  # a stream is silent: decide without it
        awaited = [s for s, piece in zip(self._states, self._decoder.pieces, strict=True) if not piece.hold_s]
        streams = [*awaited, *(self._cameras[name] for name in self._others)]
        return all(stream.newest_ns is not None and stream.newest_ns >= t_ns for stream in streams)

    def _assemble(self, t_ns: int, frame: Any, received_ns: int) -> Observation | None:
        """The observation at ``t_ns``, or None after counting every reason why there is none."""
        reasons: list[str] = []
        chosen: dict[str, tuple[int, Any]] = {self._reference: (t_ns, frame)}
        for name in self._others:
            nearest = _nearest(self._cameras[name], t_ns)
            if nearest is None:
                reasons.append(f"{name}_missing")
            else:
                chosen[name] = nearest
        states = [_newest_not_after(stream, t_ns) for stream in self._states]
        if None in states:
            reasons.append("state_missing")
            if len(states) > 1:
                absent = [p for p, found in zip(self._decoder.pieces, states, strict=True) if found is None]
                self.counters.update(f"state.absent.{_called(piece)}" for piece in absent)
        instruction = self._instruction_at(received_ns)
        if instruction is None:
            reasons.append("no_instruction")
        images: dict[str, NDArray[np.uint8]] = {}
        depth: dict[str, NDArray[np.uint16]] = {}
        if not reasons:
            for name in self._depth_of_topic.values():
                try:
                    depth[name] = decode_depth(chosen[name][1])
                except ImageError as error:
                    self._refuse(f"{name}.{error.kind}", str(error))
                    reasons.append(f"{name}_{error.kind}")
            for spec in self.contract.cameras:
                try:
                    images[spec.name] = self._image(spec, chosen[spec.name][1])
                except ImageError as error:
                    self._refuse(f"{spec.name}.{error.kind}", str(error))
                    reasons.append(f"{spec.name}_{error.kind}")
        if reasons or instruction is None:
            self.counters["steps.dropped"] += 1
            for reason in reasons:
                self.counters[f"steps.dropped.{reason}"] += 1
            return None
        capture = {spec.name: chosen[spec.name][0] for spec in self.contract.cameras}
        return Observation(
            stamp_ns=t_ns,
            images=images,
            state=self._joined([found[1] for found in states if found is not None]),
            instruction=instruction,
            capture_ns={**capture, "state": min(found[0] for found in states if found is not None)},
            depth=depth,
        )

    def _joined(self, parts: list[NDArray[np.float64]]) -> NDArray[np.float32]:
        """(S,) of what every piece gives."""
        state = np.empty(self.contract.state_dim, np.float32)
        for places, values in zip(self._decoder.places, parts, strict=True):
            state[places] = values
        return state

    def _image(self, spec: CameraSpec, msg: Any) -> NDArray[np.uint8]:
        if isinstance(msg, np.ndarray):
            return msg
        image = decode_image(msg, spec.channel_order)
        if self._camera_of_topic.get(spec.observation_topic) is spec:  # already prepared by the camera node
            if image.shape[:2] != (spec.height, spec.width):
                raise ImageError("wrong_size", f"prepared image of {spec.name!r} has shape {image.shape}")
        else:
            image = prepare_image(image, spec)
        return np.array(image, np.uint8, order="C")  # owned: the message may be reused by its transport

    def _instruction_at(self, received_ns: int) -> str | None:
        """Newest instruction that arrived no later than the frame did."""
        for arrived_ns, text in reversed(self._instructions):
            if arrived_ns <= received_ns:
                return text
        return None


def _called(piece: Piece) -> str:
    return f"{piece.topic} ({', '.join(piece.names)})"


def _nearest(stream: _Stream, t_ns: int) -> tuple[int, Any] | None:
    """The sample nearest to ``t_ns`` within the tolerance; of two equally near ones the older."""
    best: tuple[int, Any] | None = None
    for sample in stream.samples:
        if best is None or abs(sample[0] - t_ns) < abs(best[0] - t_ns):
            best = sample
        if sample[0] >= t_ns:
            break
    return best if best is not None and abs(best[0] - t_ns) <= stream.tolerance_ns else None


def _newest_not_after(stream: _Stream, t_ns: int) -> tuple[int, Any] | None:
    """The newest sample stamped at or before ``t_ns`` and no older than the tolerance."""
    found: tuple[int, Any] | None = None
    for sample in stream.samples:
        if sample[0] > t_ns:
            break
        found = sample
    return found if found is not None and t_ns - found[0] <= stream.tolerance_ns else None
