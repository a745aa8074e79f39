"""Alignment: what a step contains, what is counted, and that processing order cannot change it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic_messages import image, joints, small_contract, text

from lavla_ros.contract import Observation
from lavla_ros.observation import ObservationPipeline
from lavla_ros.observation.pipeline import Thinner
from lavla_ros.typing import NS_PER_S

MS = 1_000_000
T0 = 1_700_000_000 * NS_PER_S
FRONT, WRIST, STATE, TEXT = "/observation/front", "/observation/wrist", "/joint_states", "/instruction"
Event = tuple[int, str, Any]  # arrival, topic, message


def state(stamp: int, value: float = 0.0) -> Any:
    return joints(stamp, {"gripper": 0.5, "b": value + 1, "a": value})


def session(duration_ms: int = 1000, *, fps: int = 10, delay_ms: int = 3) -> list[Event]:
    """A clean session: two cameras at ``fps`` (wrist 4 ms later), states every 8 ms, one instruction."""
    events: list[Event] = [(T0 - 50 * MS, TEXT, text("put it there"))]
    for i in range(duration_ms * fps // 1000):
        t = T0 + i * NS_PER_S // fps
        events.append((t + delay_ms * MS, FRONT, image(t, i)))
        events.append((t + 4 * MS + delay_ms * MS, WRIST, image(t + 4 * MS, 100 + i)))
    for t in range(T0 - 16 * MS, T0 + duration_ms * MS, 8 * MS):
        events.append((t + MS, STATE, state(t, (t - T0) / NS_PER_S)))
    return sorted(events, key=lambda e: e[0])


def run(events: list[Event], *, flush: bool = True, **kwargs: Any) -> tuple[list[Observation], ObservationPipeline]:
    pipeline = ObservationPipeline(small_contract(), **kwargs)
    steps: list[Observation] = []
    for arrival, topic, msg in events:
        pipeline.add(topic, msg, arrival)
        steps += pipeline.pop()
    return (steps + pipeline.flush() if flush else steps), pipeline


def fingerprint(steps: list[Observation]) -> list[Any]:
    return [
        (
            s.stamp_ns,
            {n: i.tobytes() for n, i in s.images.items()},
            s.state.tobytes(),
            s.instruction,
            dict(s.capture_ns),
        )
        for s in steps
    ]


def test_a_clean_session_gives_every_step() -> None:
    steps, pipeline = run(session())
    assert [s.stamp_ns for s in steps] == [T0 + i * 100 * MS for i in range(10)]
    step = steps[3]
    assert step.images["front"][0, 0, 0] == 3 and step.images["wrist"][0, 0, 0] == 103
    assert step.state.dtype == np.float32
    # newest state not after the step: stamps run over T0 - 16 ms + k * 8 ms, so 296 ms for the step at 300
    np.testing.assert_allclose(step.state, [0.296, 1.296, 0.5], atol=1e-6)
    assert step.capture_ns == {"front": T0 + 300 * MS, "wrist": T0 + 304 * MS, "state": T0 + 296 * MS}
    assert step.instruction == "put it there"
    assert pipeline.counters["steps.emitted"] == 10 and pipeline.counters["steps.dropped"] == 0


def test_arrays_are_owned_copies() -> None:
    buffer = bytearray(16 * 16 * 3)
    msg = image(T0)
    msg.data = buffer
    pipeline = ObservationPipeline(small_contract(), instruction="x")
    pipeline.add(FRONT, msg, T0)
    pipeline.add(WRIST, image(T0), T0)
    pipeline.add(STATE, state(T0), T0)
    (step,) = pipeline.pop()
    buffer[:] = b"\xff" * len(buffer)
    assert step.images["front"].max() == 0
    assert step.images["front"].flags["OWNDATA"] and step.state.flags["OWNDATA"]


def test_steps_wait_only_as_long_as_something_better_can_come() -> None:
    pipeline = ObservationPipeline(small_contract(), instruction="x")
    pipeline.add(FRONT, image(T0), T0)
    pipeline.add(WRIST, image(T0 + MS), T0)
    pipeline.add(STATE, state(T0 - 2 * MS), T0)
    assert pipeline.pop() == [] and pipeline.pending == 1  # a state at exactly T0 may still come
    pipeline.add(STATE, state(T0 + 6 * MS), T0)
    (step,) = pipeline.pop()
    assert step.capture_ns["state"] == T0 - 2 * MS


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), jitter_ms=st.sampled_from([0, 5, 60, 300]), fps=st.sampled_from([10, 30]))
def test_live_and_bag_order_give_identical_observations(seed: int, jitter_ms: int, fps: int) -> None:
    """The parity test's offline half: streams interleave differently, each one keeps its own order."""
    rng = random.Random(seed)
    events = session(1500, fps=fps)
    # spoil some of them: losses, repeats and swaps within a stream are part of the recording
    spoiled: list[Event] = []
    for event in events:
        roll = rng.random()
        if event[1] == TEXT or roll > 0.06:
            spoiled.append(event)
        elif roll > 0.03:
            spoiled += [event, event]
    spoiled.insert(len(spoiled) // 2, (spoiled[len(spoiled) // 2][0], TEXT, text("now the other one")))
    offset = {topic: rng.uniform(0, jitter_ms) for topic in (FRONT, WRIST, STATE)}

    def live_order() -> list[Event]:
        clocks: dict[str, float] = {}
        keyed = []
        for arrival, topic, msg in spoiled:
            delay = 0.0 if topic == TEXT else offset[topic] + rng.uniform(0, jitter_ms)
            clocks[topic] = max(clocks.get(topic, 0.0), arrival + delay * MS)  # a stream stays in order
            keyed.append((clocks[topic], arrival, topic, msg))
        return [(a, topic, msg) for _, a, topic, msg in sorted(keyed, key=lambda e: e[0])]

    bag, bag_pipeline = run(spoiled)
    live, live_pipeline = run(live_order())
    assert len(bag) >= 5
    assert fingerprint(bag) == fingerprint(live)
    assert bag_pipeline.counters == live_pipeline.counters


def test_a_missing_stream_drops_steps_and_says_which() -> None:
    steps, pipeline = run([e for e in session() if e[1] != WRIST])
    assert steps == []
    assert pipeline.counters["steps.dropped"] == 10 == pipeline.counters["steps.dropped.wrist_missing"]
    steps, pipeline = run([e for e in session() if e[1] != STATE])
    assert steps == [] and pipeline.counters["steps.dropped.state_missing"] == 10
    steps, pipeline = run([e for e in session() if e[1] != TEXT])
    assert steps == [] and pipeline.counters["steps.dropped.no_instruction"] == 10
    steps, _ = run([e for e in session() if e[1] != TEXT], instruction="given")
    assert [s.instruction for s in steps] == ["given"] * 10


def test_a_silent_stream_delays_steps_by_a_bounded_time_only() -> None:
    events = [e for e in session(5000) if not (e[1] == WRIST and e[0] > T0 + 1000 * MS)]
    steps, pipeline = run(events, flush=False)
    assert len(steps) == 10
    assert pipeline.pending <= 11
    assert pipeline.counters["steps.dropped.wrist_missing"] >= 29


def test_a_stream_that_comes_back_late_is_counted() -> None:
    events = [e for e in session(3000) if e[1] != WRIST]
    pipeline = ObservationPipeline(small_contract())
    for arrival, topic, msg in events:
        pipeline.add(topic, msg, arrival)
        pipeline.pop()
    pipeline.add(WRIST, image(T0), T0 + 3000 * MS)
    assert pipeline.counters["wrist.late"] == 1


def test_tolerances_hold() -> None:
    base = [(T0, FRONT, image(T0)), (T0, STATE, state(T0)), (T0, STATE, state(T0 + MS))]
    for offset_ms, expected in ((50, 1), (51, 0), (-50, 1), (-51, 0)):
        steps, _ = run([*base, (T0, WRIST, image(T0 + offset_ms * MS))], instruction="x")
        assert len(steps) == expected, offset_ms
    cameras = [(T0, FRONT, image(T0)), (T0, WRIST, image(T0))]
    for age_ms, expected in ((0, 1), (50, 1), (51, 0), (-1, 0)):  # a state after the step is never used
        steps, _ = run([*cameras, (T0, STATE, state(T0 - age_ms * MS))], instruction="x")
        assert len(steps) == expected, age_ms


def test_of_two_frames_the_nearer_one_is_taken() -> None:
    events: list[Event] = [
        (T0, WRIST, image(T0 - 20 * MS, 1)),
        (T0, FRONT, image(T0)),
        (T0, STATE, state(T0)),
        (T0, WRIST, image(T0 + 13 * MS, 2)),
        (T0, WRIST, image(T0 + 14 * MS, 3)),
    ]
    steps, _ = run(events, instruction="x")
    assert steps[0].images["wrist"][0, 0, 0] == 2


@pytest.mark.parametrize(
    ("topic", "msg", "counter"),
    [
        (FRONT, image(T0, size=15), "front.wrong_size"),
        (FRONT, image(T0, encoding="bgr8"), "front.wrong_encoding"),
        (WRIST, image(T0, size=15), "wrist.wrong_size"),
        (STATE, joints(T0, {"a": 1.0, "b": float("nan"), "gripper": 0.0}), "state.non_finite"),
        (STATE, joints(T0, {"a": 1.0, "elbow": 0.0, "gripper": 0.0}), "state.missing_name"),
        (STATE, joints(T0, {"a": 1.0, "b": 2.0, "gripper": 0.0, "elbow": 9.0}), "state.unknown_name"),
    ],
)
def test_bad_messages_are_counted_by_name(topic: str, msg: Any, counter: str) -> None:
    pipeline = ObservationPipeline(small_contract(), instruction="x")
    pipeline.add(topic, msg, T0)
    assert pipeline.counters[counter] == 1
    assert pipeline.flush() == []


def test_wrong_lengths_and_repeated_names_are_counted() -> None:
    pipeline = ObservationPipeline(small_contract())
    short = joints(T0, {"a": 1.0, "b": 2.0, "gripper": 0.0})
    short.position = [1.0, 2.0]
    twice = joints(T0, {"a": 1.0, "b": 2.0, "gripper": 0.0})
    twice.name, twice.position = ["a", "b", "gripper", "a"], [1.0, 2.0, 0.0, 5.0]
    pipeline.add(STATE, short, T0)
    pipeline.add(STATE, twice, T0)
    assert pipeline.counters["state.wrong_size"] == 1 == pipeline.counters["state.duplicate_name"]


def test_duplicates_and_disorder_are_counted_and_ignored() -> None:
    clean, _ = run(session())
    events = session()
    events.insert(20, events[19])
    old = [(events[40][0], FRONT, image(T0 + 10 * MS, 250)), (events[40][0], STATE, state(T0, 99.0))]
    spoiled, pipeline = run(events[:40] + old + events[40:])
    assert fingerprint(spoiled) == fingerprint(clean)
    assert pipeline.counters["front.out_of_order"] == 1 == pipeline.counters["state.out_of_order"]
    assert sum(pipeline.counters[f"{n}.duplicate"] for n in ("front", "wrist", "state")) == 1


def test_a_clock_that_jumps_back_starts_over_and_is_counted() -> None:
    shift = 3600 * NS_PER_S
    later = [(a + shift, t, m) for a, t, m in session()]
    for _, topic, msg in later:
        if topic != TEXT:
            msg.header.stamp.sec += 3600
    steps, pipeline = run(later + session(2000))
    assert pipeline.counters["clock_jumps"] >= 1
    assert [s.stamp_ns for s in steps][-15:] == [T0 + i * 100 * MS for i in range(5, 20)]
    assert pipeline.counters["instruction.clock_jumps"] == 1


def test_raw_topics_are_prepared_and_unknown_ones_refused() -> None:
    pipeline = ObservationPipeline(
        small_contract(), instruction="x", camera_topics={"front": "/camera/front/image_raw"}
    )
    pipeline.add("/camera/front/image_raw", image(T0, 9, size=64, encoding="bgr8"), T0)
    pipeline.add(WRIST, image(T0), T0)
    pipeline.add(STATE, state(T0), T0)
    (step,) = pipeline.pop()
    assert step.images["front"].shape == (16, 16, 3) and step.images["front"][3, 3, 0] == 9
    with pytest.raises(ValueError, match="/observation/front"):
        pipeline.add(FRONT, image(T0), T0)
    with pytest.raises(ValueError, match="top"):
        ObservationPipeline(small_contract(), camera_topics={"top": "/x"})


def test_memory_is_bounded_when_nobody_collects() -> None:
    pipeline = ObservationPipeline(small_contract(), instruction="x")
    for i in range(2000):
        t = T0 + i * 100 * MS
        pipeline.add(FRONT, image(t), t)
    assert pipeline.pending <= 512 and pipeline.counters["steps.dropped.overflow"] == 2000 - 512
    pipeline = ObservationPipeline(small_contract(), instruction="x")
    for i in range(20_000):
        pipeline.add(STATE, state(T0 + i * 8 * MS), T0)
    assert len(pipeline._states[0].samples) < 200


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), phase=st.floats(0, 1))
def test_thinning_a_30_hz_camera_takes_every_third_frame(seed: int, phase: float) -> None:
    """Jitter within ±5 ms (a third of half the period) neither skips nor doubles."""
    rng = random.Random(seed)
    stamps = [round((i + phase) * NS_PER_S / 30 + rng.uniform(-5, 5) * MS) for i in range(300)]
    thinner = Thinner(100 * MS)
    taken = [i for i, stamp in enumerate(stamps) if thinner.accept(stamp)]
    assert set(np.diff(taken)) == {3}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), fps=st.sampled_from([9.8, 10.0, 10.2]))
