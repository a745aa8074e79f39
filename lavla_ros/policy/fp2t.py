"""Policies that the paper's authors released, run as they were trained, with the defects of their code.

The paper is the specification of :mod:`lavla_ros.policy.model`; the released network deviates from it
(:data:`DEFECTS`). What was trained with a defect cannot be run without it, so this is another network: its head reads
the whole sequence as "image", starts from a constant in place of a query for each step, and pools LA-Direct's latent
tokens over the chunk. Nothing is trained here. ``lavla import fp2t`` writes the checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lavla_ros.config import ConfigError, check, from_plain
from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.errors import FailedError
from lavla_ros.policy.base_model import fingerprint_of, load_base, load_pretrained_tokenizer
from lavla_ros.policy.config import BackboneConfig
from lavla_ros.policy.device import resolve_device, resolve_dtype
from lavla_ros.policy.folder import CONFIG, WEIGHTS, CheckpointError, read_files, read_fitting_tensors
from lavla_ros.policy.images import shrink
from lavla_ros.policy.inputs import observed_images, observed_state
from lavla_ros.policy.normalization import Range, StatsError, range_of

SECTION = "fp2t"
"""Key of a checkpoint's config.yaml that tells it from ours."""
TOKENIZER = "tokenizer"
PLACEHOLDER = "🔍"
LORA_ALPHA = 16
"""Of the released adapters; it cannot be read off their weights."""
TASK_TOKENS = 512
"""How many states of a layer the head takes to be of images; the others it takes to be of placeholders."""
IMAGE_SIZE = 224
Method = Literal["baseline", "la_align", "la_direct", "la_cond", "la_tok"]

DEFECTS: Mapping[str, str] = {
    "whole_sequence": "the head takes all states of the sequence to be of images, and none to be of placeholders",
    "constant_queries": "the head starts from the same vector at every step, so that (without RoPE) all steps of a "
    "chunk are the same action",
    "frozen_placeholder": "all placeholders are one ordinary token whose embedding is not trained",
    "upsized_images": "pictures of 224 x 224 are enlarged to 256 x 256, 64 tokens in place of 49",
    "five_per_step": "there are 5 H placeholders in place of H (baseline, la_align)",
    "pooled_over_chunk": "latent tokens are pooled over the steps of the chunk, not over those of a step (la_direct)",
    "mixed_rope": "the rotary embedding pairs neighbours, but repeats its frequencies by halves (use_pro_version)",
}
"""Name → what the released network does otherwise than the paper."""


RANK = 64
"""Of the adapters, in the released code; ours is a choice of a recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp2tConfig:
    """What rebuilds a released policy around its weights."""

    method: Method
    base: str
    """Base model: a folder, or a name on the hub."""
    revision: str = "main"
    separate: bool = False
    """``use_pro_version``: each source of the head has its own keys and values, and a rotary embedding."""
    rank: int = RANK
    """Of the adapters."""
    blocks: int = 11
    heads: int = 8
    images: int = 2
    """``num_images_in_input``: the head's "image" part begins as 256 states for each."""
    normalization: Literal["q01_q99", "min_max"] = "q01_q99"
    raw_actions: tuple[str, ...] = ()
    """Names of actions that are not normalised."""
    inverted_gripper: str = ""
    """Name of an action that is predicted from 0, closed, to 1, open, while the contract has 1, closed, to -1, open."""

    def __post_init__(self) -> None:
        check(self.rank >= 1, "fp2t.rank", self.rank, "at least 1")
        check(self.blocks >= 1, "fp2t.blocks", self.blocks, "at least 1")
        check(self.images >= 1, "fp2t.images", self.images, "at least 1")

    @property
    def defects(self) -> tuple[str, ...]:
        """Those of DEFECTS that this policy has."""
        own = {
            "five_per_step": self.method in ("baseline", "la_align"),
            "pooled_over_chunk": self.method == "la_direct",
            "mixed_rope": self.separate,
        }
        return tuple(name for name in DEFECTS if own.get(name, True))

    @property
    def backbone(self) -> BackboneConfig:
        return BackboneConfig(kind="pretrained", path=self.base, revision=self.revision, lora=None)

    def placeholders(self, chunk_size: int) -> tuple[int, int, int]:
        """How many actions the prompt speaks of, how many placeholders it has, and how many of these are read."""
        if self.method in ("baseline", "la_align"):
            read = 5 * chunk_size if self.method == "baseline" else chunk_size
            return 5 * chunk_size, 5 * chunk_size, read
        count = {"la_direct": 4, "la_cond": 5, "la_tok": 1}[self.method] * chunk_size
        return chunk_size, count, count


