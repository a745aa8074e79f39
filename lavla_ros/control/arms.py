"""Arms by name. The ``robot`` of a contract is such a name, or ``module:attribute`` of an arm that is not listed."""

from __future__ import annotations

from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from lavla_ros.control.arm import Arm
from lavla_ros.plugins import find

ARMS = {"jaka_minicobo": "lavla_ros.jaka.arm:MINICOBO"}
"""Name → ``module:attribute``, imported when it is asked for."""


def arm_of(contract: Contract) -> Arm:
    """The arm that the contract commands. Raises ConfigError naming the contract, its robot and the known arms."""
    where = f"contract {contract.name!r} is for robot {contract.robot!r}"
    try:
        found = find(contract.robot, ARMS, "arm", ConfigError)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(found, Arm):
        raise ConfigError(f"{where}: this is {found!r}; expected an instance of {Arm.__module__}.{Arm.__name__}")
    return found
