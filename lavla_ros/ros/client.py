"""For nodes that run a script of their own: spin beside it, and call services in it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args

from lavla_ros import topics
from lavla_ros.errors import UserError
from lavla_ros.ros.diagnostics import NewProblems

RCLError = rclpy_implementation.RCLError


class ServiceError(UserError, RuntimeError):
    """A service is not there, does not answer, or refuses."""


def own_arguments(argv: Sequence[str] | None) -> list[str]:
    """A program's command line (None: this process's) without its own name and without what is for ROS."""
    return [str(text) for text in remove_ros_args(["", *(sys.argv[1:] if argv is None else argv)])[1:]]


def spin(executor: Executor) -> None:
    """Callbacks run until the executor is shut down, or its context ends: by Ctrl-C, say."""
    try:
        executor.spin()
    except ExternalShutdownException:
        pass
    except RCLError:  # it ended between rclpy's look at it and its use
        if executor.context.ok():
            raise


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Callbacks run in a thread inside the block, which learns by itself that the context has ended."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=spin, args=(executor,), name="spin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(5.0)


def call(client: Any, request: Any, timeout_s: float = 10.0) -> str:
    """One call of a Trigger-like service of a node that spins; the message of its response.

    Raises ServiceError naming the service and what it said.
    """
    response = answer_of(client, request, timeout_s)
    if not response.success:
        raise ServiceError(f"{client.service_name}: {response.message}")
    return str(response.message)


def answer_of(client: Any, request: Any, timeout_s: float = 10.0) -> Any:
    """The response of a service to one call, of a node that spins. Raises ServiceError if there is none."""
    name = client.service_name
    if not client.wait_for_service(timeout_s):
        raise ServiceError(f"service {name} is not there after {timeout_s} s; does the node that offers it run?")
    done = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: done.set())
    if not done.wait(timeout_s):
        raise ServiceError(f"service {name} did not answer within {timeout_s} s")
    return future.result()


def set_parameter(client: Any, name: str, value: ParameterValue, otherwise: str) -> None:
    """Set one parameter by a node's service. Raises ServiceError, ``otherwise`` and why, if it is refused."""
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
    refused = [result.reason for result in answer_of(client, request).results if not result.successful]
    if refused:
        raise ServiceError(f"{otherwise}: {refused[0]}")


def watch_problems(node: Node, say: Callable[[str], None]) -> None:
    """While ``node`` spins, say every new warning and error of /diagnostics once, in the thread that spins."""
    problems = NewProblems()

    def on_diagnostics(message: DiagnosticArray) -> None:
        for line in problems.take(message):
            say(line)

    node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, on_diagnostics, qos_profile_sensor_data)
