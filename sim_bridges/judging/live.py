"""Run the rollouts of a comparison one after another, each on a stack of its own, and score them at the keyboard.

Every rollout has a stack to itself: its model is loaded afresh, and what breaks in one ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lavla_ros.bringup.launcher import LaunchError
from lavla_ros.bringup.session import Session, SessionError
from lavla_ros.bringup.stack import Stack, load_stack, read_arguments
from lavla_ros.contract import load_contract
from lavla_ros.places import run_dir
from lavla_ros.recording import BagError
from sim_bridges.evaluation.bag_video import write_bag_video
from sim_bridges.evaluation.report import NOTHING_PUBLISHED, Published
from sim_bridges.judging.folder import LEFT, JudgingError, JudgingFolder
from sim_bridges.judging.keys import go_on
from sim_bridges.judging.protocol import FIRST_SCENE, Protocol, Rollout

ERRORS_IN_A_ROW = 3
Say = Callable[[str], None]


def judge(folder: JudgingFolder, say: Say, *, wait: Callable[[str], bool] = go_on) -> bool:
    """Until every rollout has a score, True; or until the person leaves, False: the same command goes on then.

    ``wait``: asks the person before a stack, and with it the arm, is started. Raises JudgingError if several tries in a
    row end in an error, or if the folder cannot be written; StackError, DomainError.
    """
    errors = 0
    while (rollout := folder.next()) is not None:
        done = sum(folder.scored(each) is not None for each in folder.rollouts)
        model = "" if folder.protocol.blind else f", model {rollout.model}"
        say(f"\n{done} of {len(folder.rollouts)} rollouts have a score; next: {rollout.name}{model}")
        if not wait("Enter: start the arm    q: quit"):
            return False
        _run(folder, rollout, say)
        last = folder.tries(rollout)[-1]
        if last.error.startswith(LEFT):
            return False
        errors = 0 if last.phase == "scored" else errors + 1
        if last.phase == "scored":
            _video(folder, rollout, last.bag, say)
        elif errors == ERRORS_IN_A_ROW:
            raise JudgingError(
                f"{errors} tries in a row ended in an error, the last: {last.error}; see {folder.log(rollout)}"
            )
    return True


def _run(folder: JudgingFolder, rollout: Rollout, say: Say) -> None:
    """One try. What breaks is its error."""
    arguments = stack_arguments_of(folder.protocol, rollout, bags=folder.bags.absolute())
    log = folder.log(rollout)
    log.parent.mkdir(parents=True, exist_ok=True)
    console = ["sim_bridges.judging.console", "--folder", str(folder.path), "--rollout", str(rollout.index)]

    def load(run: Path) -> Stack:
        return load_stack(folder.protocol.stack, arguments, run_dir=run)

    say(f"starting the arm, its cameras, the model and the recorder (log: {log})")
    try:
        with Session(load, console, log, interactive=True) as session:
            while session.running(0.5):
                pass
    except (SessionError, LaunchError) as error:
        say(f"error: {error}")
        if folder.scored(rollout) is None:  # else it ended well, and the stack did not
            folder.fail(rollout, str(error).partition("\n")[0])


def stack_arguments_of(protocol: Protocol, rollout: Rollout, *, bags: Path) -> dict[str, str]:
    """What the stack is given for a rollout. Only a simulator is told the scene and the instruction: on a real arm the
    policy must not have it before the person begins.

    Raises StackError for a stack or an argument that there is not.
    """
    task = protocol.tasks[rollout.task]
    declared = {each.name for each in read_arguments(protocol.stack)}
    given = {**_texts(protocol.arguments), **_texts(task.arguments)}
    given |= {"contract": protocol.contract, "policy": protocol.models[rollout.model].policy, "bags": str(bags)}
    with run_dir() as folder:
        simulated = load_stack(protocol.stack, given, run_dir=folder).simulated
    if simulated:
        scene = {
            "seed": str(FIRST_SCENE + rollout.number - 1),
            "layout": rollout.setting or "id",
            "instruction": task.instruction,
            "wait_for_reset": "true",
            "episode_s": str(protocol.longest_s),
        }
        given |= {name: value for name, value in scene.items() if name in declared and name not in given}
    return given


def _texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in arguments.items()}


def _video(folder: JudgingFolder, rollout: Rollout, bag: str, say: Say) -> None:
    """Of a rollout that has its score already: what goes wrong here is only said."""
    file, contract = folder.video(rollout), load_contract(folder.protocol.contract)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bag_video(Path(bag), file, contract, caption=rollout.name)
    except (BagError, OSError, ValueError) as error:
        say(f"no video of {rollout.name}: {error}")


def finish(folder: JudgingFolder, published: Published = NOTHING_PUBLISHED) -> list[str]:
    """Write the results of every model; what to say of them, models by name."""
    folders = folder.write_results(published)
    return [
        *(f"{name}: {results.summary()}" for name, results in folder.results(published).items()),
        f"lavla compare {' '.join(map(str, folders))} --out {folder.path / 'comparison.html'}",
    ]
