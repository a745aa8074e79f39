"""Training the image model: which transitions, whose actions, that it learns, resumes exactly and refuses clearly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from moving_square import FEATURES, SMALL, square_contract, write_squares
from records import load_training_record

from lavla_ros import cli
from lavla_ros.config import ConfigError, read_config, to_plain
from lavla_ros.policy.checkpoint import CheckpointError
from training.dataset import EpisodeDataset
from training.latent_actions.checkpoint import load_latent_model
from training.latent_actions.features import load_features
from training.latent_actions.image_config import ImageDataConfig, ImageLamTrainConfig
from training.latent_actions.image_data import (
    Transitions,
    future_steps,
    load_transitions,
    normalised_actions,
    supervised_rows,
)
from training.latent_actions.image_model import ImageLatentModel
from training.latent_actions.image_train import ImageTask, train_image_lam
from training.loop import Trainer, TrainingError
from training.samples import DataError, split_episodes

pytestmark = pytest.mark.long

LENGTHS = (14, 1, 12, 9, 13, 11, 12, 14, 2, 12, 13, 12)
CONFIGS = Path(__file__).parents[3] / "config/latent"


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.figures: dict[int, dict[str, float]] = {}

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        self.figures[step] = dict(figures)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares") / "data", LENGTHS)


@pytest.fixture(scope="module")
def transitions(data) -> Transitions:
    config = ImageDataConfig(datasets=(data,))
    return load_transitions(config, SMALL, square_contract(), load_features(FEATURES))


def settings(output: Path, **changes) -> ImageLamTrainConfig:
    base = ImageLamTrainConfig(
        output=output,
        steps=12,
        stage_one_steps=6,
        batch_size=16,
        learning_rate=3e-3,
        gradient_clip=1.0,
        action_fraction=0.2,
        action_head_width=16,
        log_every=4,
        validate_every=8,
        save_every=4,
        model=SMALL,
        data=ImageDataConfig(validation_fraction=0.2),
    )
    return replace(base, **changes)


def trainer(output: Path, transitions: Transitions, *, stage: int = 1, **changes) -> Trainer:
    model = replace(SMALL, stage=stage)
    return Trainer(ImageTask(settings(output, model=model, **changes), square_contract(), transitions), Silent())


# ------------------------------------------------------------------ transitions


def test_later_image_is_delta_steps_on_and_never_beyond_the_episode():
    assert future_steps([5, 1, 3], 2).tolist() == [2, 3, 4, 4, 4, 5, 8, 8, 8]
    assert future_steps([5, 1, 3], 32).tolist() == [4, 4, 4, 4, 4, 5, 8, 8, 8]


def test_transitions_pair_the_right_frames_actions_and_words(data, transitions):
    dataset, extractor = EpisodeDataset(data, square_contract()), load_features(FEATURES)
    assert len(transitions) == len(dataset) == sum(LENGTHS)
    rows = np.array([3, 13, 14, 26, 124])  # 13 and 26 end an episode, 14 is one
    now, future = transitions.pairs(rows)
    for i, row in enumerate(rows):
        episode = dataset.episodes[dataset.episode_of[row]]
        later = min(row + SMALL.delta, episode.first + episode.length - 1)
        for found, index in ((now, row), (future, later)):
            image = dataset[int(index)].images["front"]
            torch.testing.assert_close(found[i].float(), torch.from_numpy(extractor.extract(image[None])[0]).float())
        assert transitions.instructions[transitions.instruction_M[row]] == dataset.instruction(int(row))
    np.testing.assert_array_equal(transitions.actions_MA, dataset.actions)
    assert len(transitions.instructions) == 2


def test_datasets_and_cameras_are_joined(data, tmp_path, transitions):
    second = write_squares(tmp_path / "second", (4, 3), seed=1)
    config = ImageDataConfig(datasets=(data, second))
    joined = load_transitions(
        config, replace(SMALL, cameras=("wrist", "front")), square_contract(), load_features(FEATURES)
    )
    assert len(joined) == 2 * (sum(LENGTHS) + 7)
    front = np.flatnonzero(joined.part_M == 1)
    rows = np.array([0, 50])
    torch.testing.assert_close(joined.pairs(front[rows])[1], transitions.pairs(rows)[1])
    mixed = np.array([0, front[0], len(joined) - 1])  # rows of several files at once
    for i, row in enumerate(mixed):
        torch.testing.assert_close(joined.pairs(mixed)[0][i], joined.pairs(np.array([row]))[0][0])
    train, held_out = split_episodes(joined.episode_M, validation=0.3, seed=0)
    assert not set(joined.episode_M[train]) & set(joined.episode_M[held_out])
    assert len(np.unique(joined.episode_M)) == len(LENGTHS) + 2


def test_a_twentieth_of_the_actions_is_known_and_which_is_fixed_by_the_seed():
    rows = np.arange(100, 1100)
    known = supervised_rows(rows, 0.05, seed=3)
    assert len(known) == len(np.unique(known)) == 50 and np.isin(known, rows).all()
    np.testing.assert_array_equal(known, supervised_rows(rows, 0.05, seed=3))
    assert len(np.intersect1d(known, supervised_rows(rows, 0.05, seed=4))) < 25
    assert known.max() - known.min() > 800  # from all over the data
    assert len(supervised_rows(rows[:3], 0.05, seed=0)) == 1


def test_actions_are_scaled_by_the_known_ones_alone(transitions):
    known = supervised_rows(np.arange(80), 0.2, seed=0)
    first = normalised_actions(transitions, known, square_contract(), SMALL.actions)
    assert first.shape == transitions.actions_MA.shape and np.abs(first).max() <= 1
    changed = transitions.actions_MA.copy()
    changed[np.setdiff1d(np.arange(len(changed)), known)] *= 3
    second = normalised_actions(replace(transitions, actions_MA=changed), known, square_contract(), SMALL.actions)
    np.testing.assert_array_equal(first[known], second[known])
    assert len(np.unique(first[known, 0].round(3))) > 2  # joint 1 moves by -0.04, 0 or 0.04 or is stopped at the edge


# ------------------------------------------------------------------ training


def test_it_learns_and_its_codes_tell_the_action(transitions, tmp_path):
    """Reconstruction beats "nothing changes"; actions of other episodes follow from c_img; no codebook collapse."""
    run = trainer(
        tmp_path,
        transitions,
        steps=150,
        learning_rate=5e-3,
        batch_size=24,
        action_fraction=0.5,
        log_every=50,
        validate_every=1000,
        save_every=1000,
    )
    task = run.task
    before, _ = task.measure(task.held_out)
    target = run.run()
    after, healths = task.measure(task.held_out)
    trained, _ = task.measure(task.train_rows)
    assert after["reconstruction"] < 0.5 * before["reconstruction"]
    assert trained["reconstruction"] < 0.7 * trained["unchanged"]
    assert after["action"] < 0.75 * before["action"]
    assert healths["environment"].perplexity > 2
    record = load_training_record(target)
    assert record["supervised"] == round(0.5 * len(task.train_rows)) and record["steps"] == 150
    assert record["codebooks"]["environment"]["perplexity"] > 2
    assert sum(record["codebooks"]["environment"]["counts"]) == 4 * len(task.train_rows)
    assert (tmp_path / "codebook_usage.png").stat().st_size > 1000
    assert set(run.reporter.figures) == {50, 100, 150}
    assert {"loss", "reconstruction", "action", "perplexity", "dead_codes"} <= set(run.reporter.figures[50])


def test_without_action_supervision_no_action_is_looked_at(transitions, tmp_path):
    broken = replace(transitions, actions_MA=np.full_like(transitions.actions_MA, np.nan))
    run = trainer(tmp_path, broken, action_weight=0.0, steps=2)
    assert run.module.head is None and not run.task.supervised_M.any()
    record = load_training_record(run.run())
    assert "action" not in record["evaluation"] and record["supervised"] == 0


@pytest.mark.parametrize("stop", [4, 8])
def test_resumed_run_has_the_losses_of_an_uninterrupted_one(transitions, tmp_path, stop):
    whole = trainer(tmp_path / "a", transitions)
    whole.run()
    part = trainer(tmp_path / "b", transitions, steps=stop)
    part.run()
    shutil.rmtree(tmp_path / "b/model")  # as if it had been killed after the save
    rest = trainer(tmp_path / "b", transitions)
    rest.run()
    assert part.losses + rest.losses == whole.losses
    a, b = (load_latent_model(tmp_path / name / "model", ImageLatentModel).state_dict() for name in ("a", "b"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_another_configuration_does_not_resume(transitions, tmp_path):
    trainer(tmp_path, transitions, steps=4).run()
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"settings.action_weight: 1.0 → 0.5"):
        trainer(tmp_path, transitions, action_weight=0.5).run()
    with pytest.raises(TrainingError, match="holds a run already"):
        trainer(tmp_path, transitions, resume=False).run()


def test_accumulation_visits_the_same_transitions(transitions, tmp_path):
    whole, halves = (trainer(tmp_path / str(n), transitions, accumulation=n) for n in (1, 2))
    batch = whole._batch(0)
    parts = [halves._batch(0), halves._batch(1)]
    torch.testing.assert_close(torch.cat([p.now_BNF for p in parts]), batch.now_BNF)
    torch.testing.assert_close(torch.cat([p.actions_BA for p in parts]), batch.actions_BA)


def test_collapsed_codebook_is_warned_of(transitions, tmp_path):
    run = trainer(tmp_path, transitions, steps=4, min_perplexity=1.0)
    run.run()
    assert any(m.startswith("warning: step 4: codebook perplexity is") for m in run.reporter.messages)
    assert load_training_record(tmp_path / "model")["warnings"]


def test_loss_that_is_not_finite_stops_the_run(transitions, tmp_path):
    run = trainer(tmp_path, transitions)
    with torch.no_grad():
        run.task.model.features_out.bias[0] = float("inf")
    with pytest.raises(TrainingError, match=r"step 0: the loss is inf.*every sample of the batch.*lower learning_rate"):
        run.run()
    assert not (tmp_path / "model").exists()


def test_time_limit_ends_the_run_with_a_model(transitions, tmp_path):
    run = trainer(tmp_path, transitions, steps=100_000, max_minutes=1e-4)
    record = load_training_record(run.run())
    assert 1 <= record["steps"] < 100


# ------------------------------------------------------------------ the command


def main(*arguments: str) -> None:
    cli.main(["latent", "train", "image", *arguments])


def write_config(path: Path, config: ImageLamTrainConfig) -> Path:
    path.write_text(yaml.safe_dump(to_plain(config)))
    return path


@pytest.fixture
def contract_file(tmp_path) -> Path:
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump(square_contract().to_dict()))
    return path


@pytest.fixture
def config(data, tmp_path, contract_file) -> ImageLamTrainConfig:
    return settings(
        tmp_path / "run",
        data=ImageDataConfig(datasets=(data,), contract=str(contract_file), validation_fraction=0.2),
    )


def test_command_trains_both_stages_and_can_fine_tune_the_result(config, tmp_path, capsys):
    file = write_config(tmp_path / "image.yaml", config)
    main("--config", str(file), "--steps", "5", "--min-perplexity", "1.0")
    out = capsys.readouterr()
    assert out.out.strip() == str(tmp_path / "run/model"), out.err
    assert "environment tokens have fallen onto few of their codes" in out.err.replace("\n", " ")
    first = load_latent_model(tmp_path / "run/stage1/model", ImageLatentModel)
    second = load_latent_model(tmp_path / "run/model", ImageLatentModel)
    assert (first.config.stage, second.config.stage) == (1, 2)
    assert second.config.features.fingerprint == load_features(FEATURES).fingerprint
    assert load_training_record(tmp_path / "run/stage1/model")["steps"] == 6
    assert load_training_record(tmp_path / "run/stage1/model")["supervised"] == 0
    kept = "latents.environment.quantizer.codebook_Kd"
    assert torch.equal(second.state_dict()[kept], first.state_dict()[kept])
    again = [*("--config", str(file), "--output", str(tmp_path / "tuned"))]
    main(*again, "--initial", str(tmp_path / "run/model"), "--steps", "1", "--learning-rate", "1e-12")
    tuned = load_latent_model(tmp_path / "tuned/model", ImageLatentModel)
    assert not (tmp_path / "tuned/stage1").exists()
    torch.testing.assert_close(tuned.encoder.state_dict(), second.encoder.state_dict())
    again = [*("--config", str(file), "--output", str(tmp_path / "kept"), "--keep-stage-one")]
    main(*again, "--initial", str(tmp_path / "run/stage1/model"), "--steps", "1", "--learning-rate", "1e-12")
    kept = load_latent_model(tmp_path / "kept/model", ImageLatentModel)
    torch.testing.assert_close(kept.encoder.state_dict(), first.encoder.state_dict())


def test_command_says_what_is_wrong(config, tmp_path, capsys):
    def error(changed: ImageLamTrainConfig, *options: str) -> str:
        with pytest.raises(SystemExit, match=r"^1$"):
            main("--config", str(write_config(tmp_path / "c.yaml", changed)), *options)
        return capsys.readouterr().err

    assert "nowhere does not exist; make it with `lavla convert`" in error(
        replace(config, data=replace(config.data, datasets=(tmp_path / "nowhere",)))
    )
    assert "model.cameras is ['side']" in error(replace(config, model=replace(SMALL, cameras=("side",))))
    assert "is not a directory" in error(replace(config, initial=tmp_path / "no_model"))
    wrong = replace(SMALL, features=replace(FEATURES, fingerprint="0" * 16))
    assert "features.fingerprint" in error(replace(config, model=wrong))
    (tmp_path / "run/model").mkdir(parents=True)
    assert "exists already" in error(config)


def test_data_without_a_change_are_refused(config, tmp_path):
    still = write_squares(tmp_path / "still", (1, 1, 1))
    with pytest.raises(DataError, match=r"3 episodes .* have one step each"):
        train_image_lam(replace(config, data=replace(config.data, datasets=(still,))))
    one = write_squares(tmp_path / "one", (8,))
    with pytest.raises(DataError, match="single episode"):
        train_image_lam(replace(config, data=replace(config.data, datasets=(one,))))


def test_actions_that_are_not_finite_are_refused(transitions, tmp_path):
    broken = replace(transitions, actions_MA=np.full_like(transitions.actions_MA, np.nan))
    with pytest.raises(ValueError, match="not finite"):
        trainer(tmp_path, broken)


@pytest.mark.parametrize("name", ["tabletop", "libero", "robotwin", "jaka"])
def test_shipped_configurations_are_the_papers(name):
    config = read_config(ImageLamTrainConfig, CONFIGS / f"image_{name}.yaml")
    assert (config.model.tokens, config.model.latent_width, config.model.codebook_size) == (4, 128, 16)
    assert (config.action_weight, config.action_fraction, config.model.stage) == (1.0, 0.05, 2)
    assert config.model.delta == (16 if name == "tabletop" else 32)
    if name != "tabletop":
        assert (config.model.width, config.model.encoder_blocks, config.model.heads) == (768, 12, 12)
        assert (config.learning_rate, config.weight_decay, config.gradient_clip) == (1e-4, 1e-2, 0.1)


def test_unknown_keys_are_named(tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps({"kind": "image", "model": {"delta_steps": 3}}))
    with pytest.raises(ConfigError, match=r"unknown keys \['delta_steps'\] in model"):
        read_config(ImageLamTrainConfig, tmp_path / "c.yaml")
