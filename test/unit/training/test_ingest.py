"""What all sources of episodes share: a kind from outside, resuming, kinds of rejections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from synthetic_bags import T0, convert, make_bag, picture
from synthetic_messages import small_contract

from lavla_ros import cli
from training.dataset import EpisodeDataset, layout, validate
from training.ingest import IngestError, Kind, ingest
from training.ingest.build import EpisodeReport, Rejection
from training.task_pool import Workers

CONTRACT = small_contract(size=32)

FOREIGN = '''
"""Episodes in .npz files, as somebody else keeps them."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.ingest import IngestError, Kind, Rejected
from training.ingest.table import Numbers, Table, columns_by_name


@dataclass(frozen=True, kw_only=True)
class NpzEpisode(Table):
    file: Path
    scale: float

    @property
    def name(self):
        return str(self.file)

    def numbers(self, contract):
        with np.load(self.file) as found:
            joints = {name: found[name] * self.scale for name in ("a", "b", "gripper") if name in found}
            if found["a"][0] > 2:
                raise Rejected(Kind.CLOCK, "made up")
        states = columns_by_name(contract.state.fields, joints, "state")
        return Numbers(states_LS=states, actions_LA=states, instructions=("do it",) * len(states))

    def frames(self, camera):
        with np.load(self.file) as found:
            yield from found[camera]


@dataclass(frozen=True, kw_only=True)
class NpzFiles:
    default_contract = None
    first_frames = True
    scale: float = 1.0

    def find(self, paths, contract):
        files = [file for path in paths for file in sorted(path.glob("*.npz"))]
        if not files:
            raise IngestError(f"{paths} hold no *.npz file")
        return [NpzEpisode(file=file, scale=self.scale) for file in files]
