"""``lavla record``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lavla_ros.bringup.stack import stack_arguments
from lavla_ros.cli.arguments import Json, SuiteOptions
from lavla_ros.cli.terminal import PROGRAM, Progress, to_json
from lavla_ros.defaults import DEFAULT_CONTRACT
from sim_bridges.worlds import DEFAULT_SUITE


def record(
    out: Path,
    by: Literal["expert", "person"] = "expert",
    suite: str = DEFAULT_SUITE,
    option: SuiteOptions = (),
    task: str = "",
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 1,
    disturb: bool = True,
    instruction: str = "",
    stack: tuple[str, ...] = (),
    as_json: Json = False,
) -> None:
    """With "--by expert", the scripted expert acts in the simulator, unattended.

    With "--by person", the stack "record_demos" is started (as "lavla up" does), and the keyboard starts and ends
    episodes while a person teleoperates the arm (a node of yours publishes /action_chunk) or guides it by hand
    (--stack standby:=true).

    Example: lavla record --out runs/bags --episodes 400 --seed 0 --workers 2

    Example: lavla record --by person --out runs/bags --instruction "Put the mango into the bowl."
    --stack simulate:=false robot_ip:=10.5.5.100 standby:=true

    Args:
        out: Folder for the bags.
        by: Who demonstrates the task. The options suite, seed, workers, disturb and json apply to the expert only,
            instruction and stack to a person only.
        suite: Name of a suite, or module:factory of yours: the simulator that the expert acts in.
        option: Option of the suite, written name=value; it may be given several times. --name value does the same.
        task: The task that is demonstrated, by name or number. The default is the suite's first usual task.
        episodes: Number of episodes. The expert records 400 by default. A person records until "q" is pressed, or
            until this many episodes have succeeded.
        seed: Seed of the first scene; episode i has that of seed + i, or, in a suite with recorded initial states, the
            i-th of those.
        workers: Number of parallel simulators, each with a recorder and a ROS domain of its own.
        disturb: Whether short random pushes move the arm off its path, so that the demonstrations show recoveries.
        instruction: The instruction that describes the person's episodes.
        stack: Arguments of the stack record_demos, each written name:=value.
        as_json: Print the summary as JSON.
    """
    from sim_bridges.suites import parse_options

    given = parse_options(option)
    if by == "person":
        from lavla_ros.bringup.person import record_person

        task_argument = {"task": task} if task else {}
        arguments = {"contract": DEFAULT_CONTRACT, **given, **task_argument, **stack_arguments(stack)}
        record_person(out, instruction, arguments, episodes or 0, convert=[*PROGRAM, "convert"])
        return
    from sim_bridges.lockstep.record import RecordConfig, record_expert

    config = RecordConfig(
        out=out,
        suite=suite,
        options=given,
        task=task,
        episodes=400 if episodes is None else episodes,
        seed=seed,
        workers=workers,
        disturb=disturb,
    )
    with Progress(f"recording {task or suite}", config.episodes, quiet=as_json) as progress:
        summary = record_expert(config, lambda e: progress.advance("success" if e["success"] else "failure"))
    if as_json:
        print(to_json(summary))
    else:
        print(
            f"{summary.episodes} episodes recorded below {out}, {summary.succeeded} successful, {summary.steps} steps "
            f"in {summary.wall_s:.0f} s"
        )