class Fp2tBlock(nn.Module):
    """Attention to [the steps; placeholders and state; "images"] in one softmax, then a layer without a residual."""

    def __init__(self, width: int, heads: int, *, separate: bool) -> None:
        super().__init__()
        self.heads, self.separate = heads, separate
        self.query = nn.Linear(width, width)
        sources = ("self", "action", "image") if separate else ("self",)
        self.key = nn.ModuleDict({name: nn.Linear(width, width) for name in sources})
        self.value = nn.ModuleDict({name: nn.Linear(width, width) for name in sources})
        self.out = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(1))
        self.norm = nn.LayerNorm(width)
        self.feedforward = nn.Linear(width, width)

    def forward(self, x_BHW: Tensor, actions_BNW: Tensor, images_BMW: Tensor) -> Tensor:
        given = {"self": x_BHW, "action": actions_BNW, "image": images_BMW}
        keys, values = [], []
        query = self._split(self.query(x_BHW))
        if self.separate:
            query = rotated(query)
        for name, source in given.items():
            of = name if self.separate else "self"
            key = self._split(self.key[of](source))
            key = rotated(key) if self.separate else key
            keys.append(key * torch.tanh(self.gate) if name == "image" else key)
            values.append(self._split(self.value[of](source)))
        attended = F.scaled_dot_product_attention(query, torch.cat(keys, dim=2), torch.cat(values, dim=2))
        joined = attended.transpose(1, 2).flatten(2)
        out: Tensor = F.relu(self.feedforward(self.norm(self.out(joined) + x_BHW)))
        return out

    def _split(self, x_BnW: Tensor) -> Tensor:
        """(B, n, W) → (B, heads, n, d)."""
        return x_BnW.view(*x_BnW.shape[:2], self.heads, -1).transpose(1, 2)


def rotated(x_BhnD: Tensor) -> Tensor:
    """Rotary positions 0 … n - 1 as released: pairs are neighbours, but their angles those of a layout by halves."""
    count, width = x_BhnD.shape[-2:]
    half = torch.arange(0, width, 2, device=x_BhnD.device, dtype=torch.float32)
    angles = torch.outer(torch.arange(count, device=x_BhnD.device, dtype=torch.float32), 10000.0 ** (-half / width))
    angles_nD = torch.cat([angles, angles], dim=-1)
    even, odd = x_BhnD[..., ::2], x_BhnD[..., 1::2]
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x_BhnD * angles_nD.cos().to(x_BhnD.dtype) + turned * angles_nD.sin().to(x_BhnD.dtype)


