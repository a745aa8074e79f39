"""The vision-language backbone: images and token ids in, hidden states of every layer out.

``tiny`` and the pretrained Qwen3-VL share this one forward pass; they differ in how pixels become
the vision model's input, and in which parameters are trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLConfig, Qwen3VLModel

from lavla_ros.config import ConfigError
from lavla_ros.policy.config import BackboneConfig, LoraConfig
from lavla_ros.policy.prompt import TokenIds, add_placeholder_tokens, token_ids
from lavla_ros.policy.strategies.base import BackboneShape, SegmentKind
from lavla_ros.policy.tiny import tiny_vlm

PRETRAINED_IMAGE_SIZE = 224


def image_size_of(config: BackboneConfig) -> int:
    """Side of the square images that this backbone sees, pixels."""
    return config.tiny.image_size if config.kind == "tiny" else PRETRAINED_IMAGE_SIZE


class Backbone(nn.Module):
    """A Qwen3-VL whose placeholder tokens have embeddings of their own, always trained."""

    def __init__(self, config: BackboneConfig, vlm: Qwen3VLModel, ids: TokenIds) -> None:
        super().__init__()
        self.config = config
        self.ids = ids
        text, vision = vlm.config.text_config, vlm.config.vision_config
        self.shape = BackboneShape(width=text.hidden_size, layers=text.num_hidden_layers)
        tiny = config.kind == "tiny"
        self.image_size = image_size_of(config)
        self.patch_size: int = vision.patch_size
        self.merge_size: int = vision.spatial_merge_size
        self.temporal_patch_size: int = vision.temporal_patch_size
        side = self.image_size // self.patch_size
        self.grid = (1, side, side)
        self.image_tokens = (side // self.merge_size) ** 2
        self.placeholder_embeddings = nn.Embedding(len(ids.placeholders), self.shape.width)
        nn.init.normal_(self.placeholder_embeddings.weight, std=0.02)
        if not tiny:
            vlm = vlm.requires_grad_(False) if config.lora is None else _with_lora(vlm, config.lora)
        self.vlm = vlm
        self._positions: dict[tuple[int, ...], Tensor] = {}
        self._vision_cache: dict[tuple[int, torch.device], dict[str, Tensor]] = {}

    def forward(self, images: Tensor, token_ids_BL: Tensor) -> tuple[Tensor, ...]:
        """Hidden states of the embedding and of all N layers, each (B, L, D); the last is normalised.

        ``images``: (B, cameras, size, size, 3) uint8 RGB, in the order of the prompt's image tokens.
        """
        vision = self._encode_images(images)
        embeddings = self._embed(token_ids_BL)
        is_image = token_ids_BL == self.ids.image
        image_states = vision.pooler_output.to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(is_image.unsqueeze(-1), image_states)
        outputs = self.vlm.language_model(
            inputs_embeds=embeddings,
            position_ids=self._position_ids(token_ids_BL),
            visual_pos_masks=is_image,
            deepstack_visual_embeds=vision.deepstack_features or None,
            use_cache=False,
            output_hidden_states=True,
        )
        states: tuple[Tensor, ...] = outputs.hidden_states
        return states

    def _embed(self, token_ids_BL: Tensor) -> Tensor:
        embeddings: Tensor = self.vlm.language_model.embed_tokens(token_ids_BL)
        for row, (_, token) in enumerate(self.ids.placeholders):
            own = self.placeholder_embeddings.weight[row].to(embeddings.dtype)
            embeddings = torch.where((token_ids_BL == token).unsqueeze(-1), own, embeddings)
        return embeddings

    def _encode_images(self, images: Tensor):  # type: ignore[no-untyped-def]
        count = images.shape[0] * images.shape[1]
        flat = images.reshape(count, *images.shape[2:]).permute(0, 3, 1, 2)
        dtype = self.placeholder_embeddings.weight.dtype
        pixels = flat.to(dtype) / 127.5 - 1.0
        if self.config.kind != "tiny":
            pixels = patchify(pixels, self.patch_size, self.merge_size, self.temporal_patch_size)
        fixed = self._vision_inputs(count, images.device)
        return self.vlm.visual(pixels, **fixed, return_dict=True)

    def _vision_inputs(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """Grid, positions and segment bounds of ``count`` equal images; they depend on nothing else."""
        key = (count, device)
        if key not in self._vision_cache:
            from transformers.vision_utils import (
                get_vision_cu_seqlens,
                get_vision_interpolation_indices_and_weights,
                get_vision_position_ids,
            )

            visual = self.vlm.visual
            one = torch.tensor([self.grid], dtype=torch.int64)
            grid = one.expand(count, 3)
            indices, weights = get_vision_interpolation_indices_and_weights(
                one,
                num_grid_per_side=visual.num_grid_per_side,
                mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners,
                spatial_merge_size=self.merge_size,
            )
            positions = get_vision_position_ids(one, self.merge_size)
            fixed = {
                "grid_thw": grid,
                "interp_indices": indices.repeat(count, 1),
                "interp_weights": weights.repeat(count, 1),
                "position_ids": positions.repeat(count, 1),
                "cu_seqlens": get_vision_cu_seqlens(grid),
            }
            if len(self._vision_cache) >= 8:
                self._vision_cache.clear()
            self._vision_cache[key] = {name: value.to(device) for name, value in fixed.items()}
        return dict(self._vision_cache[key])

    def _position_ids(self, token_ids_BL: Tensor) -> Tensor:
        """(3, B, L) multimodal rotary positions; computed once per distinct prompt."""
        if token_ids_BL.device.type == "meta":
            return torch.zeros((3, *token_ids_BL.shape), dtype=torch.int64, device="meta")
        rows = []
        for ids in token_ids_BL.tolist():
            key = tuple(ids)
            if key not in self._positions:
                if len(self._positions) >= 4096:
                    self._positions.clear()
                self._positions[key] = self._rope_index(torch.tensor([ids], dtype=torch.int64))
            rows.append(self._positions[key])
        return torch.cat(rows, dim=1).to(token_ids_BL.device)

    def _rope_index(self, row_1L: Tensor) -> Tensor:
        is_image = row_1L == self.ids.image
        images = int(is_image.sum()) // self.image_tokens
        positions: Tensor = self.vlm.get_rope_index(
            row_1L,
            mm_token_type_ids=is_image.to(torch.int32),
            image_grid_thw=torch.tensor([self.grid] * images, dtype=torch.int64),
        )[0]
        return positions

    def placeholder_id(self, kind: SegmentKind) -> int:
        return self.ids.placeholder(kind)


def patchify(pixels: Tensor, patch: int, merge: int, temporal: int) -> Tensor:
    """(n, 3, s, s) → (n · patches, 3 · temporal · patch²): Qwen3-VL's input layout.

    Patches of one merge window are neighbours; a still image is repeated ``temporal`` times.
    """
    count, channels, height, width = pixels.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    x = pixels.reshape(count, channels, rows, merge, patch, columns, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # n, row, column, merge, merge, channel, 1, patch, patch
    x = x.expand(*x.shape[:6], temporal, patch, patch)
    return x.reshape(count * rows * columns * merge * merge, channels * temporal * patch * patch)


def build_backbone(config: BackboneConfig, tokenizer: PreTrainedTokenizerBase) -> Backbone:
    """The configured backbone for a tokenizer that has the placeholder tokens.

    Raises ConfigError when pretrained weights cannot be read.
    """
    ids = token_ids(tokenizer)
    if config.kind == "tiny":
        return Backbone(config, tiny_vlm(config.tiny, ids, len(tokenizer)), ids)
    try:
        vlm = Qwen3VLModel.from_pretrained(
            config.path, revision=config.revision, attn_implementation=config.attention, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise _unusable(config.path, "no Qwen3-VL could be loaded from it", error) from None
    return Backbone(config, vlm, ids)


def require_backbone(config: BackboneConfig) -> None:
    """Raise ConfigError unless the configured backbone can be found. Reads its description only, no weights."""
    if config.kind == "tiny":
        return
    try:
        found = AutoConfig.from_pretrained(config.path, revision=config.revision)
    except (OSError, ValueError) as error:
        raise _unusable(config.path, "no model is described there", error) from None
    if found.model_type != "qwen3_vl":
        raise ConfigError(f"backbone.path is {config.path!r}: a {found.model_type} model; expected a Qwen3-VL")
    load_pretrained_tokenizer(config.path, config.revision)


def _unusable(path: str, what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"backbone.path is {path!r}: {what} ({str(error).partition(chr(10))[0]}); give --policy.backbone.path a local "
        "folder or a reachable hub name to train; a checkpoint needs the base model that it was trained on: change "
        "backbone.path in its config.yaml, or deploy what `lavla export --as merged` writes"
    )


def build_pretrained_on_meta(config: BackboneConfig, vlm_config: Qwen3VLConfig, ids: TokenIds) -> Backbone:
    """The full-size backbone without memory or weights, for shapes and parameter counts."""
    with torch.device("meta"):
        return Backbone(config, Qwen3VLModel(vlm_config), ids)


def load_pretrained_tokenizer(path: str | Path, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained Qwen3-VL, with our placeholder tokens added."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path), revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"backbone.path is {str(path)!r}: no tokenizer could be loaded from it ({error})") from None
    add_placeholder_tokens(tokenizer)
    return tokenizer


def _with_lora(vlm: Qwen3VLModel, config: LoraConfig) -> Qwen3VLModel:
    """Freeze the model and put adapters on all its linear layers (App. B.1)."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    lora = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        bias="none",
    )
    return get_peft_model(vlm, lora)
