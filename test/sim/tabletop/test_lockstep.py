"""The lock-step session: exact steps, the executor's ticks, observations, bitwise repetition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig, ExecutorState
from sim_bridges.worlds.tabletop.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.worlds.tabletop.lockstep import LockstepSession
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.suite import TabletopSuite

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def session() -> LockstepSession:
    return new_session()


def new_session() -> LockstepSession:
    return TabletopSuite().environment("pick_place", images=False).session


def ramp_chunk(session: LockstepSession, reach_rad: float = 0.1, horizon: int = 20) -> ActionChunk:
    """All joints move evenly and gently."""
    names = session.contract.action.names
    start = session.sim.joint_target_rad
    rows = np.array([np.append(start + reach_rad * (h + 1) / horizon, 1.0) for h in range(horizon)])
    return ActionChunk(stamp_ns=session.time_ns, dt_ns=session.contract.dt_ns, actions_HA=rows, names=names)


def test_a_step_is_exactly_one_contract_step(session: LockstepSession) -> None:
    session.reset(0)
    for k in range(1, 6):
        session.step(None)
        assert session.time_ns == k * 100_000_000
    assert session.executor.state is ExecutorState.HOLDING


def test_the_executor_ticks_every_8_ms_of_simulated_time(session: LockstepSession) -> None:
    session.reset(0)
    stamps = []
    tick = session.executor.tick

    def spy(now_ns, state):  # type: ignore[no-untyped-def]
        stamps.append(now_ns)
        return tick(now_ns, state)

    session.executor.tick = spy  # type: ignore[method-assign]
    for _ in range(4):
        session.step(None)
    assert stamps == list(range(0, 400_000_000, 8_000_000))


def test_a_chunk_is_carried_out(session: LockstepSession) -> None:
    session.reset(0)
    start = session.sim.joint_position_rad
    result = session.step(ramp_chunk(session))
    assert result is not None
    assert result.accepted
    for _ in range(24):
        session.step(None)
    np.testing.assert_allclose(session.sim.joint_position_rad, start + 0.1, atol=2e-3)
    assert session.executor.state is ExecutorState.HOLDING  # the chunk has run out: at rest


def test_a_rejected_chunk_is_reported(session: LockstepSession) -> None:
    session.reset(0)
    chunk = ramp_chunk(session)
    assert session.step(chunk).accepted  # type: ignore[union-attr]
    again = session.step(chunk)
    assert again is not None
    assert not again.accepted
    assert "not newer" in again.reason


def test_a_disturbance_moves_the_arm_but_not_the_chunk(session: LockstepSession) -> None:
    config = DisturbanceConfig(start_probability=1.0, steps=(1, 1), std=(0.02, 0.0, 0.0, 0.0, 0.0, 0.0))
    ends, pushes = [], []
    for source in (None, DisturbanceSource(config, 0)):
        session.reset(0)
        chunk = ramp_chunk(session)
        before = chunk.actions_HA.copy()
        executed = chunk if source is None else source.apply(chunk)
        session.step(executed)
        for _ in range(4):
            session.step(None)
        assert np.array_equal(chunk.actions_HA, before)
        ends.append(session.sim.joint_position_rad)
        pushes.append((executed.actions_HA - before)[0, 0])
    assert abs(pushes[1]) > 0.002
    assert (ends[1] - ends[0])[0] == pytest.approx(pushes[1], abs=2e-3)


def test_equal_chunks_give_equal_episodes_bit_for_bit(session: LockstepSession) -> None:
    def run(target: LockstepSession) -> np.ndarray:
        target.reset(11)
        for k in range(12):
            target.step(ramp_chunk(target, 0.05) if k % 3 == 0 else None)
        return target.sim.snapshot()

    first = run(session)
    assert np.array_equal(run(session), first)
    assert np.array_equal(run(new_session()), first)


def test_observation(session: LockstepSession, contract: Contract) -> None:
    session.reset(2)
    session.step(None)
    observation = session.observe(render=False)
    assert observation.stamp_ns == 100_000_000
    assert observation.images == {}
    assert observation.instruction == "pick up the mango and place it in the bowl"
    assert observation.state.dtype == np.float32
    state = session.joint_state()
    assert list(state) == list(contract.state.names)
    np.testing.assert_allclose(observation.state, list(state.values()), rtol=1e-6)
    with pytest.raises(RuntimeError, match="renderer"):
        session.observe(render=True)


def test_contracts_that_do_not_fit_are_refused(pick_sim: TabletopSim, contract: Contract) -> None:
    config = ExecutorConfig.from_contract(contract)
    odd = replace(contract, rate_hz=30.0)
    with pytest.raises(ValueError, match="multiple"):
        LockstepSession(pick_sim, ChunkExecutor(odd, config), odd, None)
    fewer = replace(contract, state=replace(contract.state, fields=contract.state.fields[:6]))
    with pytest.raises(ValueError, match="state"):
        LockstepSession(pick_sim, ChunkExecutor(fewer, config), fewer, None)
    slow = replace(config, tick_ns=4_000_000)
    with pytest.raises(ValueError, match="tick"):
        LockstepSession(pick_sim, ChunkExecutor(contract, slow), contract, None)


def test_the_state_knows_no_more_of_the_gripper_than_the_arm_reports(session: LockstepSession) -> None:
    """A controller reports its tool output, not an opening: a policy that saw more here would fail on the arm."""
    session.reset(0)
    target = session.sim.joint_target_rad
    rows = np.tile(np.append(target, 0.0), (20, 1))  # close, far from any object's width
    chunk = ActionChunk(stamp_ns=0, dt_ns=session.contract.dt_ns, actions_HA=rows, names=session.contract.action.names)
    session.step(chunk)
    assert 0.02 < session.sim.gripper_opening < 0.98, "the fingers are still moving"
    assert session.joint_state()["gripper"] == session.arm_state().gripper == 0.0
    assert session.observe(render=False).state[session.contract.state.names.index("gripper")] == 0.0
