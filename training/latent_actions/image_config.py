"""Typed configuration of the image model and its training; ``config/latent/image_*.yaml`` hold these keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lavla_ros.config import check, check_settings, setting
from lavla_ros.policy.config import ActionCodingConfig
from training.config import DECODE_THREADS
from training.latent_actions.codebook_config import CodebookRunConfig, LatentDataConfig

if TYPE_CHECKING:  # numpy would come with it, and help waits for this module
    from lavla_ros.contract import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """The frozen image encoder: N patch tokens of F numbers. The defaults are UniVLA's."""

    kind: Literal["dinov2", "random"] = "dinov2"
    """Encoder: "dinov2" is a pretrained DINOv2 with registers, "random" a small one with random weights, for tests
    and small recipes. The latter needs no download, and keeps what is where in a picture, not what it is."""
    path: str = "facebook/dinov2-with-registers-base"
    """For dinov2, local folder or hub name."""
    revision: str = "main"
    """For dinov2, revision on the hub."""
    image_size: int = setting(224, low=1)
    """Side of the square that images are scaled to, in pixels."""
    patch_size: int = setting(14, low=1)
    """Side of a patch, in pixels."""
    width: int = setting(768, low=1)
    """Width F of the features; a pretrained network must have it."""
    depth: int = setting(2, low=1)
    """For random, number of layers."""
    heads: int = setting(2, low=1)
    """For random, number of attention heads."""
    seed: int = setting(0, low=0)
    """For random, seed of the weights."""
    fingerprint: str = ""
    """Hash of the network's weights, which training writes; another network is then refused. By default any is
    taken."""

    def __post_init__(self) -> None:
        check_settings(self, "features.")
        multiple = f"a multiple of patch_size={self.patch_size}"
        check(self.image_size % self.patch_size == 0, "features.image_size", self.image_size, multiple)
        check(self.width % self.heads == 0, "features.width", self.width, f"a multiple of heads={self.heads}")

    @property
    def tokens(self) -> int:
        """N: patches of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The frozen text encoder of stage 1: up to L tokens of E numbers. The defaults are UniVLA's."""

    kind: Literal["t5", "hashed"] = "t5"
    """Encoder: "t5" is that of a T5, "hashed" a fixed random vector per word, for tests and small recipes."""
    path: str = "google-t5/t5-base"
    """For t5, local folder or hub name."""
    revision: str = "main"
    """For t5, revision on the hub."""
    width: int = setting(768, low=1)
    """Width E of a token; a pretrained network must have it."""
    max_tokens: int = setting(128, low=1)
    """Largest number of tokens of an instruction, L; longer ones are cut."""

    def __post_init__(self) -> None:
        check_settings(self, "text.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLamConfig:
    """The model (paper, Sec. 3.2.1, App. A.1, Fig. 7); the defaults are the paper's, which are UniVLA's."""

    stage: Literal[1, 2] = 2
    """Stage of the model. Stage 1 is conditioned on language, so its codes hold what language does not tell: the
    uncontrollable part. Stage 2 is not; its new tokens and codebook hold the controllable part, beside those of
    stage 1."""
    delta: int = setting(32, low=1)
    """Number of steps between the two images, δ of Eq. 1; at an episode's end the later one is its last."""
    cameras: tuple[str, ...] = ()
    """Cameras whose transitions are learned; labels are made from the first. The default is the contract's first
    camera."""
    width: int = setting(768, low=1)
    """Width of encoder and decoder."""
    encoder_blocks: int = setting(12, low=1)
    """Number of blocks of the encoder."""
    decoder_blocks: int = setting(12, low=1)
    """Number of blocks of the decoder."""
    heads: int = setting(12, low=1)
    """Number of attention heads of encoder and decoder."""
    dropout: float = 0.0
    """Probability that a hidden value is dropped while training."""
    tokens: int = setting(4, low=1)
    """Number of latent tokens of a transition, P, of each kind (controllable, uncontrollable)."""
    latent_width: int = setting(128, low=1)
    """Width d of a latent token and of the codebooks."""
    codebook_size: int = setting(16, low=2)
    """Number of codes of this stage's tokens, K."""
    environment_codebook_size: int = setting(16, low=2)
    """For stage 2, number of codes of stage 1's codebook, which is kept."""
    commit_weight: float = setting(0.25, low=0)
    """Weight β of the commitment term in Eq. 11."""
    restart_below: float = 0.05
    """Share of the tokens (moving average), times K, below which a code is put on a latent of the batch."""
    usage_decay: float = 0.99
    """Decay of that moving share, per batch; short runs need a shorter memory."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoder, for stage 1 only."""
    actions: ActionCodingConfig = field(default_factory=ActionCodingConfig)
    """How a_t of Eq. 14 is normalised."""

    def __post_init__(self) -> None:
        check_settings(self, "model.")
        check(self.width % self.heads == 0, "model.width", self.width, f"a multiple of heads={self.heads}")
        check(self.width % 2 == 0, "model.width", self.width, "even: positions are sines and cosines in pairs")
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "a probability below 1")
        check(0 <= self.restart_below < 1, "model.restart_below", self.restart_below, "in [0, 1)")
        check(0 < self.usage_decay < 1, "model.usage_decay", self.usage_decay, "in (0, 1)")
        check(len(set(self.cameras)) == len(self.cameras), "model.cameras", self.cameras, "every camera once")

    def cameras_of(self, contract: Contract) -> tuple[str, ...]:
        """Names of the cameras whose transitions are learned. Raises ConfigError for one the contract lacks."""
        missing = [name for name in self.cameras if name not in contract.camera_names]
        check(not missing, "model.cameras", missing, f"cameras of contract {contract.name!r}: {contract.camera_names}")
        return self.cameras or contract.camera_names[:1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDataConfig(LatentDataConfig):
    """Whose transitions are learned."""

    cache_dir: Path | None = None
    """Folder of the feature files, which runs and labelling share. The default is latent/features inside each
    dataset."""
    feature_batch: int = setting(64, low=1)
    """Number of images that go through the frozen encoder at once."""
    decode_threads: int = setting(DECODE_THREADS, low=1, high=64)
    """Number of threads that decode videos."""

    def __post_init__(self) -> None:
        check_settings(self, "data.")
        LatentDataConfig.__post_init__(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLamTrainConfig(CodebookRunConfig):
    """One training run of the image model."""

    kind: Literal["image"] = "image"
    """Kind of the model, by which `lavla latent train` knows what a file is about."""
    output: Path = Path("runs/latent_image")
    """Folder of the run: model/, resume/, metrics.jsonl, tensorboard/, codebook_usage.png; stage1/ if it trains that
    too."""
    initial: Path | None = None
    """Model that the training begins from. One of the same stage gives all weights (so the paper fine-tunes UniVLA's
    stage 2); for stage 2, one of stage 1 gives its latent tokens and its codebook, as in UniVLA."""
    keep_stage_one: bool = False
    """Let stage 2 begin with all weights of stage 1 (ours), so that environment tokens find their codes. With UniVLA's
    fresh encoder they all may fall onto one code, since their codebook stays as it is."""
    stage_one_steps: int = setting(50_000, low=1)
    """Number of steps of stage 1, which is trained first, into output/stage1, if stage 2 has no ``initial``."""
    warmup_steps: int = setting(0, low=0)
    """Number of steps at the start of each stage in which the decoder sees the latents themselves, not codes. The
    codebook is then seeded with latents that tell transitions apart; with those of an untrained encoder, which
    hardly differ, a short run ends with one code per token. It has to be 0 if ``initial`` gives a trained
    codebook."""
    batch_size: int = 64
    """Number of transitions per optimizer step, over all processes and accumulation steps."""
    weight_decay: float = setting(1e-2, low=0)
    """Weight decay of AdamW."""
    gradient_clip: float = 0.1
    """Largest norm of the gradient; longer gradients are scaled down to it."""
    action_weight: float = setting(1.0, low=0)
    """Weight λ_act of the action term in Eq. 15; 0 leaves the action head out (Table 6)."""
    action_fraction: float = 0.05
    """Share of the training transitions whose action the action head is shown; ``seed`` draws them."""
    action_head_width: int = setting(256, low=1)
    """Hidden width of the action head."""
    model: ImageLamConfig = field(default_factory=ImageLamConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)

    def __post_init__(self) -> None:
        CodebookRunConfig.__post_init__(self)
        check(self.gradient_clip > 0, "gradient_clip", self.gradient_clip, "above 0")
        check(0 < self.action_fraction <= 1, "action_fraction", self.action_fraction, "in (0, 1]")
