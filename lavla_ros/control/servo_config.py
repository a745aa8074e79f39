"""Configuration of the servo process: a YAML or JSON file (``config/control/*.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavla_ros.config import ConfigError, check, check_settings, from_plain, read_plain, setting, to_plain
from lavla_ros.contract import Contract, ContractError, load_contract
from lavla_ros.control.arm import Arm, ArmDriver, check_poses
from lavla_ros.control.arms import arm_of
from lavla_ros.control.config import ExecutorConfig, ExecutorOptions, LimitOptions
from lavla_ros.control.loopback import loopback
from lavla_ros.control.shield import LONGEST_WAY_S
from lavla_ros.resources import config_file

if TYPE_CHECKING:
    from lavla_ros.control.clearance import Clearance

_WHERE = "servo parameter "


@dataclass(frozen=True, slots=True, kw_only=True)
class ServoConfig:
    """Everything that the servo process is told. Raises ConfigError for values that contradict one another."""

    contract: str = setting(help="Contract: a shipped name or a YAML file. Its robot names the arm.")
    loopback: bool = setting(
        False, "A dry run without an arm: every command is reached at once, and arm has the options of such a run."
    )
    arm: Any = None
    """Options of the driver, an instance of ``Arm.options`` of the contract's robot; None: each option's default."""
    limits: LimitOptions = field(default_factory=LimitOptions)
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    scene: str = setting(
        "",
        "What the arm must not touch: a scene that is shipped (config/scenes), or a YAML file. empty: its own parts "
        "alone are kept apart. Without one only the joints are limited.",
    )
    poses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Joint positions by name, rad, in the order of the arm's joints; they come before those of the arm's file."""
    ring_dir: str = ""
    """Folder of the ring files; set by the ROS side."""
    activate: bool = True
    """Enter servo mode at the start, instead of waiting for the request ``activate``."""
    heartbeat_hold_s: float = setting(
        0.3, "The arm is held after the ROS side has been silent for longer.", low=0.01, high=100.0, unit="s"
    )
    heartbeat_fault_s: float = setting(
        2.0, "The ROS side has been silent for longer: a fault.", low=0.01, high=100.0, unit="s"
    )
    orphan_exit_s: float = setting(
        10.0,
        "The servo process leaves servo mode and ends after the ROS side has been silent for longer.",
        low=0.01,
        high=1000.0,
        unit="s",
    )
    realtime_priority: int = setting(
        50, "SCHED_FIFO priority of the servo process; 0: ordinary scheduling.", low=0, high=99
    )
    ramp_timeout_s: float = setting(
        3.0, "Longest time that the ramp to rest may take when the servo process ends.", low=0.01, high=60.0, unit="s"
    )

    def __post_init__(self) -> None:
        check_settings(self, _WHERE)
        for low, high in (("heartbeat_hold_s", "heartbeat_fault_s"), ("heartbeat_fault_s", "orphan_exit_s")):
            limit = getattr(self, high)
            check(getattr(self, low) < limit, _WHERE + low, getattr(self, low), f"less than {high} ({limit})")
        needed = f"at least {LONGEST_WAY_S} with a scene, in which the way to rest may take so long"
        check(
            not self.scene or self.ramp_timeout_s >= LONGEST_WAY_S,
            _WHERE + "ramp_timeout_s",
            self.ramp_timeout_s,
            needed,
        )

    @classmethod
    def from_dict(cls, data: object, *, source: str) -> ServoConfig:
        """Raises ConfigError naming the key and ``source``."""
        check(isinstance(data, Mapping), source, data, "a mapping")
        assert isinstance(data, Mapping)
        config = from_plain(cls, {key: value for key, value in data.items() if key != "arm"}, source=source)
        where = f"{source}: arm"
        try:
            return replace(config, arm=from_plain(config.robot().options, data.get("arm") or {}, source=where))
        except ConfigError:
            raise
        except ValueError as error:  # as the options of somebody else's arm may raise
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> ServoConfig:
        """Read a YAML or JSON file. Raises ConfigError."""
        return cls.from_dict(read_plain(path), source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which :meth:`from_dict` makes an equal configuration."""
        return to_plain(self)

    def robot(self) -> Arm:
        """The arm that the contract names, or a dry run of it. Raises ConfigError."""
        arm = arm_of(self.load_contract())
        return loopback(arm) if self.loopback else arm

    def load_contract(self) -> Contract:
        """Raises ConfigError."""
        try:
            return load_contract(self.contract)
        except FileNotFoundError as error:
            raise ContractError(str(error)) from None

    def executor_config(self, contract: Contract) -> ExecutorConfig:
        """Raises ConfigError."""
        arm = arm_of(contract)
        options = {f.name: getattr(self.executor, f.name) for f in fields(self.executor)}
        return ExecutorConfig.from_contract(contract, arm, self.limits.applied(arm.limits), **options)

    def named_poses(self, executor: ExecutorConfig, contract: Contract) -> dict[str, tuple[float, ...]]:
        """The arm's and the cell's. Raises ConfigError for one of the cell's that is not within the limits."""
        check_poses(self.poses, executor.joint_names, executor.limits, _WHERE + "poses")
        return {**arm_of(contract).poses, **self.poses}

    def clearance(self, contract: Contract) -> Clearance | None:
        """Distances of the contract's arm in the scene, or None without a scene. Raises ConfigError."""
        if not self.scene:
            return None
        from lavla_ros.control.clearance import clearance_of  # Pinocchio: 0.4 s, and only the servo process needs it

        return clearance_of(arm_of(contract), self.scene)

    def driver(self, executor: ExecutorConfig) -> ArmDriver:
        """The arm's driver, for commands within the executor's limits. Raises ConfigError."""
        arm = self.robot()
        try:
            return arm.driver(self._options(arm), executor.limits)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the driver of {self.contract}: {error}") from None

    def driver_topics(self) -> tuple[str, ...]:
        """ROS topics that the driver itself uses, by their full names."""
        arm = self.robot()
        return () if arm.topics is None else arm.topics(self._options(arm))

    def leave_servo(self) -> bool:
        """Leave servo mode over a connection of its own, when the process that entered it is gone.

        Returns whether it was on. Blocks for some seconds at most. Raises DriverError if servo mode may still be on.
        """
        arm = self.robot()
        return arm.leave_servo is not None and arm.leave_servo(self._options(arm))

    def _options(self, arm: Arm) -> Any:
        return arm.options() if self.arm is None else self.arm


def named_file(name: str) -> Path:
    """A YAML file by its path, or the shipped ``config/control/NAME.yaml``. Raises ConfigError."""
    try:
        return config_file(name, "control")
    except FileNotFoundError as error:
        raise ConfigError(f"servo configuration {name!r}: {error}; or give a YAML file") from None
