"""Arms by name. The ``robot`` of a contract is such a name, or ``module:attribute`` of an arm that is not listed."""

from __future__ import annotations

import importlib

from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from lavla_ros.control.arm import Arm

ARMS = {"jaka_minicobo": "lavla_ros.jaka.arm:MINICOBO"}
"""Name → ``module:attribute``, imported when it is asked for."""


def arm_of(contract: Contract) -> Arm:
    """The arm that the contract commands. Raises ConfigError naming the contract, its robot and the known arms."""
    robot = contract.robot
    where = f"contract {contract.name!r} is for robot {robot!r}"
    module, _, attribute = ARMS.get(robot, robot).partition(":")
    if not attribute:
        raise ConfigError(f"{where}, which is no arm; known: {sorted(ARMS)}, or module:attribute of an Arm")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}: {error}; is its folder on PYTHONPATH?") from error
    if not isinstance(found, Arm):
        raise ConfigError(f"{where}: this is {found!r}; expected an instance of {Arm.__module__}.{Arm.__name__}")
    return found
