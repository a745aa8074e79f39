"""Record a person's demonstrations: the stack ``record_demos`` and a console beside it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lavla_ros.bringup.session import Session
from lavla_ros.bringup.stack import load_stack
from lavla_ros.contract import load_contract
from lavla_ros.outputs import sole_writer


def record_person(
    out: Path, instruction: str, arguments: Mapping[str, str], episodes: int = 0, *, convert: Sequence[str]
) -> None:
    """Until the person quits, or ``episodes`` have succeeded (0: any number).

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
    session = Session(
        lambda run_dir: load_stack("record_demos", stack_arguments, run_dir=run_dir),
        console,
        out / "stack.log",
        interactive=True,
    )
    with sole_writer(out):
        print(f"starting the arm, its cameras and the recorder (log: {session.log_file})", flush=True)
        with session:
            while session.running(0.5):
                pass