def test_a_camera_at_the_contract_rate_keeps_every_frame(seed: int, fps: float) -> None:
    rng = random.Random(seed)
    stamps = [round(i * NS_PER_S / fps + rng.uniform(-12, 12) * MS) for i in range(300)]
    thinner = Thinner(100 * MS)
    assert all(thinner.accept(stamp) for stamp in stamps)


@pytest.mark.parametrize(("rate_hz", "fps"), [(12.5, 30.0), (12.45, 30.0), (25.0, 30.0), (7.3, 29.97)])
def test_no_step_of_an_hour_is_more_than_half_a_period_from_its_time(rate_hz: float, fps: float) -> None:
    thinner = Thinner(round(NS_PER_S / rate_hz))
    stamps = np.round((np.arange(int(3600 * fps)) + 0.3) * (NS_PER_S / fps)).astype(np.int64).tolist()
    taken = np.array([stamp for stamp in stamps if thinner.accept(stamp)])
    off_s = (taken - taken[0]) / NS_PER_S - np.arange(len(taken)) / rate_hz
    assert np.abs(off_s).max() <= 0.55 / fps + 1e-4 < 0.6 / rate_hz
    assert abs(len(taken) - 3600 * rate_hz) <= 2


@settings(max_examples=30, deadline=None)
@given(rate_hz=st.floats(2.0, 60.0), fps=st.floats(5.0, 120.0), seed=st.integers(0, 2**32 - 1))
def test_steps_keep_the_contracts_rate_whatever_the_cameras(rate_hz: float, fps: float, seed: int) -> None:
    """But for ratios so near to a whole one that the camera's clock counts. Stamps jitter by a tenth of a period."""
    frames = fps / rate_hz
    assume(frames > 1.25 and abs(frames - round(frames)) > 0.1)
    rng = random.Random(seed)
    stamps = [round((i + rng.uniform(-0.1, 0.1)) * NS_PER_S / fps) for i in range(1500)]
    thinner = Thinner(round(NS_PER_S / rate_hz))
    taken = np.array([stamp for stamp in stamps if thinner.accept(stamp)])
    off_s = (taken - taken[0]) / NS_PER_S - np.arange(len(taken)) / rate_hz
    assert np.abs(off_s).max() <= 1.0 / fps


