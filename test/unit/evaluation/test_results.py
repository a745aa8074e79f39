"""results.json: what counts, what is written, and what is refused when it is read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import results

from sim_bridges.evaluation.results import Results, ResultsError, same_episodes
from sim_bridges.files import write_json


def test_an_episode_in_error_is_no_failure() -> None:
    some = results([True, None, True])
    assert some.tally.rate == 1.0 and some.tally.wilson95 is not None
    assert "2/2 succeeded" in some.summary() and "1 in error" in some.summary()
    none = results([None])
    assert none.tally.rate is None and "no episode was scored" in none.summary()


def test_written_and_read_again(tmp_path: Path) -> None:
    before = results([True, False, None])
    write_json(tmp_path / "deep" / "results.json", before.to_dict())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["results.json"]
    data = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert (data["schema"], data["errors"], data["success_rate"]) == (2, 1, 0.5)
    after = Results.read(tmp_path / "deep")
    assert after == before and after.fingerprint == data["fingerprint"]


def test_wall_times_do_not_change_the_fingerprint() -> None:
    before = results([True, False])
    slower = tuple(replace(e, wall_s=9.0, latency_ms={"p50": 99.0}) for e in before.episodes)
    assert replace(before, episodes=slower, wall_s=1.0).fingerprint == before.fingerprint
    other = (replace(before.episodes[0], trajectory="u"), before.episodes[1])
    assert replace(before, episodes=other).fingerprint != before.fingerprint
    assert not same_episodes(before, replace(before, episodes=other))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read .*lavla eval"),
        ("{", "is not JSON"),
        ("[]", "schema None"),
        ('{"schema": 1}', "schema 1; this version reads 2"),
        ('{"schema": 2}', "incomplete: 'suite'"),
    ],
)
def test_what_is_no_results_file(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ResultsError, match=says):
        Results.read(tmp_path)


def test_an_unknown_key_of_an_episode_is_named(tmp_path: Path) -> None:
    data = results([True]).to_dict()
    data["episodes"][0]["mood"] = "good"
    write_json(tmp_path / "results.json", data)
    with pytest.raises(ResultsError, match="mood"):
        Results.read(tmp_path)
