"""New datasets out of old ones: what they hold, what they keep, what is refused, and that nothing old changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_world import SIZE, World, small_config, world_contract
from synthetic_bags import T0, convert, make_bag
from synthetic_messages import small_contract

from lavla_ros import cli
from training.config import DataConfig
from training.data import Source, load_data
from training.dataset import EpisodeDataset, check, layout, repair
from training.dataset.layout import digest
from training.dataset.writer import DatasetLock
from training.ingest import ingest
from training.loop import Trainer
from training.policy_task import PolicyTask

CONTRACT = small_contract(size=32)
HANDS = {0: "policy", 4: "person", 7: "policy"}
FIRST, SECOND = "put the mango into the bowl", "put the bowl away"


def bags(root: Path, texts: Sequence[str], start: int = 0, **given: object) -> Path:
    for number, text in enumerate(texts, start):
        make_bag(root, CONTRACT, 10 + number, episode=number, start_ns=T0 + number * 10**12, instruction=text, **given)  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monday")
    ingest("bag", [bags(folder / "bags", [FIRST, SECOND, FIRST])], folder / "data", contract=CONTRACT)
    return folder / "data"


@pytest.fixture(scope="module")
def tuesday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With interventions, and another task that comes first."""
    folder = tmp_path_factory.mktemp("tuesday")
    recorded = bags(folder / "bags", [SECOND, FIRST], 3, hands=HANDS)
    ingest("bag", [recorded], folder / "data", contract=replace(CONTRACT, chunk_size=CONTRACT.chunk_size + 1))
    return folder / "data"


def files(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): digest(file) for file in root.rglob("*") if file.is_file()}


def lavla(*words: object) -> None:
    cli.main(["dataset", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    out = Path(str(words[list(words).index("--out") + 1]))
    with pytest.raises(SystemExit) as ended:
        lavla(*words)
    assert ended.value.code == 1
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))
    return capsys.readouterr().err


def texts(dataset: EpisodeDataset) -> list[str]:
    return [dataset.instruction(episode.first) for episode in dataset.episodes]


def frames_of(root: Path, episode: int) -> bytes:
    (row,) = (row for row in layout.read_episodes(root) if row["episode_index"] == episode)
    return layout.video_file(root, {}, row, layout.video_key(CONTRACT.camera_names[0])).read_bytes()


def test_two_datasets_are_one(monday: Path, tuesday: Path, tmp_path: Path) -> None:
    before = files(monday) | files(tuesday)
    lavla("merge", tuesday, monday, "--out", tmp_path / "both")
    assert files(monday) | files(tuesday) == before
    report = check(tmp_path / "both", deep=True)
    assert (report.errors, report.episodes, report.steps) == ([], 5, 13 + 14 + 10 + 11 + 12)
    both, first, last = (EpisodeDataset(root, CONTRACT) for root in (tmp_path / "both", tuesday, monday))
    assert texts(both) == [SECOND, FIRST, FIRST, SECOND, FIRST]
    assert np.array_equal(both.states, np.concatenate([first.states, last.states]))
    assert np.array_equal(both.actions, np.concatenate([first.actions, last.actions]))
    assert both.interventions is not None and first.interventions is not None
    assert both.interventions.tolist() == first.interventions.tolist() + [False] * len(last)
    assert frames_of(tmp_path / "both", 2) == frames_of(monday, 0), "copied, not encoded again"
    told = json.loads((tmp_path / "both" / layout.CONVERSION).read_text())
    assert [Path(row["bag"]).name for row in told["bags"]] == [f"episode_00000{n}" for n in (0, 1, 0, 1, 2)]
    assert [row["episode"] for row in told["bags"]] == [0, 1, 2, 3, 4]
    assert [(Path(each["dataset"]), each["episodes"]) for each in told[layout.DERIVED]] == [
        (tuesday, [0, 1]), (monday, [0, 1, 2]),
    ]  # fmt: skip


