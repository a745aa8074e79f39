"""The prompt: images, instruction, suffix, placeholders (paper, App. B.1), and its tokenizer.

    <image>…<image> put the mango into the bowl Please predict the next H robot actions: [ACTION]…[ACTION]

With ``backbone.chat`` all of it is a user's turn of the tokenizer's chat template. [ACTION] and [LATENT] are tokens of
our own; their positions, and those of the image tokens, are found by token id, never by counting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lavla_ros.errors import UserError
from lavla_ros.policy.strategies.base import Segment, SegmentKind

PLACEHOLDERS: dict[SegmentKind, str] = {"latent": "[LATENT]", "action": "[ACTION]"}
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
END_OF_TEXT = "<|endoftext|>"
MAX_INSTRUCTION_CHARACTERS = 512


class PromptError(UserError, ValueError):
    """An instruction or a tokenizer cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Ids of the tokens that the network looks for."""

    image: int
    vision_start: int
    vision_end: int
    video: int
    placeholders: tuple[tuple[SegmentKind, int], ...]
    before: tuple[int, ...] = ()
    """Of a chat template, in front of the first image."""

    def placeholder(self, kind: SegmentKind) -> int:
        return dict(self.placeholders)[kind]


def train_tokenizer(texts: Iterable[str], vocab_size: int, chunk_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from the instructions and the suffix: small, offline, total.

    Any text can be encoded (all 256 bytes are in the vocabulary). The same texts give the same
    vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [END_OF_TEXT, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD, *PLACEHOLDERS.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [text for unique in sorted(set(texts)) for text in (unique, unique.lower())]
    tokenizer.train_from_iterator([*corpus, suffix_text(chunk_size)] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=END_OF_TEXT, eos_token=END_OF_TEXT, additional_special_tokens=specials[1:]
    )


def add_placeholder_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a pretrained tokenizer our own placeholder tokens (a no-op if it has them)."""
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(PLACEHOLDERS.values())}, replace_extra_special_tokens=False
    )


def token_ids(tokenizer: PreTrainedTokenizerBase, *, chat: bool = False) -> TokenIds:
    """Ids of the special tokens; ``chat``: with what the tokenizer's template begins a user's turn with.

    Raises PromptError naming the tokens that the tokenizer lacks, and for a template that is not there or would put
    something between images and instruction.
    """
    names = [IMAGE_PAD, VISION_START, VISION_END, VIDEO_PAD, *PLACEHOLDERS.values()]
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise PromptError(f"the tokenizer lacks the special tokens {missing}; it is not one written with a policy")
    return TokenIds(
        image=vocabulary[IMAGE_PAD],
        vision_start=vocabulary[VISION_START],
        vision_end=vocabulary[VISION_END],
        video=vocabulary[VIDEO_PAD],
        placeholders=tuple((kind, vocabulary[text]) for kind, text in PLACEHOLDERS.items()),
        before=_begun_turn(tokenizer) if chat else (),
    )


def _begun_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What stands in front of a user's images. What ends the turn is left out: it stands behind the placeholders, and
    attention is causal."""
    if not tokenizer.chat_template:
        raise PromptError("backbone.chat is true, but the tokenizer has no chat template; set it to false")
    image, said = VISION_START + IMAGE_PAD + VISION_END, "an instruction"
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": said}]
    turn = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    before, found, _ = str(turn).partition(image + image + said)
    if not found:
        raise PromptError(
            f"backbone.chat is true, but the tokenizer's chat template makes {turn!r} of two images and "
            f"{said!r}; expected them side by side, as {image + image + said!r}: set it to false"
        )
    return tuple(int(i) for i in tokenizer.encode(before, add_special_tokens=False))


def suffix_text(chunk_size: int) -> str:
    """The fixed suffix of App. B.1, before the placeholders."""
    return f" Please predict the next {chunk_size} robot actions: "


class PromptBuilder:
    """Instruction → token ids. Prompts of one policy differ in nothing but the instruction."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ids: TokenIds,
        *,
        cameras: int,
        image_tokens: int,
        chunk_size: int,
        segments: Sequence[Segment],
    ) -> None:
        self.tokenizer = tokenizer
        self.ids = ids
        image = [self.ids.vision_start, *[self.ids.image] * image_tokens, self.ids.vision_end]
        self._images = [*ids.before, *image * cameras]
        self._suffix = self._encode(suffix_text(chunk_size))
        self._placeholders = [self.ids.placeholder(s.kind) for s in segments for _ in range(s.count)]
        self._cached = lru_cache(maxsize=4096)(self._build)
        self._least = 0

    def __call__(self, instructions: Sequence[str]) -> Tensor:
        """(B, L) int64 ids, shorter prompts padded on the right.

        Attention is causal and everything that is read lies before the padding, so padding changes
        nothing and needs no mask.
        """
        rows = [self._cached(instruction) for instruction in instructions]
        length = max(self._least, *(len(row) for row in rows))
        pad = self.tokenizer.pad_token_id
        return torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], dtype=torch.int64)

    def fix_length(self, instructions: Sequence[str], multiple: int) -> None:
        """From now on pad to the longest of these, and to a ``multiple``: on a GPU all batches then have one shape."""
        longest = max(len(self._cached(instruction)) for instruction in instructions)
        self._least = longest + -longest % multiple

    def _build(self, instruction: str) -> tuple[int, ...]:
        text = instruction.strip()
        if not text:
            raise PromptError("the instruction is empty; publish a non-empty text on the instruction topic")
        if len(text) > MAX_INSTRUCTION_CHARACTERS:
            raise PromptError(
                f"the instruction has {len(text)} characters; at most {MAX_INSTRUCTION_CHARACTERS} are accepted"
            )
        return (*self._images, *self._encode(text), *self._suffix, *self._placeholders)

    def _encode(self, text: str) -> list[int]:
        """Ids of plain text: special tokens written out in an instruction stay plain text."""
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return [int(i) for i in ids]
