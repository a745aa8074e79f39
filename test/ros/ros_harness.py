"""Start real node processes, talk to them, and end them as an operator would."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from lavla_ros.bringup.environment import ros_environment
from lavla_ros.errors import is_users
from lavla_ros.ros.client import spin
from lavla_ros.ros.messages import ImageBuffer
from lavla_ros.ros.parameters import refuse_unknown

TIMEOUT_S = 15.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """The condition's first true value. Fails with ``what``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class World:
    """The test's own side of the topics."""

    def __init__(self) -> None:
        self.context = Context()
        self.context.init()
        self.node = Node("world", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=spin, args=(self._executor,), daemon=True)
        self._thread.start()

    def spin(self, node: Any) -> None:
        """Spin another node too, in the same thread."""
        self._executor.add_node(node)

    def forget(self, node: Any) -> None:
        """Spin it no more: it may be destroyed after this."""
        self._executor.remove_node(node)
        # The thread may still be waiting for what the node has; once it takes a task it has begun to wait anew.
        wait_until(self._executor.create_task(lambda: None).done, "the end of a wait")

    def close(self) -> None:
        self.context.try_shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()

    def collect(self, kind: Any, topic: str, qos: Any = 50) -> list[Any]:
        """A list that grows with every message on ``topic``."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def publisher(self, kind: Any, topic: str, qos: Any = 50, *, subscribers: int = 1) -> Any:
        """A publisher that ``subscribers`` have found."""
        publisher = self.node.create_publisher(kind, topic, qos)
        wait_until(lambda: publisher.get_subscription_count() >= subscribers, f"{subscribers} subscribers of {topic}")
        return publisher

    def call(self, name: str, value: bool | None = None, timeout_s: float = TIMEOUT_S) -> Any:
        """Call a Trigger service (or SetBool, with ``value``); the response."""
        kind, request = (Trigger, Trigger.Request()) if value is None else (SetBool, SetBool.Request(data=value))
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_s), f"service {name} is not there"
        future = client.call_async(request)
        wait_until(future.done, f"answer of {name}", timeout_s)
        self.node.destroy_client(client)
        return future.result()

    def diagnostics(self) -> Diagnostics:
        return Diagnostics(self.collect(DiagnosticArray, "/diagnostics"))


class Diagnostics:
    """What nodes said on /diagnostics, newest first."""

    def __init__(self, arrays: list[Any]) -> None:
        self._arrays = arrays

    def newest(self, node: str) -> Any:
        for array in reversed(list(self._arrays)):
            for status in array.status:
                if status.name == f"{node}: lavla":
                    return status
        return None

    def values(self, node: str) -> dict[str, str]:
        status = self.newest(node)
        return {pair.key: pair.value for pair in status.values} if status is not None else {}

    def message(self, node: str) -> str:
        status = self.newest(node)
        return str(status.message) if status is not None else ""


def shared_memory(pid: int) -> set[str]:
    """The segments of Fast DDS that a process has mapped, its own and others'."""
    return set(re.findall(r"/dev/shm/fastrtps_[0-9a-f]{16}$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE))


def is_owned(segment: str) -> bool:
    """Whether the process that made it is there: it holds a lock beside it."""
    with contextlib.suppress(FileNotFoundError), Path(f"{segment}_el").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


NEED_A_CONTRACT = ("camera_node", "policy_node", "recorder_node", "teleop_node", "viewer_node")
"""Nodes that have no default for it: a test that does not say which one is about the JAKA arm's."""


class NodeProcess:
    """One node of the package in a process of its own."""

    def __init__(self, module: str, name: str, parameters: dict[str, Any], folder: Path) -> None:
        file = folder / f"{name}-parameters.yaml"
        needed = {"contract": "jaka_minicobo"} if module.endswith(NEED_A_CONTRACT) else {}
        values = {"diagnostics_period_s": 0.2, **needed, **parameters}
        file.write_text(yaml.safe_dump({name: {"ros__parameters": values}}))
        command = [sys.executable, "-m", module, "--ros-args", "-r", f"__node:={name}", "--params-file", str(file)]
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                command, env=ros_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, timeout_s: float = 60.0) -> NodeProcess:
        def ready() -> bool:
            if self.popen.poll() is not None:
                raise AssertionError(f"ended with {self.popen.returncode} before it was ready:\n{self.output}")
            return "lavla-ready" in self.output

        wait_until(ready, f"readiness; output so far:\n{self.output}", timeout_s)
        return self

    def wait_exit(self, timeout_s: float = 30.0) -> int:
        return self.popen.wait(timeout_s)

    def kill(self) -> None:
        """As a power failure would: no clean-up."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(5.0)

    def stop(self) -> None:
        """One SIGINT to the leader; it must end with status 0, without a traceback, and leave no shared memory."""
        if self.popen.poll() is None:
            shared = shared_memory(self.popen.pid)
            self.popen.send_signal(signal.SIGINT)
            try:
                self.popen.wait(10.0)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"did not end within 10 s of SIGINT:\n{self.output}") from None
            assert self.popen.returncode == 0, f"exit status {self.popen.returncode}:\n{self.output}"
            left = [name for name in shared if Path(name).exists() and not is_owned(name)]
            assert not left, f"shared memory without an owner: {left}"
        assert "Traceback" not in self.output and "nanobind" not in self.output, self.output


@contextlib.contextmanager
def running(module: str, name: str, folder: Path, **parameters: Any) -> Iterator[NodeProcess]:
    """A node that is active inside the block, and ends cleanly after it."""
    process = NodeProcess(module, name, parameters, folder)
    try:
        yield process.wait_ready()
        process.stop()
    finally:
        if process.popen.poll() is None:
            process.kill()


def fails_to_start(module: str, name: str, folder: Path, **parameters: Any) -> str:
    """The output of a node that must refuse to come up: non-zero status, one clear error, no traceback."""
    process = NodeProcess(module, name, parameters, folder)
    try:
        assert process.wait_exit(60.0) == 1, process.output
    finally:
        if process.popen.poll() is None:
            process.kill()
    assert "Traceback" not in process.output and "nanobind" not in process.output, process.output
    return process.output


def refusal(world: World, node_class: type[Any], **parameters: Any) -> str:
    """Why a node in this process does not come up: one clear error, which it takes no process of its own to see."""
    given = [Parameter(name, value=value) for name, value in parameters.items()]
    try:
        node = node_class(context=world.context, parameter_overrides=given)
    except Exception as error:  # noqa: BLE001 (of a node, whatever it is: the test shows it)
        assert is_users(error), error
        return str(error)
    try:
        refuse_unknown(node)
        assert not node.bring_up(), parameters
        return str(node.fault or node.refusal)
    finally:
        node.bring_down()
        node.destroy_node()


def picture(seed: int, height: int = 224, width: int = 224) -> np.ndarray:
    """(H, W, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image_message(pixels: np.ndarray, stamp_ns: int) -> Image:
    return ImageBuffer("camera").fill(pixels, stamp_ns)


def pixels_of(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def episode_state(**values: Any) -> str:
    return json.dumps(values)
