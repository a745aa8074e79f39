"""Node parameters, described once: one frozen dataclass per node gives names, types, defaults, ranges and help.

>>> @dataclass(frozen=True, kw_only=True)
... class CameraParameters(NodeParameters):
...     publish_rate_hz: float = parameter(15.0, "Frames per second.", low=1.0, high=120.0)

``declare(node, CameraParameters)`` turns that into ROS parameter declarations with descriptors and
returns the values in force as an instance, so that a node's code reads typed attributes only.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from lavla_ros.errors import UserError

_TYPES: dict[Any, int] = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple[str, ...]: ParameterType.PARAMETER_STRING_ARRAY,
}
_LARGEST = {int: 2**31 - 1, float: 1.0e12}


class ParameterError(UserError, ValueError):
    """A parameter has the wrong type or a value outside its range."""


def parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    settable: bool = False,
) -> Any:
    """A dataclass field that is a ROS parameter; ``low`` and ``high`` are inclusive.

    ``settable``: while the node runs, which applies it; the others are read-only.
    """
    meta = {"description": description, "low": low, "high": high, "choices": choices, "unit": unit}
    meta["settable"] = settable
    return dataclasses.field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class NodeParameters:
    """Parameters that every node of the package has."""

    autostart: bool = parameter(
        True, "Configure and activate at start-up; a failure ends the process. False: a lifecycle manager decides."
    )
    diagnostics_period_s: float = parameter(1.0, "Interval of /diagnostics.", low=0.1, high=60.0, unit="s")

    def __post_init__(self) -> None:
        for name, kind, meta in describe(type(self)):
            _check(name, kind, meta, getattr(self, name))

    @classmethod
    def default(cls, name: str, declared: Mapping[str, Any]) -> Any:
        """The default of a parameter, given the values of those declared before it. Raises ValueError."""
        return cls.__dataclass_fields__[name].default


P = TypeVar("P", bound=NodeParameters)


def describe(cls: type[NodeParameters]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(name, type, metadata) of every parameter, base class first."""
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        yield item.name, hints[item.name], item.metadata


def descriptor(name: str, kind: Any, meta: Mapping[str, Any]) -> ParameterDescriptor:
    """The rcl_interfaces descriptor of one field."""
    text = meta["description"] + (f" [{meta['unit']}]" if meta["unit"] else "")
    constraint = f"one of {list(meta['choices'])}" if meta["choices"] else ""
    message = ParameterDescriptor(
        name=name,
        type=_TYPES[kind],
        description=text,
        additional_constraints=constraint,
        read_only=not meta["settable"],
    )
    low, high = meta["low"], meta["high"]
    if low is not None or high is not None:
        largest = _LARGEST[kind]
        first, last = kind(-largest if low is None else low), kind(largest if high is None else high)
        if kind is int:
            message.integer_range = [IntegerRange(from_value=first, to_value=last, step=0)]
        else:
            message.floating_point_range = [FloatingPointRange(from_value=first, to_value=last, step=0.0)]
    return message


def declare(node: Node, cls: type[P]) -> P:
    """Declare every parameter of ``cls`` on ``node`` and return the values in force.

    Raises ParameterError naming the node, the parameter, its value and what was expected.
    """
    values: dict[str, Any] = {}
    for name, kind, meta in describe(cls):
        default = cls.default(name, values)
        # An empty list has no element type in ROS: declare the type, without a default.
        default = Parameter.Type.STRING_ARRAY if default == () else default
        try:
            value = node.declare_parameter(name, default, descriptor(name, kind, meta)).value
        except ParameterException as error:
            raise ParameterError(f"{node.get_fully_qualified_name()}: parameter {name}: {error}") from None
        values[name] = tuple(value or ()) if kind == tuple[str, ...] else value
    try:
        return cls(**values)
    except ParameterError as error:
        raise ParameterError(f"{node.get_fully_qualified_name()}: {error}") from None


def refuse_unknown(node: Node) -> None:
    """Raise ParameterError where a value was given to a parameter that ``node``, now complete, does not have."""
    known = sorted(node._parameters)
    for name in node._parameter_overrides:
        if name not in known and not name.startswith("qos_overrides."):
            close = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {close[0]}?" if close else f"it has {known}"
            raise ParameterError(f"{node.get_fully_qualified_name()} has no parameter {name}; {meant}")


def _check(name: str, kind: Any, meta: Mapping[str, Any], value: Any) -> None:
    low, high, choices = meta["low"], meta["high"], meta["choices"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise ParameterError(f"parameter {name} is {value!r}; expected {low} to {high} {meta['unit']}".rstrip())
    if choices and value not in choices:
        raise ParameterError(f"parameter {name} is {value!r}; expected one of {list(choices)}")
    if kind is str and not isinstance(value, str):
        raise ParameterError(f"parameter {name} is {value!r}; expected a string")
