"""The pretrained model under a policy: its type at rest, and what is said when it is not the right one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_world import qwen_run, world_contract
from transformers import Qwen3VLModel

from lavla_ros import cli
from lavla_ros.policy import backbone, device
from lavla_ros.policy.backbone import build_backbone
from lavla_ros.policy.base_model import fingerprint_of, load_pretrained_tokenizer
from lavla_ros.policy.checkpoint import CheckpointError, load_checkpoint
from lavla_ros.policy.config import BackboneConfig, LoraConfig
from lavla_ros.policy.device import DeviceError, resolve_dtype
from lavla_ros.policy.export import export_adapters, export_merged
from lavla_ros.policy.policy import load_policy
from lavla_ros.policy.resting import RestingLinear
from training import footprint
from training.loop import Trainer
from training.policy_task import PolicyTask, require_unchanged
from training.system_resources import RoomError

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")


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


def test_an_export_is_in_the_base_models_type_and_no_larger(
    trained: tuple[Path, Trainer], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    capfd.readouterr()
    export_merged(folder / "run/last", tmp_path / "merged")
    export_adapters(folder / "run/last", tmp_path / "adapters")
    assert capfd.readouterr() == ("", ""), "no bars and reports of the libraries"
    merged, whole = tmp_path / "merged/backbone/model.safetensors", folder / "qwen/model.safetensors"
    assert types(merged) == types(whole) == {"BF16"} and merged.stat().st_size <= whole.stat().st_size
    assert types(tmp_path / "adapters/adapter_model.safetensors") == {"BF16"}
    assert types(tmp_path / "merged/model.safetensors") == types(folder / "run/last/model.safetensors") == {"F16"}
    assert {p.dtype for p in load_checkpoint(tmp_path / "merged").model.parameters()} == {torch.float32}


def change_tensors(base: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def change_sizes(base: Path, **sizes: int) -> None:
    described = json.loads((base / "config.json").read_text())
    described["text_config"] |= sizes
    (base / "config.json").write_text(json.dumps(described))


def in_shards(base: Path, lacking: str) -> None:
    """In the hub's layout and in two files, but for some tensors."""
    tensors = {f"model.{name}": t for name, t in load_file(base / "model.safetensors").items() if lacking not in name}
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, base / f"model-{number}.safetensors")
        index |= dict.fromkeys(part, f"model-{number}.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def cut_off(base: Path) -> None:
    os.truncate(base / "model.safetensors", (base / "model.safetensors").stat().st_size - 1000)


UNFIT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "lacks tensors": (
        lambda base: change_tensors(base, lambda found: found.pop("language_model.layers.2.mlp.up_proj.weight")),
        "",
        r"its weights lack 1 tensors .*layers\.2\.mlp.*download the model again",
    ),
    "lacks tensors of a shard": (
        lambda base: in_shards(base, "layers.2.mlp"),
        "",
        r"its weights lack 3 tensors .*layers\.2\.mlp.*download the model again",
    ),
    "has other sizes than it says": (
        lambda base: change_sizes(base, intermediate_size=48),
        "",
        r"12 of its tensors have other sizes .*down_proj\.weight is \(32, 32\), not \(32, 48\), .* and 9 more",
    ),
    "is cut off": (cut_off, "", r"no Qwen3-VL could be loaded from it \(.*not fully covered"),
    "has no weights": (lambda base: (base / "model.safetensors").unlink(), "", "it has neither model.safetensors nor"),
    "has fewer tokens than the tokenizer": (
        lambda base: change_sizes(base, vocab_size=200),
        "",
        r"the tokenizer has ids up to \d+, the model embeddings for 200 tokens",
    ),
    "is to be read by a package that is not there": (
        lambda base: None,
        "--policy.backbone.attention flash_attention_2 --precision bfloat16",
        "flash-attn package is not installed",
    ),
    "is to be computed in a type that is not there": (
        lambda base: None,
        "--precision bfloat16",
        r"dtype is bfloat16, which device 'cpu' does not compute in; .*precision: float32",
    ),
    "needs more memory than there is": (
        lambda base: None,
        "--batch-size 4000",
        r"training needs at least .* of memory; 0.1 GiB are free on this machine. It fits with .*accumulation: 4000",
    ),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash-attn and bfloat16 may be there")
@pytest.mark.parametrize("name", UNFIT)
def test_a_base_model_is_refused_before_anything_is_decoded_or_loaded(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset is not even there."""
    spoil, options, says = UNFIT[name]
    spoil(base)
    monkeypatch.setattr(backbone, "load_base", None)
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: "package" in name)
    monkeypatch.setattr(footprint, "available_memory", lambda: 2**30 // 8)
    options += f" --policy.backbone.kind pretrained --policy.backbone.path {base}"
    files = ["--output", str(tmp_path / "run"), "--data.dataset", str(tmp_path / "gone")]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        cli.main(["train", *files, "--data.contract", str(large_contract(tmp_path)), *options.split()])
    said = capsys.readouterr().err
    assert ending.value.code == 1 and re.search(says, said), said
    assert len(said.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def large_contract(folder: Path) -> Path:
    small = world_contract()
    large = replace(small, cameras=tuple(replace(camera, width=224, height=224) for camera in small.cameras))
    (folder / "contract.yaml").write_text(yaml.safe_dump(large.to_dict()))
    return folder / "contract.yaml"


def test_a_base_model_in_shards_and_in_the_hubs_layout_is_the_same(base: Path) -> None:
    config = BackboneConfig(kind="pretrained", path=str(base))
    one = fingerprint_of(config)
    in_shards(base, "none of these")
    assert fingerprint_of(config) == one


def test_another_revision_of_the_base_model_is_refused(
    trained: tuple[Path, Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    copied = Path(shutil.copytree(folder / "run/last", tmp_path / "last"))
    kept = (folder / "qwen/model.safetensors").read_bytes()
    tensors = load_file(folder / "qwen/model.safetensors")
    tensors["language_model.norm.weight"] = tensors["language_model.norm.weight"] + 1
    save_file(tensors, folder / "qwen/model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(backbone, "load_base", None)
    try:
        with pytest.raises(SystemExit) as ending:
            cli.main(["export", str(copied), "--out", str(tmp_path / "out")])
        said = capsys.readouterr().err
        assert ending.value.code == 1 and not (tmp_path / "out").exists()
        assert re.search(r"trained on a base model with the fingerprint \w+; that in .* has", said), said
        with pytest.raises(CheckpointError, match=r"trained on a base model with the fingerprint"):
            load_policy(copied)
        config, found = qwen_run(folder, "run")[0], fingerprint_of(trained[1].config.policy.backbone)
        with pytest.raises(CheckpointError, match=rf"resume was begun on a base model with .* has {found}: give back"):
            require_unchanged(config, found, [])
    finally:
        (folder / "qwen/model.safetensors").write_bytes(kept)
    require_unchanged(config, fingerprint_of(config.policy.backbone), [])
    monkeypatch.undo()
    load_checkpoint(copied)


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
