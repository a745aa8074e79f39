"""What the nodes said is shown as long as they go on saying it."""

from __future__ import annotations

import pytest

from lavla_ros.console.heard import Heard, joints_of
from lavla_ros.contract import load_contract
from lavla_ros.episode import RECORDER, SIMULATOR, EpisodeError, EpisodePhase, EpisodeState, ExecutorReport

SECOND_NS = 10**9
NOW_NS = 10**18


def test_recorder_and_simulator_are_told_apart_and_what_is_no_state_changes_nothing() -> None:
    heard = Heard()
    assert heard.snapshot(NOW_NS).scene is None and not heard.snapshot(NOW_NS).episode.source
    heard.episode(EpisodeState(RECORDER, EpisodePhase.RUNNING).to_json())
    heard.episode(EpisodeState(SIMULATOR, EpisodePhase.FAILED).to_json())
    heard.executor(ExecutorReport(state="tracking", commander="person").to_json())
    heard.instruction("wipe")
    heard.speed_scale(0.2)
    for hear in (heard.episode, heard.executor):
        with pytest.raises(EpisodeError):
            hear("nonsense")
    seen = heard.snapshot(NOW_NS)
    assert seen.recording and seen.scene is not None and seen.scene.phase is EpisodePhase.FAILED
    assert (seen.executor.commander, seen.instruction, seen.speed_scale) == ("person", "wipe", 0.2)
    assert heard.executor_state == "tracking"


def test_a_problem_that_is_not_repeated_is_over() -> None:
    heard = Heard()
    heard.diagnostics("camera", {"decode_p50_ms": "1.2"}, ["warning: camera: late"], NOW_NS)
    heard.diagnostics("teleop", {"state": "level 2 | moving"}, [], NOW_NS + SECOND_NS)
    seen = heard.snapshot(NOW_NS + 2 * SECOND_NS)
    assert seen.problems == ("warning: camera: late",) and seen.steered == "level 2 | moving"
    assert seen.latencies_ms == {"decode": "1.2"}
    seen = heard.snapshot(NOW_NS + 3 * SECOND_NS)
    assert not seen.problems and seen.steered
    assert not heard.snapshot(NOW_NS + 4 * SECOND_NS).steered, "the node is gone: nothing here moves the arm"


def test_another_nodes_state_is_not_the_teleoperation_s() -> None:
    heard = Heard()
    heard.diagnostics("executor", {"state": "tracking"}, [], NOW_NS)
    assert not heard.snapshot(NOW_NS).steered


def test_joints_without_a_word_of_them_are_not_zero() -> None:
    contract = load_contract("jaka_minicobo")
    first, *others = joints_of(contract, {"joint_1": 0.5}, {})
    assert (first.name, first.measured, first.commanded) == ("joint_1", 0.5, None)
    assert all(joint.measured is None for joint in others) and len(others) == 6
