"""Which checkpoint the policy node runs: chosen by its parameter, loaded and stopped by its lifecycle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from lavla_ros.console.robot import Running
from lavla_ros.ros.client import ServiceError, answer_of, set_parameter
from lavla_ros.ros.lifecycle import wall_ns

LOADING_S = 600.0
"""So long may a model take to load."""
STALE_S = 3.0
"""What /diagnostics has not repeated for so long is not known any more."""
RUN = (
    (State.PRIMARY_STATE_ACTIVE, Transition.TRANSITION_DEACTIVATE),
    (State.PRIMARY_STATE_INACTIVE, Transition.TRANSITION_CLEANUP),
    (State.PRIMARY_STATE_UNCONFIGURED, Transition.TRANSITION_CONFIGURE),
    (State.PRIMARY_STATE_INACTIVE, Transition.TRANSITION_ACTIVATE),
)
"""What takes the policy node from a state to the next one, until it runs a model that was loaded anew."""


class ModelSwitch:
    """One change at a time; for a node that spins in another thread."""

    def __init__(self, node: Any, policy_node: str) -> None:
        self._choose = node.create_client(SetParameters, f"{policy_node}/set_parameters")
        self._lifecycle = node.create_client(GetState, f"{policy_node}/get_state")
        self._change = node.create_client(ChangeState, f"{policy_node}/change_state")
        self._changing = threading.Lock()
        self._said: tuple[int, Running | None] = 0, None

    def hear(self, values: Mapping[str, str], problem: str) -> None:
        """What the policy node says of itself on /diagnostics."""
        active = values.get("lifecycle") == "active"
        self._said = wall_ns(), Running(policy=values.get("policy", ""), active=active, problem=problem)

    @property
    def running(self) -> Running | None:
        """None: the policy node says nothing."""
        said_ns, running = self._said
        return running if wall_ns() - said_ns < STALE_S * 1e9 else None

    def run(self, policy: str, hold: Callable[[], object]) -> str:
        """Load a checkpoint and run it. ``hold``: called when it is about to be loaded, to hold the arm. Raises
        ServiceError; if the checkpoint cannot run here, nothing has changed."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=policy)
        with self._one_change():
            set_parameter(self._choose, "policy", value, f"{policy} cannot run here, and nothing has changed")
            hold()
            for state, transition in RUN:
                if self._state() == state:
                    self._transition(transition)
        return f"{policy} runs. Resume lets it move the arm."

    def stop(self) -> str:
        """Raises ServiceError."""
        with self._one_change():
            if self._state() == State.PRIMARY_STATE_ACTIVE:
                self._transition(Transition.TRANSITION_DEACTIVATE)
        return "The model was stopped: the arm comes to rest."

    @contextmanager
    def _one_change(self) -> Iterator[None]:
        if not self._changing.acquire(blocking=False):
            raise ServiceError("a model is being loaded; wait for it")
        try:
            yield
        finally:
            self._changing.release()

    def _state(self) -> int:
        return int(answer_of(self._lifecycle, GetState.Request()).current_state.id)

    def _transition(self, transition: int) -> None:
        """Raises ServiceError with what the policy node says, if it refuses."""
        request = ChangeState.Request(transition=Transition(id=transition))
        if answer_of(self._change, request, LOADING_S).success:
            return
        refused_ns, give_up_s = wall_ns(), time.monotonic() + STALE_S
        while self._said[0] < refused_ns and time.monotonic() < give_up_s:
            time.sleep(0.05)
        said = self._said[1]
        why = said.problem if said is not None and said.problem else "the policy node refused; see stack.log"
        raise ServiceError(f"no model runs: {why}")
