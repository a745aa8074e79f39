"""UniVLA's checkpoints: every tensor goes where it belongs, and none is missing, unknown or misshapen unnoticed.

The layout below is written down by hand, from UniVLA's and DINOv2's published modules, at a small size. (That
the imported modules compute what UniVLA's do was measured outside of this repository.)
"""

from __future__ import annotations

import pickle

import pytest
import torch
from moving_square import square_contract
from safetensors.torch import save_file

from lavla_ros.contract import load_contract
from lavla_ros.policy.checkpoint import CheckpointError
from training.latent_actions import univla
from training.latent_actions.checkpoint import load_latent_model
from training.latent_actions.features import load_features
from training.latent_actions.image_model import ImageLatentModel
from training.latent_actions.univla import convert, import_univla, main, read_checkpoint, univla_names

WIDTH, LATENT, CODES, ENCODER, DECODER = 64, 8, 6, 2, 1
FEATURES, PATCH, LAYERS = 128, 14, 2
LANGUAGE = 12


def layout(stage: int) -> dict[str, tuple[int, ...]]:
    """Name → shape, as in a checkpoint's state_dict."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, inn: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, inn)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def attention(name: str) -> None:
        for part in ("to_q", "to_k", "to_v"):
            linear(f"{name}.{part}", WIDTH, WIDTH, bias=False)
        linear(f"{name}.to_out.0", WIDTH, WIDTH)

    def transformer(name: str, inn: int, blocks: int, norms: int) -> None:
        norm(f"{name}.ffn.0", inn)
        linear(f"{name}.ffn.1", WIDTH, inn)
        norm(f"{name}.ffn.2", WIDTH)
        for i in range(blocks):
            block = f"{name}.transformer_blocks.{i}"
            attention(f"{block}.spatial_attn")
            if norms == 3:
                attention(f"{block}.temporal_attn")
            linear(f"{block}.ffn.0", 4 * WIDTH, WIDTH)
            linear(f"{block}.ffn.3", WIDTH, 4 * WIDTH)
            for n in range(1, norms + 1):
                norm(f"{block}.norm{n}", WIDTH)

    shapes["action_latent"] = (1, 1, 4, FEATURES)
    transformer("encoder", FEATURES, ENCODER, 3)
    transformer("decoder", WIDTH, DECODER, 2)
    linear("decoder.out", FEATURES, WIDTH)
    linear("to_codebook", LATENT, WIDTH)
    linear("patch_up", WIDTH, FEATURES)
    linear("action_up", WIDTH, LATENT)
    shapes["vq.codebook.weight"] = (CODES, LATENT)
    if stage == 2:
        shapes["action_latent_controllable"] = (1, 1, 4, FEATURES)
        linear("to_codebook_uncontrol", LATENT, WIDTH)
        linear("action_up_uncontrol", WIDTH, LATENT)
        shapes["vq_action.codebook.weight"] = (CODES + 1, LATENT)
    else:
        linear("lang_proj", WIDTH, LANGUAGE)
        shapes["text_encoder.shared.weight"] = shapes["text_encoder.encoder.embed_tokens.weight"] = (20, LANGUAGE)
        for i in range(2):
            block = f"text_encoder.encoder.block.{i}.layer"
            for part in ("q", "k", "v"):
                linear(f"{block}.0.SelfAttention.{part}", 8, LANGUAGE, bias=False)
            linear(f"{block}.0.SelfAttention.o", LANGUAGE, 8, bias=False)
            if i == 0:
                shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (32, 2)
            linear(f"{block}.1.DenseReluDense.wi", 16, LANGUAGE, bias=False)
            linear(f"{block}.1.DenseReluDense.wo", LANGUAGE, 16, bias=False)
            for n in range(2):
                shapes[f"{block}.{n}.layer_norm.weight"] = (LANGUAGE,)
        shapes["text_encoder.encoder.final_layer_norm.weight"] = (LANGUAGE,)

    dino = "dino_encoder"
    shapes[f"{dino}.cls_token"] = (1, 1, FEATURES)
    shapes[f"{dino}.pos_embed"] = (1, 1 + 9, FEATURES)
    shapes[f"{dino}.register_tokens"] = (1, 4, FEATURES)
    shapes[f"{dino}.mask_token"] = (1, FEATURES)
    shapes[f"{dino}.patch_embed.proj.weight"] = (FEATURES, 3, PATCH, PATCH)
    shapes[f"{dino}.patch_embed.proj.bias"] = (FEATURES,)
    for i in range(LAYERS):
        block = f"{dino}.blocks.{i}"
        linear(f"{block}.attn.qkv", 3 * FEATURES, FEATURES)
        linear(f"{block}.attn.proj", FEATURES, FEATURES)
        linear(f"{block}.mlp.fc1", 4 * FEATURES, FEATURES)
        linear(f"{block}.mlp.fc2", FEATURES, 4 * FEATURES)
        for n in (1, 2):
            norm(f"{block}.norm{n}", FEATURES)
            shapes[f"{block}.ls{n}.gamma"] = (FEATURES,)
    norm(f"{dino}.norm", FEATURES)
    return shapes


def tensors(stage: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(stage)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in layout(stage).items()}


@pytest.fixture(params=[1, 2])
def stage(request) -> int:
    return request.param


def test_sizes_are_read_off_the_shapes(stage):
    config = convert(tensors(stage), square_contract(), image_size=42).model.config
    assert config.stage == stage
    assert (config.width, config.heads, config.encoder_blocks, config.decoder_blocks) == (WIDTH, 1, ENCODER, DECODER)
    assert (config.tokens, config.latent_width) == (4, LATENT)
    assert config.codebook_size == (CODES if stage == 1 else CODES + 1)
    assert config.environment_codebook_size == CODES
    assert (config.features.width, config.features.patch_size, config.features.tokens) == (FEATURES, PATCH, 9)
    assert stage == 2 or config.text.width == LANGUAGE


def test_every_tensor_arrives_once_and_unchanged(stage):
    given = tensors(stage)
    imported = convert(given, square_contract(), image_size=42)
    own = imported.model.state_dict()
    names = univla_names(imported.model)
    assert len(set(names.values())) == len(names)
    for ours, theirs in names.items():
        assert torch.equal(own[ours], given[theirs].reshape(own[ours].shape)), ours
    frozen = {n for n in given if n.startswith(("dino_encoder.", "text_encoder."))}
    assert set(names.values()) | frozen == set(given)
    assert {f"text_encoder.{n}" for n in imported.text_tensors} == {n for n in frozen if n.startswith("text")}


def test_tensors_are_not_mixed_up():
    """A few of them, by what they do here."""
    given = tensors(2)
    model = convert(given, square_contract(), image_size=42).model
    controllable, environment = model.latents["controllable"], model.latents["environment"]
    assert torch.equal(controllable.queries_PF, given["action_latent_controllable"][0, 0])
    assert torch.equal(environment.queries_PF, given["action_latent"][0, 0])
    assert torch.equal(controllable.to_code.weight, given["to_codebook.weight"])
    assert torch.equal(environment.to_code.weight, given["to_codebook_uncontrol.weight"])
    assert torch.equal(controllable.quantizer.codebook_Kd, given["vq_action.codebook.weight"])
    assert torch.equal(environment.quantizer.codebook_Kd, given["vq.codebook.weight"])
    assert torch.equal(controllable.from_code.bias, given["action_up.bias"])
    assert torch.equal(environment.from_code.bias, given["action_up_uncontrol.bias"])
    last = model.encoder.blocks[1]
    block = "encoder.transformer_blocks.1"
    assert torch.equal(last.space.key.weight, given[f"{block}.spatial_attn.to_k.weight"])
    assert torch.equal(last.time.value.weight, given[f"{block}.temporal_attn.to_v.weight"])
    assert torch.equal(last.time_norm.weight, given[f"{block}.norm2.weight"])
    assert torch.equal(last.feedforward_norm.bias, given[f"{block}.norm3.bias"])
    assert torch.equal(model.decoder.blocks[0].feedforward_norm.bias, given["decoder.transformer_blocks.0.norm2.bias"])


def test_image_encoder_is_taken_over():
    given = tensors(2)
    network = convert(given, square_contract(), image_size=42).network
    layer = network.encoder.layer[1]
    qkv = given["dino_encoder.blocks.1.attn.qkv.weight"]
    for i, part in enumerate((layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)):
        assert torch.equal(part.weight, qkv[i * FEATURES : (i + 1) * FEATURES])
    assert torch.equal(layer.layer_scale2.lambda1, given["dino_encoder.blocks.1.ls2.gamma"])
    assert torch.equal(network.embeddings.position_embeddings, given["dino_encoder.pos_embed"])
    assert network.config.image_size == 42 and network.config.num_attention_heads == 2


@pytest.mark.parametrize(
    "name",
    [
        "to_codebook.bias",
        "encoder.transformer_blocks.1.temporal_attn.to_q.weight",
        "vq_action.codebook.weight",
        "action_up_uncontrol.weight",
        "dino_encoder.blocks.0.ls1.gamma",
        "dino_encoder.mask_token",
    ],
)
def test_missing_tensor_is_named(name):
    given = tensors(2)
    del given[name]
    with pytest.raises(CheckpointError, match=name.removeprefix("dino_encoder.").replace(".", r"\.")):
        convert(given, square_contract(), image_size=42)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (2, "encoder.transformer_blocks.0.norm4.weight"),
        (2, "vq.usage"),
        (2, "lang_proj.weight"),
        (2, "text_encoder.shared.weight"),
        (2, "dino_encoder.head.weight"),
        (1, "text_encoder.decoder.block.0.weight"),
        (1, "to_codebook_uncontrol.weight"),
    ],
)
def test_unknown_tensor_is_named(stage, name):
    given = tensors(stage) | {name: torch.zeros(3)}
    with pytest.raises(CheckpointError, match=name.split("encoder.", 1)[-1].replace(".", r"\.")):
        convert(given, square_contract(), image_size=42)


@pytest.mark.parametrize(
    ("stage", "name", "shape"),
    [
        (2, "action_up.weight", (WIDTH, LATENT + 1)),
        (2, "action_latent_controllable", (1, 1, 3, FEATURES)),
        (2, "action_latent_controllable", (4, FEATURES)),
        (2, "decoder.out.weight", (WIDTH, FEATURES)),
        (2, "dino_encoder.blocks.1.attn.qkv.weight", (2 * FEATURES, FEATURES)),
        (2, "dino_encoder.pos_embed", (1, 12, FEATURES)),
        (1, "text_encoder.encoder.block.1.layer.0.SelfAttention.k.weight", (9, LANGUAGE)),
        (1, "lang_proj.bias", (WIDTH + 1,)),
    ],
)
def test_misshapen_tensor_is_named(stage, name, shape):
    given = tensors(stage) | {name: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=name.removeprefix("dino_encoder.").replace(".", r"\.")):
        convert(given, square_contract(), image_size=42)


# ------------------------------------------------------------------ files


def saved(path, stage: int, suffix: str):
    named = {f"lam.{name}": tensor for name, tensor in tensors(stage).items()}
    file = path / f"lam-stage-{stage}{suffix}"
    if suffix == ".safetensors":
        save_file(named, file)
    else:
        torch.save({"state_dict": named, "epoch": 3, "pytorch-lightning_version": "2.4"}, file)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_imported_model_can_be_loaded_and_used(stage, suffix, tmp_path):
    import_univla(saved(tmp_path, stage, suffix), tmp_path / "out", load_contract("jaka_minicobo"), image_size=42)
    model = load_latent_model(tmp_path / "out/model", ImageLatentModel)
    given = tensors(stage)
    for ours, theirs in univla_names(model).items():
        assert torch.equal(model.state_dict()[ours], given[theirs].reshape(model.state_dict()[ours].shape))
    extractor = load_features(model.config.features)  # the fingerprint is checked here
    assert torch.equal(extractor.network.embeddings.cls_token, given["dino_encoder.cls_token"])
    if stage == 2:
        features = extractor(torch.randint(0, 256, (2, 42, 42, 3), dtype=torch.uint8))
        codes = model.tokenize(features[:1], features[1:])
        assert codes.shape == (1, 4) and int(codes.max()) <= CODES
    trained = model.train()(torch.randn(8, 9, FEATURES), torch.randn(8, 9, FEATURES)) if stage == 2 else None
    if trained is not None:  # an imported codebook is a trained one: a first batch must not seed it anew
        assert torch.equal(model.latents["controllable"].quantizer.codebook_Kd, given["vq_action.codebook.weight"])


class Touch:
    """Unpickling this would create a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    file, trap = tmp_path / "evil.ckpt", tmp_path / "trap"
    torch.save({"state_dict": {}, "hyper_parameters": Touch(trap)}, file)
    with pytest.raises(
        CheckpointError,
        match=r"cannot be read as tensors alone .*nothing else in a pickle is run; give a \.safetensors file",
    ):
        read_checkpoint(file)
    file.write_bytes(pickle.dumps(Touch(trap), protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert not trap.exists()


def test_files_of_something_else_are_refused(tmp_path):
    torch.save({"weights": {}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_checkpoint(tmp_path / "a.ckpt")
    torch.save({"state_dict": {"policy.head": torch.zeros(1)}}, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"'policy\.head' is no tensor of a UniVLA"):
        read_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "missing.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        read_checkpoint(tmp_path / "cut.safetensors")
    save_file({"lam.foo": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="carries no DINOv2"):
        import_univla(tmp_path / "c.safetensors", tmp_path / "o", square_contract())
    assert not (tmp_path / "o").exists()


def test_command_reports_what_it_took_and_never_overwrites(tmp_path, capsys, monkeypatch):
    file = saved(tmp_path, 1, ".safetensors")
    monkeypatch.setattr(univla, "import_univla", lambda *a: import_univla(*a, image_size=42))
    assert main([str(file), str(tmp_path / "out"), "--contract", "jaka_minicobo"]) == 0
    dino, text = (len([n for n in layout(1) if n.startswith(part)]) for part in ("dino_encoder.", "text_encoder."))
    out = capsys.readouterr().out
    assert f"stage 1, {len(layout(1)) - dino - text} tensors of the model" in out and f"{text} of the T5" in out
    with pytest.raises(SystemExit, match=r"^1$"):
        main([str(file), str(tmp_path / "out"), "--contract", "jaka_minicobo"])
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"^2$"):  # the model would be bound to another robot's contract
        main([str(file), str(tmp_path / "other")])
    assert "--contract" in capsys.readouterr().err