class Fp2tHead(nn.Module):
    """States of the last layers and the robot's state → (B, H, A) normalised actions."""

    def __init__(self, config: Fp2tConfig, *, width: int, contract: Contract) -> None:
        super().__init__()
        self.config, self.chunk_size = config, contract.chunk_size
        self.start = nn.Parameter(torch.zeros(width))
        """What the released head makes of its constant input, whatever is seen."""
        self.pool = nn.Parameter(torch.zeros(width)) if config.method == "la_direct" else None
        self.state = nn.Sequential(nn.Linear(contract.state_dim, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            Fp2tBlock(width, config.heads, separate=config.separate) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, contract.action_dim)

    def forward(self, hidden: Sequence[Tensor], read_n: Tensor, state_BS: Tensor) -> Tensor:
        """``hidden``: (B, L, W) of all layers; ``read_n``: places of the placeholders that are read."""
        dtype = self.start.dtype
        state = self.state(state_BS.to(dtype)).unsqueeze(1)
        x = self.start.expand(len(state_BS), self.chunk_size, -1)
        for block, layer in zip(self.blocks, hidden[-len(self.blocks) :], strict=True):
            layer_BLW = layer.to(dtype)
            placeholders = layer_BLW.index_select(1, read_n)
            if self.pool is not None:
                steps = placeholders.view(len(placeholders), self.chunk_size, -1, placeholders.shape[-1])
                weights = (steps @ self.pool).softmax(dim=1)  # over the chunk
                placeholders = (steps * weights.unsqueeze(-1)).sum(dim=1)
            states = torch.cat([layer_BLW[:, : 256 * self.config.images], placeholders], dim=1)
            x = block(x, torch.cat([states[:, TASK_TOKENS:], state], dim=1), states[:, :TASK_TOKENS])
        actions: Tensor = self.project(self.norm(x))
        return actions


class Fp2tPolicy:
    """A released policy. Stateless between calls."""

    def __init__(
        self,
        path: Path,
        config: Fp2tConfig,
        contract: Contract,
        stats: Mapping[str, Any],
        vlm: Qwen3VLModel,
        head: Fp2tHead,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
    ) -> None:
        self.path, self.config, self.contract = path, config, contract
        self.vlm, self.head, self.device = vlm.to(device).eval(), head.to(device).eval(), device
        vision = vlm.config.vision_config
        self._processor = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            size={"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        )
        self._image_tokens = (256 // (vision.patch_size * vision.spatial_merge_size)) ** 2
        self._tokenizer = tokenizer
        self._state, self._action = ranges(config, contract, stats)

    def reset(self) -> None:
        """Nothing to forget: every chunk depends on one observation only."""

    def predict(self, observation: Observation) -> ActionChunk:
        """One forward pass. Raises ObservationError for an observation that does not fit the contract."""
        images = [shrink(image, IMAGE_SIZE) for image in observed_images(observation, self.contract)]
        state = np.clip(self._state.encode(observed_state(observation, self.contract)), -1.0, 1.0)
        coded = self.coded(images, observation.instruction, state.astype(np.float32))
        actions = self._decode(coded)
        if not np.isfinite(actions).all():
            raise FailedError(f"the policy in {self.path} produced actions that are not finite")
        return ActionChunk(
            stamp_ns=observation.stamp_ns,
            dt_ns=self.contract.dt_ns,
            actions_HA=actions,
            names=self.contract.action.names,
        )

    @torch.inference_mode()
    def coded(
        self, images: Sequence[NDArray[np.uint8]], instruction: str, state_S: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(H, A) as the network predicts them, from (224, 224, 3) pictures and the normalised state."""
        tokens, read = self.prompt(instruction)
        tokens_1L = torch.tensor([tokens], device=self.device)
        pixels = self._processor([Image.fromarray(image) for image in images], return_tensors="pt")
        hidden = self.vlm(
            input_ids=tokens_1L,
            attention_mask=torch.ones_like(tokens_1L),
            pixel_values=pixels["pixel_values"].to(self.device, self.vlm.dtype),
            image_grid_thw=pixels["image_grid_thw"].to(self.device),
            mm_token_type_ids=(tokens_1L == self.vlm.config.image_token_id).to(torch.int32),
            output_hidden_states=True,
        ).hidden_states
        state = torch.from_numpy(state_S).to(self.device).unsqueeze(0)
        found: Tensor = self.head(hidden, torch.tensor(read, device=self.device), state)[0]
        return found.float().cpu().numpy()

    def prompt(self, instruction: str) -> tuple[list[int], list[int]]:
        """Token ids, and where the placeholders are that the head reads: the last ones."""
        spoken, count, read = self.config.placeholders(self.contract.chunk_size)
        said = "a text"
        content = [*({"type": "image"} for _ in self.contract.cameras), {"type": "text", "text": said}]
        turn = str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )
        before, _, after = turn.partition(said)
        before = before.replace("<|image_pad|>", "<|image_pad|>" * self._image_tokens)
        text = f"{instruction.lower()}Please predict the next {spoken} robot actions: "
        placeholder = self._plain(PLACEHOLDER)[0]
        if self.config.method == "la_tok":  # these take the place of tokens that were special
            middle = self._plain(text) + [placeholder] * count
        else:
            middle = self._plain(text + PLACEHOLDER * (count + 1))
        tokens = [*self._special(before), *middle, *self._special(after)]
        places = [i for i, token in enumerate(tokens) if token == placeholder]
        if len(places) < read:
            raise FailedError(f"the prompt of {self.path} has {len(places)} placeholders; {read} are read")
        return tokens, places[-read:]

    def _plain(self, text: str) -> list[int]:
        """Ids of plain text: special tokens written out in an instruction stay plain text."""
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)]

    def _special(self, text: str) -> list[int]:
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False)]

    def _decode(self, coded_HA: NDArray[np.float32]) -> NDArray[np.float64]:
        names = self.contract.action.names
        raw = [name in self.config.raw_actions for name in names]
        actions = np.where(raw, coded_HA, self._action.decode(coded_HA.astype(np.float64)))
        if self.config.inverted_gripper:
            column = names.index(self.config.inverted_gripper)
            actions[:, column] = 1.0 - 2.0 * actions[:, column]
        dims = self.contract.action.dims
        return np.clip(actions, [d.low for d in dims], [d.high for d in dims])


def ranges(config: Fp2tConfig, contract: Contract, stats: Mapping[str, Any]) -> tuple[Range, Range]:
    """What maps to -1 … 1, of the state and of the actions. Raises StatsError."""
    keys = ("q01", "q99") if config.normalization == "q01_q99" else ("min", "max")
    return range_of(stats, "state", contract.state.names, keys), range_of(stats, "action", contract.action.names, keys)


def adapters(vlm: nn.Module, rank: int) -> dict[str, tuple[nn.Linear, tuple[int, int], tuple[int, int]]]:
    """Name → linear layer of the base model and the shapes of its adapter's A and B; all of them have one."""
    found = {name: module for name, module in vlm.named_modules() if isinstance(module, nn.Linear)}
    return {n: (layer, (rank, layer.in_features), (layer.out_features, rank)) for n, layer in found.items()}


def load_fp2t(path: Path, *, device: str = "cpu", dtype: str = "auto") -> Fp2tPolicy:
    """The policy of a checkpoint that ``lavla import fp2t`` wrote. Raises CheckpointError, DeviceError."""
    on = resolve_device(device)
    computed_in = resolve_dtype(dtype, on)
    files = read_files(path, "checkpoint", section=SECTION, also=(TOKENIZER,))
    try:
        config = from_plain(Fp2tConfig, files.document[SECTION], source=str(path / CONFIG))
        ranges(config, files.contract, files.stats)
        if fingerprint_of(config.backbone) != files.document.get("base"):
            raise CheckpointError(
                f"checkpoint {path} was trained on another base model than {config.base!r} (revision "
                f"{config.revision}); give back the one it was imported with, by {SECTION}.base in {CONFIG}"
            )
        vlm = load_base(config.backbone, load_pretrained_tokenizer(config.base, config.revision), computed_in)
    except (ConfigError, StatsError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    head = Fp2tHead(config, width=vlm.config.text_config.hidden_size, contract=files.contract)
    expected = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    adapted = adapters(vlm, config.rank)
    for name, (_, low, up) in adapted.items():
        expected |= {f"adapter.{name}.A": torch.empty(low, device="meta")}
        expected |= {f"adapter.{name}.B": torch.empty(up, device="meta")}
    tensors = read_fitting_tensors(path / WEIGHTS, expected, files.contract)
    head.load_state_dict({name.removeprefix("head."): t for name, t in tensors.items() if name.startswith("head.")})
    with torch.no_grad():
        for name, (layer, _, _) in adapted.items():
            change = tensors[f"adapter.{name}.B"].float() @ tensors[f"adapter.{name}.A"].float()
            layer.weight += (LORA_ALPHA / config.rank * change).to(layer.weight.dtype)
    tokenizer = AutoTokenizer.from_pretrained(str(path / TOKENIZER))
    return Fp2tPolicy(path, config, files.contract, files.stats, vlm, head.to(computed_in), tokenizer, on)