def test_thinning_recovers_after_lost_frames() -> None:
    thinner = Thinner(100 * MS)
    frames = [i for i in range(60) if not 20 <= i < 31]
    taken = [i for i in frames if thinner.accept(round(i * NS_PER_S / 30))]
    assert taken == [0, 3, 6, 9, 12, 15, 18, 31, 34, 37, 40, 43, 46, 49, 52, 55, 58]


def test_frames_that_wait_long_are_kept_at_the_size_of_the_contract() -> None:
    """A state that begins late holds steps back; raw frames of a large camera must not pile up until then."""
    raw = {"front": "/camera/front/image_raw", "wrist": "/camera/wrist/image_raw"}
    late_ms = 3000
    events: list[Event] = [(T0 - 1, TEXT, text("go"))]
    for i in range(120):
        t = T0 + i * NS_PER_S // 30
        events += [(t + k * MS, topic, image(t + k * MS, i, size=160)) for k, topic in enumerate(raw.values())]
    in_time = [(t + 2 * MS, STATE, state(t)) for t in range(T0 - 16 * MS, T0 + 4 * NS_PER_S, 8 * MS)]
    late = [(max(arrival, T0 + late_ms * MS), topic, msg) for arrival, topic, msg in in_time]
    frame_bytes = 160 * 160 * 3

    def aligned(states: list[Event]) -> tuple[list[Observation], int]:
        pipeline = ObservationPipeline(small_contract(), camera_topics=raw, wait_s=5.0)
        steps, most = [], 0
        for arrival, topic, msg in sorted([*events, *states], key=lambda e: e[0]):
            pipeline.add(topic, msg, arrival)
            steps += pipeline.pop()
            held = [frame for _, frame, _ in pipeline._pending]
            held += [frame for stream in pipeline._cameras.values() for _, frame in stream.samples]
            most = max(most, sum(f.nbytes if isinstance(f, np.ndarray) else len(f.data) for f in held))
        return steps + pipeline.flush(), most

    (plain, _), (delayed, most) = aligned(in_time), aligned(late)
    assert len(plain) == 40 and fingerprint(plain) == fingerprint(delayed)
    assert most < 20 * frame_bytes  # 30 waiting steps and 90 frames of the other camera would be 120


def test_the_first_refusal_of_each_kind_is_told_in_words() -> None:
    pipeline = ObservationPipeline(small_contract())
    for stamp in (T0, T0 + 1):
        pipeline.add(FRONT, image(stamp, encoding="bgr8"), stamp)
        pipeline.add(STATE, joints(stamp, {"left_a": 1.0}), stamp)
    assert "'bgr8'; expected 'rgb8'" in pipeline.examples["front.wrong_encoding"]
    assert "['left_a']" in pipeline.examples["state.missing_name"]
    assert "['a', 'b', 'gripper']" in pipeline.examples["state.missing_name"]


def test_streams_of_the_log_clock_are_stamped_when_they_arrive() -> None:
    unstamped = [
        (a, topic, image(0, a % 250) if topic in (FRONT, WRIST) else msg) for a, topic, msg in session(delay_ms=0)
    ]
    steps, pipeline = run(unstamped, log_clock=("front", "wrist"))
    assert len(steps) == 10 and pipeline.counters["front.duplicate"] == 0
    assert [s.stamp_ns for s in steps] == [T0 + i * 100 * MS for i in range(10)]
