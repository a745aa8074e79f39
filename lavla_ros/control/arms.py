"""Arms by name. The ``robot`` of a contract is a name of ``config/arms``, the path of such a YAML file, or
``module:attribute`` of an arm that is written in Python."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from lavla_ros.control.arm import Arm
from lavla_ros.control.arm_file import load_arm
from lavla_ros.plugins import find
from lavla_ros.resources import config_path, share_path


def shipped_arms() -> list[str]:
    """The names of ``config/arms``."""
    return sorted(path.stem for path in (share_path() / "config" / "arms").glob("*.yaml"))


def arm_of(contract: Contract) -> Arm:
    """The arm that the contract commands. Raises ConfigError naming the contract, its robot and the known arms."""
    try:
        return arm_named(contract.robot)
    except ConfigError as error:
        raise ConfigError(f"contract {contract.name!r} is for robot {contract.robot!r}: {error}") from None


def arm_named(name: str) -> Arm:
    """A shipped arm by its name, one of your own by its YAML file or as ``module:attribute``. Raises ConfigError."""
    if name.endswith((".yaml", ".yml")):
        return load_arm(Path(name))
    names = shipped_arms()
    if name in names:
        return _shipped(name)
    if ":" not in name:
        raise ConfigError(
            f"there is no arm {name!r}; there are {names}, or give your own as a YAML file or as module:attribute"
        )
    found = find(name, {}, "arm", ConfigError)
    if not isinstance(found, Arm):
        raise ConfigError(f"this is {found!r}; expected an instance of {Arm.__module__}.{Arm.__name__}")
    return found


@cache
def _shipped(name: str) -> Arm:
    return load_arm(config_path(f"arms/{name}.yaml"))
