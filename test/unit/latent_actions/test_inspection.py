"""Probes on data whose answer is known, and the pictures and pages of a labelled dataset."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_squares import CODES, save_action_model, save_image_model
from moving_square import square_contract, write_squares
from PIL import Image

from lavla_ros import cli
from lavla_ros.outputs import OutputError
from training.dataset import EpisodeDataset
from training.latent_actions import action_train, image_train
from training.latent_actions.checkpoint import LatentModel, load_latent_model
from training.latent_actions.inspection import draw_sheet, inspect
from training.latent_actions.label_shard import quantizer_of
from training.latent_actions.labelling import label
from training.latent_actions.labels import LabelError, read_labels
from training.latent_actions.probe import InspectionError, cross_validated_r2, one_hot, probe, standardised
from training.task_pool import Workers

ONE = Workers(jobs=1)


def episodes(count: int, length: int) -> np.ndarray:
    return np.repeat(np.arange(count), length)


def test_codes_that_tell_the_action_are_told_from_codes_that_do_not() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (2000, 4))
    meaning = rng.normal(size=(16, 3))
    actions = meaning[codes].sum(1) + 0.5 * rng.normal(size=(2000, 3))
    explained = 1 - 0.25 / actions.var(0).mean()
    found = probe("code", "a", "xyz", one_hot(codes, 16), actions, episodes(40, 50), seed=0)
    assert found.r2 == pytest.approx(explained, abs=0.03)
    assert -0.1 < found.shuffled < 0.01 and found.shuffled <= found.shuffled_max < 0.02
    nothing = probe("code", "a", "xyz", one_hot(rng.integers(0, 16, (2000, 4)), 16), actions, episodes(40, 50), seed=0)
    assert nothing.r2 < 0.02 and found.r2_by_dimension.keys() == {"x", "y", "z"}


def test_what_only_tells_the_episode_explains_nothing_of_other_episodes() -> None:
    """A split over steps instead of episodes would give R² = 1 here."""
    rng = np.random.default_rng(1)
    groups = episodes(20, 30)
    actions = rng.normal(size=(20, 2))[groups]
    found = probe("code", "a", "xy", one_hot(groups[:, None], 20), actions, groups, seed=0)
    assert found.r2 < 0.05


def test_the_regression_is_ridge_regression_fitted_to_the_other_folds() -> None:
    rng = np.random.default_rng(2)
    x, folds = rng.normal(size=(90, 5)) + 3, rng.integers(0, 3, 90)
    y = x @ rng.normal(size=(5, 2)) + rng.normal(size=(90, 2)) + 7
    error, spread = np.zeros(2), np.zeros(2)
    for k in range(3):
        train, test = folds != k, folds == k
        # the penalty as rows of data, the intercept by centring
        centre, level = x[train].mean(0), y[train].mean(0)
        padded_x = np.vstack([x[train] - centre, np.sqrt(2.5) * np.eye(5)])
        padded_y = np.vstack([y[train] - level, np.zeros((5, 2))])
        weights = np.linalg.lstsq(padded_x, padded_y, rcond=None)[0]
        error += ((y[test] - (x[test] - centre) @ weights - level) ** 2).sum(0)
        spread += ((y[test] - level) ** 2).sum(0)
    np.testing.assert_allclose(cross_validated_r2(x, y, folds, ridge=2.5), 1 - error / spread, rtol=1e-8)


def test_constants_explain_and_need_nothing() -> None:
    rng = np.random.default_rng(3)
    x = standardised(np.column_stack([rng.normal(size=200), np.full(200, 4.0)]))
    assert (x[:, 1] == 0).all() and x[:, 0].std() == pytest.approx(1)
    y = np.column_stack([2 * x[:, 0] + 1, np.full(200, 3.0)])
    found = probe("embedding", "a", ["moves", "stays"], x, y, episodes(10, 20), seed=0)
    assert found.r2_by_dimension.keys() == {"moves"} and found.r2 > 0.99
    with pytest.raises(InspectionError, match="no dimension of the a ever changes"):
        probe("embedding", "a", ["stays"], x, y[:, 1:], episodes(10, 20), seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("meaning") / "data", [14, 1, 9, 20, 11])


@pytest.mark.parametrize("kind", ["image", "action"])
def test_a_page_with_pictures_of_the_nearest_transitions(data: Path, tmp_path: Path, kind: str) -> None:
    model = (save_image_model if kind == "image" else save_action_model)(tmp_path / "model", data)
    label(data, model, workers=ONE, shard_steps=15)
    out = tmp_path / "out"
    meaning = inspect(data, model, out, examples=3)
    document = json.loads((out / "meaning.json").read_text())
    size = 6 if kind == "image" else CODES
    assert document["kind"] == kind and len(document["counts"]) == size
    tokens = 4 * 55
    assert sum(document["counts"]) == tokens and document["health"]["perplexity"] > 1
    assert {(p["source"], p["target"]) for p in document["probes"]} == {
        (source, target)
        for source in ("code", "embedding")
        for target in (
            ("mean action of the chunk", "first action", "change of state over the transition")
            if kind == "image"
            else ("action of the token's step",)
        )
    }
    dataset = EpisodeDataset(data, square_contract())
    suffix = kind[:3] if kind == "action" else "img"
    found = read_labels(data, [f"z_{suffix}", f"c_{suffix}"])
    z, c = found[f"z_{suffix}"], found[f"c_{suffix}"].astype(np.float64)
    centres = quantizer_of(load_latent_model(model, LatentModel)).codes_to_values(torch.arange(size)).numpy()
    used = [k for k, count in enumerate(document["counts"]) if count]
    assert sorted(map(int, document["examples"])) == used
    span = 2 if kind == "image" else 3
    for code in used:
        near = meaning.examples[str(code)]
        distances = {tuple(at): np.linalg.norm(c[tuple(at)] - centres[code]) for at in np.argwhere(z == code)}
        first = near[0]
        assert distances[first.step, first.token] == pytest.approx(min(distances.values()), abs=1e-3)
        episode = {int(dataset.episode_of[step]) for step, _ in distances}
        assert len({e.episode for e in near}) == min(3, len(episode))
        for e in near:
            assert z[e.step, e.token] == code and e.start == e.step
            last = dataset.episodes[e.episode].first + dataset.episodes[e.episode].length - 1
            assert e.end == min(e.step + span, last)
        sheet = np.asarray(Image.open(out / f"codes/{code:03d}.png"))
        for row, step in enumerate((first.start, first.end)):  # the first column, start above end
            shown = sheet[22 + row * 118 : 22 + row * 118 + 112, 6 : 6 + 112]
            real = Image.fromarray(dataset[step].images["front"]).resize((112, 112), Image.Resampling.BOX)
            np.testing.assert_array_equal(shown, np.asarray(real))
    page = (out / "index.html").read_text()
    assert page.count("<img") == 1 + len(used) and not re.search(r'src="(?!data:)|https?:', page)
    assert (out / "usage.png").stat().st_size > 1000


def test_bars_show_the_sign_and_size_of_an_action() -> None:
    sheet = np.asarray(draw_sheet("t", [], {}, ["left", "right"], np.array([-1.0, 0.5]), "mean")).astype(int)
    blue = (np.abs(sheet - (0x48, 0x78, 0xA8)).sum(-1) == 0).sum(0)
    columns = np.flatnonzero(blue)
    middle = int(np.flatnonzero((sheet == 0xBB).all(-1).sum(0) > 20)[0])
    left, right = columns[columns < middle], columns[columns > middle]
    assert len(left) == pytest.approx(70, abs=2) and len(right) == pytest.approx(35, abs=2)


def test_what_cannot_be_inspected_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_action_model(tmp_path / "model", data, seed=5)
    with pytest.raises(LabelError, match=r"no labels of the model .* run `lavla latent label"):
        inspect(data, model, tmp_path / "out")
    label(data, model, name="short", codes_only=True, workers=ONE)
    with pytest.raises(InspectionError, match="codes only"):
        inspect(data, model, tmp_path / "out")
    shutil.rmtree(data / "latent/short")
    label(data, model, name="long", workers=ONE)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputError, match="exists already"):
        inspect(data, model, tmp_path / "full")
    single = write_squares(tmp_path / "single", [8])
    label(single, model, workers=ONE)
    with pytest.raises(InspectionError, match="one episode"):
        inspect(single, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(data / "latent/long")


def test_by_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.rmtree(copy / "latent", ignore_errors=True)
    action, image = save_action_model(tmp_path / "action", data), save_image_model(tmp_path / "image", data)
    cli.main(["latent", "label", str(copy), "--model", str(action), "--model", str(image), "--jobs", "1"])
    said = capsys.readouterr().out
    assert "latent/action: 55 steps in 1 shards (0 were there); perplexity" in said and "latent/image: 55" in said
    cli.main(["latent", "label", str(copy), "--model", str(action), "--jobs", "1", "--json"])
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["reused"], report["steps"]) == (1, 55) and report["health"]["perplexity"] > 1
    cli.main(["latent", "inspect", str(copy), "--model", str(image), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "R²" in said and f"open {tmp_path}/out/index.html" in said
    for arguments, message in (
        (["label", str(copy), "--model", str(action), "--model", str(image), "--name", "x"], "--name is for one"),
        (["label", str(copy), "--model", str(action), "--gpus-per-task", "1"], "with a Ray cluster"),
        (["inspect", str(copy), "--model", str(image), "--out", str(tmp_path / "out")], "exists already"),
        (["train"], "say which model to train"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["latent", *arguments])
        assert stopped.value.code == 1 and message in capsys.readouterr().err


def test_training_goes_to_the_model_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, int]] = []
    for name, module in (("action", action_train), ("image", image_train)):

        def record(config: Any, name: str = name) -> Path:
            called.append((name, config.steps))
            return tmp_path

        monkeypatch.setattr(module, f"train_{name}_lam", record)
    for kind in ("action", "image"):
        (tmp_path / f"{kind}.yaml").write_text(f"kind: {kind}\n")
    (tmp_path / "child.yaml").write_text("extends: latent/image_tiny\n")
    (tmp_path / "neither.yaml").write_text("kind: words\n")
    image, child, neither = (str(tmp_path / f"{name}.yaml") for name in ("image", "child", "neither"))
    for arguments, wanted in (
        (["action", "--steps", "3"], ("action", 3)),
        (["image", "--config", image, "--steps", "4"], ("image", 4)),
        (["--steps", "3", "--config", image], ("image", 3)),
        (["--config", child, "--steps", "5"], ("image", 5)),
    ):
        cli.main(["latent", "train", *arguments])
        assert called.pop() == wanted
    for arguments in (["--config", neither], ["--config"], ["words"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["latent", "train", *arguments])
        assert stopped.value.code == 1 and not called
