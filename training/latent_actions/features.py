"""What the image model sees and reads: features of a frozen image encoder and of a frozen text encoder.

Image features are computed once per dataset and camera, into a file that every later run and the labelling
share. Its size is steps × N × F × 2 bytes: 393 kB per image with DINOv2 ViT-B/14 at 224 px (35,960 steps: 14 GB),
8 kB with the smallest recipe's random encoder. The file is memory-mapped: a process holds the batches it asked for, and
what else of the file is in memory is the kernel's cache, which gives way when memory is short.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    T5EncoderModel,
)

from lavla_ros.config import ConfigError, check
from lavla_ros.outputs import sole_writer
from lavla_ros.policy.base_model import silent_transformers
from training.dataset import EpisodeDataset
from training.latent_actions.image_config import FeatureConfig, TextConfig
from training.samples import DataError
from training.system_resources import require_disk

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_REGISTERS = 4


class FeatureExtractor(nn.Module):
    """RGB images → patch features of a frozen DINOv2 with registers, after its final norm."""

    def __init__(self, config: FeatureConfig, network: Dinov2WithRegistersModel) -> None:
        """Use :func:`load_features`. Raises ConfigError for a network other than ``config`` says."""
        super().__init__()
        found = network.config
        for key, have, want in (
            ("features.width", found.hidden_size, config.width),
            ("features.patch_size", found.patch_size, config.patch_size),
        ):
            check(have == want, key, want, f"{have}, which {config.path!r} has")
        self.network = network.eval().requires_grad_(False)
        self.fingerprint = _hash_of_weights(network)
        """16 hex digits of the weights."""
        check(
            config.fingerprint in ("", self.fingerprint),
            "features.fingerprint",
            config.fingerprint,
            f"{self.fingerprint}, that of the network found ({config.kind}, torch {torch.__version__}): "
            "other features mean nothing to this model; get the network that it was trained with, or train again",
        )
        self.config = config
        self.prefix = 1 + int(found.num_register_tokens)
        """Tokens before the patches: class and registers."""
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stays in evaluation mode: it is frozen."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images_BHW3: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB → (B, N, F) float32. Other sizes are brought to ``image_size`` (bilinear)."""
        if images_BHW3.ndim != 4 or images_BHW3.shape[-1] != 3 or images_BHW3.dtype != torch.uint8:
            raise ValueError(f"images are {images_BHW3.dtype} {tuple(images_BHW3.shape)}; expected uint8 (B, H, W, 3)")
        pixels = images_BHW3.permute(0, 3, 1, 2).float() / 255.0
        size = self.config.image_size
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        states: Tensor = self.network((pixels - self.mean) / self.std).last_hidden_state
        return states[:, self.prefix :]

    def extract(self, images_BHW3: NDArray[np.uint8]) -> NDArray[np.float16]:
        """The same as it is stored: (B, N, F) float16. Raises DataError for features that this cannot hold."""
        features = self(torch.from_numpy(images_BHW3).to(self.mean.device)).half().cpu().numpy()
        if not np.isfinite(features).all():
            raise DataError("the image encoder gives features that are not finite in float16; its weights are damaged")
        result: NDArray[np.float16] = features
        return result


def load_features(config: FeatureConfig) -> FeatureExtractor:
    """The frozen image encoder. Raises ConfigError when it cannot be loaded or is another than expected."""
    if config.kind == "random":
        shape = Dinov2WithRegistersConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_register_tokens=_REGISTERS,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = Dinov2WithRegistersModel(shape)
        return FeatureExtractor(config, network)
    found = _pretrained(AutoConfig, config.path, config.revision, "features.path")
    if not isinstance(found, Dinov2WithRegistersConfig):
        raise ConfigError(
            f"features.path is {config.path!r}, a {found.model_type!r}; expected a DINOv2 with registers, "
            "such as 'facebook/dinov2-with-registers-base'"
        )
    network, report = _pretrained(
        Dinov2WithRegistersModel,
        config.path,
        config.revision,
        "features.path",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below
        dtype=torch.float32,
    )
    _require_complete(report, "features.path", config.path)
    return FeatureExtractor(config, network)


# ------------------------------------------------------------------ language


class TextStates(NamedTuple):
    """Encoded instructions, padded to the longest."""

    states_BLE: Tensor
    mask_BL: Tensor
    """False on padding."""


