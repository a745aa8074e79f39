"""``lavla bags list|show|drop|relabel``: what a person says of episodes, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_bags import T0, convert, make_bag
from synthetic_messages import small_contract

from lavla_ros import cli
from lavla_ros.recording.reader import LABEL_FILE
from training.dataset import EpisodeDataset

CONTRACT = small_contract(size=32)


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    for outcome in ("succeeded", "failed", "succeeded"):
        said = {"instruction": "put the mango into the bowl"}
        make_bag(tmp_path / "bags", CONTRACT, 4, outcome=outcome, metadata=said)
    return tmp_path / "bags"


def lavla(*words: object) -> None:
    cli.main([*map(str, words)])


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    lavla("bags", "list", *words, "--json")
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        lavla("bags", *words)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_the_bags_of_several_workers_are_listed_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for worker in range(2):
        make_bag(tmp_path / "bags" / f"worker_{worker}", CONTRACT, 4)
    lavla("bags", "drop", tmp_path / "bags/worker_1/episode_000000")
    assert list(listed(capsys, tmp_path / "bags")) == ["worker_0/episode_000000"]
    every = listed(capsys, tmp_path / "bags", "--all")
    assert [each["discarded"] for each in every.values()] == [False, True] and "worker_1/episode_000000" in every
    assert "--all lists" in refused(capsys, "list", tmp_path / "bags/worker_1")


def test_what_is_said_of_episodes_is_listed_shown_and_converted(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    lavla("bags", "relabel", bags / "episode_000001", "--outcome", "succeeded", "--instruction", "put the bowl away")
    lavla("bags", "relabel", bags / "episode_000001", bags / "episode_000002", "--note", "it slipped")
    lavla("bags", "relabel", bags / "episode_000000", "--outcome", "failed")
    found = listed(capsys, bags)
    assert list(found) == ["episode_000002", "episode_000001", "episode_000000"]
    first = found["episode_000001"]
    size = sum(file.stat().st_size for file in (bags / "episode_000001").iterdir() if file.name != LABEL_FILE)
    assert size < first.pop("size_bytes") < size + 1000
    assert {key: first[key] for key in ("outcome", "instruction", "note", "said_by")} == {
        "outcome": "succeeded", "instruction": "put the bowl away", "note": "it slipped", "said_by": "ann",
    }  # fmt: skip
    lavla("bags", "list", bags)
    table = capsys.readouterr().out
    assert table.index("episode_000002") < table.index("episode_000001") and "mango" in table

    lavla("bags", "show", bags / "episode_000001")
    shown = capsys.readouterr().out
    assert "said by: ann" in shown and "what the bag says" in shown and "instruction 'put the bowl away'" in shown
    assert "metadata.yaml: " in shown and f"{LABEL_FILE}: " in shown

    report = convert(sorted(bags.glob("episode*")), tmp_path / "dataset", CONTRACT, jobs=1)
    assert report.rejected == {"outcome": 1}
    dataset = EpisodeDataset(tmp_path / "dataset", CONTRACT)
    first = [dataset.instruction(episode.first) for episode in dataset.episodes]
    assert first == ["put the bowl away", "put the mango into the bowl"]


def test_what_is_dropped_comes_back(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [bags / "episode_000000", bags / "episode_000002"]
    lavla("bags", "drop", *chosen)
    said = capsys.readouterr().out
    assert f"lavla bags drop --restore {chosen[0]}" in said
    assert list(listed(capsys, bags)) == ["episode_000001"]
    everything = listed(capsys, bags, "--all")
    assert [name for name, each in everything.items() if each["discarded"]] == ["episode_000002", "episode_000000"]
    lavla("bags", "show", chosen[0])
    assert "succeeded, discarded" in capsys.readouterr().out
    lavla("bags", "drop", "--restore", chosen[0], bags / ".discarded" / "episode_000002")
    assert len(listed(capsys, bags)) == 3


def test_of_several_bags_all_change_or_none(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, none = bags / "episode_000000", bags / "episode_000009"
    assert "no episode" in refused(capsys, "drop", one, none)
    assert "no episode 'episode_000009'" in refused(capsys, "relabel", one, none, "--note", "x")
    assert len(listed(capsys, bags)) == 3 and not list(bags.rglob(LABEL_FILE))
    lavla("bags", "drop", one)
    assert "no episode" in refused(capsys, "drop", "--restore", one, none)
    assert len(listed(capsys, bags)) == 2


def test_an_episode_that_is_being_recorded_is_left_alone(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = bags / "episode_000002"
    kept = (bag / "metadata.yaml").read_bytes()
    (bag / "metadata.yaml").unlink()  # written when the episode ends
    next(bag.glob("*.mcap")).touch()
    for words in (["show", bag], ["drop", bag], ["relabel", bag, "--note", "x"]):
        assert "is being recorded; end the episode first" in refused(capsys, *words)
    (bag / "metadata.yaml").write_bytes(kept)
    assert len(listed(capsys, bags)) == 3 and not list(bags.rglob(LABEL_FILE))


def test_a_label_that_no_conversion_would_take_is_refused(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = bags / "episode_000000"
    start_s = T0 / 1e9
    lines = [f"  - {{start_s: {start_s + i * 0.15}, end_s: {start_s + i * 0.15 + 0.1}}}" for i in range(2)]
    (bag / "episodes.yaml").write_text("\n".join(["episodes:", *lines]))
    assert "holds 2 episodes, and a label is of one" in refused(capsys, "relabel", bag, "--outcome", "failed")
    assert listed(capsys, bags)["episode_000000"]["episodes"] == 2
    (bags / "episode_000001" / LABEL_FILE).write_text('{"outcome": "fai')
    assert "restore it, or remove it" in refused(capsys, "relabel", bags / "episode_000001", "--note", "x")
    assert "--outcome, --instruction or --note" in refused(capsys, "relabel", bags / "episode_000002")
    assert "holds no bag of an episode" in refused(capsys, "list", bag)
