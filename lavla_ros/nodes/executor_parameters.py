"""Parameters of the executor node, and the servo process's configuration made of them.

The file that ``config`` names gives the defaults; what is given as a ROS parameter comes before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lavla_ros.control.arm import ConfigError
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.ros.arbitration import ANY
from lavla_ros.ros.parameters import NodeParameters, parameter

_TOP = ("contract", "realtime_priority")
_DRIVER = ("driver", "host", "port", "status_port", "power_on")
_EXECUTOR = ("speed_scale", "blend", "max_chunk_age_s", "state_timeout_s")


@dataclass(frozen=True, kw_only=True)
class ExecutorParameters(NodeParameters):
    config: str = parameter(
        "jaka_minicobo",
        "Servo configuration: a shipped name or a YAML file as config/control/jaka_minicobo.yaml. It gives the "
        "defaults of the parameters below, and everything that is none.",
    )
    contract: str = parameter("jaka_minicobo", "Contract: a shipped name or a YAML file.")
    driver: str = parameter("jaka_tcp", "The arm; loopback is none at all.", choices=("jaka_tcp", "loopback"))
    host: str = parameter("127.0.0.1", "Address of the JAKA controller.")
    port: int = parameter(10001, "Its command port.", low=1, high=65535)
    status_port: int = parameter(10000, "Its status port.", low=1, high=65535)
    power_on: bool = parameter(
        False, "Power on and release the brakes when connecting, instead of at a person's request. For simulations."
    )
    standby: bool = parameter(
        False, "Report the arm's state, but never enter servo mode: to guide it by hand, or to rehearse a policy."
    )
    speed_scale: float = parameter(
        1.0, "Factor on the joint velocity limits; 0.1 for first motions.", low=0.01, high=1, settable=True
    )
    blend: str = parameter(
        "latest", "How overlapping chunks are joined.", choices=("latest", "temporal_ensemble", "soft_mask")
    )
    max_chunk_age_s: float = parameter(2.0, "Older chunks are refused.", low=0.05, high=60.0, unit="s")
    replan_steps: int = parameter(
        0,
        "Contract steps between two chunks, as the policy has it; 0: not known, chunks may stay away.",
        low=0,
        high=256,
    )
    chunk_timeout_periods: float = parameter(
        1.5, "The arm is held where no new chunk has come for so many times replan_steps.", low=1.0, high=100.0
    )
    command_source: str = parameter(
        ANY,
        "Nodes that may publish /action_chunk, by name, separated by commas; * is one node of any name. Chunks are "
        "refused while another one publishes them.",
        settable=True,
    )
    state_timeout_s: float = parameter(
        0.3, "A measured state older than this is a fault.", low=0.02, high=2.0, unit="s"
    )
    realtime_priority: int = parameter(50, "SCHED_FIFO priority of the servo process; 0: none.", low=0, high=99)

    @classmethod
    def default(cls, name: str, declared: Mapping[str, Any]) -> Any:
        """As the file has it, where it has it."""
        own = super().default(name, declared)
        if name not in (*_TOP, *_DRIVER, *_EXECUTOR):
            return own
        file = _load(declared["config"])
        if name in _TOP:
            return getattr(file, name)
        given = file.driver if name in _DRIVER else file.executor
        value = given.get(name, own)
        if isinstance(own, bool) and not isinstance(value, bool):
            raise ConfigError(f"{declared['config']}: {name} is {value!r}; expected true or false")
        return type(own)(value)

    def servo_config(self) -> ServoConfig:
        """Raises ConfigError."""
        file = _load(self.config)
        # Another driver than the file's has none of its parameters.
        driver = dict(file.driver) if file.driver.get("driver") == self.driver else {"driver": self.driver}
        if self.driver == "jaka_tcp":
            driver |= {name: getattr(self, name) for name in _DRIVER}
        config = replace(
            file,
            contract=self.contract,
            driver=driver,
            executor={**file.executor, **{name: getattr(self, name) for name in _EXECUTOR}},
            activate=False,
            realtime_priority=self.realtime_priority,
        )
        if self.replan_steps:
            silence_s = self.chunk_timeout_periods * self.replan_steps * config.load_contract().dt_ns * 1e-9
            config = replace(config, executor={**config.executor, "chunk_timeout_s": silence_s})
        return config


@cache
def _load(name: str) -> ServoConfig:
    return ServoConfig.load_named(name)