class TextEncoder(nn.Module):
    """Instructions → states of a frozen text encoder."""

    def __init__(self, config: TextConfig) -> None:
        """Raises ConfigError when a pretrained encoder cannot be loaded or has another width."""
        super().__init__()
        self.config = config
        self.network: T5EncoderModel | None = None
        if config.kind == "t5":
            self.tokenizer = _pretrained(AutoTokenizer, config.path, config.revision, "text.path")
            self.network, report = _pretrained(
                T5EncoderModel,
                config.path,
                config.revision,
                "text.path",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
            _require_complete(report, "text.path", config.path)
            have = self.network.config.d_model
            check(have == config.width, "text.width", config.width, f"{have}, which {config.path!r} has")
            self.network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in evaluation mode: it is frozen."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, instructions: Sequence[str]) -> TextStates:
        """B instructions → states (B, L, E) and mask (B, L), on the CPU."""
        if self.network is None:
            return self._hashed(instructions)
        tokens = self.tokenizer(
            list(instructions), return_tensors="pt", padding=True, truncation=True, max_length=self.config.max_tokens
        )
        states = self.network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return TextStates(states, tokens["attention_mask"].bool())

    def _hashed(self, instructions: Sequence[str]) -> TextStates:
        # an empty instruction is one empty word: attention needs something to look at
        rows = [text.lower().split()[: self.config.max_tokens] or [""] for text in instructions]
        length = max(len(row) for row in rows)
        states = torch.zeros(len(rows), length, self.config.width)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for b, row in enumerate(rows):
            states[b, : len(row)] = torch.stack([_vector_of(word, self.config.width) for word in row])
            mask[b, : len(row)] = True
        return TextStates(states, mask)


# ------------------------------------------------------------------ features of a dataset


def cached_features(
    dataset: EpisodeDataset,
    camera: str,
    extractor: FeatureExtractor,
    folder: Path | None = None,
    *,
    batch: int = 64,
    threads: int = 2,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float16]:
    """(steps, N, F) features of every frame of one camera, memory-mapped read-only; made if missing.

    ``folder``: None is ``latent/features`` inside the dataset. The file's name is a hash of the videos' bytes,
    of which frames of them belong to the steps, and of the encoder, so it can't be stale. It appears when it is
    whole; of several processes that want it one makes it. Memory while it is made: ``batch`` images and their
    features. Raises DataError when frames are missing, RoomError when the disk is too small.
    """
    folder = folder or dataset.path / "latent" / "features"
    shape = (len(dataset), extractor.config.tokens, extractor.config.width)
    file = folder / f"{camera}-{feature_key(dataset, camera, extractor)}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"features cannot be kept in {folder}: {error.strerror}; set data.cache_dir") from None
    with sole_writer(folder, wait=True):
        if not file.exists():
            _write_features(file, shape, dataset, camera, extractor, batch, threads, on_frame)
    features: NDArray[np.float16] = np.load(file, mmap_mode="r")
    if features.shape != shape:
        raise DataError(f"{file} holds features of shape {features.shape}; expected {shape}: delete it")
    return features


def feature_key(dataset: EpisodeDataset, camera: str, extractor: FeatureExtractor) -> str:
    """Changes with the bytes of the camera's videos, with which frames belong to the steps, and with the encoder."""
    places = [(*episode.videos[camera], episode.length) for episode in dataset.episodes]
    of_file: dict[Path, str] = {}
    for path, _, _ in places:
        if path not in of_file:
            try:
                with path.open("rb") as video:
                    of_file[path] = hashlib.file_digest(video, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"video {path} cannot be read: {error.strerror}") from None
    frames = [(of_file[path], first, length) for path, first, length in places]
    encoder = [extractor.fingerprint, extractor.config.image_size]
    return hashlib.sha256(json.dumps([frames, encoder]).encode()).hexdigest()[:16]


def _write_features(
    file: Path,
    shape: tuple[int, int, int],
    dataset: EpisodeDataset,
    camera: str,
    extractor: FeatureExtractor,
    batch: int,
    threads: int,
    on_frame: Callable[[int, int], None],
) -> None:
    size = 2 * int(np.prod(shape, dtype=np.int64))
    require_disk(size, file.parent, f"the features of {shape[0]} images", "Set data.cache_dir to a larger disk")
    partial = file.with_suffix(".partial")
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        done = 0
        frames = dataset.frames(camera, threads=threads)
        while block := list(islice(frames, batch)):
            indices = [index for index, _ in block]
            if indices != list(range(done, done + len(block))):
                raise DataError(f"{dataset.path}: the frames of {camera!r} are out of order at step {done}")
            array[done : done + len(block)] = extractor.extract(np.stack([image for _, image in block]))
            done += len(block)
            on_frame(done, shape[0])
        if done != shape[0]:
            raise DataError(
                f"{dataset.path}: camera {camera!r} has {done} frames for {shape[0]} steps; run `lavla dataset check`"
            )
        array.flush()
        del array
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


# ------------------------------------------------------------------ inside


def _pretrained(cls: Any, path: str, revision: str, key: str, **options: Any) -> Any:
    """``cls.from_pretrained`` with an error that says which setting is at fault."""
    try:
        with silent_transformers():
            return cls.from_pretrained(path, revision=revision, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"{key} is {path!r}, which cannot be loaded: {error}. Give a local folder in transformers' format, or a "
            "hub name on a machine with a connection to the hub"
        ) from None


def _require_complete(report: dict[str, Any], key: str, path: str) -> None:
    """Refuse a network of which transformers had to make up weights."""
    lacking = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if lacking:
        raise ConfigError(f"{key} is {path!r}, whose weights are incomplete or misshapen: {', '.join(lacking[:4])}")


def _hash_of_weights(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _vector_of(word: str, width: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(width, dtype=np.float32))
