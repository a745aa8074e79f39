"""A node as a process: it ends cleanly, whatever asks it to."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from lavla_ros.bringup.domain import ROLES, claim_role
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.claim import Claim
from lavla_ros.errors import FailedError, is_users
from lavla_ros.ros.lifecycle import LavlaNode
from lavla_ros.ros.parameters import refuse_unknown


@contextmanager
def secured() -> Iterator[None]:
    """In the body ROS and nodes are started. Raises FailedError if that is refused while SROS 2 is on."""
    try:
        yield
    except rclpy_implementation.RCLError as error:
        if os.environ.get("ROS_SECURITY_ENABLE") != "true":
            raise
        raise FailedError(
            f"ROS refuses to start with SROS 2 ({' '.join(str(error).split())}); ROS_SECURITY_KEYSTORE is "
            f"{os.environ.get('ROS_SECURITY_KEYSTORE', 'not set')}: see docs/network.md, or unset ROS_SECURITY_ENABLE"
        ) from None


def run_node(factory: Callable[[], LavlaNode], argv: Sequence[str] | None = None) -> NoReturn:
    """Run one node until SIGINT, SIGTERM, SIGHUP, its starter's end (:mod:`lavla_ros.lifeline`) or its own, and end the
    process with 0 (clean), 1 when it could not come up, or the status that it finished with.
    """
    status = _run(factory, argv)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # Python's own way takes seconds over what a node has loaded, and the library of some objects goes before they do,
    # which fills the screen with complaints below the one line that a person should read.
    os._exit(status)


def _run(factory: Callable[[], LavlaNode], argv: Sequence[str] | None) -> int:
    """The exit status.

    Signals wake the spin loop through a pipe instead of raising in the middle of a callback, so
    one or several of them, at any moment, end in the same orderly way: safe, then gone.
    """
    executor: SingleThreadedExecutor | None = None
    stopping: list[int] = []  # signals; no Event: a handler that interrupts its set() or wait() would wait for itself
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while received := reader.recv(1):
            stopping.append(received[0])
            if executor is not None:
                executor.create_task(lambda: None)  # wakes spin_once from another thread

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored: nohup
            signal.signal(number, lambda received, _: stopping.append(received))
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    node: LavlaNode | None = None
    role: Claim | None = None
    try:
        enter_ros()
        with secured():
            rclpy.init(args=list(argv) if argv is not None else None, signal_handler_options=SignalHandlerOptions.NO)
            threading.Thread(target=watch, name="signals", daemon=True).start()
            node = factory()
        refuse_unknown(node)
        if node.role in ROLES:
            role = claim_role(node.role, node.context.get_domain_id(), node.get_namespace())
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.parameters.autostart and not stopping and not node.bring_up():
            print(f"{node.get_name()}: {node.fault or node.refusal}", file=sys.stderr, flush=True)
            return 1
        gc.collect()
        gc.freeze()  # what is loaded stays: a collection over it would pause callbacks for up to 0.1 s
        while not stopping and node.exit_status is None:
            executor.spin_once()
        return node.exit_status or 0
    except ExternalShutdownException:
        return 0
    except Exception as error:
        if not is_users(error) and not isinstance(error, NameValidationException):  # of a remapping
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        if node is not None:
            node.bring_down()
            node.destroy_node()
        rclpy.try_shutdown()
        if role is not None:
            role.close()