def test_statistics_are_those_of_a_conversion_in_one_go(tmp_path: Path) -> None:
    recorded = sorted(bags(tmp_path / "bags", [FIRST, SECOND, FIRST]).glob("episode*"))
    whole = convert(recorded, tmp_path / "whole", CONTRACT, jobs=1)
    convert(recorded[:2], tmp_path / "a", CONTRACT, jobs=1)
    convert(recorded[2:], tmp_path / "b", CONTRACT, jobs=1)
    lavla("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "merged")
    exact = {
        name for name in files(tmp_path / "whole") if name.startswith(("data/", "videos/", "meta/SHA", "meta/tasks"))
    }
    assert {n: files(tmp_path / "merged")[n] for n in exact} == {n: files(tmp_path / "whole")[n] for n in exact}
    merged, one = (EpisodeDataset(tmp_path / name, CONTRACT).stats for name in ("merged", "whole"))
    for key, found in one.items():
        for name, values in found.items():  # pictures: of decoded frames instead of those that were encoded
            if "images" not in key or name in ("mean", "std", "count"):
                assert np.allclose(merged[key][name], values, atol=0.02 if "images" in key else 0), (key, name)
    assert whole.steps == 33
    # recordings can be added to what was derived, and none comes twice
    more = make_bag(tmp_path / "more", CONTRACT, 9, episode=9, start_ns=T0 + 9 * 10**12)
    added = convert([*recorded, more], tmp_path / "merged", CONTRACT, jobs=1, resume=True)
    assert added.episodes == 4 and check(tmp_path / "merged").errors == []
    assert len(json.loads((tmp_path / "merged" / layout.CONVERSION).read_text())[layout.DERIVED]) == 2


def test_episodes_are_left_out(monday: Path, tmp_path: Path) -> None:
    lavla("drop", monday, "--episodes", 0, 2, "--out", tmp_path / "out")
    assert check(tmp_path / "out", deep=True).errors == []
    left, whole = EpisodeDataset(tmp_path / "out", CONTRACT), EpisodeDataset(monday, CONTRACT)
    assert texts(left) == [SECOND] and layout.read_tasks(tmp_path / "out") == {0: SECOND}
    assert np.array_equal(left.states, whole.states[10:21])
    assert (tmp_path / "out" / layout.FIRST_FRAMES).exists() == (monday / layout.FIRST_FRAMES).exists()


def test_what_is_said_anew_counts_and_what_was_said_is_kept(monday: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lavla("relabel", monday, "--episodes", 2, "--instruction", " stack them ", "--outcome", "failed", "--out", out)
    assert check(out).errors == []
    assert texts(EpisodeDataset(out, CONTRACT)) == [FIRST, SECOND, "stack them"]
    told = json.loads((out / layout.CONVERSION).read_text())
    assert [row["outcome"] for row in told["bags"]] == ["succeeded", "succeeded", "failed"]
    change = {"episode": 2, "instruction": " stack them ", "outcome": "failed", "was": [FIRST]}
    assert told[layout.DERIVED][0]["changes"] == [change]
    lavla("drop", out, "--episodes", 0, "--out", tmp_path / "again")
    told = json.loads((tmp_path / "again" / layout.CONVERSION).read_text())
    assert told[layout.DERIVED][0][layout.DERIVED][0]["changes"] == [change], "the whole way here"
    assert [row["outcome"] for row in told["bags"]] == ["succeeded", "failed"]


def test_a_repaired_dataset_keeps_what_was_recorded_of_its_episodes(monday: Path, tmp_path: Path) -> None:
    lavla("drop", monday, "--episodes", 2, "--out", tmp_path / "two")
    (row, _) = layout.read_episodes(tmp_path / "two")
    layout.data_file(tmp_path / "two", {}, row).unlink()
    repair(tmp_path / "two")
    lavla("merge", tmp_path / "two", "--out", tmp_path / "out")
    told = json.loads((tmp_path / "out" / layout.CONVERSION).read_text())
    assert [(Path(r["bag"]).name, r["episode"]) for r in told["bags"]] == [("episode_000001", 0)]
    assert check(tmp_path / "out").errors == []


def test_phrasings_are_kept_unless_they_are_of_another_instruction_and_the_result_trains(tmp_path: Path) -> None:
    contract = world_contract()
    said = ("put the mango into the bowl", "mango, bowl: go")
    World(tmp_path / "a", episodes=4, phrasings=said).write(contract)
    lavla("relabel", tmp_path / "a", "--episodes", 3, "--instruction", "wait", "--out", tmp_path / "b")
    derived = EpisodeDataset(tmp_path / "b", contract)
    assert [derived.phrasings(i) for i in range(4)] == [(), said, (), ()]
    assert check(tmp_path / "b").errors == []
    given = [Source(dataset=derived, name="b", weight=1.0, labels={})]
    data = load_data(given, contract, DataConfig(), image_size=SIZE, cache_dir=tmp_path)
    config = small_config(tmp_path / "run", steps=2, validate_every=2, save_every=2)
    assert (Trainer(PolicyTask(config, contract, data), Log()).run() / "config.yaml").exists()


class Log:
    def step(self, step: int, figures: object) -> None: ...

    def message(self, text: str) -> None: ...


def edited(root: Path, target: Path, file: str, old: str, new: str) -> Path:
    shutil.copytree(root, target)
    text = (target / file).read_text()
    assert old in text
    (target / file).write_text(text.replace(old, new))
    return target


def test_what_cannot_be_one_dataset_is_refused_by_name(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, contract, info = tmp_path / "out", layout.CONTRACT, layout.INFO
    for other, words in (
        (edited(monday, tmp_path / "robot", contract, "robot: small", "robot: large"), "'small' != 'large'"),
        (edited(monday, tmp_path / "codec", info, '"h264"', '"av1"'), "videos h264 and av1"),
        (edited(monday, tmp_path / "fps", info, '"fps": 10', '"fps": 20'), "20 fps; the contract has 10"),
        (edited(monday, tmp_path / "more", info, '"index": {', '"reward": {}, "index": {'), "['reward'] are not as"),
        (monday, "episode 0 of"),
        (tmp_path / "nowhere", "nowhere"),
    ):
        said = refused(capsys, "merge", monday, other, "--out", out)
        assert words in said and "Traceback" not in said, said


def test_what_is_damaged_unfinished_or_not_there_is_refused(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "out", Path(shutil.copytree(monday, tmp_path / "data"))
    assert "has no episode [3, 9]; it has 0 to 2" in refused(capsys, "drop", data, "--episodes", 9, 0, 3, "--out", out)
    assert "no episode would be left" in refused(capsys, "drop", data, "--episodes", 0, 1, 2, "--out", out)
    relabelled = ("relabel", data, "--episodes", 1, "--out", out)
    assert "instruction is empty" in refused(capsys, *relabelled, "--instruction", " ")
    assert "--instruction or --outcome" in refused(capsys, *relabelled)
    with pytest.raises(SystemExit):
        lavla("drop", data, "--episodes", 0, "--out", data)
    assert "exists already" in capsys.readouterr().err and files(data) == files(monday)
    lock = DatasetLock(data)
    assert "being written by another process" in refused(capsys, "drop", data, "--episodes", 0, "--out", out)
    lock.release()
    (data / layout.STAGING).mkdir()
    assert "is not finished" in refused(capsys, "drop", data, "--episodes", 0, "--out", out)
    (data / layout.STAGING).rmdir()
    video = layout.video_file(data, {}, layout.read_episodes(data)[2], layout.video_key("front"))
    content = bytearray(video.read_bytes())
    content[-9] ^= 16
    video.write_bytes(content)
    assert "is damaged: videos/" in refused(capsys, "drop", data, "--episodes", 0, "--out", out)
    (data / layout.CONVERSION).unlink()
    lavla("drop", data, "--episodes", 2, "--out", tmp_path / "rest")  # what is damaged is left out
    said = refused(capsys, "relabel", data, "--episodes", 1, "--outcome", "failed", "--out", out)
    assert "is damaged" in said
    said = refused(capsys, "relabel", tmp_path / "rest", "--episodes", 1, "--outcome", "failed", "--out", out)
    assert "does not say how episode 1 ended" in said
    (data / layout.CONTRACT).unlink()
    assert "lavla import lerobot" in refused(capsys, "drop", data, "--episodes", 2, "--out", out)


def test_latent_labels_stay_behind_and_it_is_said(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(monday, tmp_path / "data"))
    (data / "latent/image").mkdir(parents=True)
    (data / "latent/image/manifest.json").write_text("{}")
    lavla("drop", data, "--episodes", 0, "--out", tmp_path / "out")
    assert "(image) are of its steps as they were, and were not taken along" in capsys.readouterr().out
    assert not (tmp_path / "out/latent").exists() and check(tmp_path / "out").errors == []


def test_one_dataset_is_two(monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lavla("split", monday, "--episodes", 1, "--out-folder", tmp_path / "by_number")
    lavla("split", monday, "--fraction", 0.6, "--seed", 3, "--out-folder", tmp_path / "drawn")
    whole = EpisodeDataset(monday, CONTRACT)
    for folder, counts in (("by_number", (1, 2)), ("drawn", (2, 1))):
        parts = [EpisodeDataset(tmp_path / folder / name, CONTRACT) for name in ("chosen", "rest")]
        assert tuple(len(part.episodes) for part in parts) == counts
        lengths = [episode.length for part in parts for episode in part.episodes]
        assert sorted(lengths) == [episode.length for episode in whole.episodes], "each episode once"
        assert [check(part.path).errors for part in parts] == [[], []]
    assert texts(EpisodeDataset(tmp_path / "by_number/chosen", CONTRACT)) == [SECOND]
    out = tmp_path / "none"
    for words, said in (
        (["--fraction", 1.5], "the fraction is 1.5"),
        (["--fraction", 0.1], "no episode would be left"),
        (["--fraction", 0.5, "--episodes", 1], "by a fraction, or by their numbers"),
        ([], "by a fraction, or by their numbers"),
        (["--episodes", 0, 1, 2], "no episode would be left"),
    ):
        with pytest.raises(SystemExit):
            lavla("split", monday, *words, "--out-folder", out)
        assert said in capsys.readouterr().err and not out.exists()


def test_what_a_dataset_holds_is_told(monday: Path, tuesday: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lavla("stats", monday, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["steps"], found["seconds"]) == (3, 33, 3.3)
    assert found["instructions"] == [
        {"text": FIRST, "episodes": 2, "steps": 22}, {"text": SECOND, "episodes": 1, "steps": 11},
    ]  # fmt: skip
    assert (found["outcomes"], found["commanded_by_person"]) == ({"succeeded": 3}, None)
    dataset = EpisodeDataset(monday, CONTRACT)
    a = found["dimensions"]["action"]["a"]
    values = dataset.actions[:, 0].astype(float)
    assert a == pytest.approx(
        {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
        | {f"q{q:02d}": np.quantile(values, q / 100) for q in (1, 10, 50, 90, 99)}
    )
    lavla("stats", tuesday)
    shown = capsys.readouterr().out
    assert "commanded by a person: 6 steps, in 2 of 2 episodes" in shown and "gripper" in shown and "q99" in shown
    assert f"{SECOND}: in 1 of 2 episodes, 13 steps" in shown
