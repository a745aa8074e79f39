"""Stack files (``config/stacks/*.yaml``): one description for ``ros2 launch`` and for ``lavla up``.

.. code-block:: yaml

    description: What the stack is for.
    simulated: simulate              # if this holds (or: true) no real arm can move
    arguments:
      simulate: {default: true, description: Use the simulated arm.}
      robot_ip: {default: "", description: Address of the controller., required_unless: simulate}
      speed_scale: {from: "lavla_ros.control.config:ExecutorOptions.speed_scale"}   # its default, help and choices
      arm_port: {default: 0, description: Port of the controller., zero_means: 10001, free_when: simulate}
    variables:                       # chosen by a condition, usable as ${arm_host}
      arm_host: {if: simulate, then: 127.0.0.1, else: "${robot_ip}"}
    processes:
      - name: executor
        node: lavla_ros.nodes.executor_node      # a ROS node, run as a Python module
        after: [emulator]                        # started once those are ready
        stop_first: true                         # when anything dies, this one is stopped before the rest
        finishes: true                           # it ends by itself with status 0: the stack's work is done
        optional: true                           # the stack goes on without it
        nice: 5                                  # yields the processor to the others: 0 (not at all) to 19
        parameters: {host: "${arm_host}"}
      - name: emulator
        module: my_package.simulated_arm         # any other Python module
        when: [simulate]                         # all must hold; "not simulate" negates, "model is zu5" compares
        arguments: [--port, "${arm_port}"]
        ready: listening                         # regular expression in its output

Every stack has the argument ``namespace`` besides: its nodes, and with them their topics and services, go there, so
that several stacks run side by side in one graph.

``${name}`` is an argument, a variable or ``run_dir`` (a private folder of this run). A value that
is one ``${name}`` and nothing else keeps the argument's type.

A stack that is much like a shipped one says ``extends: NAME`` and what differs: ``without: {processes: […], arguments:
[…]}`` leaves some out (no process comes ``after`` them then); ``arguments`` has new ones, and keys that the other's are
to have; ``processes: {NAME: {KEY: VALUE}}`` has keys of the other's processes, of ``parameters`` those that differ.
"""

from __future__ import annotations

import importlib
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lavla_ros.bringup.domain import ROLES
from lavla_ros.errors import UserError
from lavla_ros.resources import config_file

NODE_READY = r"^lavla-ready "
"""What our nodes print when they are active."""
_REFERENCE = re.compile(r"\$\{(\w+)\}")
_ARGUMENT_KEYS = {"default", "from", "description", "choices", "required_unless", "zero_means", "free_when"}
_PROCESS_KEYS = {
    "name", "node", "module", "arguments", "parameters", "parameter_file", "when", "after", "ready", "stop_first",
    "finishes", "optional", "environment", "nice",
}  # fmt: skip


class StackError(UserError, ValueError):
    """A stack file, or an argument given to it, is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a stack; its type is that of the default."""

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()
    required_unless: str = ""
    zero_means: int = 0
    free_when: str = ""
    """Of a port: 0 is any free one if this holds, else ``zero_means``."""

    def parse(self, text: str) -> Any:
        """The value of ``name:=text``. Raises StackError naming it."""
        if self.choices and text not in self.choices:
            raise StackError(f"argument {self.name} is {text!r}; expected one of {list(self.choices)}")
        try:
            if isinstance(self.default, bool):
                return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
            return type(self.default)(text)
        except (KeyError, ValueError):
            kind = "true or false" if isinstance(self.default, bool) else type(self.default).__name__
            raise StackError(f"argument {self.name} is {text!r}; expected {kind}") from None


