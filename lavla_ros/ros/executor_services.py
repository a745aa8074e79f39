"""What a person or a program asks of the arm, one service each: each is one request to the servo process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import parameter_value_to_python
from std_srvs.srv import Trigger

from lavla_ros import topics
from lavla_ros.control.move import HOME, POSE, MoveError, Poses, goal_of
from lavla_ros.control.servo_link import ServoLink
from lavla_ros.ros.scope import Scope

REQUESTS: dict[str, Callable[..., bool]] = {
    topics.EXECUTOR_HOLD: ServoLink.hold,
    topics.EXECUTOR_ACKNOWLEDGE: ServoLink.acknowledge,
    topics.EXECUTOR_POWER_ON: ServoLink.power_on,
    topics.EXECUTOR_ENABLE: ServoLink.enable,
    topics.EXECUTOR_RESUME: ServoLink.resume,
    topics.EXECUTOR_HAND_BACK: ServoLink.hand_back,
}


class ExecutorServices:
    """The services, for as long as ``made`` is open."""

    def __init__(
        self, made: Scope, link: ServoLink, conflict: Callable[[], str | None], joint_names: Sequence[str], poses: Poses
    ) -> None:
        """``conflict``: why the arm may not be resumed. ``poses``: see :mod:`lavla_ros.control.move`."""
        self._link, self._conflict, self._joint_names, self._poses = link, conflict, joint_names, poses
        self._namespace = made.node.get_namespace().rstrip("/")
        for name, ask in REQUESTS.items():
            made.service(Trigger, name, partial(self._serve, name, ask))
        made.service(Trigger, topics.EXECUTOR_HOME, self._home)
        made.service(SetParametersAtomically, topics.EXECUTOR_MOVE_TO, self._move_to)

    def _serve(self, name: str, ask: Callable[[ServoLink], bool], _: Any, response: Any) -> Any:
        conflict = self._conflict() if name == topics.EXECUTOR_RESUME else None
        response.success, response.message = (False, conflict) if conflict else self._ask(ask)
        return response

    def _home(self, _: Any, response: Any) -> Any:
        response.success, response.message = self._move([(POSE, HOME)])
        return response

    def _move_to(self, request: Any, response: Any) -> Any:
        try:
            asked = [(item.name, parameter_value_to_python(item.value)) for item in request.parameters]
        except RuntimeError as error:  # a type that there is not
            response.result.successful, response.result.reason = False, str(error)
        else:
            response.result.successful, response.result.reason = self._move(asked)
        return response

    def _move(self, asked: Sequence[tuple[str, object]]) -> tuple[bool, str]:
        try:
            goal_rad, to = goal_of(asked, self._joint_names, self._poses)
        except MoveError as error:
            return False, str(error)
        return self._ask(lambda link: link.move_to(goal_rad, to))

    def _ask(self, ask: Callable[[ServoLink], bool]) -> tuple[bool, str]:
        """Whether it was done, and what the servo process says to it."""
        if not self._link.alive:
            return False, "the servo process is not running; see /diagnostics"
        return ask(self._link), self.named(self._link.reason)

    def named(self, text: str) -> str:
        """The servo process knows the services by their names without a namespace."""
        return text.replace("/executor/", f"{self._namespace}/executor/")
