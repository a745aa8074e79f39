"""Configuration of the servo process: a YAML or JSON file (``config/control/*.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.control.arm import Arm, ArmDriver, ConfigError, JointLimits
from lavla_ros.control.arms import arm_of
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.control.loopback import LoopbackDriver
from lavla_ros.resources import config_path
from lavla_ros.yaml_text import load_yaml

DRIVERS = ("jaka_tcp", "loopback")
_ACCEPTED: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServoConfig:
    """Everything that the servo process is told."""

    contract: str = "jaka_minicobo"
    """Name or path of the contract."""
    driver: Mapping[str, Any] = field(default_factory=lambda: {"driver": "loopback"})
    """``driver``: jaka_tcp or loopback; the other keys are that driver's parameters (host, port, status_port, …)."""
    executor: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of :class:`~lavla_ros.control.config.ExecutorConfig`. ``limits`` is a mapping with some of the
    fields of :class:`~lavla_ros.control.arm.JointLimits`, one value per joint or one for all."""
    ring_dir: str = ""
    """Folder of the ring files; set by the ROS side."""
    activate: bool = True
    """Enter servo mode at the start, instead of waiting for the request ``activate``."""
    heartbeat_hold_s: float = 0.3
    """ROS side silent for longer → HOLDING."""
    heartbeat_fault_s: float = 2.0
    """ROS side silent for longer → FAULT."""
    orphan_exit_s: float = 10.0
    """ROS side silent for longer: leave servo mode and end."""
    realtime_priority: int = 50
    """SCHED_FIFO priority, 1 to 99; 0: ordinary scheduling."""
    ramp_timeout_s: float = 3.0
    """Longest time allowed for the ramp to rest when ending."""

    def __post_init__(self) -> None:
        for low, high in (("heartbeat_hold_s", "heartbeat_fault_s"), ("heartbeat_fault_s", "orphan_exit_s")):
            if not 0 < getattr(self, low) < getattr(self, high):
                raise ConfigError(
                    f"servo parameter {low} is {getattr(self, low)}; expected above 0 and below {high} "
                    f"({getattr(self, high)})"
                )
        if not 0 <= self.realtime_priority <= 99:
            raise ConfigError(f"servo parameter realtime_priority is {self.realtime_priority}; expected 0 to 99")
        if not 0 < self.ramp_timeout_s <= 60:
            raise ConfigError(f"servo parameter ramp_timeout_s is {self.ramp_timeout_s}; expected up to 60 s")

    @classmethod
    def from_dict(cls, data: object, *, source: str) -> ServoConfig:
        """Raises ConfigError naming the key and ``source``."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: expected a mapping, found {type(data).__name__}")
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(f"{source}: unknown servo parameters {unknown}; known: {sorted(known)}")
        for name, value in data.items():
            wanted = _ACCEPTED.get(str(known[name].type), (Mapping,))
            if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
                raise ConfigError(f"{source}: servo parameter {name} is {value!r}; expected {known[name].type}")
        return cls(**data)

    @classmethod
    def load(cls, path: Path) -> ServoConfig:
        """Read a YAML or JSON file. Raises ConfigError."""
        try:
            data = load_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML or JSON: {error}") from None
        return cls.from_dict(data, source=str(path))

    @classmethod
    def load_named(cls, name: str) -> ServoConfig:
        """A file by its path, or by the name of a shipped one (``config/control/NAME.yaml``). Raises ConfigError."""
        path = Path(name)
        if path.suffix not in (".yaml", ".yml", ".json"):
            try:
                path = config_path(f"control/{name}.yaml")
            except FileNotFoundError as error:
                raise ConfigError(f"servo configuration {name!r}: {error}; or give a YAML file") from None
        return cls.load(path)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_contract(self) -> Contract:
        """Raises ConfigError."""
        try:
            return load_contract(self.contract)
        except (ContractError, FileNotFoundError) as error:
            raise ConfigError(str(error)) from None

    def executor_config(self, contract: Contract) -> ExecutorConfig:
        """Raises ConfigError."""
        values = dict(self.executor)
        if isinstance(values.get("limits"), Mapping):
            values["limits"] = _limits(values["limits"], arm_of(contract).limits)
        return ExecutorConfig.from_contract(contract, **values)


def _limits(given: Mapping[str, Any], known: JointLimits | None) -> JointLimits:
    """``known`` with the fields that are given; without ``known``, all of them have to be."""
    names = [f.name for f in fields(JointLimits)]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(f"unknown executor limits {unknown}; known: {names}")
    joints = len(known.lower_rad) if known is not None else 0
    try:
        values = {
            name: tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * joints
            for name, value in given.items()
        }
        return replace(known, **values) if known is not None else JointLimits(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"executor limits {dict(given)}: {error}") from None


def make_driver(spec: Mapping[str, Any], arm: Arm, limits: JointLimits | None = None) -> ArmDriver:
    """The driver of ``arm``, or a loopback; the other keys of ``spec`` are its options.

    ``limits``: what the commands keep; None: those of the arm. Raises ConfigError.
    """
    options = {key: value for key, value in spec.items() if key != "driver"}
    if spec.get("driver") not in DRIVERS:
        raise ConfigError(f"driver is {spec.get('driver')!r}; known drivers: {', '.join(DRIVERS)}")
    try:
        if spec["driver"] == "loopback":
            return LoopbackDriver(**{"start_rad": arm.start_rad} | options)
        return arm.driver(arm.options(**options), limits or arm.limits)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"driver {spec['driver']!r}: {error}") from None


def leave_servo(spec: Mapping[str, Any], arm: Arm) -> bool:
    """Leave servo mode over a connection of its own, when the process that entered it is gone.

    Returns whether it was on. Blocks for some seconds at most. Raises DriverError if servo mode may still be on.
    """
    if spec.get("driver") == "loopback" or arm.leave_servo is None:
        return False
    return arm.leave_servo(arm.options(**{key: value for key, value in spec.items() if key != "driver"}))
