"""The pretrained model under a policy: its type at rest, and what is said when it is not the right one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_world import qwen_run
from transformers import Qwen3VLModel

from lavla_ros.config import ConfigError
from lavla_ros.policy import device
from lavla_ros.policy.backbone import build_backbone, load_pretrained_tokenizer, require_backbone
from lavla_ros.policy.checkpoint import CheckpointError, load_checkpoint
from lavla_ros.policy.config import BackboneConfig, LoraConfig
from lavla_ros.policy.device import DeviceError, resolve_dtype
from lavla_ros.policy.export import export_adapters, export_merged
from lavla_ros.policy.resting import RestingLinear
from training import footprint
from training.loop import Trainer
from training.policy_task import PolicyTask
from training.system_resources import RoomError


class Quiet:
    def step(self, step: int, figures: object) -> None: ...
    def message(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    """Three steps in bfloat16 on a base model that is stored in it, as the hub's are."""
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("base")
    config, contract, data = qwen_run(folder, "run")
    vlm = Qwen3VLModel.from_pretrained(folder / "qwen", dtype=torch.bfloat16)
    vlm.save_pretrained(folder / "qwen")
    trainer = Trainer(PolicyTask(replace(config, precision="bfloat16", half_checkpoints=True), contract, data), Quiet())
    trainer.run()
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder, trainer


@pytest.fixture
def base(trained: tuple[Path, Trainer], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0] / "qwen", tmp_path / "qwen"))


def types(file: Path) -> set[str]:
    with safe_open(str(file), framework="pt") as opened:
        return {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 (not a mapping)


def test_frozen_weights_rest_in_bfloat16_and_what_is_trained_in_float32(trained: tuple[Path, Trainer]) -> None:
    parameters = dict(trained[1].module.named_parameters())
    assert {p.dtype for p in parameters.values() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in parameters.values() if p.requires_grad} == {torch.float32}
    assert any("lora_" in name for name, p in parameters.items() if p.requires_grad)


def test_weights_that_rest_in_bfloat16_may_be_computed_with_in_float32(trained: tuple[Path, Trainer]) -> None:
    """Half the memory; the same numbers but for rounding as with those weights in float32, gradients too."""
    config = BackboneConfig(kind="pretrained", path=str(trained[0] / "qwen"), lora=LoraConfig(rank=2))
    tokenizer = load_pretrained_tokenizer(config.path)
    found = []
    for at_rest in (torch.float32, torch.bfloat16):
        backbone = build_backbone(config, tokenizer, at_rest, computing=torch.float32)
        rng = torch.Generator().manual_seed(0)
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1, generator=rng)
        images = torch.arange(2 * 224 * 224 * 3, dtype=torch.uint8).view(1, 2, 224, 224, 3)
        tokens = torch.full((1, 110), backbone.ids.placeholder("action"))
        last = backbone(images, tokens)[-1]
        (last * torch.linspace(-1, 1, last.numel()).view_as(last)).sum().backward()
        found.append([last, *(p.grad for p in backbone.parameters() if p.grad is not None)])
    linears = [m.weight.dtype for m in backbone.modules() if isinstance(m, RestingLinear)]
    assert len(linears) > 30 and set(linears) == {torch.bfloat16}
    assert len(found[0]) == len(found[1]) > 60
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_an_export_is_in_the_base_models_type_and_no_larger(trained: tuple[Path, Trainer], tmp_path: Path) -> None:
    folder, _ = trained
    export_merged(folder / "run/last", tmp_path / "merged")
    export_adapters(folder / "run/last", tmp_path / "adapters")
    merged, whole = tmp_path / "merged/backbone/model.safetensors", folder / "qwen/model.safetensors"
    assert types(merged) == types(whole) == {"BF16"} and merged.stat().st_size <= whole.stat().st_size
    assert types(tmp_path / "adapters/adapter_model.safetensors") == {"BF16"}
    assert types(tmp_path / "merged/model.safetensors") == types(folder / "run/last/model.safetensors") == {"F16"}
    assert {p.dtype for p in load_checkpoint(tmp_path / "merged").model.parameters()} == {torch.float32}


