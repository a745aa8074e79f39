"""Adapters by peft alone, and merged checkpoints that need neither peft nor the base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from small_world import INSTRUCTION, qwen_run
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel

from lavla_ros import cli
from lavla_ros.contract import Observation
from lavla_ros.outputs import OutputError
from lavla_ros.policy.adapters import without_joining
from lavla_ros.policy.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, trained_parameters
from lavla_ros.policy.export import export_adapters, export_merged
from lavla_ros.policy.policy import BUNDLED, VlaPolicy
from training.loop import Trainer
from training.policy_task import PolicyTask


class Quiet:
    def step(self, step: int, figures: object) -> None: ...
    def message(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy after three steps, its adapters then made large enough to matter; its prompts are turns of a chat."""
    folder = tmp_path_factory.mktemp("export")
    config, contract, data = qwen_run(folder, "run", chat=True)
    trainer = Trainer(PolicyTask(config, contract, data), Quiet())
    trainer.run()
    with torch.no_grad():
        for name, parameter in trainer.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    save_checkpoint(
        folder / "policy",
        config=config.policy,
        contract=contract,
        stats=trainer.task.stats,
        tokenizer=trainer.task.tokenizer,
        tensors=trained_parameters(trainer.module),
        training={"step": 3},
    )
    return folder


def chunk(path: Path) -> np.ndarray:
    policy = VlaPolicy(load_checkpoint(path), device="cpu", threads=1)
    contract = policy.contract
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras}
    state = np.zeros(contract.state_dim, np.float32)
    return policy.predict(Observation(stamp_ns=1, images=images, state=state, instruction=INSTRUCTION)).actions_HA


def test_peft_reads_the_adapters_without_us(trained: Path, tmp_path: Path) -> None:
    export_adapters(trained / "policy", tmp_path / "adapters")
    assert {p.name for p in (tmp_path / "adapters").glob("adapter_*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    base = Qwen3VLModel.from_pretrained(str(trained / "qwen"))
    ids = torch.arange(5)[None]
    plain = base(input_ids=ids).last_hidden_state
    alone = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    ours = load_checkpoint(trained / "policy").model.backbone.vlm
    without_joining(ours)  # the sums in their order
    with torch.no_grad():
        expected, found = ours(input_ids=ids).last_hidden_state, alone(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.allclose(found, plain, atol=1e-2), "the adapters do something"


def test_the_adapters_work_inside_the_class_with_a_language_model_head(trained: Path, tmp_path: Path) -> None:
    """The way that the training page gives; put on the whole class itself they would change nothing."""
    export_adapters(trained / "policy", tmp_path / "adapters")
    whole = Qwen3VLForConditionalGeneration.from_pretrained(str(trained / "qwen"))
    whole.model = PeftModel.from_pretrained(whole.model, str(tmp_path / "adapters"))
    ids = torch.arange(5)[None]
    ours = load_checkpoint(trained / "policy").model.backbone.vlm
    without_joining(ours)  # the sums in their order
    with torch.no_grad():
        found = whole.eval()(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        expected = ours(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_merged_checkpoint_stands_alone_and_acts_alike(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["export", str(trained / "policy"), "--as", "merged", "--out", str(tmp_path / "first")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "first")
    expected = chunk(trained / "policy")
    shutil.move(tmp_path / "first", tmp_path / "moved")  # it holds its backbone, by a path of its own
    hidden = trained / "qwen"
    hidden.rename(trained / "gone")
    try:
        loaded = load_checkpoint(tmp_path / "moved")
        merged = chunk(tmp_path / "moved")
    finally:
        (trained / "gone").rename(hidden)
    np.testing.assert_allclose(merged, expected, atol=1e-5)
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    assert loaded.training == {"step": 3}
    kept = load_file(tmp_path / "moved/model.safetensors")
    assert kept and not any(name.startswith("backbone.vlm") for name in kept)
    assert json.loads((tmp_path / "moved/stats.json").read_text()) == json.loads(
        (trained / "policy/stats.json").read_text()
    )
    with pytest.raises(CheckpointError, match=r"has no adapters: its backbone is '\./backbone' without LoRA"):
        export_merged(tmp_path / "moved", tmp_path / "twice")
    with pytest.raises(OutputError, match="exists already"):
        export_adapters(trained / "policy", tmp_path / "moved")


def test_a_policy_that_was_trained_whole_has_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its backbone is tiny, trained whole"):
        export_adapters(BUNDLED, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
