"""The base of every node: lifecycle, parameters, diagnostics, and a process that ends cleanly.

A node overrides hooks. ``setup`` (configure: load and connect, raise to refuse) and ``start`` (activate) put what
they make into the scopes ``configured`` and ``activated``, which give it back by themselves; ``stop`` (deactivate) and
``teardown`` (clean up) do what has to be done before; ``diagnose`` reports. A fault found while running is latched with
:meth:`LavlaNode.fail`: the node deactivates, says so in /diagnostics, and refuses to activate until a person cleans it
up and configures it again.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from lavla_ros import topics
from lavla_ros.errors import is_users
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.parameters import NodeParameters, declare
from lavla_ros.ros.scope import Scope
from lavla_ros.typing import NS_PER_S

READY = "lavla-ready"
"""First word of the line that tells a launcher that the node is active."""


class LavlaNode(LifecycleNode):  # type: ignore[misc]  # rclpy is untyped
    """A lifecycle node with typed parameters, a latched fault and /diagnostics."""

    parameters_type: ClassVar[type[NodeParameters]] = NodeParameters

    def __init__(self, name: str, *, context: Context | None = None, **options: Any) -> None:
        super().__init__(name, context=context, **options)
        self.made_s = time.monotonic()
        """Since when it can be found by others, and they by it."""
        self.role = name
        """The name before a remapping: what the node is in its ROS domain."""
        self.parameters: Any = declare(self, self.parameters_type)
        self.fault: str | None = None
        self.refusal = ""
        """Why the node would not activate when it was asked last."""
        self.exit_status: int | None = None
        """Of the process, once the node has nothing left to do; None: it runs on."""
        self.configured, self.activated = Scope(self), Scope(self)
        """What ``setup`` and ``start`` have made: given back at clean-up, and at deactivation after ``stop``."""
        self._diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
        self.create_timer(self.parameters.diagnostics_period_s, self._publish_diagnostics)
        self._failure = self.create_guard_condition(self._deactivate_after_failure)
        self._finished = self.create_guard_condition(lambda: None)  # wakes the executor

    # Hooks, overridden by the nodes.

    def setup(self) -> None:
        """Load, validate, connect. Raise with a message that names the cause and the fix."""

    def start(self) -> None:
        """Begin to run."""

    def stop(self) -> None:
        """Leave everything safe; ``start`` may have failed halfway. What raises leaves the node active."""

    def teardown(self) -> None:
        """What has to end before the things in ``configured`` go; ``setup`` may have failed halfway."""

    def diagnose(self, report: Report) -> None:
        """Add values and warnings to the node's entry in /diagnostics."""

    # State.

    @property
    def active(self) -> bool:
        return bool(self._state_machine.current_state[1] == "active")

    def now_ns(self) -> int:
        """The node's clock (wall time, or /clock with use_sim_time)."""
        return int(self.get_clock().now().nanoseconds)

    def fail(self, reason: str) -> None:
        """Latch a fault, log it, and deactivate soon after, from any thread."""
        if self.fault is None:
            self.fault = reason
            self.get_logger().error(reason)
            self._failure.trigger()

    def finish(self, exit_status: int = 0) -> None:
        """Everything is done: the process ends in order soon after, from any thread."""
        self.exit_status = exit_status
        self._finished.trigger()

    def bring_up(self) -> bool:
        """Configure and activate; False when either refused (the reason is in ``fault``)."""
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return False
        return bool(self.trigger_activate() == TransitionCallbackReturn.SUCCESS)

    def bring_down(self) -> None:
        """Deactivate, clean up and finalize, from whatever state the node is in."""
        if self.active:
            self.trigger_deactivate()
        if self._state_machine.current_state[1] == "inactive":
            self.trigger_cleanup()
        if self._state_machine.current_state[1] in ("unconfigured", "active"):  # active: it refused to deactivate
            self.trigger_shutdown()

    def destroy_node(self) -> None:
        """Its state machine too, which rclpy leaves: while that is there, others take the node to be alive, and its
        shared memory stays."""
        self._state_machine.destroy_when_not_in_use()
        super().destroy_node()

    # Lifecycle transitions.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.fault = None
        if not self._run(self.setup, "configure"):
            self._clean_up()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.fault is not None:
            self.get_logger().error(f"not activating: {self.fault}; clean up and configure the node to clear this")
            return TransitionCallbackReturn.FAILURE
        if not self._run(self.start, "activate"):
            self._deactivate(anyway=True)
            # A person can put it right without configuring the node: it may be asked again.
            self.refusal, self.fault = self.fault or "", None
            return TransitionCallbackReturn.FAILURE
        self.refusal = ""
        self.get_logger().info("active")
        # On stdout and flushed: a launcher reads it through a pipe.
        print(f"{READY} {self.get_fully_qualified_name()}", flush=True)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if not self._deactivate():
            return TransitionCallbackReturn.FAILURE  # it is active still, and says why
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._clean_up()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if state.label == "active":
            self._deactivate(anyway=True)
        if state.label in ("active", "inactive"):
            self._clean_up()
        return super().on_shutdown(state)

    def _run(self, hook: Callable[[], None], verb: str) -> bool:
        # Any exception must end in a defined lifecycle state: rclpy would swallow it without a word.
        try:
            hook()
        except Exception as error:  # noqa: BLE001
            if not is_users(error):
                self.get_logger().error(traceback.format_exc())
            text = str(error) or type(error).__name__
            self.fault = self.fault or f"cannot {verb}: {text}"
            self.get_logger().error(f"cannot {verb}: {text}")
            return False
        return True

    def _deactivate(self, *, anyway: bool = False) -> bool:
        """``anyway``: what ``start`` has made goes even if ``stop`` raises."""
        safe = self._run(self.stop, "stop")
        return (safe or anyway) and self._run(self.activated.close, "stop") and safe

    def _clean_up(self) -> None:
        self._run(self.teardown, "clean up")
        self._run(self.configured.close, "clean up")

    def _deactivate_after_failure(self) -> None:
        if self.fault is not None and self.active:
            self.trigger_deactivate()

    def _publish_diagnostics(self) -> None:
        report = Report(f"{self.get_name()}: lavla", self.get_fully_qualified_name())
        state = str(self._state_machine.current_state[1])
        report.value("lifecycle", state)
        if self.fault or self.refusal:
            report.error(self.fault or self.refusal)
        if state in ("active", "inactive"):
            self.diagnose(report)
        message = DiagnosticArray(status=[report.finish(state)])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def stamp_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time or Duration → nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def set_stamp(stamp: Any, value_ns: int) -> None:
    """Nanoseconds → builtin_interfaces/Time or Duration, in place."""
    stamp.sec, stamp.nanosec = divmod(int(value_ns), NS_PER_S)


def wall_ns() -> int:
    """Wall clock, nanoseconds: the time base of everything live."""
    return time.time_ns()
