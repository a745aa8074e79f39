"""What travels as JSON about an episode and about the arm."""

from __future__ import annotations

import pytest

from lavla_ros.episode import EpisodeError, EpisodePhase, EpisodeState, ExecutorReport, recorded_outcome


def test_a_state_survives_its_json() -> None:
    state = EpisodeState("simulator", EpisodePhase.FAILED, {"seed": 3, "reason": "too slow", "episode": 1})
    assert EpisodeState.from_json(state.to_json()) == state
    assert state.to_dict()["state"] == "failed" and state.scene == {"seed": 3}
    report = ExecutorReport(state="fault", fault="limits", waiting_for="a person", since_ns=5)
    assert ExecutorReport.from_json(report.to_json()) == report


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"state": "running"}', '{"source": "sim"}'])
def test_what_is_no_state_is_quoted(text: str) -> None:
    with pytest.raises(EpisodeError) as refused:
        EpisodeState.from_json(text)
    assert repr(text) in str(refused.value)


def test_another_systems_word_is_not_an_outcome() -> None:
    other = EpisodeState.from_json('{"source": "cell", "state": "paused"}')
    assert other.phase is EpisodePhase.OTHER and not (other.phase.final or other.phase.broken_off)
    assert EpisodeState.from_json('{"state": "running"}', source="").source == ""
    with pytest.raises(EpisodeError, match="executor"):
        ExecutorReport.from_json('{"fault": "x"}')


def test_a_persons_mark_counts_before_the_simulators_word() -> None:
    won, running = (EpisodeState("tabletop", phase) for phase in (EpisodePhase.SUCCEEDED, EpisodePhase.RUNNING))
    assert recorded_outcome(False, won) is EpisodePhase.FAILED
    assert recorded_outcome(True, None) is EpisodePhase.SUCCEEDED
    assert recorded_outcome(None, won) is EpisodePhase.SUCCEEDED
    assert recorded_outcome(None, running) is recorded_outcome(None, None) is EpisodePhase.UNMARKED
