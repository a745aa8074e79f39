"""Whatever comes in, no commanded tick exceeds a limit, and the same calls give the same commands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from arms import CONTRACT, HOME, MS, arm, assert_within_limits, cramped, restarts_of, variant
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.arm import ArmState
from lavla_ros.control.clearance import Clearance
from lavla_ros.control.executor import ChunkExecutor, Command, ExecutorConfig, ExecutorError, ExecutorState
from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.jaka.arm import MINICOBO

forward = MINICOBO.kinematics.forward

MALFORMED = ("nan", "dims", "names", "rate")
REFUSED = (*MALFORMED, "out_of_range", "future", "huge")
TAME = ("smooth", "noisy", "edge", "far", "duplicate", "none")


@dataclass(frozen=True)
class Event:
    """One turn of the loop: let ``ticks`` pass, the first with an irregular gap, then maybe do something."""

    ticks: int
    gap_ms: int
    kind: str
    age_steps: float
    seed: int
    amplitude: float
    horizon: int
    state: str
    call: str


EVENTS = st.builds(
    Event,
    ticks=st.integers(1, 30),
    gap_ms=st.sampled_from([8] * 10 + [9, 5, 12, 0, 17, 40, 150]),
    kind=st.sampled_from([*TAME * 4, "smooth", "smooth", *REFUSED]),
    age_steps=st.sampled_from([0.0, 0.0, 0.3, 0.7, 1.0, 2.5, 8.0, 19.5, 25.0]),
    seed=st.integers(0, 2**16),
    amplitude=st.floats(0.0, 1.0),
    horizon=st.sampled_from([1, 2, 5, 20, 20, 20]),
    state=st.sampled_from(
        ["follows"] * 60 + ["lags"] * 8 + ["nan", "stale", "stuck", "disabled", "fault", "dims", "no_servo", "ahead"]
    ),
    call=st.sampled_from([""] * 16 + ["hold", "fault"] + ["acknowledge", "resume"] * 5),
)
START = st.sampled_from([HOME, [6.2, 2.0, -2.1, -6.2, -2.05, 0.0], [6.28, 2.09, 2.18, 0.0, 0.0, 0.0]])


def make_chunk(event: Event, contract: Contract, now_ns: int, command: np.ndarray) -> ActionChunk:
    random = np.random.default_rng(event.seed)
    steps = np.arange(1, event.horizon + 1)[:, None] * 0.1
    phase, rate = random.uniform(0, 6.28, 6), random.uniform(0.2, 4.0, 6)
    offsets = event.amplitude * 0.4 * (np.sin(phase + rate * steps) - np.sin(phase))
    if event.kind == "noisy":
        offsets = offsets + random.normal(0, 0.1 * event.amplitude, offsets.shape)
    if event.kind == "far":
        offsets = offsets + random.uniform(-0.6, 0.6, 6)
    if event.kind == "huge":
        offsets = offsets + random.choice([-2.0, 2.0], offsets.shape)
    low, high = (np.array([getattr(d, k) for d in contract.action.dims[:6]]) for k in ("low", "high"))
    if contract.action.space == "end_effector":
        offsets = 0.1 * offsets if event.kind != "huge" else offsets
        pose = forward(command)
        command = np.concatenate((pose[:3, 3], rotation_vector(pose[:3, :3])))
    points = command + offsets if contract.action.mode == "absolute" else offsets
    if event.kind == "edge" and contract.action.space == "joint":
        points = np.where(random.random(6) < 0.5, high, points)
    if event.kind == "out_of_range":
        points = points + 14.0
    elif event.kind != "huge" or contract.action.mode == "absolute":
        points = np.clip(points, low - 0.01, high + 0.01)
    actions = np.hstack((points, random.random((event.horizon, 1))))
    names, dt_ns = contract.action.names, contract.dt_ns
    if event.kind == "nan":
        actions[random.integers(event.horizon), random.integers(7)] = random.choice([np.nan, np.inf])
    if event.kind == "dims":
        actions = actions[:, :5]
    if event.kind == "names":
        names = ("joint_7", *names[1:])
    if event.kind == "rate":
        dt_ns *= 2
    age_ns = -500 * MS if event.kind == "future" else round(event.age_steps * contract.dt_ns)
    return ActionChunk(stamp_ns=now_ns - age_ns, dt_ns=dt_ns, actions_HA=actions, names=names)


def make_state(kind: str, now_ns: int, history: list[np.ndarray], start: list[float]) -> ArmState:
    position = {"lags": history[max(0, len(history) - 10)], "nan": [np.nan] * 6, "stuck": start, "dims": [0.0] * 5}
    offset_ms = {"stale": -700, "ahead": 400}.get(kind, 0)
    return arm(
        now_ns + offset_ms * MS,
        position.get(kind, history[-1]),
        enabled=kind != "disabled",
        servo_mode=kind != "no_servo",
        fault="protective stop" if kind == "fault" else None,
    )


def run(
    events: list[Event],
    start: list[float],
    config: ExecutorConfig,
    contract: Contract,
    clearance: Clearance | None = None,
) -> list[Command]:
    executor = ChunkExecutor(contract, config, clearance)
    now_ns, chunk = 10**15, None
    executor.activate(arm(now_ns, start), now_ns)
    commands: list[Command] = []
    history = [np.array(start)]
    for event in events:
        for i in range(event.ticks):
            before = executor.state
            command = executor.tick(now_ns, make_state(event.state, now_ns, history, start))
            assert not (before is ExecutorState.FAULT and command.state is not ExecutorState.FAULT), "fault not latched"
            assert (command.fault is not None) == (command.state is ExecutorState.FAULT)
            assert (command.chunk_stamp_ns is not None) == (command.state is ExecutorState.TRACKING)
            assert command.gripper in (0.0, 1.0)
            commands.append(command)
            history.append(command.position_rad)
            now_ns += event.gap_ms * MS if i == 0 else 8 * MS
        if event.kind != "none":
            if event.kind != "duplicate" or chunk is None:
                chunk = make_chunk(event, contract, now_ns, history[-1])
            before = executor.state
            result = executor.submit(chunk, now_ns)
            assert result.reason
            must_refuse = MALFORMED if contract.action.space == "end_effector" else REFUSED
            assert not (event.kind in must_refuse and result.accepted)
            if before is ExecutorState.FAULT:
                assert not result.accepted and executor.state is ExecutorState.FAULT
        if event.call == "hold":
            executor.hold("asked to")
        if event.call == "fault":
            executor.fault("asked to")
        if event.call == "acknowledge":
            executor.acknowledge(now_ns)
        if event.call == "resume":
            before = executor.held
            try:
                executor.resume(now_ns)
            except ExecutorError as error:
                assert str(error) and executor.held == before
    return commands


def assert_all_within_limits(start, commands, config, scale=1.0):
    positions = np.vstack(([start], [c.position_rad for c in commands]))
    assert_within_limits(positions, config, scale, restarts_of(commands, config))


BOUNDED = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    # Shrinking a failure of this size takes minutes; what fails is printed as it is.
    phases=(Phase.explicit, Phase.generate),
)
SEQUENCES = st.lists(EVENTS, min_size=3, max_size=20)


@BOUNDED
@given(
    events=SEQUENCES,
    start=START,
    blend=st.sampled_from(["latest", "temporal_ensemble", "soft_mask"]),
    scale=st.sampled_from([1.0, 1.0, 0.1]),
)
def test_no_limit_is_exceeded_on_any_tick(events, start, blend, scale):
    config = ExecutorConfig.from_contract(CONTRACT, blend=blend, speed_scale=scale)
    commands = run(events, start, config, CONTRACT)
    assert_all_within_limits(start, commands, config, scale)


@settings(BOUNDED, max_examples=40)
@given(events=SEQUENCES, start=START)
def test_no_limit_is_exceeded_by_delta_chunks(events, start):
    contract = variant("joint", "delta")
    config = ExecutorConfig.from_contract(contract)
    commands = run(events, start, config, contract)
    assert_all_within_limits(start, commands, config)


@settings(BOUNDED, max_examples=10)
@given(events=st.lists(EVENTS, min_size=3, max_size=8), mode=st.sampled_from(["absolute", "delta"]))
def test_no_limit_is_exceeded_by_end_effector_chunks(events, mode):
    contract = variant("end_effector", mode)
    config = ExecutorConfig.from_contract(contract)
    commands = run(events, HOME, config, contract)
    assert_all_within_limits(HOME, commands, config)


@settings(BOUNDED, max_examples=25)
@given(
    events=SEQUENCES,
    start=st.sampled_from([HOME, HOME, [0.0, -0.2, 2.0, 0.0, 0.0, 0.0]]),
    contract=st.sampled_from([CONTRACT, CONTRACT, variant("joint", "delta")]),
    scale=st.sampled_from([1.0, 1.0, 0.25]),
)
def test_nothing_comes_closer_than_its_margin(events, start, contract, scale):
    """Whatever comes in, and also from a start within margins, where pairs may only come apart."""
    config = ExecutorConfig.from_contract(contract, speed_scale=scale)
    commands = run(events, start, config, contract, cramped())
    assert_all_within_limits(start, commands, config, scale)
    looked = cramped()
    floors_P = np.minimum(looked.slacks(start), 0.0)
    for command in commands:
        slacks_P = looked.slacks(command.position_rad)
        assert (slacks_P >= floors_P - 1e-5).all(), looked.told(int(np.argmin(slacks_P)), float(slacks_P.min()))
        floors_P = np.minimum(slacks_P, 0.0)


@settings(BOUNDED, max_examples=15)
@given(events=SEQUENCES, start=START)
def test_same_calls_give_bitwise_the_same_commands(events, start):
    config = ExecutorConfig.from_contract(CONTRACT, blend="temporal_ensemble")
    first, second = (run(events, start, config, CONTRACT) for _ in range(2))
    assert [c.position_rad.tobytes() for c in first] == [c.position_rad.tobytes() for c in second]
    assert [(c.stamp_ns, c.gripper, c.state, c.fault, c.chunk_stamp_ns) for c in first] == [
        (c.stamp_ns, c.gripper, c.state, c.fault, c.chunk_stamp_ns) for c in second
    ]