NAMESPACE = Argument(
    name="namespace", default="", description="Namespace of the stack's nodes, for several in one graph."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process with every value filled in."""

    name: str
    module: str
    is_node: bool
    arguments: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parameter_file: Path | None = None
    namespace: str = ""
    """Of a node; empty: the root."""
    after: tuple[str, ...] = ()
    ready: str | None = None
    stop_first: bool = False
    finishes: bool = False
    optional: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0
    """Niceness above the launcher's."""

    @property
    def role(self) -> str:
        """The one that this process has in its ROS domain, or nothing."""
        name = self.module.rpartition(".")[2].removesuffix("_node")
        return name if self.is_node and name in ROLES else ""

    def command(self, run_dir: Path) -> list[str]:
        """The command line; parameters travel in a file below ``run_dir``, so that types survive."""
        command = [sys.executable, "-m", self.module, *self.arguments]
        if self.is_node:
            command += ["--ros-args", "-r", f"__node:={self.name}", *in_namespace(self.namespace)]
            if self.parameter_file is not None:
                command += ["--params-file", str(self.parameter_file)]
            if self.parameters:
                file = run_dir / f"{self.name}.yaml"
                file.write_text(
                    dump_parameters({f"{self.namespace}/{self.name}": {"ros__parameters": dict(self.parameters)}}),
                    encoding="utf-8",
                )
                command += ["--params-file", str(file)]
        return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack with its arguments filled in, ready to start."""

    name: str
    description: str
    arguments: Mapping[str, Any]
    processes: tuple[Process, ...]
    run_dir: Path
    namespace: str = ""
    """Of its nodes, with a slash before it; empty: the root."""
    simulated: bool = False
    """No real arm can move."""


def in_namespace(namespace: str) -> list[str]:
    """What a ROS program's command line needs after ``--ros-args`` to be in ``namespace`` ("/left"; "": nothing).

    rclpy asks for simulated time on /clock, whatever the namespace is.
    """
    return ["-r", f"__ns:={namespace}", "-r", f"/clock:={namespace}/clock"] if namespace else []


class _Dumper(yaml.SafeDumper):
    """Strings in quotes: ROS has a YAML reader of its own, to which 1e5, nan and others are numbers."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def dump_parameters(data: Mapping[str, Any]) -> str:
    """YAML that ROS reads as what ``data`` holds."""
    return str(yaml.dump(data, Dumper=_Dumper, allow_unicode=True, width=1_000_000))


def stack_arguments(texts: Sequence[str]) -> dict[str, str]:
    """Arguments as they are typed, ``name:=value`` each. Raises StackError."""
    values = {}
    for text in texts:
        name, separator, value = text.partition(":=")
        if not separator or not name:
            raise StackError(f"{text!r} is no stack argument; write name:=value (lavla up STACK --help lists them)")
        values[name] = value
    return values


def read_arguments(name: str | Path) -> tuple[Argument, ...]:
    """The arguments that a stack takes. Raises StackError."""
    file, data = _read(name)
    return _arguments(data, str(file))


def load_stack(name: str | Path, arguments: Mapping[str, str], *, run_dir: Path) -> Stack:
    """Read a stack by shipped name or path and fill in ``arguments`` (text, as on a command line).

    Raises StackError naming the file, the entry, the value and what was expected.
    """
    file, data = _read(name)
    where = str(file)
    declared = _arguments(data, where)
    unknown = sorted(set(arguments) - {a.name for a in declared})
    if unknown:
        raise StackError(f"stack {file.stem} has no arguments {unknown}; it has {[a.name for a in declared]}")
    namespace = _namespace(arguments.get(NAMESPACE.name, ""))
    values: dict[str, Any] = {
        a.name: a.parse(arguments[a.name]) if a.name in arguments else a.default for a in declared
    }
    open_ports = [a for a in declared if a.free_when and values[a.name] == 0]
    for argument, port in zip(open_ports, _free_ports(len(open_ports)), strict=True):
        values[argument.name] = port if _holds(argument.free_when, values, where) else argument.zero_means
    for argument in declared:
        waived = not argument.required_unless or _holds(argument.required_unless, values, where)
        if not waived and values[argument.name] in ("", None):
            raise StackError(
                f"stack {file.stem} needs {argument.name}:=… unless {argument.required_unless} ({argument.description})"
            )
    values["run_dir"] = str(run_dir)
    for key, choice in (data.get("variables") or {}).items():
        if not isinstance(choice, Mapping) or set(choice) != {"if", "then", "else"}:
            raise StackError(f"{where}: variable {key} is {choice!r}; expected if, then and else")
        values[key] = _fill(choice["then"] if _holds(choice["if"], values, where) else choice["else"], values, where)
    processes = []
    for entry in data["processes"]:
        process = _process(entry, values, where)
        if process is not None:
            processes.append(replace(process, namespace=namespace))
    _check_order(processes, data["processes"], where)
    simulated = data.get("simulated", False)
    return Stack(
        name=file.stem,
        description=str(data.get("description", "")),
        arguments=values,
        processes=tuple(processes),
        run_dir=run_dir,
        namespace=namespace,
        simulated=simulated if isinstance(simulated, bool) else _holds(str(simulated), values, where),
    )


def _namespace(text: str) -> str:
    """With one slash before it and before each part; empty for the root. Raises StackError."""
    parts = [part for part in text.split("/") if part]
    if not all(re.fullmatch(r"[A-Za-z_]\w*", part, re.ASCII) for part in parts):
        raise StackError(
            f"argument {NAMESPACE.name} is {text!r}; expected a name like left, of letters, digits and underscores"
        )
    return "".join(f"/{part}" for part in parts)


def _read(name: str | Path) -> tuple[Path, dict[str, Any]]:
    text = str(name)
    try:
        file = config_file(text, "stacks")
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StackError(f"no stack {text!r}: {error}") from None
    except yaml.YAMLError as error:
        raise StackError(f"{file} is not valid YAML: {error}") from None
    if isinstance(data, dict) and "extends" in data:
        data = _extended(data, str(file))
    if not isinstance(data, dict) or not isinstance(data.get("processes"), list):
        raise StackError(f"{file}: expected a mapping with a list of processes")
    unknown = sorted(set(data) - {"description", "simulated", "arguments", "variables", "processes"})
    if unknown:
        raise StackError(f"{file}: unknown keys {unknown}")
    return file, data


def _extended(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The shipped stack that ``data`` extends, without what it leaves out, with what it has besides."""
    without, changed = data.get("without", {}), data.get("processes", {})
    keys = {"extends", "description", "without", "arguments", "processes"}
    if set(data) - keys or "description" not in data or set(without) - {"processes", "arguments"}:
        raise StackError(f"{where}: has {sorted(data)}; expected {sorted(keys)}, in without processes and arguments")
    if not isinstance(changed, Mapping):
        raise StackError(f"{where}: processes of a stack that extends another is a mapping: NAME: {{KEY: VALUE}}")
    _, base = _read(str(data["extends"]))
    processes = {str(p.get("name")): p for p in base["processes"]}
    arguments = dict(base["arguments"])
    for kind, present in (("processes", processes), ("arguments", arguments)):
        for name in without.get(kind, ()):
            if present.pop(name, None) is None:
                raise StackError(f"{where}: leaves out {name!r} of {kind}, which {data['extends']} does not have")
    left_out = without.get("processes", ())
    for process in processes.values():
        process["after"] = [name for name in process.get("after", ()) if name not in left_out]
    for name, own in data.get("arguments", {}).items():
        arguments[name] = {**arguments.get(name, {}), **own}
    for name, own in changed.items():
        if name not in processes:
            raise StackError(f"{where}: changes process {name!r}; {data['extends']} has {sorted(processes)}")
        parameters = {**processes[name].get("parameters", {}), **own.get("parameters", {})}
        processes[name] = {**processes[name], **own, "parameters": parameters}
    return {**base, "description": data["description"], "arguments": arguments, "processes": list(processes.values())}


def _arguments(data: Mapping[str, Any], where: str) -> tuple[Argument, ...]:
    found = []
    for name, own in (data.get("arguments") or {}).items():
        if name == NAMESPACE.name:
            raise StackError(f"{where}: argument {name} is one that every stack has; leave it out")
        spec = {**_inherited(own["from"], f"{where}: argument {name}"), **own} if "from" in own else own
        unknown = sorted(set(spec) - _ARGUMENT_KEYS)
        if unknown or "default" not in spec:
            raise StackError(
                f"{where}: argument {name} has keys {sorted(spec)}; expected default and of {_ARGUMENT_KEYS}"
            )
        found.append(
            Argument(
                name=name,
                default=spec["default"],
                description=str(spec.get("description", "")),
                choices=tuple(spec.get("choices", ())),
                required_unless=str(spec.get("required_unless", "")),
                zero_means=int(spec.get("zero_means", 0)),
                free_when=str(spec.get("free_when", "")),
            )
        )
    return (*found, NAMESPACE)


def _inherited(path: str, where: str) -> dict[str, Any]:
    """What an argument takes over from a dataclass field that :func:`lavla_ros.config.setting` describes."""
    module, _, name = path.partition(":")
    owner, _, key = name.partition(".")
    try:
        item = getattr(importlib.import_module(module), owner).__dataclass_fields__[key]
        return {"default": item.default, "description": item.metadata["help"], "choices": item.metadata["choices"]}
    except (ImportError, ValueError, TypeError, AttributeError, KeyError):
        raise StackError(f"{where}: from is {path!r}; expected module:Class.field of a described setting") from None


def _process(entry: Mapping[str, Any], values: Mapping[str, Any], where: str) -> Process | None:
    """The process, or None when its conditions do not hold."""
    name = entry.get("name")
    unknown = sorted(set(entry) - _PROCESS_KEYS)
    if not isinstance(name, str) or unknown or ("node" in entry) == ("module" in entry):
        raise StackError(f"{where}: process {name!r}: unknown keys {unknown}; expected a name and one of node, module")
    conditions = entry.get("when", [])
    if not all(_holds(c, values, where) for c in ([conditions] if isinstance(conditions, str) else conditions)):
        return None
    filled = _fill({k: v for k, v in entry.items() if k != "when"}, values, f"{where}: {name}")
    is_node = "node" in entry
    file = filled.get("parameter_file")
    nice = filled.get("nice", 0)
    if nice not in range(20) or isinstance(nice, bool):
        raise StackError(f"{where}: {name}: nice is {nice!r}; expected an integer from 0 to 19")
    return Process(
        name=name,
        module=filled["node" if is_node else "module"],
        is_node=is_node,
        arguments=tuple(str(a) for a in filled.get("arguments", ())),
        parameters=filled.get("parameters", {}),
        parameter_file=_parameter_file(file, where) if file else None,
        after=tuple(filled.get("after", ())),
        ready=filled.get("ready", NODE_READY if is_node else None),
        stop_first=bool(filled.get("stop_first", False)),
        finishes=bool(filled.get("finishes", False)),
        optional=bool(filled.get("optional", False)),
        environment={k: str(v) for k, v in filled.get("environment", {}).items()},
        nice=nice,
    )


def _parameter_file(name: str, where: str) -> Path:
    """A shipped file of ``config/nodes`` by bare name, else a path."""
    try:
        file = config_file(name, "nodes")
    except FileNotFoundError as error:
        raise StackError(f"{where}: parameter file {name!r}: {error}") from None
    if not file.is_file():
        raise StackError(f"{where}: parameter file {file} does not exist")
    return file


def _holds(condition: str, values: Mapping[str, Any], where: str) -> bool:
    negated = condition.startswith("not ")
    name, compares, wanted = condition.removeprefix("not ").strip().partition(" is ")
    if compares and name not in values:
        raise StackError(f"{where}: condition {condition!r}: there is no {name!r}; known: {sorted(values)}")
    value = str(values[name]) == wanted.strip() if compares else values.get(name)
    if not isinstance(value, bool):
        raise StackError(f"{where}: condition {condition!r}: {name} is {value!r}; expected a true/false argument")
    return value != negated


def _fill(value: Any, values: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _fill(v, values, where) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, values, where) for v in value]
    if not isinstance(value, str):
        return value
    missing = sorted({name for name in _REFERENCE.findall(value) if name not in values})
    if missing:
        raise StackError(f"{where}: {value!r} refers to unknown {missing}; known: {sorted(values)}")
    whole = _REFERENCE.fullmatch(value)
    return values[whole[1]] if whole else _REFERENCE.sub(lambda m: str(values[m[1]]), value)


def _check_order(processes: Sequence[Process], entries: Sequence[Mapping[str, Any]], where: str) -> None:
    """Names are unique and every ``after`` names an earlier entry (one that is switched off counts as ready)."""
    every = [str(e.get("name")) for e in entries]
    repeated = sorted({n for n in (p.name for p in processes) if [p.name for p in processes].count(n) > 1})
    if repeated:
        raise StackError(f"{where}: processes {repeated} appear twice under the same conditions")
    for process in processes:
        unknown = sorted(set(process.after) - set(every[: every.index(process.name)]))
        if unknown:
            raise StackError(f"{where}: {process.name} starts after {unknown}; expected names of earlier processes")


def _free_ports(count: int) -> list[int]:
    """Ports that are free now on loopback, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
