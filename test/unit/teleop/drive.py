"""A person with a stick of pure inputs, the real executor, and an arm that does as it is told."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from arms import CONTRACT, MS, Bench

from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.executor import SubmitResult
from lavla_ros.teleop.config import ACTIONS, TWIST, Binding, Mapping, TeleopOptions
from lavla_ros.teleop.devices import Device
from lavla_ros.teleop.motion import ArmMotion
from lavla_ros.teleop.operator import Event
from lavla_ros.teleop.teleoperator import Teleoperator

REST_S = 0.8
"""Stated in docs/how_to/teleoperate.md: by then the arm stands, once the dead-man counts as released."""


@cache
def mapping_of(*moves: str, follows: bool = False, **settings: Any) -> Mapping:
    """Every input is called what it does."""
    bindings = [Binding(input=name, does=name, follows=follows) for name in moves]
    return Mapping(
        name="stick",
        bindings=(*bindings, *(Binding(input=name, does=name) for name in ACTIONS)),
        **{"dead_zone": 0.0, **settings},
    )


class Drive:
    """Ticks an executor, and steps a teleoperator that hears of its commands as they are."""

    def __init__(
        self,
        contract: Contract = CONTRACT,
        moves: tuple[str, ...] = TWIST,
        *,
        start: Any = None,
        follows: bool = False,
        executor: dict[str, Any] | None = None,
        mapping: Mapping | None = None,
        **options: Any,
    ) -> None:
        self.bench = Bench(contract=contract, **({} if start is None else {"start": start}), **(executor or {}))
        mapping = mapping or mapping_of(*moves, follows=follows)
        self.teleop = Teleoperator(contract, self.bench.config, mapping, TeleopOptions(**{"level": 4, **options}))
        self.inputs: dict[str, float] = {}
        self.leader_speaks = follows
        self.refused: list[str] = []
        self.whys: set[str] = set()
        self._next_ns = self.bench.now_ns
        self._news: list[Event] = []

    def run(
        self,
        seconds: float,
        *,
        alive: bool = True,
        events: tuple[Event, ...] = (),
        device: Device | None = None,
        **changes: float,
    ) -> None:
        """``changes``: inputs from now on. ``alive``: there is a sign of life with every step."""
        bench, self.inputs = self.bench, self.inputs | changes
        self._news += [*events, *(Event(bench.now_ns, name, value) for name, value in changes.items())]
        until_ns = bench.now_ns + int(seconds * 1e9)
        while bench.now_ns < until_ns:
            if bench.now_ns >= self._next_ns:
                limiter = bench.executor._limiter
                arm = ArmMotion(
                    at_ns=bench.now_ns,
                    position_rad=np.array(limiter.position),
                    velocity_rad_s=np.array(limiter.velocity),
                    gripper_open=bench.commands[-1].gripper if bench.commands else 1.0,
                )
                self._news += device.read(bench.now_ns) if device is not None else []
                chunk = self.teleop.step([*self._news, *([Event(bench.now_ns)] if alive else [])], arm, bench.now_ns)
                self._news = [Event(bench.now_ns, *item) for item in self.inputs.items()] if self.leader_speaks else []
                self.whys.add(self.teleop.why)
                if chunk is not None and not (result := self._submit(chunk)).accepted:
                    self.refused.append(result.reason)
                self._next_ns += round(self.teleop.period_s * 1000) * MS
            bench.tick()

    def _submit(self, chunk: ActionChunk) -> SubmitResult:
        return self.bench.executor.submit(chunk, self.bench.now_ns, person=True)

    def velocities(self, last: int) -> np.ndarray:
        """(last, 3) m/s of the tool in the last ticks."""
        kinematics = self.bench.config.kinematics
        assert kinematics is not None
        places = [kinematics.forward(c.position_rad)[:3, 3] for c in self.bench.commands[-last - 1 :]]
        return np.diff(places, axis=0) / 0.008

    def joint_speed(self, last: int) -> float:
        """The fastest joint in the last ticks, rad/s."""
        return float(np.abs(np.diff(self.bench.positions[-last - 1 :], axis=0)).max() / 0.008)
