"""What runs beside a script's node."""

from __future__ import annotations

import threading

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation

from lavla_ros.ros.client import spinning


@pytest.mark.parametrize("ended", [True, False])
def test_only_a_context_that_has_ended_is_no_error(monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """Ctrl-C may come after rclpy has asked whether the context is there, and before it uses it."""
    raised: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda hooked: raised.append(str(hooked.exc_value)))
    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("script", context=context)
    spin_once = SingleThreadedExecutor.wait_for_ready_callbacks

    def interrupted(self: SingleThreadedExecutor, *args: object, **options: object) -> object:
        gone = rclpy.Context()
        gone.init()
        gone.shutdown()
        if ended:
            context.shutdown()
        monkeypatch.setattr(SingleThreadedExecutor, "wait_for_ready_callbacks", spin_once)
        return rclpy_implementation.WaitSet(0, 0, 0, 0, 0, 0, gone.handle)  # as rclpy makes one

    monkeypatch.setattr(SingleThreadedExecutor, "wait_for_ready_callbacks", interrupted)
    with spinning(node):
        for each in threading.enumerate():
            if each.name == "spin":
                each.join(10.0)
    assert (not raised) == ended and (ended or "context" in raised[0])
    context.try_shutdown()
