"""``lavla record``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lavla_ros.bringup.stack import stack_arguments
from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import PROGRAM, Progress, to_json
from lavla_ros.resources import DEFAULT_CONTRACT


def record(
    out: Path,
    by: Literal["expert", "person"] = "expert",
    task: Literal["pick_place", "stack_bowls"] = "pick_place",
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 1,
    disturb: bool = True,
    layout: Literal["id", "ood"] = "id",
    contract: str = DEFAULT_CONTRACT,
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
        by: Who demonstrates the task. The options seed, workers, disturb, layout and json apply to the expert only,
            instruction and stack to a person only.
        task: The task that is demonstrated.
        episodes: Number of episodes. The expert records 400 by default. A person records until "q" is pressed, or
            until this many episodes have succeeded.
        seed: Seed of the first episode's layout; episode i has the layout of seed + i. Seeds from 1000000 on are
            reserved for evaluation.
        workers: Number of parallel simulators, each with a recorder and a ROS domain of its own.
        disturb: Whether short random pushes move the arm off its path, so that the demonstrations show recoveries.
        layout: Whether objects are placed within (id) or outside (ood) the usual regions.
        contract: Name of a contract in config/contracts, or a file.
        instruction: The instruction that describes the person's episodes.
        stack: Arguments of the stack record_demos, each written name:=value.
        as_json: Print the summary as JSON.
    """
    if by == "person":
        from lavla_ros.bringup.person import record_person

        arguments = {"task": task, "contract": contract, **stack_arguments(stack)}
        record_person(out, instruction, arguments, episodes or 0, convert=[*PROGRAM, "convert"])
        return
    from sim_bridges.lockstep.record import RecordConfig, record_expert

    config = RecordConfig(
        out=out,
        task=task,
        options={"layout": layout, "contract": contract},
        episodes=400 if episodes is None else episodes,
        seed=seed,
        workers=workers,
        disturb=disturb,
    )
    with Progress(f"recording {task}", config.episodes, quiet=as_json) as progress:
        summary = record_expert(config, lambda e: progress.advance("success" if e["success"] else "failure"))
    if as_json:
        print(to_json(summary))
    else:
        print(
            f"{summary.episodes} episodes recorded below {out}, {summary.succeeded} successful, {summary.steps} steps "
            f"in {summary.wall_s:.0f} s"
        )
