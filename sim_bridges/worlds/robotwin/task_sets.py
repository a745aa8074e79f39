"""The tasks that the paper evaluates on RoboTwin 2.0, by RoboTwin's names and in the paper's order."""

from __future__ import annotations

PAPER_4 = ("move_playingcard_away", "place_container_plate", "move_can_pot", "pick_dual_bottles")
"""Table 2: one policy for all four."""
PAPER_10 = (
    "beat_block_hammer",
    "click_bell",
    "grab_roller",
    "lift_pot",
    "move_can_pot",
    "move_playingcard_away",
    "pick_dual_bottles",
    "pick_diverse_bottles",
    "place_container_plate",
    "place_a2b_left",
)
"""Table 11: a policy for each (single-task), and one for all ten (multi-task)."""
TASK_SETS = {"paper_4": PAPER_4, "paper_10": PAPER_10}
