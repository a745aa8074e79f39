"""Instructions of the stand-in's tasks, as RoboTwin's: two sets of templates, their placeholders for the scene's words.

Which template an episode gets follows from its seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from lavla_ros.errors import InputError

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "stack_two_blocks": {
        "seen": (
            "put the {A} in the middle and the {B} on top of it",
            "stack the {B} on the {A}",
            "build a stack with the {A} below and the {B} above",
            "move the {A} to the middle with the {a} arm, then place the {B} on it with the {b} arm",
            "first set down the {A}, then put the {B} onto it",
        ),
        "unseen": (
            "make a stack of two, the {B} resting on the {A}",
            "place the {A} in the centre and set the {B} upon it",
            "the {B} should end up on the {A}",
        ),
    },
    "handover_block": {
        "seen": (
            "hand the {A} from the {a} arm to the {b} arm and put it on the {B}",
            "pass the {A} over and lay it on the {B}",
            "pick up the {A}, hand it over and place it on the {B}",
            "give the {A} to the {b} arm, which puts it on the {B}",
            "move the {A} to the {B} with both arms",
        ),
        "unseen": (
            "let the {b} arm take the {A} from the {a} arm and lay it onto the {B}",
            "transfer the {A} between the hands and set it down on the {B}",
            "bring the {A} to the {B} by handing it over",
        ),
    },
    "move_blocks_to_pads": {
        "seen": (
            "move the {A} to the {C} and the {B} to the {D}",
            "put each block on the pad of its colour",
            "place the {A} on the {C} and the {B} on the {D}",
            "move both blocks to their pads",
            "use both arms to put the blocks on their pads",
        ),
        "unseen": (
            "every block belongs on the pad of the same colour, put them there",
            "set the {B} down on the {D} and the {A} on the {C}",
            "bring the {A} and the {B} to their pads",
        ),
    },
}
"""Task → ``seen`` or ``unseen`` → templates."""


def instruction_of(task: str, seed: int, words: Mapping[str, str], kind: str = "unseen") -> str:
    """The instruction of the episode of ``seed``: equal arguments, equal words. ``words``: what the placeholders stand
    for (``{A}``: ``red block``), as ``play_once`` returns it, or ``words_of``; ``kind``: ``seen`` or ``unseen``.

    Raises ValueError for an unknown task or kind, or a placeholder without a word.
    """
    every = all_instructions(task, words, kind)
    return every[int(np.random.default_rng([seed, zlib.crc32(task.encode()), 1]).integers(len(every)))]


def all_instructions(task: str, words: Mapping[str, str], kind: str) -> list[str]:
    """Every template of the kind, filled in. Raises ValueError likewise."""
    if task not in TEMPLATES or kind not in TEMPLATES[task]:
        raise InputError(f"there are no {kind!r} instructions of {task!r}; tasks: {', '.join(TEMPLATES)}; seen, unseen")
    return [_fill(template, words) for template in TEMPLATES[task][kind]]


def _fill(template: str, words: Mapping[str, str]) -> str:
    filled = template
    for placeholder, word in words.items():
        filled = filled.replace(placeholder, word)
    if "{" in filled:
        raise InputError(f"no word for a placeholder of {template!r}; there are {dict(words)}")
    return filled
