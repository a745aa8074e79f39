"""One emulator process, one servo process, and a stand-in for the ROS side that streams chunks and heartbeats."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lavla_ros.contract import ActionChunk, load_contract
from lavla_ros.control.executor import ExecutorState
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.servo_link import ServoLink
from lavla_ros.errors import FailedError
from lavla_ros.jaka.codec import encode
from lavla_ros.jaka.driver import JakaDriverConfig
from lavla_ros.resources import config_path
from lavla_ros.typing import FloatArray
from sim_bridges.jaka_controller.emulator import emulator_command

HOST = "127.0.0.1"
CHUNK_PERIOD_S = 0.1
HEARTBEAT_S = 0.05
_PORTS = re.compile(r"commands on [\d.]+:(\d+), status on port (\d+)")
Policy = Callable[[Any], FloatArray]
"""Joint 1 over the time since the stream began (N,), s → (N,), rad."""


def sway(speed_rad_s: float = 0.8, amplitude_rad: float = 0.4) -> Policy:
    """Back and forth by ``amplitude_rad``, fastest at the middle."""
    rate = speed_rad_s / amplitude_rad

    def joint_1(t: Any) -> FloatArray:
        return np.asarray(amplitude_rad * (1.0 - np.cos(rate * t)), dtype=np.float64)

    return joint_1


class Emulator:
    """``with Emulator("--without-commands", "coast") as emulator``: the stand-alone process."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.port = self.status_port = 0

    def __enter__(self) -> Emulator:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "sim_bridges.jaka_controller.emulator",
                "--port",
                "0",
                "--status-port",
                "0",
                *self._options,
            ],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            encoding="utf-8",
        )
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._ready.wait(30.0):
            self._process.kill()
            raise FailedError(f"the emulator did not start with {self._options}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := _PORTS.search(line):
                self.port, self.status_port = int(found[1]), int(found[2])
                self._ready.set()

    def fault(self, **changes: Any) -> None:
        """Switch faults of the emulator."""
        emulator_command(HOST, self.port, fault=changes)

    @contextlib.contextmanager
    def control(self) -> Iterator[Callable[..., None]]:
        """:meth:`fault` over a connection that is kept: for faults that let no new one in."""
        with socket.create_connection((HOST, self.port), timeout=2.0) as connection:

            def fault(**changes: Any) -> None:
                connection.sendall(encode({"cmdName": "_emulator", "fault": changes}))
                connection.recv(65536)

            yield fault

    def query(self, what: str, **fields: Any) -> Any:
        return emulator_command(HOST, self.port, query=what, **fields)[what]

    def motion(self) -> tuple[Any, FloatArray]:
        """Cycle numbers (N,) and positions (N, 6), rad, since the start."""
        rows: list[list[float]] = []
        since: int | None = 0
        while since is not None:
            page = self.query("motion", since=since)
            rows += page["rows"]
            since = page["next"]
        table = np.array(rows)
        return table[:, 0].astype(np.int64), table[:, 1:]

    def cycle(self) -> int:
        """Running number of the newest cycle."""
        counters = self.query("servo_log", since=10**9)["counters"]
        return int(counters["cycles"] + counters["late_cycles"])


class Rig:
    """The servo process and its ROS side. What was said is collected in :attr:`said`."""

    def __init__(self, emulator: Emulator, policy: Policy, *, contract: str = "jaka_minicobo", **servo: Any) -> None:
        self.emulator, self.policy = emulator, policy
        self.contract = load_contract(contract)
        self.link = ServoLink(ServoConfig(contract=contract, arm=driver_options(emulator), **servo))
        self.said: list[str] = []
        self.beating = self.streaming = True
        self.chunk_steps: Callable[[int], int] = lambda _: 20
        self.spoil: Callable[[FloatArray], FloatArray] | None = None
        """Applied to the actions of the next chunk, once."""
        self.accepted = self.refused = 0
        self.marked = 0
        """Cycle from which the arm's motion is judged; see :meth:`mark`."""
        self._begun_s = 0.0
        self._chunks = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Raises ServoLinkError."""
        self.link.start()
        self._begun_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._look()
        if self.link.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.link.pid, signal.SIGCONT)
        self.link.stop()

    @property
    def pid(self) -> int:
        pid = self.link.pid
        if pid is None:
            raise FailedError("the servo process is gone")
        return pid

    def mark(self) -> None:
        """Judge the arm's motion from now on only."""
        self.marked = self.emulator.cycle()

    def say(self, text: str) -> None:
        """Note something, unless it was noted before."""
        if text and text not in self.said:
            self.said.append(text)

    def ask(self, name: str, timeout_s: float = 8.0) -> bool:
        """One request of a person; what was answered is noted. Asked again while the command ramps to rest."""
        until = time.monotonic() + timeout_s
        while True:
            ok = self.link.request(name, timeout_s=timeout_s)
            if ok or not self.link.answer.retry or time.monotonic() > until:
                break
            time.sleep(0.05)
        self.say(f"{name}: {'yes' if ok else 'no'}, {self.link.reason}")
        return ok

    def recover(self, *, powered: bool = False) -> None:
        """What a person does after a fault: acknowledge, power where it was lost, resume. Older stacks lack some."""
        self.ask("acknowledge")
        if powered:
            for name in ("power_on", "enable"):
                self.ask(name)
        self.ask("resume")

    def wait(self, condition: Callable[[Any], bool], timeout_s: float = 5.0) -> bool:
        """Until the newest snapshot is as wanted; whether it came to that."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            newest = self.link.snapshot()
            if newest is not None and condition(newest):
                return True
            time.sleep(0.005)
        return False

    def wait_fast(self, share: float = 0.97) -> None:
        """Until joint 1 moves forward at nearly its top speed. RuntimeError if it never does."""
        t = np.linspace(0.0, 20.0, 4001)
        top = float(np.abs(np.gradient(self.policy(t), t)).max())
        if not self.wait(
            lambda s: s.state is ExecutorState.TRACKING and s.command_velocity_rad_s[0] > share * top, 12.0
        ):
            raise FailedError(f"the arm never moved at {top:.2f} rad/s; said: {self.said}")

    def state(self) -> str:
        newest = self.link.snapshot()
        if newest is None:
            return "no tick"
        if not self.link.alive or newest.exit_reason is not None:
            return f"ended: {newest.exit_reason or self.link.exit_reason}"
        return str(newest.state.name)

    def _run(self) -> None:
        next_chunk_s, next_beat_s = 0.0, 0.0
        with contextlib.suppress(Exception):  # the servo process is gone: the scenario says what became of it
            while not self._ending.wait(0.005):
                now_s = time.monotonic()
                if self.beating and now_s >= next_beat_s:
                    self.link.heartbeat()
                    next_beat_s = now_s + HEARTBEAT_S
                if self.streaming and now_s >= next_chunk_s:
                    self.submit()
                    next_chunk_s = now_s + CHUNK_PERIOD_S
                self._look()

    def submit(self) -> None:
        """One chunk of the policy, from now on."""
        self._chunks += 1
        steps = self.chunk_steps(self._chunks)
        dt_s = 1.0 / self.contract.rate_hz
        actions = np.zeros((steps, len(self.contract.action.names)))
        actions[:, -1] = 1.0
        actions[:, 0] = self.policy(time.monotonic() - self._begun_s + dt_s * np.arange(1, steps + 1))
        spoil, self.spoil = self.spoil, None
        if spoil is not None:
            actions = spoil(actions)
        self.link.submit(
            ActionChunk(
                stamp_ns=time.time_ns(),
                dt_ns=round(dt_s * 1e9),
                actions_HA=actions,
                names=self.contract.action.names,
            )
        )

    def _look(self) -> None:
        for snapshot in self.link.drain():
            fault = snapshot.fault
            # Newer stacks tell a latched hold and a first sign of trouble from the reason of holding.
            held = getattr(snapshot, "held", None) or getattr(snapshot, "concern", None) or snapshot.hold_reason
            self.say(f"fault: {fault}" if fault else f"hold: {held}" if held and held != "activated" else "")
            for _, accepted, reason in snapshot.results:
                self.accepted += accepted
                self.refused += not accepted
                if not accepted and not fault:
                    self.say(f"chunk refused: {re.sub(r'[0-9]{6,}', '…', reason)}")
            if snapshot.exit_reason is not None:
                self.say(f"ended: {snapshot.exit_reason}")


def driver_options(emulator: Emulator) -> JakaDriverConfig:
    """The arm is switched on when it is connected to."""
    return JakaDriverConfig(host=HOST, port=emulator.port, status_port=emulator.status_port, power_on=True)


@contextlib.contextmanager
def running(
    policy: Policy | None = None, *, emulator: tuple[str, ...] = (), start: bool = True, **servo: Any
) -> Iterator[Rig]:
    """A rig with everything started, at rest at zero; stopped whatever happens."""
    with Emulator(*emulator) as controller:
        rig = Rig(controller, policy or sway(), **servo)
        try:
            if start:
                rig.start()
            yield rig
        finally:
            rig.stop()


def free_end_effector(folder: Path) -> str:
    """A contract in the end effector's space whose dimensions have no bounds."""
    dims: list[Mapping[str, Any]] = [
        {"name": n, "unit": u}
        for n, u in zip(("x", "y", "z", "rx", "ry", "rz"), ("m",) * 3 + ("rad",) * 3, strict=True)
    ]
    contract = yaml.safe_load(config_path("contracts/jaka_minicobo.yaml").read_text(encoding="utf-8"))
    contract["name"] = "free_end_effector"
    contract["action"] |= {"space": "end_effector", "dims": [*dims, contract["action"]["dims"][-1]]}
    path = folder / "free_end_effector.yaml"
    path.write_text(yaml.safe_dump(contract, sort_keys=False), encoding="utf-8")
    return str(path)
