"""The action latent action model: what flows where, and that its codebook lives."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from records import load_training_record

from lavla_ros import cli
from lavla_ros.config import ConfigError, read_config
from lavla_ros.contract import load_contract
from lavla_ros.outputs import OutputError, sole_writer
from training.latent_actions import action_train
from training.latent_actions.action_config import (
    ActionLamConfig,
    ActionLamTrainConfig,
)
from training.latent_actions.action_data import ActionChunks, chunk_stats, constant_dimensions
from training.latent_actions.action_model import (
    ActionLatentModel,
    frequency_features,
    masked_distance,
)
from training.latent_actions.action_train import ActionTask
from training.latent_actions.checkpoint import load_latent_model
from training.latent_actions.codebook_config import LatentDataConfig
from training.latent_actions.quantize import QuantizeError
from training.loop import Trainer, TrainingError
from training.samples import DataError, split_episodes


class Log:
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []
        self.messages: list[str] = []

    def step(self, step, figures) -> None:
        self.figures.append(dict(figures))

    def message(self, text: str) -> None:
        self.messages.append(text)


def run_config(output, small, **changes) -> ActionLamTrainConfig:
    base = ActionLamTrainConfig(
        output=output,
        steps=150,
        batch_size=32,
        learning_rate=3e-3,
        threads=1,
        device="cpu",
        log_every=25,
        validate_every=100,
        model=small,
        data=LatentDataConfig(validation_fraction=0.1),
    )
    return replace(base, **changes)


# ---------------------------------------------------------------------------- features, shapes


@pytest.mark.parametrize("horizon", [8, 25])
def test_spectrum_of_a_known_wave(horizon):
    """A cosine of k cycles has √H/2 in the real part of bins k and H-k, a sine ∓√H/2 in the imaginary part."""
    k, t = 2, torch.arange(horizon)
    wave = torch.stack([torch.cos(2 * torch.pi * k * t / horizon), torch.sin(2 * torch.pi * k * t / horizon)], dim=-1)
    features = frequency_features(wave[None])
    assert features.shape == (1, horizon, 6)
    torch.testing.assert_close(features[..., :2], wave[None])
    peak = torch.zeros(horizon)
    peak[[k, horizon - k]] = horizon**0.5 / 2
    tilt = torch.zeros(horizon)
    tilt[k], tilt[horizon - k] = -(horizon**0.5) / 2, horizon**0.5 / 2
    torch.testing.assert_close(features[0, :, 2], peak, atol=1e-5, rtol=0)
    torch.testing.assert_close(features[0, :, 4], torch.zeros(horizon), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[0, :, 3], torch.zeros(horizon), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[0, :, 5], tilt, atol=1e-5, rtol=0)


def test_architecture_of_the_paper():
    """App. A.2 and D.2, counted: nothing is missing and nothing is added."""
    contract = load_contract("jaka_minicobo")
    stats = {
        "state": {n: {"q01": -1.0, "q99": 1.0} for n in contract.state.names},
        "action": {n: {"q01": [-1.0] * 20, "q99": [1.0] * 20} for n in contract.action.names},
    }
    with torch.device("meta"):
        model = ActionLatentModel(ActionLamConfig(), contract, stats)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.encoder.named_children()}
    d, m, ff, horizon = 128, 7, 256, 20
    attention = 4 * d * d + 4 * d
    assert counts["project"] == (3 * m) * d + d
    assert counts["convolutions"] == 3 * (3 * d * d + d)
    assert [c.dilation for c in model.encoder.convolutions] == [(1,), (2,), (4,)]
    assert counts["transformer"] == 2 * (attention + 2 * d * ff + ff + d + 4 * d) + 2 * d
    assert model.encoder.transformer.layers[0].self_attn.num_heads == 4
    assert model.encoder.position_Hd.shape == (horizon, d)
    assert [tuple(p.shape) for p in model.decoder.parameters()] == [(256, d), (256,), (m, 256), (m,)]
    assert (model.quantizer.size, model.quantizer.width) == (256, d)
    assert list(model.quantizer.parameters()) == []  # moving averages, not the optimizer's
    config = ActionLamConfig()
    assert (config.mask_weight, config.mask_ratio, config.commit_weight) == (0.1, 0.15, 0.25)


@pytest.mark.parametrize(("name", "horizon"), [("libero", 8), ("robotwin", 25), ("jaka", 20)])
def test_shipped_configurations_are_the_papers(name, horizon):
    from lavla_ros.resources import config_path

    config = read_config(ActionLamTrainConfig, config_path(f"latent/action_{name}.yaml"))
    assert (config.steps, config.batch_size, config.learning_rate) == (50_000, 128, 1e-4)
    assert config.model == replace(ActionLamConfig(), actions=config.model.actions)
    assert load_contract(config.data.contract).chunk_size == horizon


def test_tokens_have_one_code_per_timestep_and_repeat_exactly(model, coded, small):
    codes = model.tokenize(coded)
    assert codes.shape == coded.shape[:2]
    assert codes.dtype == torch.int64
    decoded = model.detokenize(codes)
    assert decoded.shape == coded.shape
    assert torch.equal(model.tokenize(coded), codes)
    assert torch.equal(model.detokenize(codes), decoded)
    assert model.encode(coded).shape == (*coded.shape[:2], small.width)


def test_tokenising_in_training_mode_changes_nothing(model, coded):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.tokenize(coded)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_timestep_sees_the_whole_chunk_and_knows_its_place(model, coded):
    changed = coded.clone()
    changed[:, -1, 0] += 0.5
    moved = (model.encode(changed) - model.encode(coded)).abs().amax(dim=(0, 2))
    assert (moved > 1e-4).all()
    constant = torch.full_like(coded[:1], 0.3)
    latents = model.encode(constant)[0]
    assert (latents[1:] - latents[:-1]).abs().amax(dim=1).min() > 1e-4


def test_raw_and_normalised_paths_agree(model, chunks):
    actions, states = chunks.actions_NHA[:12], chunks.states_NS[:12]
    codes = model.encode_raw(actions, states)
    np.testing.assert_array_equal(codes, model.tokenize(model.normalise(actions, states)).numpy())
    decoded = model.decode_raw(codes, states)
    expected = model.normalizer.decode_actions(model.detokenize(torch.from_numpy(codes)).numpy(), states)
    np.testing.assert_array_equal(decoded, expected)
    one = model.encode_raw(actions[0], states[0])
    np.testing.assert_array_equal(one, codes[0])
    assert model.decode_raw(one, states[0]).shape == actions[0].shape


def test_wrong_shapes_and_values_are_named(model, coded, chunks):
    with pytest.raises(ValueError, match=r"\(16, 5, 7\)"):
        model.encode(coded[:, :5])
    with pytest.raises(ValueError, match="not finite"):
        model.encode_raw(np.full_like(chunks.actions_NHA[0], np.nan), chunks.states_NS[0])
    with pytest.raises(ValueError, match="do not fit"):
        model.encode_raw(chunks.actions_NHA[:3], chunks.states_NS[:2])
    with pytest.raises(ValueError, match="H = 6"):
        model.decode_raw(np.zeros((2, 5), dtype=np.int64), chunks.states_NS[:2])
    with pytest.raises(QuantizeError, match="32 entries"):
        model.decode_raw(np.full((2, 6), 32), chunks.states_NS[:2])


def test_chunk_size_must_be_the_contracts(contract, small, chunks):
    stats = chunk_stats(contract, small.actions, chunks)
    with pytest.raises(ConfigError, match=r"chunk_size is 8.*'jaka_minicobo', 6"):
        ActionLatentModel(replace(small, chunk_size=8), contract, stats)


# ---------------------------------------------------------------------------- objective


def gradients(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_reconstruction_trains_encoder_through_the_codes(model, coded):
    model.train()
    quantized = model.quantizer(model.encode(coded))
    (model.decoder(quantized.values_BTd) - coded).square().sum().backward()
    trained = gradients(model)
    assert {n for n, _ in model.named_parameters() if n.startswith(("encoder.", "decoder."))} <= trained
    assert "mask_d" not in trained


def test_total_is_eq_16(model, coded):
    """The weighted sum of the three means, recomputed by hand."""
    loss = model.loss(coded)
    latents = model.encode(coded)
    values = model.quantizer.codes_to_values(loss.codes_BH)
    reconstruction = sum(((model.decoder(v) - a) ** 2).mean() for v, a in zip(values, coded, strict=True)) / len(coded)
    commitment = sum(((v - c) ** 2).mean() for v, c in zip(values, latents, strict=True)) / len(coded)
    torch.testing.assert_close(loss.parts["reconstruction"], reconstruction.detach())
    torch.testing.assert_close(loss.parts["commitment"], commitment.detach())
    assert loss.parts["mask"] > 0
    torch.testing.assert_close(loss.total, reconstruction + 0.1 * loss.parts["mask"] + 0.25 * commitment)


def test_mask_distance_counts_masked_positions_only():
    torch.manual_seed(0)
    latents, target = torch.randn(3, 5, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    masked = torch.zeros(3, 5, dtype=torch.bool)
    masked[0, 1] = masked[2, 4] = True
    loss = masked_distance(latents, target, masked)
    by_hand = ((latents[0, 1] - target[0, 1]).square().sum() + (latents[2, 4] - target[2, 4]).square().sum()) / (2 * 4)
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert target.grad is None
    assert (latents.grad.abs().sum(-1) > 0).tolist() == masked.tolist()
    assert float(masked_distance(latents.detach(), target, torch.zeros_like(masked))) == 0.0


def test_mask_loss_reaches_its_target_by_no_path(model, coded):
    """Where every latent is masked, the originals are target only: they get no gradient; the mask vector does."""
    model.train()
    latents = model.encode(coded).detach().requires_grad_()
    model.mask_consistency(latents, torch.ones(coded.shape[:2], dtype=torch.bool)).backward()
    assert latents.grad is None or float(latents.grad.abs().sum()) == 0.0
    assert "mask_d" in gradients(model)
    assert any(name.startswith("encoder.") for name in gradients(model))  # by the re-encoding


def test_visible_latents_get_gradient_from_the_mask_loss_and_masked_ones_do_not(model, coded):
    model.train()
    latents = model.encode(coded).detach().requires_grad_()
    masked = torch.zeros(coded.shape[:2], dtype=torch.bool)
    masked[:, 2] = True
    model.mask_consistency(latents, masked).backward()
    reached = latents.grad.abs().sum(dim=(0, 2)) > 0
    assert reached.tolist() == [True, True, False, True, True, True]


def test_masked_latents_do_not_move_the_codebook(model, coded):
    model.train()
    before = {name: value.clone() for name, value in model.quantizer.state_dict().items()}
    model.mask_consistency(model.encode(coded), torch.ones(coded.shape[:2], dtype=torch.bool))
    for name, value in model.quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_mask_ratio_is_that_of_the_configuration(model, coded, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "mask_consistency", lambda latents, masked: seen.append(masked) or latents.sum() * 0)
    torch.manual_seed(0)
    for _ in range(60):
        model.loss(coded)
    share = torch.cat(seen).float().mean()
    assert 0.12 < float(share) < 0.18


# ---------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small, contract, chunks):
    """One short run: (config, log, model directory)."""
    config = run_config(tmp_path_factory.mktemp("lam") / "run", small)
    log = Log()
    torch.set_num_threads(1)
    return config, log, Trainer(ActionTask(config, contract, chunks), log).run()


def test_training_learns_and_the_codebook_lives(finished, chunks):
    """Perplexity of 25% of the codebook or more, no dead code, and far less error than the chunks' spread."""
    _, log, path = finished
    record = load_training_record(path)
    assert record["codebook"]["perplexity_share"] >= 0.25
    assert record["codebook"]["dead_codes"] == 0
    assert record["warnings"] == []
    reconstruction = [figures["reconstruction"] for figures in log.figures if "reconstruction" in figures]
    assert reconstruction[-1] < 0.6 * reconstruction[0]
    model = load_latent_model(path, ActionLatentModel)
    decoded = model.decode_raw(model.encode_raw(chunks.actions_NHA, chunks.states_NS), chunks.states_NS)
    error = (decoded - chunks.actions_NHA)[..., :6]
    spread = (chunks.actions_NHA - chunks.states_NS[:, None])[..., :6]
    assert np.square(error).mean() < 0.4 * np.square(spread).mean()
    assert record["evaluation"]["accuracy_gripper"] > 0.95
    assert record["evaluation"]["rmse_joint_1_rad"] > 0


