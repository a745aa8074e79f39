"""The vision-language backbone: images and token ids in, hidden states of every layer out.

``tiny`` and the pretrained Qwen3-VL share this one forward pass; they differ in how pixels become
the vision model's input, and in which parameters are trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen3VLModel

from lavla_ros.policy.base_model import DType, load_base, weights_fingerprint
from lavla_ros.policy.config import BackboneConfig
from lavla_ros.policy.prompt import TokenIds, token_ids
from lavla_ros.policy.resting import rest
from lavla_ros.policy.strategies.base import BackboneShape, SegmentKind
from lavla_ros.policy.tiny import batch_vision_attention, tiny_vlm

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
        self.fingerprint = None if tiny else weights_fingerprint(vlm)
        """Of the weights that are not in a checkpoint; None: all are."""
        batch_vision_attention(vlm)
        if not tiny:
            vlm.requires_grad_(False)
            if config.lora is not None:
                from lavla_ros.policy.adapters import with_adapters  # peft: a policy that is run needs none

                vlm = with_adapters(vlm, config.lora)
        self.vlm = vlm
        self._constants: dict[tuple[object, ...], dict[str, Tensor]] = {}
        """What depends on the number and size of images and the prompt's length alone."""

    def forward(self, images: Tensor, token_ids_BL: Tensor) -> tuple[Tensor, ...]:
        """Hidden states of the embedding and of all N layers, each (B, L, D); the last is normalised.

        ``images``: (B, cameras, size, size, 3) uint8 RGB, in the order of the prompt's image tokens. Nothing here
        waits for the device or depends on the values of a tensor.
        """
        if not self.computes_in_bfloat16:
            return self._forward(images, token_ids_BL)
        with torch.autocast(images.device.type, enabled=False):
            return self._forward(images, token_ids_BL)

    def _forward(self, images: Tensor, token_ids_BL: Tensor) -> tuple[Tensor, ...]:
        cameras, length = images.shape[1], token_ids_BL.shape[1]
        columns = self.image_columns(cameras, images.device)
        image_states, deepstack = self.encode_images(images)
        text = self.vlm.language_model
        x = self.embed(token_ids_BL)
        x = x.index_copy(1, columns, image_states.to(x.dtype))
        rope = self.rope_tables(cameras, length, x)
        mask = _causal_mask(x) if self.config.attention == "eager" else None  # the others know that they are causal
        states = [x]
        for k, layer in enumerate(text.layers):
            x = layer(x, position_embeddings=rope, attention_mask=mask)
            states.append(x)
            if k < len(deepstack):
                x = x.index_add(1, columns, deepstack[k].to(x.dtype))
        states[-1] = text.norm(x)
        return tuple(states)

    @property
    def computes_in_bfloat16(self) -> bool:
        """True if all frozen weights are bfloat16 and computed with as they are: autocast has nothing to do."""
        weight: Tensor = self.vlm.language_model.norm.weight
        return weight.dtype == torch.bfloat16

    def embed(self, token_ids_BL: Tensor) -> Tensor:
        """(B, L, D) embeddings of the tokens, with our own of the placeholders; images are not in yet."""
        embeddings: Tensor = self.vlm.language_model.embed_tokens(token_ids_BL)
        for row, (_, token) in enumerate(self.ids.placeholders):
            own = self.placeholder_embeddings.weight[row].to(embeddings.dtype)
            embeddings = torch.where((token_ids_BL == token).unsqueeze(-1), own, embeddings)
        return embeddings

    def encode_images(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, cameras · tokens, D): what stands at the image tokens, and what DeepStack adds there after a layer."""
        batch, count = images.shape[0], images.shape[0] * images.shape[1]
        fixed = self.vision_inputs(count, images.device)
        vision = self.vlm.visual(self.vision_pixels(images), **fixed, return_dict=True)

        def shape(states: Tensor) -> Tensor:
            return states.view(batch, -1, states.shape[-1])

        return shape(vision.pooler_output), [shape(states) for states in vision.deepstack_features]

    def vision_pixels(self, images: Tensor) -> Tensor:
        """(B, cameras, size, size, 3) uint8 → what the patch embedding takes, in [-1, 1]."""
        flat = images.flatten(0, 1).permute(0, 3, 1, 2)
        pixels = flat.to(self.placeholder_embeddings.weight.dtype) / 127.5 - 1.0
        if self.config.kind != "tiny":
            pixels = patchify(pixels, self.patch_size, self.merge_size, self.temporal_patch_size)
        return pixels

    def vision_inputs(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """Grid, positions and segment bounds of ``count`` equal images; they depend on nothing else."""
        from transformers.vision_utils import (
            get_vision_cu_seqlens,
            get_vision_interpolation_indices_and_weights,
            get_vision_position_ids,
        )

        def make() -> dict[str, Tensor]:
            visual = self.vlm.visual
            one = torch.tensor([self.grid], dtype=torch.int64, device="cpu")
            grid = one.expand(count, 3)
            indices, weights = get_vision_interpolation_indices_and_weights(
                one,
                num_grid_per_side=visual.num_grid_per_side,
                mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners,
                spatial_merge_size=self.merge_size,
            )
            positions = get_vision_position_ids(one, self.merge_size)
            return {
                "grid_thw": grid,
                "interp_indices": indices.repeat(count, 1),
                "interp_weights": weights.repeat(count, 1),
                "position_ids": positions.repeat(count, 1),
                "cu_seqlens": get_vision_cu_seqlens(grid),
            }

        return dict(self._constant(("vision", count), device, make))

    def image_columns(self, cameras: int, device: torch.device) -> Tensor:
        """(cameras · tokens,) places of the image tokens: nothing of an instruction stands before them."""

        def make() -> dict[str, Tensor]:
            return {"columns": torch.tensor(self._image_columns(cameras), device="cpu")}

        return self._constant(("columns", cameras), device, make)["columns"]

    def _image_columns(self, cameras: int) -> list[int]:
        """<start> image <end> for each camera, after what a chat template begins with."""
        tokens, first = self.image_tokens, len(self.ids.before) + 1
        return [first + camera * (tokens + 2) + i for camera in range(cameras) for i in range(tokens)]

    def rope_tables(self, cameras: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (1, L, d) of the multimodal rotary positions, in the type and place of ``like``.

        They depend on the number of images and the length alone, since only images stand apart from a line.
        """

        def make() -> dict[str, Tensor]:
            row = torch.full((1, length), -1, dtype=torch.int64, device="cpu")
            row[0, self._image_columns(cameras)] = self.ids.image
            positions: Tensor = self.vlm.get_rope_index(
                row,
                mm_token_type_ids=(row == self.ids.image).to(torch.int32),
                image_grid_thw=torch.tensor([self.grid] * cameras, dtype=torch.int64, device="cpu"),
            )[0]
            cos, sin = self.vlm.language_model.rotary_emb(like, positions.to(like.device))
            return {"cos": cos, "sin": sin}

        tables = self._constant(("rope", cameras, length, like.dtype), like.device, make)
        return tables["cos"], tables["sin"]

    def _constant(
        self, key: tuple[object, ...], device: torch.device, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What ``make`` gives, on ``device``; made once."""
        key = (*key, device)
        if key not in self._constants:
            if len(self._constants) >= 64:
                self._constants.clear()
            off = torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), off:
                self._constants[key] = {name: tensor.to(device) for name, tensor in make().items()}
        return self._constants[key]

    def placeholder_id(self, kind: SegmentKind) -> int:
        return self.ids.placeholder(kind)


def _causal_mask(like_BLD: Tensor) -> Tensor:
    """(1, 1, L, L): nothing sees what comes later."""
    length = like_BLD.shape[1]
    return like_BLD.new_full((1, 1, length, length), torch.finfo(like_BLD.dtype).min).triu(1)


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


def build_backbone(
    config: BackboneConfig,
    tokenizer: PreTrainedTokenizerBase,
    dtype: DType = torch.float32,
    *,
    computing: torch.dtype | None = None,
) -> Backbone:
    """The configured backbone for a tokenizer that has the placeholder tokens.

    ``dtype``: of the frozen weights (auto: as they are stored); adapters and our own embeddings are float32, and so is
    all of ``tiny``. ``computing``: what is computed in; None: in that of the weights. Raises ConfigError when
    pretrained weights cannot be read or are not all there.
    """
    ids = token_ids(tokenizer, chat=config.chat)
    if config.kind == "tiny":
        return Backbone(config, tiny_vlm(config.tiny, ids, len(tokenizer)), ids)
    vlm = load_base(config, tokenizer, dtype)
    if computing == torch.float32 and vlm.dtype != torch.float32:
        rest(vlm)
    return Backbone(config, vlm, ids)
