"""The action model as a tokenizer: through arrays, through files, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_squares import CODES, save_action_model, save_image_model
from moving_square import square_contract, write_squares

from lavla_ros import cli
from lavla_ros.contract import Contract
from lavla_ros.policy.checkpoint import CheckpointError
from lavla_ros.policy.config import ActionCodingConfig
from training.dataset import EpisodeDataset
from training.latent_actions.action_config import ActionLamConfig
from training.latent_actions.action_data import ActionChunks, chunk_stats
from training.latent_actions.action_model import ActionLatentModel
from training.latent_actions.encode import ActionTokenizer, EncodeError

HORIZON = 6  # of the folder's contract


@pytest.fixture
def tokenizer(model: ActionLatentModel) -> ActionTokenizer:
    return ActionTokenizer(model)


def test_codes_are_the_models_and_survive_the_way_back(
    tokenizer: ActionTokenizer, model: ActionLatentModel, chunks: ActionChunks
) -> None:
    assert (tokenizer.chunk_size, tokenizer.codebook_size, tokenizer.needs_states) == (HORIZON, 32, True)
    codes = tokenizer.encode(chunks.actions_NHA, chunks.states_NS)
    assert codes.shape == (800, HORIZON) and codes.min() >= 0 and codes.max() < 32
    np.testing.assert_array_equal(codes, model.encode_raw(chunks.actions_NHA, chunks.states_NS))
    actions = tokenizer.decode(codes, chunks.states_NS)
    assert actions.shape == (800, HORIZON, 7)
    np.testing.assert_allclose(actions, model.decode_raw(codes, chunks.states_NS))
    one = tokenizer.encode(chunks.actions_NHA[3], chunks.states_NS[3])
    np.testing.assert_array_equal(one, codes[3])
    np.testing.assert_allclose(tokenizer.decode(one, chunks.states_NS[3]), actions[3], atol=1e-6)
    assert tokenizer.encode(chunks.actions_NHA[:0], chunks.states_NS[:0]).shape == (0, HORIZON)
    assert tokenizer.decode(codes[:0], chunks.states_NS[:0]).shape == (0, HORIZON, 7)


def test_short_windows_are_filled_with_their_last_action(tokenizer: ActionTokenizer, chunks: ActionChunks) -> None:
    window, state = chunks.actions_NHA[5, :2], chunks.states_NS[5]
    filled = np.concatenate([window, np.repeat(window[-1:], HORIZON - 2, axis=0)])
    np.testing.assert_array_equal(tokenizer.encode(window, state), tokenizer.encode(filled, state))


def test_states_are_needed_only_by_models_that_use_them(
    small: ActionLamConfig, contract: Contract, chunks: ActionChunks, tokenizer: ActionTokenizer
) -> None:
    with pytest.raises(EncodeError, match=r"relative to the observed state: give states of shape \(800, 7\)"):
        tokenizer.encode(chunks.actions_NHA)
    config = replace(small, actions=ActionCodingConfig(relative_actions=False))
    torch.manual_seed(0)
    absolute = ActionLatentModel(config, contract, chunk_stats(contract, config.actions, chunks))
    absolute.train().loss(absolute.normalise(chunks.actions_NHA, chunks.states_NS))
    free = ActionTokenizer(absolute.eval())
    assert not free.needs_states
    np.testing.assert_array_equal(free.encode(chunks.actions_NHA), free.encode(chunks.actions_NHA, chunks.states_NS))
    assert free.decode(free.encode(chunks.actions_NHA[0])).shape == (HORIZON, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, s: (np.concatenate([a, a], axis=1), s), r"L from 1 to 6 .*cut longer trajectories"),
        (lambda a, s: (a[..., :6], s), r"m = 7 \(joint_1"),
        (lambda a, s: (a[:, :0], s), "L from 1 to 6"),
        (lambda a, s: (a[0, 0], s), r"shape \(7,\)"),
        (
            lambda a, s: (np.where(np.arange(7) == 2, np.nan, a), s),
            r"4800 values that are not finite, the first at index \[0, 0, 2\]",
        ),
        (lambda a, s: (a, s[:-1]), r"states have shape \(799, 7\); expected \(800, 7\)"),
        (lambda a, s: (a, np.where(np.arange(7) == 1, np.inf, s)), "states hold 800 values that are not finite"),
    ],
)
def test_actions_that_do_not_fit(tokenizer: ActionTokenizer, chunks: ActionChunks, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EncodeError, match=message):
        tokenizer.encode(*change(chunks.actions_NHA, chunks.states_NS))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.full((2, HORIZON), 32), r"12 codes are outside the codebook of 32; the first is 32 at chunk 0, step 0"),
        (np.eye(HORIZON, dtype=int)[:2] * -1, r"2 codes .* is -1 at chunk 0, step 0"),
        (np.zeros((2, HORIZON)), "dtype float64; expected integers"),
        (np.zeros((2, HORIZON + 1), int), r"expected \(N, H\) with H = 6"),
        (np.zeros((1, 2, HORIZON), int), r"expected \(N, H\)"),
    ],
)
def test_codes_that_do_not_fit(tokenizer: ActionTokenizer, codes: np.ndarray, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        tokenizer.decode(codes, np.zeros((2, 7)))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("encode") / "squares", [9, 12])


def run(*arguments: object) -> None:
    cli.main([str(a) for a in arguments])


def test_files_and_datasets_by_command(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_action_model(tmp_path / "model", squares)
    dataset = EpisodeDataset(squares, square_contract())
    actions = np.stack([dataset.chunk(i)[0] for i in range(len(dataset))])
    np.save(tmp_path / "actions.npy", actions)
    np.save(tmp_path / "states.npy", dataset.states)
    run("latent", "encode", squares, "--model", model, "--out", tmp_path / "a.npy")
    run("latent", "encode", tmp_path / "actions.npy", "--states", tmp_path / "states.npy", "--model", model,
        "--out", tmp_path / "deep/b.npy")  # fmt: skip
    assert "21 chunks of 4 codes" in capsys.readouterr().out
    codes = np.load(tmp_path / "a.npy")
    assert codes.shape == (21, 4) and codes.dtype == np.int32 and codes.max() < CODES
    np.testing.assert_array_equal(codes, np.load(tmp_path / "deep/b.npy"))
    run("latent", "decode", tmp_path / "a.npy", "--states", squares, "--model", model, "--out", tmp_path / "c.npy")
    run("latent", "decode", tmp_path / "a.npy", "--states", tmp_path / "states.npy", "--model", model, "--out",
        tmp_path / "d.npy")  # fmt: skip
    decoded = np.load(tmp_path / "c.npy")
    np.testing.assert_allclose(decoded, ActionTokenizer.load(model).decode(codes, dataset.states))
    np.testing.assert_array_equal(decoded, np.load(tmp_path / "d.npy"))
    assert "(21, 4, 7)" in capsys.readouterr().out


def test_files_that_do_not_fit(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_action_model(tmp_path / "model", squares)
    image = save_image_model(tmp_path / "image", squares)
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "not.npy").write_text("no array")
    out = tmp_path / "out.npy"
    for source, used, target, message in (
        (tmp_path / "nowhere.npy", model, out, "nowhere.npy is no array that can be read"),
        (tmp_path / "not.npy", model, out, "not.npy is no array that can be read"),
        (tmp_path / "objects.npy", model, out, "objects.npy is no array that can be read"),
        (tmp_path / "several.npz", model, out, "holds several arrays"),
        (tmp_path / "text.npy", model, out, "expected numbers"),
        (squares, image, out, "kind 'image'; expected 'action'"),
        (squares, tmp_path, out, "lacks config.yaml"),
        (squares, model, tmp_path / "out.txt", "should end with .npy"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run("latent", "encode", source, "--model", used, "--out", target)
        assert stopped.value.code == 1
        assert message in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(CheckpointError):
        ActionTokenizer.load(image)
