"""One episode at the contract's rate, in simulated time: as slow or as fast as the policy, always the same.

The executor is the one of the real arm, ticked every 8 ms of simulated time. Nothing here reads a clock,
so that equal seeds and equal chunks give equal episodes bit for bit.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.control.arm import ArmState
from lavla_ros.control.executor import ChunkExecutor, SubmitResult
from lavla_ros.errors import InputError
from lavla_ros.jaka.limits import JOINT_NAMES
from lavla_ros.typing import FloatArray
from sim_bridges.worlds.tabletop.render import TabletopRenderer
from sim_bridges.worlds.tabletop.sim import STEP_NS, TabletopSim

TICK_NS = 8_000_000


class LockstepSession:
    """A tabletop episode for a policy, an expert or a ROS bridge."""

    def __init__(
        self, sim: TabletopSim, executor: ChunkExecutor, contract: Contract, renderer: TabletopRenderer | None
    ) -> None:
        """``executor``: whose configuration is used; every episode gets a fresh one of it.
        ``renderer`` None: :meth:`observe` works with ``render=False`` only.

        Raises ValueError if the contract's step is not a multiple of the physics step, its state is
        not the six joints and the gripper, or the executor has another tick or another order of the joints.
        """
        if contract.dt_ns % STEP_NS:
            raise InputError(
                f"contract {contract.name!r}: a step of {contract.dt_ns} ns is no multiple of {STEP_NS} ns"
            )
        if sorted(contract.state.names) != sorted((*JOINT_NAMES, "gripper")):
            raise InputError(
                f"contract {contract.name!r} wants the state {list(contract.state.names)}; "
                f"the tabletop has {[*JOINT_NAMES, 'gripper']}"
            )
        if executor.config.tick_ns != TICK_NS or executor.config.joint_names != JOINT_NAMES:
            raise InputError(
                f"the executor ticks every {executor.config.tick_ns} ns and has the joints "
                f"{executor.config.joint_names}; the tabletop needs {TICK_NS} ns and {JOINT_NAMES}"
            )
        self.sim = sim
        self.executor = executor
        """The executor of the present episode (its counters and state)."""
        self.contract = contract
        self._renderer = renderer
        self._digest = hashlib.sha256()

    @property
    def trajectory(self) -> str:
        """Hash over the simulator's state after every step of the episode: equal episodes, equal hashes."""
        return self._digest.hexdigest()[:16]

    @property
    def time_ns(self) -> int:
        """Simulated time of the episode: the stamp of the next observation."""
        return self.sim.time_ns

    def reset(self, seed: int, start_shift_rad: FloatArray | None = None) -> None:
        """Start the episode of this seed at simulated time 0, with the executor activated and the arm at rest.

        ``start_shift_rad``: (6,) how far from its usual place the arm begins.
        """
        self.sim.reset(seed, start_shift_rad)
        self.executor = self.executor.fresh()
        self.executor.activate(self.arm_state(), self.time_ns)
        self._digest = hashlib.sha256()

    def arm_state(self) -> ArmState:
        """What a driver would report now."""
        return ArmState(
            stamp_ns=self.time_ns,
            position_rad=self.sim.joint_position_rad,
            gripper=self._gripper(),
            enabled=True,
            servo_mode=True,
            fault=None,
        )

    def joint_state(self) -> dict[str, float]:
        """Name → value: six measured joints (rad) and ``gripper`` (1 open, 0 closed), the tool output's state:
        the controller reports no opening, so that a policy must not see one here either."""
        values = {n: float(v) for n, v in zip(JOINT_NAMES, self.sim.joint_position_rad, strict=True)}
        return values | {"gripper": self._gripper()}

    def _gripper(self) -> float:
        return float(self.sim.gripper_target_open)

    def observe(self, render: bool = True) -> Observation:
        """The observation at this moment. ``render=False`` leaves ``images`` empty (a step whose picture
        is not needed). Raises RuntimeError if pictures are wanted but the session has no renderer."""
        images: dict[str, NDArray[np.uint8]] = {}
        if render:
            if self._renderer is None:
                raise RuntimeError("this session was made without a renderer: pass one, or observe(render=False)")
            images = {name: self._renderer.render(name) for name in self.contract.camera_names}
        state = self.joint_state()
        stamp = self.time_ns
        return Observation(
            stamp_ns=stamp,
            images=images,
            state=np.array([state[n] for n in self.contract.state.names], dtype=np.float32),
            instruction=self.sim.instruction,
            capture_ns=dict.fromkeys((*images, "state"), stamp),
        )

    def step(self, chunk: ActionChunk | None) -> SubmitResult | None:
        """Submit ``chunk`` (None: go on with the last one) and advance exactly one contract step.

        Returns what the executor said to the chunk.
        """
        result = None if chunk is None else self.executor.submit(chunk, self.time_ns)
        end_ns = self.time_ns + self.contract.dt_ns
        while self.time_ns < end_ns:
            now_ns = self.time_ns
            if now_ns % TICK_NS == 0:
                command = self.executor.tick(now_ns, self.arm_state())
                self.sim.set_targets(command.position_rad, command.gripper)
            # To the next servo tick or the end of the step, whichever comes first.
            self.sim.advance(min(TICK_NS - now_ns % TICK_NS, end_ns - now_ns))
        self._digest.update(self.sim.snapshot().tobytes())
        return result
