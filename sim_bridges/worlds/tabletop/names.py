"""What the tabletop's tasks and layouts are called, for those that do not load the physics."""

from __future__ import annotations

from typing import Literal

TaskName = Literal[
    "pick_place",
    "stack_bowls",
    "stack_3_bowls",
    "stack_4_bowls",
    "wipe_stain",
    "place_mango",
    "place_sponge",
    "place_bottle",
]
LayoutName = Literal["id", "ood"]
"""Where objects are placed: as in the demonstrations, or elsewhere."""
USUAL_TASK: TaskName = "pick_place"
"""The task that the bundled policy knows."""
TRAINED_LAYOUT: LayoutName = "id"
STATE_FILE = "/dev/shm/lavla-tabletop"
"""Where a live simulation leaves its state for those that draw it, if it is not told where."""
