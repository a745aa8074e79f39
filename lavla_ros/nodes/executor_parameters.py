"""Parameters of the executor node, and the servo process's configuration made of them.

What is described elsewhere is not described again: the servo process's and the executor's settings are parameters under
their own names, the options of the arm's driver under ``arm.``. The file that ``config`` names gives the defaults; what
is given as a ROS parameter comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from lavla_ros.config import check, merge, read_plain
from lavla_ros.contract import Contract
from lavla_ros.control.approved import load_approvals
from lavla_ros.control.config import ExecutorOptions
from lavla_ros.control.servo_config import ServoConfig, named_file
from lavla_ros.ros.arbitration import ANY, ChunkGate
from lavla_ros.ros.lifecycle import LavlaNode
from lavla_ros.ros.parameters import NodeParameters, Section, parameter


@dataclass(frozen=True, kw_only=True)
class ExecutorParameters(NodeParameters):
    config: str = parameter(
        "jaka_minicobo",
        "Servo configuration: a shipped name, or a YAML file like config/control/jaka_minicobo.yaml. It gives the "
        "defaults of the parameters below, and every setting that is no parameter.",
    )
    standby: bool = parameter(
        False, "Report the arm's state, but never enter servo mode: to guide it by hand, or to rehearse a policy."
    )
    replan_steps: int = parameter(
        0,
        "Contract steps between two chunks, the same as the policy's. 0 if they are not known: chunk_timeout_s counts.",
        low=0,
        high=256,
    )
    chunk_timeout_periods: float = parameter(
        1.5, "The arm is held if no new chunk has come for this many times replan_steps.", low=1.0, high=100.0
    )
    command_source: str = parameter(
        ANY,
        "Nodes that may publish action_chunk, by name, separated by commas; a name without a slash before it is of the "
        "executor's namespace; * is one node of any name. Chunks are refused while another one publishes them.",
        settable=True,
    )
    approved: str = parameter(
        "",
        "List of those that may move the arm at its full speed scale: a shipped name (config/approved) or a YAML file. "
        "empty: whoever publishes action_chunk.",
    )
    unapproved_speed_scale: float = parameter(
        0.25, "Largest speed scale of chunks whose source is not in the list approved.", low=0.01, high=1.0
    )
    servo: Mapping[str, Any] = field(default_factory=dict)
    executor: Mapping[str, Any] = field(default_factory=dict)
    arm: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def sections(cls, declared: Mapping[str, Any]) -> Iterator[Section]:
        """The file's values are the defaults."""
        data = _read(declared["config"])
        yield Section(into="servo", kind=ServoConfig, defaults=data)
        yield Section(into="executor", kind=ExecutorOptions, defaults=data.get("executor") or {})
        kind, own = _options(declared["servo"]), _own(data, declared["servo"])
        yield Section(into="arm", kind=kind, prefix="arm.", defaults=own.get("arm") or {})

    def gate(self, node: LavlaNode, contract: Contract) -> ChunkGate:
        """Who may publish chunks, and how fast they are followed. Raises ConfigError."""
        approvals = load_approvals(self.approved) if self.approved else None
        return ChunkGate(
            node, contract, self.command_source, approvals=approvals, unapproved=self.unapproved_speed_scale
        )

    def servo_config(self) -> ServoConfig:
        """Raises ConfigError."""
        given = {**self.servo, "executor": dict(self.executor), "arm": dict(self.arm), "activate": False}
        config = ServoConfig.from_dict(merge(_own(_read(self.config), self.servo), given), source=self.config)
        if self.replan_steps:
            silence_s = self.chunk_timeout_periods * self.replan_steps * config.load_contract().dt_ns * 1e-9
            config = replace(config, executor=replace(config.executor, chunk_timeout_s=silence_s))
        return config


def _options(servo: Mapping[str, Any]) -> type[Any]:
    """The options of the arm that is driven."""
    return ServoConfig(contract=servo["contract"], loopback=servo["loopback"]).robot().options


def _own(data: Mapping[str, Any], servo: Mapping[str, Any]) -> Mapping[str, Any]:
    """The file's ``data``, without what it says of another arm than the one that is driven."""
    files = {"contract": data.get("contract", servo["contract"]), "loopback": data.get("loopback", servo["loopback"])}
    if _options(files) is _options(servo):
        return data
    return {key: value for key, value in data.items() if key not in ("arm", "limits", "scene", "poses")}


@cache
def _read(name: str) -> Mapping[str, Any]:
    """The plain data of a servo configuration. Raises ConfigError."""
    file = named_file(name)
    data = read_plain(file)
    check(isinstance(data, Mapping), str(file), data, "a mapping")
    for section in ("executor", "arm"):
        check(isinstance(data.get(section) or {}, Mapping), f"{file}: {section}", data.get(section), "a mapping")
    assert isinstance(data, Mapping)
    return data