def test_a_base_model_that_lacks_tensors_is_refused(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if "layers.2.mlp" not in name}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"its weights lack 3 tensors .*layers\.2\.mlp.*download the model again"):
        build_backbone(BackboneConfig(kind="pretrained", path=str(base)), load_pretrained_tokenizer(base))


def test_a_base_model_of_other_sizes_than_it_says_is_refused(base: Path) -> None:
    described = json.loads((base / "config.json").read_text())
    described["text_config"]["intermediate_size"] = 48
    (base / "config.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="no Qwen3-VL could be loaded from it"):
        build_backbone(BackboneConfig(kind="pretrained", path=str(base)), load_pretrained_tokenizer(base))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused_before_weights_are_read(base: Path) -> None:
    described = json.loads((base / "config.json").read_text())
    described["text_config"]["vocab_size"] = 200
    (base / "config.json").write_text(json.dumps(described))
    (base / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"the tokenizer has ids up to \d+, the model embeddings for 200 tokens"):
        require_backbone(BackboneConfig(kind="pretrained", path=str(base)))


def test_another_revision_of_the_base_model_is_refused(trained: tuple[Path, Trainer], tmp_path: Path) -> None:
    folder, _ = trained
    copied = Path(shutil.copytree(folder / "run/last", tmp_path / "last"))
    kept = (folder / "qwen/model.safetensors").read_bytes()
    tensors = load_file(folder / "qwen/model.safetensors")
    tensors["language_model.norm.weight"] = tensors["language_model.norm.weight"] + 1
    save_file(tensors, folder / "qwen/model.safetensors", metadata={"format": "pt"})
    try:
        with pytest.raises(CheckpointError, match=r"trained on a base model with the fingerprint \w+; that in .* has"):
            load_checkpoint(copied)
    finally:
        (folder / "qwen/model.safetensors").write_bytes(kept)
    load_checkpoint(copied)


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash-attn may be there")
def test_flash_attention_that_is_not_there_is_refused_first() -> None:
    config = BackboneConfig(kind="pretrained", path="nowhere", attention="flash_attention_2")
    with pytest.raises(ConfigError, match="flash-attn package is not installed"):
        require_backbone(config)


def test_what_a_device_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_dtype("auto", cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: True)
    assert resolve_dtype("auto", cuda) == torch.bfloat16
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: False)
    assert resolve_dtype("auto", cuda) == torch.float32
    with pytest.raises(DeviceError, match="dtype is bfloat16, which device 'cuda' does not compute in"):
        resolve_dtype("bfloat16", cuda)
    with pytest.raises(DeviceError, match="expected auto, float32 or bfloat16"):
        resolve_dtype("half", cpu)


@pytest.mark.parametrize(
    ("free_mib", "says"),
    [
        (3.0, "It fits with gradient_checkpointing: true$"),
        (2.2, "It fits with gradient_checkpointing: true, accumulation: 4$"),
        (0.01, "no setting of this recipe fits"),
    ],
)
def test_too_little_memory_is_said_before_weights_are_read(
    trained: tuple[Path, Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: float, says: str
) -> None:
    config, contract, _ = qwen_run(trained[0], "other")
    described = shutil.copytree(trained[0] / "qwen", tmp_path / "qwen")
    (described / "model.safetensors").unlink()
    backbone = replace(config.policy.backbone, path=str(described))
    config = replace(config, policy=replace(config.policy, backbone=backbone))
    monkeypatch.setattr(footprint, "available_memory", lambda: int(free_mib * 2**20))
    with pytest.raises(RoomError, match=says) as told:
        footprint.require_training_memory(config, contract, 4, torch.device("cpu"))
    assert "training needs at least" in str(told.value)