def test_run_leaves_logs_and_a_picture(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, log, path = finished
    assert path == config.output / "model"
    assert (config.output / "codebook_usage.png").stat().st_size > 1000
    events = EventAccumulator(str(config.output / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"codebook/perplexity", "codebook/dead_codes", "train/reconstruction", "validation/rmse_joint_1_rad"} <= tags
    assert len(events.Scalars("codebook/perplexity")) == 6  # every log interval
    assert sum("loss" in figures for figures in log.figures) == 6
    lines = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [25, 50, 75, 100, 125, 150]
    assert [line["step"] for line in lines if "validation/mse" in line] == [100, 150]


def test_same_seed_same_model_bit_for_bit(tmp_path, small, contract, chunks):
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        config = run_config(tmp_path / name, small, steps=12, seed=seed)
        path = Trainer(ActionTask(config, contract, chunks), Log()).run()
        weights.append((path / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_collapse_is_warned_about(tmp_path, small, contract, chunks):
    """Restart off and codes out of reach: the run must say that its codebook is not healthy."""
    config = run_config(tmp_path / "run", replace(small, restart_below=0.0), steps=60)
    log = Log()
    trainer = Trainer(ActionTask(config, contract, chunks), log)
    trainer._train_step(stop=False)
    codebook = trainer.module.quantizer.vq._codebook
    codebook.embed[0, 1:], codebook.embed_avg[0, 1:] = 1e4, 1e4 * codebook.cluster_size[0, 1:, None]
    path = trainer.run()
    assert any("perplexity is 1.0 of 32" in text for text in log.messages)
    assert any("31 of 32 codes are never used" in text for text in log.messages)
    assert len(load_training_record(path)["warnings"]) == 2


@pytest.mark.parametrize("part", ["decoder.0.weight", "encoder.project.weight"])
def test_not_a_number_stops_the_run_and_saves_nothing(tmp_path, small, contract, chunks, part):
    config = run_config(tmp_path / "run", small, steps=20)
    trainer = Trainer(ActionTask(config, contract, chunks), Log())
    with torch.no_grad():
        trainer.module.get_parameter(part)[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"step 0: the loss is nan.*every sample of the batch.*lower learning_rate"):
        trainer.run()
    assert not (tmp_path / "run" / "model").exists()


def test_an_interrupted_run_leaves_no_model(tmp_path, small, contract, chunks, monkeypatch):
    config = run_config(tmp_path / "run", small, steps=20)
    trainer = Trainer(ActionTask(config, contract, chunks), Log())
    original = trainer._train_step

    def dying(*, stop):
        if trainer.step == 10:
            raise KeyboardInterrupt
        return original(stop=stop)

    monkeypatch.setattr(trainer, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert [p.name for p in (tmp_path / "run").iterdir() if "model" in p.name] == []
    monkeypatch.undo()
    assert Trainer(ActionTask(config, contract, chunks), Log()).run().is_dir()  # and the same command works again


def test_a_chunk_with_a_loss_that_is_not_finite_is_named(tmp_path, small, contract, chunks):
    trainer = Trainer(ActionTask(run_config(tmp_path / "run", small, batch_size=200), contract, chunks), Log())
    bad = int(trainer.stream(0, 200)[17])
    trainer.task.actions_NHA[bad, 0, 0] = torch.inf
    named = rf"samples \[{bad}\]: step {bad % 20} of episode {bad // 20} of .*tabletop\. Look at these"
    with pytest.raises(TrainingError, match=named):
        trainer.run()


def test_sigterm_ends_the_run_saved_and_without_a_model(tmp_path, small, contract, chunks):
    class Preempted(Trainer):
        def _train_step(self, *, stop):
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super()._train_step(stop=stop)

    config, log = run_config(tmp_path / "run", small, steps=12), Log()
    with pytest.raises(TrainingError, match=r"stopped at step 5 of 12.*the same command goes on"):
        Preempted(ActionTask(config, contract, chunks), Log()).run()
    assert not (config.output / "model").exists()
    with sole_writer(config.output), pytest.raises(OutputError, match=f"being written by another .*{os.getpid()}"):
        Trainer(ActionTask(config, contract, chunks), Log()).run()
    resumed = Trainer(ActionTask(config, contract, chunks), log)
    assert resumed.run() == config.output / "model"
    assert log.messages[0] == "resumed at step 5 of 12"
    whole = Trainer(ActionTask(replace(config, output=tmp_path / "whole"), contract, chunks), Log())
    whole.run()
    assert resumed.losses == whole.losses[5:]


def test_accumulation_needs_less_memory_for_the_same_chunks(tmp_path, small, contract, chunks):
    whole, halves = (
        Trainer(ActionTask(run_config(tmp_path / str(n), small, accumulation=n, steps=2), contract, chunks), Log())
        for n in (1, 2)
    )
    assert torch.equal(torch.cat([halves._batch(0), halves._batch(1)]), whole._batch(0))
    assert load_training_record(halves.run())["steps"] == 2


def test_a_finished_run_is_not_overwritten(finished, contract, chunks):
    config, _, path = finished
    before = (path / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="exists already"):
        Trainer(ActionTask(config, contract, chunks), Log()).run()
    assert (path / "model.safetensors").read_bytes() == before


# ---------------------------------------------------------------------------- data


def test_validation_holds_whole_episodes_out(chunks):
    train, validation = split_episodes(chunks.episode_N, validation=0.1, seed=0)
    assert len(validation) == 4 * 20
    assert not set(chunks.episode_N[train]) & set(chunks.episode_N[validation])
    assert len(train) + len(validation) == len(chunks)


def test_single_episode_needs_validation_off(tmp_path, small, contract, chunks):
    one, config = chunks.take(np.arange(20)), run_config(tmp_path, small)
    with pytest.raises(DataError, match="single episode"):
        ActionTask(config, contract, one)
    task = ActionTask(replace(config, data=replace(config.data, validation_fraction=0.0)), contract, one)
    assert len(task.train_rows) == 20 and len(task.validation_rows) == 0


def test_a_constant_dimension_is_kept_exactly(tmp_path, small, contract, chunks):
    actions, states = chunks.actions_NHA.copy(), chunks.states_NS.copy()
    actions[..., 3] = states[:, 3] = 0.25
    log = Log()
    config = run_config(tmp_path / "run", small, steps=5)
    path = Trainer(ActionTask(config, contract, ActionChunks(states, actions, chunks.episode_N)), log).run()
    assert any("'joint_4' has one value" in text for text in log.messages)
    assert load_training_record(path)["evaluation"]["rmse_joint_4_rad"] < 1e-6


def test_chunks_that_never_change_are_refused(small, contract, chunks):
    flat = ActionChunks(np.full_like(chunks.states_NS, 0.5), np.full_like(chunks.actions_NHA, 0.5), chunks.episode_N)
    assert len(constant_dimensions({"action": {"a": {"min": [0.0, 1.0], "max": [0.0, 1.0]}}})) == 1
    with pytest.raises(DataError, match="nothing to learn"):
        chunk_stats(contract, small.actions, flat)


def test_episodes_of_one_step_train(tmp_path, small, contract, chunks):
    """One-step episodes are chunks of one repeated action: every timestep has statistics."""
    rows = np.arange(0, len(chunks), 7)
    actions = np.repeat(chunks.actions_NHA[rows, :1], contract.chunk_size, axis=1)
    single = ActionChunks(chunks.states_NS[rows], actions, np.arange(len(rows)))
    config = run_config(tmp_path / "run", small, steps=5)
    model = load_latent_model(Trainer(ActionTask(config, contract, single), Log()).run(), ActionLatentModel)
    coded = model.normalise(actions, chunks.states_NS[rows])
    torch.testing.assert_close(coded, coded[:, :1].expand_as(coded))


def test_not_finite_data_is_refused(tmp_path, small, contract, chunks):
    actions = chunks.actions_NHA.copy()
    actions[5, 2, 1] = np.nan
    from lavla_ros.policy.normalization import StatsError

    with pytest.raises(StatsError, match="not finite"):
        chunk_stats(contract, small.actions, ActionChunks(chunks.states_NS, actions, chunks.episode_N))


# ---------------------------------------------------------------------------- command


def test_command_trains_from_a_configuration_file(tmp_path, contract, chunks, monkeypatch, capsys):
    """The whole command, with the numbers of a dataset in place of its files."""
    config = tmp_path / "run.yaml"
    config.write_text(
        "kind: action\nsteps: 500\nbatch_size: 32\nthreads: 1\ndevice: cpu\nlog_every: 4\n"
        "model: {width: 16, heads: 2, codebook_size: 8}\n"
        "data: {datasets: [somewhere], contract: jaka_minicobo, validation_fraction: 0.1}\n"
    )
    monkeypatch.setattr(action_train, "load_contract", lambda name: contract)
    monkeypatch.setattr(action_train, "load_chunks", lambda data, contract: chunks)
    cli.main(["latent", "train", "--config", str(config), "--steps", "8", "--output", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert output.out.strip() == str(tmp_path / "out" / "model")
    assert "perplexity" in output.err
    assert json.loads((tmp_path / "out" / "model" / "training.json").read_text())["steps"] == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {datasets: [/nowhere/at/all]}", "/nowhere/at/all does not exist"),
        ("data: {datasets: []}", "at least one directory"),
        ("model: {mask_ratio: 1.5}", "mask_ratio is 1.5"),
        ("model: {codebook: 12}", "unknown keys \\['codebook'\\]"),
        ("kind: image", "kind is 'image'"),
        ("steps: 0", "steps is 0"),
    ],
)
def test_command_names_what_is_wrong(tmp_path, text, message, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.main(["latent", "train", "action", "--config", str(config), "--output", str(tmp_path / "out")])
    import re

    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
