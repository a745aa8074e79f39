"""``lavla record``: by a suite's expert, or by a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from lavla_ros.cli.arguments import Json, OptionTexts, fields_of, parse_function
from lavla_ros.cli.terminal import PROGRAM, CommandError, Progress, to_json
from lavla_ros.config import parse_options
from lavla_ros.defaults import DEFAULT_CONTRACT
from sim_bridges.lockstep.config import RecordConfig


def record(arguments: Sequence[str]) -> Callable[[], None]:
    """The recording that the arguments of ``lavla record`` describe; ``--by`` says whose options they are."""
    rest = [word for text in arguments for word in (text.split("=", 1) if text.startswith("--by=") else [text])]
    by = "expert"
    if "--by" in rest[:-1]:
        at = rest.index("--by")
        by = rest[at + 1]
        del rest[at : at + 2]
    commands: dict[str, Callable[..., None]] = {"expert": by_expert, "person": by_person}
    if by not in commands:
        raise CommandError(f"--by is {by!r}; expected expert or person")
    return parse_function(
        commands[by], rest, prog="lavla record", summary="Record demonstrations over ROS, one bag per episode."
    )


def by_expert(config: Annotated[RecordConfig, fields_of(RecordConfig)], as_json: Json = False) -> None:
    """The scripted expert acts in the simulator, unattended. With "--by person", a person demonstrates the task;
    "lavla record --by person --help" lists the options for that.

    Example: lavla record --out runs/bags --episodes 400 --seed 0 --workers 2

    Args:
        as_json: Print the summary as JSON.
    """
    from sim_bridges.lockstep.record import record_expert, record_protocol, wanted_demonstrations

    run, count = record_expert, config.count
    if config.protocol:
        run, count = record_protocol, sum(wanted_demonstrations(config).values())
    with Progress(f"recording {config.task or config.suite}", count, quiet=as_json) as progress:
        summary = run(config, lambda e: progress.advance("success" if e["success"] else "failure"))
    if as_json:
        print(to_json(summary))
    else:
        print(
            f"{summary.episodes} episodes recorded below {config.out}, {summary.succeeded} successful, {summary.steps} "
            f"steps in {summary.wall_s:.0f} s"
        )


def by_person(
    out: Path,
    instruction: str = "",
    task: str = "",
    policy: str = "",
    episodes: int = 0,
    option: OptionTexts = (),
    stack: tuple[str, ...] = (),
) -> None:
    """The stack record_demos is started (as "lavla up" does), and the keyboard starts and ends episodes while a person
    teleoperates the arm ("lavla teleop" in another terminal) or guides it by hand (--stack standby:=true). With
    --policy the policy acts until the person takes over with "lavla teleop": which steps are whose is recorded.

    Example: lavla record --by person --out runs/bags --instruction "Put the mango into the bowl."
    --stack simulate:=false robot_ip:=10.5.5.100 standby:=true

    Args:
        out: Folder for the bags.
        instruction: The instruction that describes the episodes.
        task: Task of the simulated scene. The default is the stack's.
        policy: Checkpoint, or bundled: the policy that a person corrects. The stack is jaka_policy then.
        episodes: Number of successful episodes after which the recording ends; with 0, it ends when "q" is pressed.
        option: Argument of the stack, written name=value; it may be given several times.
        stack: Arguments of the stack record_demos, each written name:=value.
    """
    from lavla_ros.bringup.person import record_person
    from lavla_ros.bringup.stack import stack_arguments

    named = {name: value for name, value in (("task", task), ("policy", policy)) if value}
    given = parse_options(option) | named | stack_arguments(stack)
    record_person(out, instruction, {"contract": DEFAULT_CONTRACT, **given}, episodes, convert=[*PROGRAM, "convert"])