'''


def write_npz(path: Path, seed: int, steps: int = 6, **more: Any) -> None:
    rng = np.random.default_rng(seed)
    columns = {name: rng.uniform(0, 0.5, steps) for name in ("a", "b", "gripper")}
    frames = {
        name: np.stack([picture(64, seed, step, camera) for step in range(steps)])
        for camera, name in enumerate(CONTRACT.camera_names)
    }
    np.savez(path, **{**columns, **frames, **more})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of somebody else's, his recordings and a contract."""
    (tmp_path / "npz_recordings.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "source").mkdir()
    for number in range(3):
        write_npz(tmp_path / f"source/{number}.npz", number)
    write_npz(tmp_path / "source/3.npz", 3, a=np.full(6, 2.5))
    write_npz(tmp_path / "source/4.npz", 4, gripper=np.full(6, 1.0))
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(CONTRACT.to_dict()))
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    contract = str(folder / "contract.yaml")
    source = str(folder / "source")
    return ["import", "npz_recordings:NpzFiles", source, "--out", str(folder / "out"), "--contract", contract, *more]


def test_recordings_of_a_kind_from_outside_are_imported_by_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(command(folder, "--jobs", "2", "--json", "-o", "scale=2"))
    report = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in report["sources"]] == ["", "", "", "clock", "range"]
    assert (report["kind"], report["rejected"]) == ("npz_recordings:NpzFiles", {"clock": 1, "range": 1})
    assert report["sources"][3]["rejected"] == "clock: made up" and validate(folder / "out") == []
    dataset = EpisodeDataset(folder / "out", CONTRACT)
    with np.load(folder / "source/1.npz") as found:
        expected = np.stack([found[name] * 2 for name in CONTRACT.state.names], axis=1)
    np.testing.assert_allclose(dataset.states[6:12], expected, rtol=1e-6)
    assert (folder / "out" / layout.FIRST_FRAMES).exists()
    kept = json.loads((folder / "out" / layout.CONVERSION).read_text())
    assert kept["options"] == {"scale": 2, "codec": "libx264"}


def test_an_import_that_was_broken_off_goes_on_and_takes_nothing_twice(folder: Path) -> None:
    arguments: dict[str, Any] = {"contract": str(folder / "contract.yaml"), "workers": Workers(jobs=1)}
    kind, source = "npz_recordings:NpzFiles", [folder / "source"]
    whole = ingest(kind, source, folder / "whole", **arguments)
    read: list[EpisodeReport] = []

    def end(report: EpisodeReport) -> None:
        read.append(report)
        if len(read) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(kind, source, folder / "out", progress=end, **arguments)
    with pytest.raises(IngestError, match=r"exists already, with 2 episodes; --resume"):
        ingest(kind, source, folder / "out", **arguments)
    (folder / "source/1.npz").rename(folder / "source/5.npz")  # by another name it is still held
    report = ingest(kind, source, folder / "out", resume=True, progress=read.append, **arguments)
    assert [Path(r.source).stem for r in read] == ["0", "1", "2", "3", "4", "5"]
    assert report.rejected == whole.rejected | {"duplicate": 1} and report.steps == whole.steps
    assert validate(folder / "out") == []
    for name in ("data/chunk-000/file-002.parquet", "meta/tasks.parquet"):
        assert (folder / "out" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_what_a_kind_lacks_is_named(folder: Path) -> None:
    source = [folder / "source"]
    with pytest.raises(IngestError, match=r"no source 'parquet'; there are \['bag', .*module:attribute"):
        ingest("parquet", source, folder / "out")
    with pytest.raises(IngestError, match="no module 'npz_elsewhere'"):
        ingest("npz_elsewhere:NpzFiles", source, folder / "out")
    with pytest.raises(IngestError, match="has no 'Files'"):
        ingest("npz_recordings:Files", source, folder / "out")
    with pytest.raises(IngestError, match=r"has no option \['upright'\]; it has \['scale'\]"):
        ingest("npz_recordings:NpzFiles", source, folder / "out", options={"upright": True})
    with pytest.raises(IngestError, match="needs a contract"):
        ingest("npz_recordings:NpzFiles", source, folder / "out")
    with pytest.raises(SystemExit):
        cli.main(command(folder, "-o", "scale"))
    assert not (folder / "out").exists()


def test_bags_are_recordings_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``lavla import bag`` makes what ``lavla convert`` makes, to the byte, reports included."""
    for number in range(2):
        make_bag(tmp_path / "bags", CONTRACT, 6 + number, episode=number, start_ns=T0 + number * 10**12)
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(CONTRACT.to_dict()))
    for out, words in (("one", ["convert"]), ("two", ["import", "bag"])):
        arguments = ["--out", str(tmp_path / out), "--contract", str(tmp_path / "contract.yaml"), "--jobs", "1"]
        cli.main([*words, str(tmp_path / "bags"), *arguments, "--json"])
    one, two = capsys.readouterr().out.split("\n}\n")[:2]
    assert one.replace("/one", "/two") == two and list(json.loads(two + "}"))[-1] == "bags"
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    for file in (f for f in files if f.name != "conversion.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_dataset_whose_report_has_no_kinds_is_continued(tmp_path: Path) -> None:
    """What a report said before kinds had a key of their own."""
    bags = [make_bag(tmp_path / "bags", CONTRACT, 6, episode=i, start_ns=T0 + i * 10**12) for i in range(2)]
    bad = make_bag(tmp_path / "bags", CONTRACT, 6, outcome="failed")
    convert([bags[0], bad], tmp_path / "out", CONTRACT, jobs=1)
    file = tmp_path / "out" / layout.CONVERSION
    kept = json.loads(file.read_text())
    for row in kept["bags"]:
        del row["kind"]
    file.write_text(json.dumps({**{k: v for k, v in kept.items() if k not in ("kind", "first_frames")}}))
    report = convert(bags, tmp_path / "out", CONTRACT, jobs=1, resume=True)
    assert (report.episodes, report.rejected) == (2, {"outcome": 1})
    [rejected] = [r.rejected for r in report.sources if r.rejected]
    assert rejected == Rejection(Kind.OUTCOME, "marked 'failed'; converted are ['succeeded']")


def test_bags_are_taken_in_order_of_their_names_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bags = []
    for number, name in enumerate("ba"):
        bag = make_bag(tmp_path / "made", CONTRACT, 6, episode=number, start_ns=T0 + number * 10**12)
        bags.append(bag.rename(tmp_path / name))
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(CONTRACT.to_dict()))
    given = [str(path) for path in (*bags, next(bags[0].glob("*.mcap")), bags[1])]
    out = ["--out", str(tmp_path / "out"), "--contract", str(tmp_path / "contract.yaml"), "--jobs", "1", "--json"]
    cli.main(["convert", *given, *out])
    rows = json.loads(capsys.readouterr().out)["bags"]
    assert [(Path(row["bag"]).name, row["episode"]) for row in rows] == [("a", 0), ("b", 1)]
