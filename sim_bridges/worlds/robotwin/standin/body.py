"""What the scene is made of: bodies of coloured boxes, built for the physics and drawn for the cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A box of a body, its edges along the body's axes."""

    half_size_m: Vector
    colour: Vector
    """Red, green, blue: 0 to 1, linear."""
    at_m: Vector = (0.0, 0.0, 0.0)
    """Its middle, in the body's frame."""
    solid: bool = True
    """Something can run into it; otherwise it is only seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Something that is drawn, at the pose that it has when a picture is taken."""

    parts: tuple[Part, ...]
    pose: Callable[[], Any]
    """Its SAPIEN pose in the world."""
