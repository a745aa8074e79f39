"""A script with a gamepad in its hands, for who has none: the tabletop's expert pushes the sticks.

It closes its loop over the scene, as a person does: where the arm is late, or is slowed down, sticks are held longer.
It knows the scene, and what a mapping says of the gamepad's inputs; not who reads them.
"""

from __future__ import annotations

import math

import numpy as np

from lavla_ros.config import check
from lavla_ros.contract import Contract
from lavla_ros.teleop.config import DEADMAN, FASTER, GRIPPER, LEVELS, Binding, Mapping, TeleopOptions
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.tabletop.expert import ExpertConfig, ScriptedExpert
from sim_bridges.worlds.tabletop.motion import within_reach
from sim_bridges.worlds.tabletop.sim import TabletopSim
from sim_bridges.worlds.tabletop.tool import upright_tool_of

AXES = ("x", "y", "z", "yaw")
LAG_S = 0.2
"""What is steered now moves the arm about so much later."""
GAIN_HZ = 2.5
"""Speed per distance to where the tool is to go, as far as the lag allows."""
SLOWING_M_S2, SLOWING_RAD_S2 = 0.4, 1.5
"""The tool is slowed down as if this were all that could brake it."""
NEAR_M, NEAR_RAD = 0.0015, 0.02
"""Sticks are left alone so near."""
PATIENCE_S = 1.0
"""A dead-man that moves nothing is let go after so long."""
AGAIN_S = 3.0
"""A gripper that does not do as it is told is told again after so long: on a busy machine it is late, and a second
press of the button would undo the first."""
LET_GO_S = 0.3
"""A dead-man that was let go is pressed again after so long."""
STILL_M_S, FAR_M = 0.003, 0.01
"""A tool that is slower than this, and has further to go than this, does not move."""

Inputs = list[tuple[str, float]]
"""Names of inputs and their new values, in order."""


class ScriptedHands:
    """What the hands do with the gamepad. To be asked some 20 times a second while the sim shows the present scene."""

    def __init__(self, sim: TabletopSim, contract: Contract, mapping: Mapping) -> None:
        """Raises ConfigError for a mapping without an input that is needed, or a contract that is not the table's."""
        self._sim, self._expert, self._mapping = sim, ScriptedExpert(sim, contract), mapping
        bound = {binding.does: binding for binding in mapping.bindings}
        lacking = sorted({*AXES, DEADMAN, GRIPPER, FASTER} - set(bound))
        check(not lacking, f"mapping {mapping.name}: what no input does", lacking, "all that the script needs")
        self._bound: dict[str, Binding] = bound
        options, expert = TeleopOptions(), ExpertConfig()
        full = (options.speed_m_s,) * 3 + (options.turn_rad_s,)
        self._full = np.array(full) * LEVELS[-1]
        self._top = np.minimum(self._full, (expert.speed_m_s, expert.speed_m_s, expert.lift_m_s, expert.turn_rad_s))
        self._slowing = np.array([SLOWING_M_S2] * 3 + [SLOWING_RAD_S2])
        self._held: dict[str, float] = {}
        self._told_s = self._moved_s = self._pressed_s = -math.inf

    def let_go(self) -> Inputs:
        """Of everything."""
        return self._hold({})

    def steer(self, now_s: float) -> Inputs:
        """What changes on the gamepad now. Once the task is solved the hands let go."""
        if self._expert.done or now_s < self._pressed_s:
            return self.let_go()
        deadman = self._bound[DEADMAN].input
        if deadman not in self._held:
            self._moved_s, self._told_s = now_s, -math.inf
            return [*self._press(FASTER, len(LEVELS)), *self._hold({deadman: 1.0})]
        position, velocity = self._tool()
        wish = self._expert.wish()
        error = np.append(within_reach(wish.goal_m), wish.yaw_rad) - (position + LAG_S * velocity)
        distance = float(np.linalg.norm(error[:3]))
        if distance < FAR_M or float(np.linalg.norm(velocity[:3])) > STILL_M_S:
            self._moved_s = now_s
        elif now_s > self._moved_s + PATIENCE_S:  # the dead-man counts as released: it has to be pressed again
            self._pressed_s = now_s + LET_GO_S
            return self.let_go()
        speed = np.minimum(GAIN_HZ * np.abs(error), np.sqrt(2.0 * self._slowing * np.abs(error)))
        speed = np.minimum(speed, self._top)
        speed[np.abs(error) < [NEAR_M] * 3 + [NEAR_RAD]] = 0.0
        wanted = np.copysign(speed, error) / self._full
        sticks = {self._bound[does].input: self._stick(does, part) for does, part in zip(AXES, wanted, strict=True)}
        changed = self._hold({deadman: 1.0, **sticks})
        if wish.open != self._sim.gripper_target_open and now_s > self._told_s + AGAIN_S:
            self._told_s = now_s
            changed += self._press(GRIPPER)
        return changed

    def _tool(self) -> tuple[FloatArray, FloatArray]:
        """x, y, z and yaw of the grasp point, as commanded, and how they change."""
        joints, speed, _ = self._sim.setpoint
        h = 0.01
        here, there = (np.append(*upright_tool_of(q)) for q in (joints, joints + h * speed))
        return here, (there - here) / h

    def _stick(self, does: str, wanted: float) -> float:
        """Where the stick has to be for this part of the full speed, beyond its dead zone."""
        zone = self._mapping.dead_zone
        beyond = zone + (1.0 - zone) * abs(wanted) if wanted else 0.0
        return math.copysign(min(beyond, 1.0), wanted / self._bound[does].factor)

    def _press(self, does: str, times: int = 1) -> Inputs:
        return [(self._bound[does].input, value) for _ in range(times) for value in (1.0, 0.0)]

    def _hold(self, held: dict[str, float]) -> Inputs:
        """From now on these and no others."""
        changed = [(name, 0.0) for name in self._held if name not in held]
        changed += [(name, value) for name, value in held.items() if self._held.get(name) != value]
        self._held = held
        return changed
