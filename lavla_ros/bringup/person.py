"""A stack, and beside it what a person uses: keys that record, or the console in a browser."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lavla_ros.bringup.session import Session, SessionError
from lavla_ros.bringup.stack import NODE_READY, Process, Stack, load_stack, read_arguments
from lavla_ros.console.access import check_access
from lavla_ros.contract import load_contract
from lavla_ros.outputs import sole_writer
from lavla_ros.teleop.config import TOPIC, load_mapping

STEERED_S = 0.25
"""So often what moves the arm says how it stands: a person looks at it while moving."""


def record_person(
    out: Path, instruction: str, arguments: Mapping[str, str], episodes: int = 0, *, convert: Sequence[str]
) -> None:
    """Until the person quits, or ``episodes`` have succeeded (0: any number).

    With a ``policy`` among the arguments it acts, in the stack ``jaka_policy``, until a person takes over.

    ``convert``: command that converts a bag; each recorded episode is judged by it.

    Raises StackError, LaunchError, SessionError, or OutputError if another process records into ``out``; recorded bags
    are kept below ``out``.
    """
    contract = load_contract(arguments["contract"])
    console = ["lavla_ros.nodes.record_console", "--instruction", instruction]
    console += ["--instruction-topic", contract.wire(contract.instruction_topic), "--convert"]
    console += [shlex.join([*convert, "--contract", arguments["contract"]])]
    console += ["--episodes", str(episodes)]
    stack_arguments = {"bags": str(out), "instruction": instruction, **arguments}
    stack = "jaka_policy" if "policy" in arguments else "record_demos"
    _beside(stack, stack_arguments, console, out)


def open_console(
    stack: str,
    arguments: Mapping[str, str],
    *,
    mapping: str,
    device: str = "",
    host: str,
    port: int,
    token: str,
    models: Path | None = None,
) -> None:
    """Until it is ended. Raises what :func:`record_person` does; AccessError if others could use it unasked."""
    check_access(host, token)
    defaults = {argument.name: str(argument.default) for argument in read_arguments(stack)}
    if lacking := {"contract", "bags"} - defaults.keys():
        raise SessionError(f"the stack {stack} has no argument {' and '.join(sorted(lacking))}; the console needs both")
    given = {**defaults, **arguments}
    console = ["lavla_ros.nodes.console", "--contract", given["contract"], "--bags", given["bags"], "--title", stack]
    console += ["--host", host, "--port", str(port), *(["--token", token] if token else [])]
    if "policy" in given:
        console += ["--policy", given["policy"], "--approved", given.get("approved", "")]
    if models is not None:
        if "policy" not in given:
            raise SessionError(f"the stack {stack} runs no model: leave out --models, or take jaka_policy")
        if not models.is_dir():
            raise SessionError(f"--models {models} is no folder; give the one that holds the checkpoints")
        console += ["--models", str(models)]
    steering = []
    if device and (not mapping or load_mapping(mapping).device == TOPIC):
        raise SessionError(f"--device {device} moves nothing: say with --mapping, like gamepad, what its inputs do")
    if mapping:
        if (device or load_mapping(mapping).device) == "keyboard":
            raise SessionError(
                'the console has no keys of a terminal: give --mapping "", and run lavla teleop in another'
            )
        console += ["--mapping", mapping]
        steering.append(
            Process(
                name="teleop",
                module="lavla_ros.nodes.teleop_node",
                is_node=True,
                ready=NODE_READY,
                optional=True,
                after=("gamepad",),
                parameters={
                    "contract": given["contract"],
                    "mapping": mapping,
                    "device": device,
                    "diagnostics_period_s": STEERED_S,
                },
            )
        )
    _beside(stack, arguments, console, Path(given["bags"]).expanduser(), steering)


def _beside(
    stack: str, arguments: Mapping[str, str], program: Sequence[str], out: Path, more: Sequence[Process] = ()
) -> None:
    """The stack with ``more``, and the program with the terminal, until that ends; it records into ``out`` alone."""

    def load(run_dir: Path) -> Stack:
        loaded = load_stack(stack, arguments, run_dir=run_dir)
        added = (replace(process, namespace=loaded.namespace) for process in more)
        return replace(loaded, processes=(*loaded.processes, *added))

    session = Session(load, program, out / "stack.log", interactive=True)
    with sole_writer(out):
        print(f"starting the arm, its cameras and the recorder (log: {session.log_file})", flush=True)
        with session:
            while session.running(0.5):
                pass
