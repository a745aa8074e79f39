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
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from lavla_ros.config import ConfigError, check_setting, setting

_TYPES: dict[Any, int] = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple[str, ...]: ParameterType.PARAMETER_STRING_ARRAY,
    tuple[float, ...]: ParameterType.PARAMETER_DOUBLE_ARRAY,
}
_LARGEST = {int: 2**31 - 1, float: 1.0e12}


class ParameterError(ConfigError):
    """A parameter has the wrong type or a value outside its range."""


parameter = setting
"""A dataclass field that is a ROS parameter. One that is not ``settable`` is read-only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Parameters that another dataclass describes, by its settings."""

    into: str
    """The field of the node's dataclass that gets their values, a dictionary."""
    kind: type[Any]
    """The dataclass; a field of it without a help text is no parameter."""
    prefix: str = ""
    """Stands before each name: ``arm.`` makes ``arm.host`` of ``host``."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Come before the defaults of the fields."""


@dataclass(frozen=True, kw_only=True)
class NodeParameters:
    """Parameters that every node of the package has."""

    autostart: bool = parameter(
        True, "Configure and activate at start-up; a failure ends the process. If false, a lifecycle manager decides."
    )
    diagnostics_period_s: float = parameter(
        1.0, "Interval between two messages on diagnostics.", low=0.1, high=60.0, unit="s"
    )

    def __post_init__(self) -> None:
        for name, _, meta in describe(type(self)):
            check_setting("parameter " + name, meta, getattr(self, name))

    @classmethod
    def default(cls, name: str, declared: Mapping[str, Any]) -> Any:
        """The default of a parameter, given the values of those declared before it. Raises ValueError."""
        return cls.__dataclass_fields__[name].default

    @classmethod
    def sections(cls, declared: Mapping[str, Any]) -> Iterator[Section]:
        """Further parameters; each section is asked for after those before it were ``declared``. Raises ValueError."""
        yield from ()


P = TypeVar("P", bound=NodeParameters)


def describe(cls: type[Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(name, type, metadata) of every parameter, base class first. Fields without a help text are none."""
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if item.metadata.get("help"):
            yield item.name, hints[item.name], item.metadata


def descriptor(name: str, hint: Any, meta: Mapping[str, Any]) -> ParameterDescriptor:
    """The rcl_interfaces descriptor of one field."""
    kind, optional = _kind(hint)
    text = meta["help"] + (f" [{meta['unit']}]" if meta["unit"] else "")
    constraint = f"one of {list(meta['choices'])}" if meta["choices"] else ""
    message = ParameterDescriptor(
        name=name,
        type=_TYPES[kind],
        description=text,
        additional_constraints=constraint,
        read_only=not meta["settable"],
        dynamic_typing=optional,  # what is not given has no type
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
    where = node.get_fully_qualified_name()
    values: dict[str, Any] = {}
    for name, hint, meta in describe(cls):
        values[name] = _declare(node, name, hint, meta, cls.default(name, values))
    for section in cls.sections(values):
        values[section.into] = {}
        for name, hint, meta in describe(section.kind):
            default = section.defaults.get(name, section.kind.__dataclass_fields__[name].default)
            value = _declare(node, section.prefix + name, hint, meta, default)
            check_setting("parameter " + section.prefix + name, meta, value)
            values[section.into][name] = value
    try:
        return cls(**values)
    except ConfigError as error:
        raise ParameterError(f"{where}: {error}") from None


def _declare(node: Node, name: str, hint: Any, meta: Mapping[str, Any], default: Any) -> Any:
    kind, optional = _kind(hint)
    if isinstance(default, list | tuple):
        # An empty list has no element type in ROS: declare the type, without a default.
        default = list(default) or Parameter.Type(_TYPES[kind])
    elif default is dataclasses.MISSING:
        default = Parameter.Type(_TYPES[kind])
    elif kind is float and type(default) is int:
        default = float(default)
    message = descriptor(name, hint, meta)
    try:
        value = node.declare_parameter(name, default, message).value
    except ParameterException as error:
        raise ParameterError(f"{node.get_fully_qualified_name()}: parameter {name}: {error}") from None
    if get_origin(kind) is tuple:
        return tuple(value or ())
    if value is None and not optional:
        raise ParameterError(f"{node.get_fully_qualified_name()}: parameter {name} must be given: {meta['help']}")
    return value


def _kind(hint: Any) -> tuple[Any, bool]:
    """The key of ``_TYPES``, and whether the parameter may be left without a value."""
    options = [option for option in get_args(hint) if option is not NoneType]
    if get_origin(hint) in (Union, UnionType) and len(options) == 1:
        return options[0], True
    return (type(options[0]), False) if get_origin(hint) is Literal else (hint, False)


def refuse_unknown(node: Node) -> None:
    """Raise ParameterError if a value was given for a parameter that ``node``, now complete, does not have."""
    known = sorted(node._parameters)
    for name in node._parameter_overrides:
        if name not in known and not name.startswith("qos_overrides."):
            close = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {close[0]}?" if close else f"it has {known}"
            raise ParameterError(f"{node.get_fully_qualified_name()} has no parameter {name}; {meant}")
