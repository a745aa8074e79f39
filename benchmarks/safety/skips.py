"""The executor alone, ticked by hand, with cycles left out: the arm stands at its last command meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.safety.motion import largest
from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.control.arm import ArmState
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.typing import FloatArray
from sim_bridges.jaka_controller.filter import FilterLimits, NonlinearFilter

TICK_NS = 8_000_000
STEP_NS = 100_000_000
GAPS = (1, 2, 3, 6, 12, 50, 250)
_GO, _ON = 98, 150
"""Cycles before and after the gap."""


def run() -> list[dict[str, Any]]:
    """One row per number of cycles left out, while following a chunk and while ramping down in a fault; each without
    and with the controller's filter."""
    return [_row(gap, faulted, filtered) for faulted in (False, True) for gap in GAPS for filtered in (False, True)]


def _row(gap: int, faulted: bool, filtered: bool) -> dict[str, Any]:
    track, executor = _track(gap, faulted)
    if filtered:
        limits = JakaDriverConfig(host="127.0.0.1").filter_limits(MINICOBO.limits)
        assert limits is not None
        nlf = NonlinearFilter(FilterLimits(*limits))
        track = np.array([nlf.follow(q) for q in track])
    figures = largest(np.arange(len(track)), track)
    where = "in a fault" if faulted else "tracking"
    return {
        "scenario": f"{gap} cycles skipped, {where}{', filtered' if filtered else ''}",
        **figures,
        "state": executor.state.name,
        "said": executor.fault_reason or executor.hold_reason,
    }


def _track(gap: int, faulted: bool) -> tuple[FloatArray, ChunkExecutor]:
    """Where a kinematic arm is in every cycle, (N, 6), rad."""
    contract = load_contract("jaka_minicobo")
    executor = ChunkExecutor(contract, ExecutorConfig.from_contract(contract))
    position, now_ns = np.zeros(6), 10**18
    executor.activate(_state(position, now_ns), now_ns)
    track = [position] * 3
    for i in range(_GO + _ON):
        if i == _GO:
            if faulted:
                executor.fault("by the campaign")
                for _ in range(6):  # in the middle of the ramp
                    position = executor.tick(now_ns, _state(position, now_ns)).position_rad
                    track.append(position)
                    now_ns += TICK_NS
            now_ns += gap * TICK_NS
            track += [position] * gap
        if i % 12 == 0:
            executor.submit(_chunk(contract.action.names, now_ns), now_ns)
        position = executor.tick(now_ns, _state(position, now_ns)).position_rad
        track.append(position)
        now_ns += TICK_NS
    return np.array(track), executor


def _chunk(names: tuple[str, ...], now_ns: int) -> ActionChunk:
    elapsed_s = (now_ns - 10**18) * 1e-9 + 0.1 * np.arange(1, 21)
    actions = np.zeros((20, len(names)))
    # Joint 1 sways and is at 1.4 rad/s when the gap begins.
    actions[:, 0] = 0.7 * (1 - np.cos(2.0 * elapsed_s))
    actions[:, -1] = 1.0
    return ActionChunk(stamp_ns=now_ns, dt_ns=STEP_NS, actions_HA=actions, names=names)


def _state(position: FloatArray, now_ns: int) -> ArmState:
    return ArmState(stamp_ns=now_ns, position_rad=position, gripper=1.0, enabled=True, servo_mode=True, fault=None)
